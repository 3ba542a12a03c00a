"""Vectors grouped by anchors, so that the triangle inequality can leave out centroids.

Shapes: N vectors, d dimensions of the head, G anchors.
"""

from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.clustering.screening import Frame, Points, Rows, make_rows, project
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

_TILE_ROWS = 2048
# Fewer centroids than these are not worth leaving out; and an anchor should have a tile's worth of vectors.
_ANCHORED_CODES = 512
_ANCHORED_ROWS = 256
_ANCHOR_PASSES = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Vectors that share an anchor.

    Attributes:
        rows: (n,) which of the vectors.
        anchor: (d,).
        side: their side of the products, with heads moved by the anchor.
        radius: (n,) upper bounds on the distance of their heads from the anchor.
        comparable: (n,) False for those too large for products, or not finite.
    """

    rows: np.ndarray
    anchor: torch.Tensor
    side: Rows
    radius: np.ndarray
    comparable: np.ndarray


def group(frame: Frame, vectors: np.ndarray, centroids: np.ndarray) -> list[Group]:
    """Groups of (N, D) vectors by the nearest of about √K points among the (K, D) centroids; one for few."""
    points = _project_all(frame, vectors)
    anchors = _anchors(project(frame, centroids).head, len(vectors))
    owner = _nearest_anchor(points.head, anchors) if len(anchors) > 1 else np.zeros(len(vectors), np.int64)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(anchors)))
    groups: list[Group | None] = [None] * len(anchors)

    def make(number: int) -> None:
        rows = order[ends[number - 1] if number else 0 : ends[number]]
        if len(rows):
            members = points if len(rows) == len(vectors) else points.take(torch.from_numpy(rows))
            groups[number] = _make(frame, members, anchors[number], rows)

    run_tiles(make, range(len(anchors)))
    return [made for made in groups if made is not None]


def _project_all(frame: Frame, vectors: np.ndarray) -> Points:
    tiles = row_tiles(len(vectors), _TILE_ROWS)
    width = vectors.shape[1] if frame.basis is None else frame.basis.shape[1]
    tails = frame.basis is not None
    head, size = torch.empty(len(vectors), width), torch.empty(len(vectors))
    tail, tau = (torch.empty(len(vectors)), torch.empty(len(vectors))) if tails else (None, None)
    whole = Points(head, size, tail, tau)

    def fill(rows: slice) -> None:
        part = project(frame, vectors[rows])
        for name in ("head", "size", "tail", "tau") if tails else ("head", "size"):
            getattr(whole, name)[rows] = getattr(part, name)

    run_tiles(fill, tiles)
    return whole


def _make(frame: Frame, points: Points, anchor: torch.Tensor, rows: np.ndarray) -> Group:
    side = make_rows(frame, points, anchor)
    moved = points.head - anchor
    radius = torch.linalg.vecdot(moved, moved).sqrt_() + points.size.sqrt() * frame.head_error
    return Group(rows, anchor, side, (radius * (1 + 1e-3)).numpy(), points.comparable().numpy())


def _anchors(heads: torch.Tensor, num_rows: int) -> torch.Tensor:
    """A few points among the centroids, (G, d): any will do, their own means serve best."""
    count = min(1 << round(np.log2(len(heads)) / 2), num_rows // _ANCHORED_ROWS)
    if len(heads) < _ANCHORED_CODES or count < 4:
        return torch.zeros(1, heads.shape[1])
    anchors = heads[:: len(heads) // count][:count].clone()
    for _ in range(_ANCHOR_PASSES):
        owner = torch.from_numpy(_nearest_anchor(heads, anchors))
        sums = torch.zeros_like(anchors).index_add_(0, owner, heads)
        sizes = torch.bincount(owner, minlength=count)[:, None]
        anchors = torch.where(sizes > 0, sums / sizes.clamp_min(1), anchors)
    return anchors


def _nearest_anchor(heads: torch.Tensor, anchors: torch.Tensor) -> np.ndarray:
    lengths = torch.linalg.vecdot(anchors, anchors) / 2
    owner = np.empty(len(heads), np.int64)

    def find(rows: slice) -> None:
        owner[rows] = torch.addmm(lengths, heads[rows], anchors.T, alpha=-1).numpy().argmin(1)

    run_tiles(find, row_tiles(len(heads), _TILE_ROWS))
    return owner
