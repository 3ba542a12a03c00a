"""Before a fit goes on from old codebooks: centroids that are hardly missed go where they are missed.

Shapes: n vectors, D width, L levels, K centroids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.tokenizers.clustering.nearest import distance_tiles
from semid.tokenizers.rq_kmeans import RQKMeans

_ROWS = 1 << 14
_SWEEPS = 3
_POWER_PASSES = 3
_SPLIT_PASSES = 4
# A share s of the vectors may leave their centroid where that takes at least this times s off the error: a code that
# items lose must be worth it. Lloyd's optimum can nearly always be bettered a little by such moves.
_WORTH = 1.0


def spread_out(vectors: np.ndarray, codebooks: Sequence[np.ndarray], quantiser: RQKMeans) -> list[np.ndarray]:
    """Codebooks whose least missed centroids were moved to where centroids are missed, level by level, if that helps.

    Fitting from a start cannot do that: vectors unlike all before would share a few centroids for ever.

    Args:
        vectors: (n, D) float32.
        codebooks: L arrays (K_l, D) float32.
        quantiser: how codes are sought; its codebooks are replaced.
    """
    quantiser.codebooks_ = list(codebooks)
    codes, error = _coded(vectors, quantiser)
    for level in [*range(len(codebooks))] * _SWEEPS:
        before = quantiser.codebooks_
        wanted = vectors - quantiser.decode(codes) + before[level][codes[:, level]]
        moved = relocate(wanted, before[level])
        if moved is before[level]:
            continue
        quantiser.codebooks_ = [moved if number == level else book for number, book in enumerate(before)]
        moved_codes, moved_error = _coded(vectors, quantiser)
        if moved_error < error:
            codes, error = moved_codes, moved_error
        else:
            quantiser.codebooks_ = before
    return quantiser.codebooks_


def _coded(vectors: np.ndarray, quantiser: RQKMeans) -> tuple[np.ndarray, float]:
    codes = quantiser.encode(vectors)
    difference = vectors - quantiser.decode(codes)
    return codes, float(np.einsum("nd,nd->n", difference, difference).sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _NearestTwo:
    """Nearest and second nearest centroid of each vector: (n,) codes, squared distances, loss without the nearest."""

    codes: np.ndarray
    distances: np.ndarray
    losses: np.ndarray


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
    prices = losses + _WORTH * float(found.distances.sum()) * counts / len(vectors)
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
