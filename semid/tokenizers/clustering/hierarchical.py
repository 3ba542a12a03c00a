"""A start for many centroids: a coarse clustering, each cluster of which is split on its own.

Shapes: N vectors, d width, K centroids, G coarse clusters. With G near √K a pass over all vectors costs 1/√K of one
that compares with all centroids, and well parted clusters get their share of the centroids from the beginning, which
Lloyd's algorithm cannot mend later.
"""

import numpy as np

from semid.tokenizers.clustering.lloyd import lloyd
from semid.tokenizers.clustering.nearest import assign
from semid.tokenizers.clustering.starts import plus_plus
from semid.tokenizers.clustering.tiles import run_tiles

_COARSE_ROWS_PER_CODE = 256
_COARSE_PASSES, _SPLIT_PASSES = 8, 6


def hierarchical_codes(vectors: np.ndarray, num_codes: int, rng: np.random.Generator) -> np.ndarray:
    """A clustering into at most K clusters: (N,) int64.

    Every coarse cluster is split in proportion to its share of the squared error, which is what makes the errors of
    the parts equal in many dimensions.

    Args:
        vectors: (N, d) float32, N at least K.
        num_codes: K.
        rng: of all draws.
    """
    num_groups = max(2, round(np.sqrt(num_codes)))
    coarse = _coarse(vectors, num_groups, rng)
    codes, distances = assign(vectors, coarse)
    sizes = np.bincount(codes, minlength=num_groups)
    shares = _apportion(np.bincount(codes, weights=distances, minlength=num_groups), sizes, num_codes)
    order = np.argsort(codes, kind="stable")
    ends, firsts = np.cumsum(sizes), np.cumsum(shares) - shares
    seeds = rng.integers(2**63, size=num_groups)
    result = np.empty(len(vectors), np.int64)

    def split(group: int) -> None:
        rows = order[ends[group] - sizes[group] : ends[group]]
        if len(rows):
            result[rows] = firsts[group] + _split(vectors[rows], int(shares[group]), seeds[group])

    run_tiles(split, np.argsort(-sizes, kind="stable").tolist())
    return result


def _coarse(vectors: np.ndarray, num_groups: int, rng: np.random.Generator) -> np.ndarray:
    size = num_groups * _COARSE_ROWS_PER_CODE
    if size < len(vectors):
        vectors = vectors[np.sort(rng.choice(len(vectors), size, replace=False))]
    start = plus_plus(vectors, num_groups, rng)
    return lloyd(vectors, start, iterations=_COARSE_PASSES, tolerance=1e-3, rng=rng)[0]


def _split(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    if count == 1:
        return np.zeros(len(vectors), np.int64)
    if count == len(vectors):
        return np.arange(count)
    rng = np.random.default_rng(seed)
    start = plus_plus(vectors, count, rng)
    centroids, _ = lloyd(vectors, start, iterations=_SPLIT_PASSES, tolerance=1e-3, rng=rng)
    return assign(vectors, centroids)[0].astype(np.int64)


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
