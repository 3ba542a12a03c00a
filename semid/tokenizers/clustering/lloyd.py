"""Lloyd's algorithm: exact passes, means from running sums, repair of empty clusters.

Shapes: N vectors, D width, K centroids. Sums of blocks in float32 are added in float64, all in a fixed order, so that
a seed gives the same centroids whatever the number of threads.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from semid.tokenizers.clustering.nearest import own_distances
from semid.tokenizers.clustering.prepared import PreparedVectors
from semid.tokenizers.clustering.projection import Projection
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

_BLOCK_ROWS = 1 << 11

Progress = Callable[[int, float], None]


class Clusters(NamedTuple):
    """What passes end with.

    Attributes:
        centroids: (K, D) float32.
        codes: (N,) int32 of the last pass; the centroids are the means of these clusters.
        inertia: sum of squared distances before the last means were taken.
    """

    centroids: np.ndarray
    codes: np.ndarray
    inertia: float


def lloyd(
    vectors: np.ndarray,
    centroids: np.ndarray,
    *,
    iterations: int,
    tolerance: float,
    rng: np.random.Generator,
    relaxation: float = 1.0,
    screen: Callable[[np.ndarray], Projection] | None = None,
    progress: Progress | None = None,
) -> Clusters:
    """Passes of assignment and means from given centroids.

    Args:
        vectors: (N, D) float32.
        centroids: (K, D) float32.
        iterations: most passes, at least 1.
        tolerance: stop once a pass lowers the error by less than this share; 0 runs until no vector moves.
        rng: of the repair of empty clusters.
        relaxation: how far a centroid moves towards the mean of its vectors and, above 1, beyond it. Below 2 the
            error still falls with every pass, and where it falls slowly, as on residuals, it falls faster and lower.
            The result are means in any case.
        screen: makes the projection of the vectors that is best to screen with for some centroids; has no effect on
            the result. Asked again after the first pass: a start may lie in fewer dimensions than means do.
        progress: called with the pass, from 1, and the mean squared distance before it.
    """
    projection = None if screen is None else screen(centroids)
    prepared = PreparedVectors(vectors, centroids, projection)
    sums = ClusterSums(vectors, len(centroids))
    previous, inertia, means, relaxed = np.inf, np.inf, centroids, False
    codes = np.zeros(len(vectors), np.int32)
    for iteration in range(1, iterations + 1):
        codes = prepared.assign(centroids)
        moved = sums.update(codes)
        inertia = sums.inertia(centroids)
        if progress is not None:
            progress(iteration, inertia / len(vectors))
        if not (moved or relaxed):
            break
        plain = sums.means(centroids)
        means = fill_empty(vectors, codes, plain, rng, sums.counts)
        if not moved or previous - inertia < tolerance * previous < np.inf:
            if not relaxed or tolerance > 0:
                break
            relaxation = 1.0  # a mean is where plain steps end
        previous, relaxed = inertia, relaxation > 1
        stride = np.where((means == plain).all(1), relaxation, 1.0).astype(np.float32)[:, None]
        centroids = centroids + stride * (means - centroids) if relaxed else means
        if screen is not None and iteration == 1:
            better = screen(centroids)
            if better is not projection:
                prepared = PreparedVectors(vectors, centroids, better)
    return Clusters(means, codes, inertia)


class ClusterSums:
    """Sum and number of each centroid's vectors, kept up to date by the vectors that moved.

    Args:
        vectors: (N, D) float32, kept.
        num_codes: K.

    Attributes:
        counts: (K,) number of each.
    """

    def __init__(self, vectors: np.ndarray, num_codes: int) -> None:
        self._vectors = vectors
        self._mean = vectors.mean(0, dtype=np.float64).astype(np.float32).astype(np.float64)
        self._energy = _energy(vectors, self._mean.astype(np.float32))
        self._codes: np.ndarray | None = None
        self._sums = np.zeros((num_codes, vectors.shape[1]))  # about the mean
        self.counts = np.zeros(num_codes, np.int64)

    def update(self, codes: np.ndarray) -> int:
        """Take over (N,) codes; returns how many differ from those before."""
        before = self._codes
        moved = np.arange(len(codes)) if before is None else np.flatnonzero(codes != before)
        if before is None or 2 * len(moved) > len(codes):
            self._sums[:] = 0
            self._add(np.arange(len(codes)), codes, np.ones(len(codes), np.float32))
        else:
            signs = np.repeat(np.array([-1, 1], np.float32), len(moved))
            self._add(np.concatenate([moved, moved]), np.concatenate([before[moved], codes[moved]]), signs)
        self.counts = np.bincount(codes, minlength=len(self.counts))
        self._codes = codes.copy()
        return len(moved)

    def inertia(self, centroids: np.ndarray) -> float:
        """Sum of squared distances of the vectors to the centroids of their codes."""
        own = centroids - self._mean
        cross = float(np.einsum("kd,kd->", self._sums, own))
        return max(0.0, self._energy - 2 * cross + float(self.counts @ np.einsum("kd,kd->k", own, own)))

    def means(self, centroids: np.ndarray) -> np.ndarray:
        """The mean of each centroid's vectors; those without any stay where they are. (K, D) float32"""
        counts = self.counts[:, None]
        return np.where(counts, self._sums / np.maximum(counts, 1) + self._mean, centroids).astype(np.float32)

    def _add(self, rows: np.ndarray, codes: np.ndarray, signs: np.ndarray) -> None:
        """Add vectors to the sums of their codes: each code's in one thread, by rising position."""
        order = np.argsort(codes, kind="stable")
        rows, codes, signs = rows[order], codes[order], signs[order]
        mean = self._mean.astype(np.float32)
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1])[: len(codes)])
        spans = np.append(starts[np.unique(starts // _BLOCK_ROWS, return_index=True)[1]], len(rows))

        def add(number: int) -> None:
            for part in row_tiles(int(spans[number + 1] - spans[number]), _BLOCK_ROWS):
                block = slice(spans[number] + part.start, spans[number] + part.stop)
                own, place = np.unique(codes[block], return_index=True)
                moved = self._vectors[rows[block]]
                moved -= mean
                pointers = np.append(place, len(moved))
                members = sp.csr_matrix((signs[block], np.arange(len(moved)), pointers), (len(own), len(moved)))
                self._sums[own] += members @ moved

        run_tiles(add, range(len(spans) - 1))


def _energy(vectors: np.ndarray, mean: np.ndarray) -> float:
    """Sum of squared distances from the mean."""
    tiles = row_tiles(len(vectors), _BLOCK_ROWS)
    energy = np.zeros(len(tiles))

    def add(number: int) -> None:
        moved = vectors[tiles[number]] - mean
        energy[number] = np.einsum("nd,nd->n", moved, moved).sum(dtype=np.float64)

    run_tiles(add, range(len(tiles)))
    return float(energy.sum())


def fill_empty(
    vectors: np.ndarray,
    codes: np.ndarray,
    centroids: np.ndarray,
    rng: np.random.Generator,
    counts: np.ndarray,
) -> np.ndarray:
    """Move each centroid without vectors half-way to a random member of one of the costliest clusters."""
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return centroids
    cost = np.bincount(codes, weights=own_distances(vectors, centroids, codes), minlength=len(centroids))
    costly = np.argsort(-cost, kind="stable")[: len(empty)]
    costly = costly[cost[costly] > 0]
    order = np.argsort(codes, kind="stable")
    first = np.cumsum(counts) - counts
    members = order[first[costly] + rng.integers(counts[costly])] if len(costly) else costly
    filled = centroids.copy()
    filled[empty[: len(costly)]] = (centroids[costly] + vectors[members]) / 2
    return filled
