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
_ANCHORED_CODES = 2048
_ANCHORED_ROWS = 256
_ANCHOR_PASSES = 4
# Anchors pay if they leave at most this share of the centroids to compare with, as some vectors show.
_WORTH, _PROBES = 0.6, 64


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


def choose_anchors(probes: torch.Tensor, heads: torch.Tensor, num_rows: int) -> torch.Tensor:
    """About √K points among the centroids, or just the origin where they would not leave out enough centroids.

    Args:
        probes: (n, d) heads of some of the vectors.
        heads: (K, d) of the centroids.
        num_rows: N vectors there are.

    Returns:
        (G, d).
    """
    origin = torch.zeros(1, heads.shape[1])
    count = min(1 << round(np.log2(len(heads)) / 2), num_rows // _ANCHORED_ROWS)
    if len(heads) < _ANCHORED_CODES or count < 4:
        return origin
    anchors = heads[:: len(heads) // count][:count].clone()
    for _ in range(_ANCHOR_PASSES):
        owner = torch.from_numpy(_nearest_anchor(heads, anchors))
        sums = torch.zeros_like(anchors).index_add_(0, owner, heads)
        sizes = torch.bincount(owner, minlength=count)[:, None]
        anchors = torch.where(sizes > 0, sums / sizes.clamp_min(1), anchors)
    reach = torch.cdist(probes, anchors).amin(1) + torch.cdist(probes, heads).amin(1)
    owner = torch.from_numpy(_nearest_anchor(probes, anchors))
    kept = (torch.cdist(anchors, heads)[owner] <= reach[:, None]).float().mean()
    return anchors if float(kept) < _WORTH else origin


def group(frame: Frame, points: Points, centroids: np.ndarray) -> list[Group]:
    """Groups of N vectors by the nearest of a few points among the (K, D) centroids."""
    num_rows = len(points.head)
    anchors = choose_anchors(points.head[:: num_rows // _PROBES + 1], project(frame, centroids).head, num_rows)
    count = len(anchors)
    owner = _nearest_anchor(points.head, anchors) if count > 1 else np.zeros(num_rows, np.int64)
    order = np.argsort(owner, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(owner, minlength=count))[:-1])
    tasks = [(number, part) for number in range(count) for part in row_tiles(len(members[number]), _TILE_ROWS)]
    parts: list[Group | None] = [None] * len(tasks)

    def make(task: int) -> None:
        number, part = tasks[task]
        rows = members[number][part]
        own = points[part] if count == 1 else points[torch.from_numpy(rows)]
        parts[task] = _make(frame, own, anchors[number], rows)

    run_tiles(make, range(len(tasks)))
    made: list[list[Group]] = [[] for _ in range(count)]
    for (number, _), piece in zip(tasks, parts, strict=True):
        assert piece is not None
        made[number].append(piece)
    return [_join(pieces) for pieces in made if pieces]


def _make(frame: Frame, points: Points, anchor: torch.Tensor, rows: np.ndarray) -> Group:
    side = make_rows(frame, points, anchor)
    radius = torch.linalg.vector_norm(points.head - anchor, dim=1) + points.size.sqrt() * frame.head_error
    return Group(rows, anchor, side, (radius * (1 + 1e-3)).numpy(), points.comparable().numpy())


def _join(parts: list[Group]) -> Group:
    if len(parts) == 1:
        return parts[0]
    sides = [part.side for part in parts]
    taus = [side.tau for side in sides if side.tau is not None]
    side = Rows(
        torch.cat([side.matrix for side in sides]),
        np.concatenate([side.error for side in sides]),
        np.concatenate([side.slack for side in sides]),
        np.concatenate([side.size for side in sides]),
        np.concatenate(taus) if taus else None,
    )
    return Group(
        np.concatenate([part.rows for part in parts]),
        parts[0].anchor,
        side,
        np.concatenate([part.radius for part in parts]),
        np.concatenate([part.comparable for part in parts]),
    )


def _nearest_anchor(heads: torch.Tensor, anchors: torch.Tensor) -> np.ndarray:
    lengths = torch.linalg.vecdot(anchors, anchors) / 2
    owner = np.empty(len(heads), np.int64)

    def find(rows: slice) -> None:
        owner[rows] = torch.addmm(lengths, heads[rows], anchors.T, alpha=-1).numpy().argmin(1)

    run_tiles(find, row_tiles(len(heads), _TILE_ROWS))
    return owner
