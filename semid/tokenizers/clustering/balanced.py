"""Balanced k-means: cells of at most ⌈N/K⌉ · slack vectors, by an auction for the places in them.

Shapes: N vectors, D width, K centroids, M centroids on the list of a vector.

Balance is a property of the fit. A vector that was not fitted is encoded by its nearest centroid, as everywhere
(``nearest.assign``), whatever that centroid holds already; fitted vectors keep the codes of the fit, which need not
be those of the nearest centroid. The more slack, the fewer differ.
"""

import math

import numpy as np
import torch

from semid.errors import InputError
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.lloyd import ClusterSums, Progress
from semid.tokenizers.clustering.nearest import assign
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

# Centroids on a vector's list. Longer ones are renewed less often but cost more in every round.
_LIST = 16
# Elements of one tile of distances while lists are made: 8 MB.
_TILE_ELEMENTS = 1 << 21
# A price rises by at least this share of the mean squared distance at the time. That bounds how far above the least
# possible the total can be; measured gaps are a tenth of the bound, or less. And by this share of the price, so that
# no price is too high to rise.
_STEP, _COARSE_STEP, _GROWTH = 0.1, 0.3, 1e-3


def assign_balanced(vectors: np.ndarray, centroids: np.ndarray, slack: float = 1.0) -> np.ndarray:
    """Codes with a nearly least sum of squared distances where no centroid holds more than its share.

    The auction for transportation problems (Bertsekas and Castañon 1989): centroids above capacity raise their prices
    until the excess prefers others. Each vector looks at a short list of centroids, made anew once prices have risen
    so far that it might miss a better one; so memory is 130 bytes a vector beside the vectors, not N × K.

    Args:
        vectors: (N, D) float32.
        centroids: (K, D) float32.
        slack: at least 1; a centroid takes at most ⌈N/K⌉ · slack vectors.

    Returns:
        (N,) int32 codes: those of ``nearest.assign`` if no centroid is then above capacity.

    Raises:
        InputError: slack below 1.
    """
    return _solve(vectors, centroids, capacity_of(len(vectors), len(centroids), slack), _STEP)


def fit_balanced(
    vectors: np.ndarray,
    config: KMeansConfig,
    *,
    slack: float = 1.0,
    start: np.ndarray | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Balanced k-means: balanced assignments and means in turn, until the error falls by less than the tolerance.

    Args:
        vectors: (N, D) float32.
        config: how to fit; a sample, if any, finds the centroids, and all vectors are then assigned.
        slack: at least 1; a centroid takes at most ⌈N/K⌉ · slack vectors.
        start: (K, D) centroids to start from; by default those of plain k-means.
        progress: called with the pass, from 1, and the mean squared distance after it.

    Returns:
        (K, D) float32 centroids and (N,) int32 codes, which are ``assign_balanced(vectors, centroids, slack)``.

    Raises:
        InputError: fewer vectors than centroids, or slack below 1.
    """
    capacity_of(len(vectors), config.num_codes, slack)
    centroids = fit_kmeans(vectors, config) if start is None else start.astype(np.float32)
    fitted = vectors
    if config.sample is not None and config.sample < len(vectors):
        rng = np.random.default_rng(config.seed)
        fitted = vectors[np.sort(rng.choice(len(vectors), config.sample, replace=False))]
    capacity = capacity_of(len(fitted), len(centroids), slack)
    sums, previous = ClusterSums(fitted, len(centroids)), math.inf
    for iteration in range(1, config.iterations + 1):
        codes = _solve(fitted, centroids, capacity, _COARSE_STEP)
        sums.update(codes)
        moved = sums.means(centroids)
        error = sums.inertia(moved) / len(fitted)
        if progress is not None:
            progress(iteration, error)
        if error >= previous:  # an approximate assignment may be worse than the one before
            break
        centroids = moved
        if previous - error < config.tolerance * previous:
            break
        previous = error
    return centroids, assign_balanced(vectors, centroids, slack)


def capacity_of(num_vectors: int, num_codes: int, slack: float) -> int:
    """Most vectors of one code: ⌈N/K⌉ · slack, rounded down.

    Raises:
        InputError: slack below 1, so that not all vectors would find a place.
    """
    if not slack >= 1:
        raise InputError(f"The slack of a balanced assignment is {slack} but must be at least 1.")
    return int(min(num_vectors, math.ceil(num_vectors / num_codes) * slack + 1e-9))


def _solve(vectors: np.ndarray, centroids: np.ndarray, capacity: int, step: float) -> np.ndarray:
    codes, distances = assign(vectors, centroids)
    if len(vectors) == 0 or np.bincount(codes).max() <= capacity:
        return codes
    return _auction(_Lists(vectors, centroids), codes, distances, capacity, step)


def _auction(lists: "_Lists", codes: np.ndarray, distances: np.ndarray, capacity: int, step: float) -> np.ndarray:
    """Raise the prices of centroids above capacity until there are none.

    In each round such a centroid keeps the vectors that would lose most by their next best choice, and raises its
    price to just above what the last of them would pay to stay. A centroid with a price is therefore always full, and
    every vector within a step of its best choice: then the total is within a step a vector of the least possible.
    """
    prices = np.zeros(len(lists.centroids), np.float32)
    spread = np.var(lists.centroids, axis=0).sum() or np.float32(1)
    while (over := np.bincount(codes, minlength=len(prices)) > capacity).any():
        steps = np.maximum(prices * np.float32(_GROWTH), np.float32(step) * (distances.mean() or spread))
        rows = np.flatnonzero(over[codes])
        other, away = lists.cheapest(rows, prices, codes[rows])
        margins = away + prices[other] - distances[rows] - prices[codes[rows]]
        order = np.lexsort((-margins, codes[rows]))
        cells = codes[rows[order]]
        place = np.arange(len(cells)) - np.searchsorted(cells, cells)
        last = place == capacity - 1
        prices[cells[last]] += np.maximum(margins[order[last]], 0) + steps[cells[last]]
        leaving = np.sort(rows[order[place >= capacity]])
        codes[leaving], distances[leaving] = lists.cheapest(leaving, prices, None)
    return codes


class _Lists:
    """Of each vector the M centroids that were cheapest when its list was made.

    Prices only rise. So what any other centroid cost at least when the list was made (``bound``) holds ever after,
    and a choice from the list that costs no more is the best of all.
    """

    def __init__(self, vectors: np.ndarray, centroids: np.ndarray) -> None:
        self.vectors, self.centroids = vectors, centroids
        self.shift = centroids.mean(0, dtype=np.float64).astype(np.float32)
        moved = torch.from_numpy(centroids - self.shift)
        self.lengths, self.transposed = (moved * moved).sum(1), (-2 * moved).T.contiguous()
        shape = (len(vectors), min(_LIST, len(centroids)))
        self.codes, self.distances = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self.bound = np.full(len(vectors), -np.inf, np.float32)  # no list yet

    def cheapest(self, rows: np.ndarray, prices: np.ndarray, but: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """For each row the centroid of least squared distance plus price, other than ``but``, and its distance."""
        self._renew(rows[np.isneginf(self.bound[rows])], prices)
        place, cost = self._look_up(rows, prices, but)
        stale = cost > self.bound[rows]
        if stale.any():
            self._renew(rows[stale], prices)
            place[stale] = self._look_up(rows[stale], prices, None if but is None else but[stale])[0]
        return self.codes[rows, place], self.distances[rows, place]

    def _look_up(self, rows: np.ndarray, prices: np.ndarray, but: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        codes = self.codes[rows]
        cost = self.distances[rows] + prices[codes]
        if but is not None:
            cost[codes == but[:, None]] = np.inf
        place = cost.argmin(1)
        return place, cost[np.arange(len(rows)), place]

    def _renew(self, rows: np.ndarray, prices: np.ndarray) -> None:
        num_codes, length = len(self.centroids), self.codes.shape[1]

        def renew(tile: slice) -> None:
            block = rows[tile]
            moved = torch.from_numpy(self.vectors[block] - self.shift)
            squares = torch.linalg.vecdot(moved, moved)
            values = torch.addmm(self.lengths, moved, self.transposed)
            listed = torch.topk(values + torch.from_numpy(prices), length, dim=1, largest=False)
            self.codes[block] = listed.indices.numpy()
            self.distances[block] = (values.gather(1, listed.indices) + squares[:, None]).clamp(min=0).numpy()
            self.bound[block] = np.inf if length == num_codes else (listed.values[:, -1] + squares).numpy()

        run_tiles(renew, row_tiles(len(rows), max(16, _TILE_ELEMENTS // num_codes)))
