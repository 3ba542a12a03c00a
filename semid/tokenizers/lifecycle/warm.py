"""A fit that starts from codes that items have: their centroids anew, idle ones moved to where they are missed.

Shapes: n vectors, D width, L levels, K centroids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import distance_tiles

_ROWS = 1 << 14
_ROUNDS = 4
_POWER_PASSES = 3
_SPLIT_PASSES = 4
# A share s of the vectors may leave their centroid where that takes at least this times s off the error: a code that
# items lose must be worth it. Lloyd's optimum can nearly always be bettered a little by such moves.
_WORTH = 1.0


def codebooks_of(
    vectors: np.ndarray, codes: np.ndarray, num_codes: Sequence[int], fallback: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """The centroids that codes stand for: per level, the mean of what the levels above leave of the vectors.

    Args:
        vectors: (n, D) float32.
        codes: (n, L) int.
        num_codes: K per level.
        fallback: L arrays (K_l, D) for codes that no vector has; without it these become the mean of the level.

    Returns:
        L arrays (K_l, D) float32.
    """
    residuals = np.array(vectors, np.float32)
    codebooks = []
    for level, size in enumerate(num_codes):
        column = codes[:, level]
        sums: np.ndarray = np.zeros((size, residuals.shape[1]))
        for first in range(0, len(column), _ROWS):
            np.add.at(sums, column[first : first + _ROWS], residuals[first : first + _ROWS])
        counts = np.bincount(column, minlength=size)[:, None]
        idle = residuals.mean(0, dtype=np.float64) if fallback is None else fallback[level]
        codebook = np.where(counts, sums / np.maximum(counts, 1), idle).astype(np.float32)
        residuals -= codebook[column]
        codebooks.append(codebook)
    return codebooks


def fit_from(vectors: np.ndarray, config: KMeansConfig, start: np.ndarray) -> np.ndarray:
    """k-means from a start, then rounds that move the least missed centroids into the costliest clusters.

    Lloyd's passes alone cannot do that: vectors unlike all of the start would share one centroid for ever.

    Args:
        vectors: (n, D) float32.
        config: how to fit.
        start: (K, D) float32.

    Returns:
        (K, D) float32, centroid k near ``start[k]`` unless it was moved away; of no more error than without moves.
    """
    centroids = fit_kmeans(vectors, config, start=start)
    error = _nearest_two(vectors, centroids).error
    for _ in range(_ROUNDS):
        moved = relocate(vectors, centroids)
        if moved is centroids:
            break
        moved = fit_kmeans(vectors, config, start=moved)
        moved_error = _nearest_two(vectors, moved).error
        if moved_error >= error:
            break
        centroids, error = moved, moved_error
    return centroids


@dataclass(frozen=True, slots=True)
class _NearestTwo:
    """Nearest and second nearest centroid of each vector: (n,) codes, squared distances, loss without the nearest."""

    codes: np.ndarray
    distances: np.ndarray
    losses: np.ndarray

    @property
    def error(self) -> float:
        return float(self.distances.sum())


def _nearest_two(vectors: np.ndarray, centroids: np.ndarray) -> _NearestTwo:
    codes = np.empty((len(vectors), 2), np.int64)
    for rows, tile in distance_tiles(vectors, centroids):
        codes[rows, 0] = tile.argmin(1)
        tile[np.arange(len(tile)), codes[rows, 0]] = np.inf
        codes[rows, 1] = tile.argmin(1)
    distances: np.ndarray = np.empty((len(vectors), 2))
    for first in range(0, len(vectors), _ROWS):
        rows = slice(first, first + _ROWS)
        difference = vectors[rows, None, :] - centroids[codes[rows]]
        distances[rows] = np.einsum("nkd,nkd->nk", difference, difference)
    return _NearestTwo(codes[:, 0], distances[:, 0], distances[:, 1] - distances[:, 0])


def relocate(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Move centroids that are hardly missed beside those whose clusters cost most; the others stay as they are.

    Removing a centroid costs what its vectors lose by going to their second nearest; a second centroid in a cluster
    gains what splitting it in two saves. Pairs are made of the cheapest removal and the best split, the next cheapest
    and the next best, as long as the gain is worth the vectors that lose their centroid.

    Args:
        vectors: (n, D) float32.
        centroids: (K, D) float32, K ≥ 2.

    Returns:
        (K, D) float32; the same array if nothing is worth a move.
    """
    if len(centroids) < 2:
        return centroids
    found = _nearest_two(vectors, centroids)
    counts = np.bincount(found.codes, minlength=len(centroids))
    losses = np.bincount(found.codes, weights=found.losses, minlength=len(centroids))
    # what a removal must at least bring: its loss, and its share of the whole error for its share of the vectors
    prices = losses + _WORTH * found.error * counts / len(vectors)
    costs = np.bincount(found.codes, weights=found.distances, minlength=len(centroids))
    cheapest = iter(np.argsort(prices, kind="stable").tolist())
    order = np.argsort(found.codes, kind="stable")
    first = np.cumsum(counts) - counts
    # a split cannot save more than the cluster costs
    halves = {
        code: _split(vectors[order[first[code] : first[code] + counts[code]]])
        for code in np.flatnonzero(costs > prices.min()).tolist()
    }
    moved, touched = centroids.copy(), set[int]()
    for code in sorted(halves, key=lambda code: -halves[code][1]):
        if code in touched:
            continue
        pair, gain = halves[code]
        idle = next((k for k in cheapest if k != code and k not in touched), None)
        if idle is None or gain <= prices[idle]:
            break
        moved[code], moved[idle] = pair
        touched |= {code, idle}
    return moved if touched else centroids


def _split(members: np.ndarray) -> tuple[np.ndarray, float]:
    """Two means of the members, (2, D), and how much less than one mean they cost."""
    mean = members.mean(0, dtype=np.float64)
    centred = members - mean.astype(np.float32)
    lengths = np.einsum("nd,nd->n", centred, centred)
    direction = centred[lengths.argmax()]
    for _ in range(_POWER_PASSES):  # towards the direction of most variance
        direction = centred.T @ (centred @ direction)
        direction /= max(float(np.linalg.norm(direction)), np.finfo(np.float32).tiny)
    side = centred @ direction > 0
    for _ in range(_SPLIT_PASSES):
        if side.all() or not side.any():
            break
        upper, lower = centred[side].mean(0), centred[~side].mean(0)
        side = centred @ (upper - lower) > (upper @ upper - lower @ lower) / 2
    if side.all() or not side.any():
        return np.stack([mean, mean]).astype(np.float32), 0.0
    upper, lower = centred[side].mean(0, dtype=np.float64), centred[~side].mean(0, dtype=np.float64)
    gain = float(side.sum() * (upper @ upper) + (~side).sum() * (lower @ lower))
    return np.stack([mean + upper, mean + lower]).astype(np.float32), gain
