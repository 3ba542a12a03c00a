"""A start for many centroids: a coarse clustering, each cluster of which is split on its own.

Shapes: N vectors, d width, K centroids, G coarse clusters. With G near √K a pass over all vectors costs 1/√K of one
that compares with all centroids, and well parted clusters get their share of the centroids from the beginning, which
Lloyd's algorithm cannot mend later. Distances are plain float32 products here; in a start near ties
may go either way.
"""

import numpy as np
import scipy.sparse as sp
import torch

from semid.tokenizers.clustering.starts import draw_rows
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

_COARSE_ROWS_PER_CODE = 256
_COARSE_PASSES, _SPLIT_PASSES = 8, 5
# A trial split has a quarter of the centroids and so many vectors for each.
_TRIAL_SHARE, _TRIAL_ROWS_PER_CODE, _TRIAL_PASSES = 4, 32, 3
_TILE_ROWS = 1 << 12


def hierarchical_start(vectors: np.ndarray, num_codes: int, rng: np.random.Generator) -> np.ndarray:
    """Centroids of the parts of coarse clusters: (K, d) float32.

    The coarse clusters get centroids such that the last one of each is worth the same, if the squared error falls
    with the number k of centroids as k^(-2/d). It is measured after a trial split of each into few parts: before, a
    cluster of two far lumps, which one more centroid would serve, would seem to need many.

    Args:
        vectors: (N, d) float32 about their mean, N at least K.
        num_codes: K.
        rng: of all draws.
    """
    num_groups = max(1, round(np.sqrt(num_codes)))
    codes, _ = _nearest(vectors, _coarse(vectors, num_groups, rng))
    sizes = np.bincount(codes, minlength=num_groups)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    trial = _apportion(sizes, sizes, max(num_groups, num_codes // _TRIAL_SHARE))
    errors = np.empty(num_groups)
    seeds = rng.integers(2**63, size=(2, num_groups))

    def try_out(group: int) -> None:
        rows = members[group][:: max(1, int(sizes[group] // (_TRIAL_ROWS_PER_CODE * max(1, trial[group]))))]
        parts = _split(vectors[rows], int(trial[group]), _TRIAL_PASSES, np.random.default_rng(seeds[0, group]))
        errors[group] = _squared_error(vectors[rows], parts) / max(1, len(rows)) * sizes[group]

    largest_first = np.argsort(-sizes, kind="stable").tolist()
    run_tiles(try_out, largest_first)
    dim = vectors.shape[1]
    shares = _apportion(trial * (errors / np.maximum(trial, 1)) ** (dim / (dim + 2)), sizes, num_codes)
    firsts = np.cumsum(shares) - shares
    centroids = np.empty((num_codes, vectors.shape[1]), np.float32)

    def split(group: int) -> None:
        own = slice(firsts[group], firsts[group] + shares[group])
        rng = np.random.default_rng(seeds[1, group])
        centroids[own] = _split(vectors[members[group]], int(shares[group]), _SPLIT_PASSES, rng)

    run_tiles(split, largest_first)
    return centroids


def _coarse(vectors: np.ndarray, num_groups: int, rng: np.random.Generator) -> np.ndarray:
    size = num_groups * _COARSE_ROWS_PER_CODE
    if size < len(vectors):
        vectors = vectors[np.sort(rng.choice(len(vectors), size, replace=False))]
    return _plain_lloyd(vectors, _draw(vectors, num_groups, rng), _COARSE_PASSES)


def _split(vectors: np.ndarray, count: int, passes: int, rng: np.random.Generator) -> np.ndarray:
    """Centroids of ``count`` parts; none of no vectors."""
    if count >= len(vectors):
        return vectors
    if count == 1:
        centre: np.ndarray = vectors.mean(0, keepdims=True)
        return centre
    return _plain_lloyd(vectors, _draw(vectors, count, rng), passes)


def _squared_error(vectors: np.ndarray, centroids: np.ndarray) -> float:
    if not len(vectors):
        return 0.0
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    return float(np.maximum(lengths + 2 * _nearest(vectors, centroids)[1], 0).sum(dtype=np.float64))


def _draw(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)

    def distances_to(rows: list[int]) -> np.ndarray:
        squares: np.ndarray = np.maximum(lengths + 2 * _nearest(vectors, vectors[rows])[1], 0)
        return squares

    first = [int(rng.integers(len(vectors)))]
    drawn: np.ndarray = vectors[draw_rows(distances_to, vectors.__getitem__, len(vectors), first, count, rng)]
    return drawn


def _plain_lloyd(vectors: np.ndarray, centroids: np.ndarray, passes: int) -> np.ndarray:
    for _ in range(passes):
        codes, _ = _nearest(vectors, centroids)
        pointers = np.arange(len(vectors) + 1)
        members = sp.csr_matrix((np.ones(len(codes), np.float32), codes, pointers), (len(codes), len(centroids)))
        counts = np.bincount(codes, minlength=len(centroids))[:, None]
        means = (members.T @ vectors) / np.maximum(counts, 1).astype(np.float32)
        centroids = np.where(counts, means, centroids)
    return centroids


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and half the squared distances less half the squared lengths: (N,) each."""
    points, targets = torch.from_numpy(vectors), torch.from_numpy(centroids)
    lengths = torch.linalg.vecdot(targets, targets) / 2
    codes, values = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)

    def find(rows: slice) -> None:
        tile = torch.addmm(lengths, points[rows], targets.T, alpha=-1).numpy()
        codes[rows] = tile.argmin(1)
        values[rows] = tile[np.arange(len(tile)), codes[rows]]

    run_tiles(find, row_tiles(len(vectors), _TILE_ROWS))
    return codes, values


def _apportion(weights: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """Whole shares of ``total`` in proportion to weights, from 1 to the size of each group that is not empty.

    Greatest remaining quotients first, as at elections (Hare-Niemeyer), among the groups with room left.
    """
    shares = (sizes > 0).astype(np.int64)
    weights = np.where(sizes > 0, weights + 1e-12 * max(float(weights.sum()), 1e-300), 0)
    while shares.sum() < total:
        room = shares < sizes
        wanted = np.where(room, weights, 0)
        quota = wanted / wanted.sum() * (total - shares.sum())
        whole = np.minimum(np.floor(quota).astype(np.int64), sizes - shares)
        if not whole.any():
            whole[np.argsort(-quota, kind="stable")[: total - shares.sum()]] = 1
            whole = np.minimum(whole, sizes - shares)
        shares += whole
    return shares
