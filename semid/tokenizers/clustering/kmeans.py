"""k-means: Lloyd's algorithm in exact float32.

Shapes: N vectors, D width, K centroids. Sums that decide the result run in a fixed order, so that a seed gives the
same centroids whatever the number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from semid.errors import InputError
from semid.tokenizers.clustering.nearest import assign

_UPDATE_ROWS = 1 << 14
# A start is a k-means++ draw, moved towards the mean by each of these factors; the better one after a few passes is
# kept. On residuals of real embeddings most of a vector is noise, and centroids that start far out strand: they keep
# single points and leave nearly all others to a few. Nearer starts mend that, but may merge well parted clusters.
_START_SHRINKAGE = (1.0, 0.3)
_START_PASSES = 6
_START_ROWS_PER_CODE = 32
_START_ROUNDS = 256

Progress = Callable[[int, float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class KMeansConfig:
    """How to fit one set of centroids.

    Attributes:
        num_codes: K centroids.
        iterations: most passes of Lloyd's algorithm.
        tolerance: stop once a pass lowers the error by less than this share; 0 runs until no vector moves.
        sample: most vectors to fit on, drawn by ``seed``; None for all.
        seed: of every random choice.
    """

    num_codes: int
    iterations: int = 25
    tolerance: float = 1e-4
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_codes < 1:
            raise InputError(f"The number of codes is {self.num_codes} but must be at least 1.")
        if self.iterations < 1:
            raise InputError(f"The number of iterations is {self.iterations} but must be at least 1.")
        if self.sample is not None and self.sample < self.num_codes:
            raise InputError(f"A sample of {self.sample} vectors is too small for {self.num_codes} codes.")


def fit_kmeans(
    vectors: np.ndarray,
    config: KMeansConfig,
    *,
    start: np.ndarray | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Centroids with a low mean squared distance to the vectors.

    Args:
        vectors: (N, D) float32.
        config: how to fit.
        start: (K, D) centroids to start from; by default k-means++ (Arthur and Vassilvitskii 2007) on a sample.
        progress: called with the pass, from 1, and the mean squared distance before it.

    Returns:
        (K, D) float32. Centroids that no vector is nearest to remain only where there are fewer than K distinct
        vectors.

    Raises:
        InputError: fewer vectors than centroids.
    """
    if len(vectors) < config.num_codes:
        raise InputError(
            f"Cannot make {config.num_codes} codes from {len(vectors)} vectors: use at most {len(vectors)} codes."
        )
    rng = np.random.default_rng(config.seed)
    if config.sample is not None and config.sample < len(vectors):
        vectors = vectors[np.sort(rng.choice(len(vectors), config.sample, replace=False))]
    vectors = np.ascontiguousarray(vectors, np.float32)
    centroids = _choose_start(vectors, config.num_codes, rng) if start is None else start.astype(np.float32)
    centroids, _ = _lloyd(vectors, centroids, config.iterations, config.tolerance, rng, progress)
    return centroids


def _choose_start(vectors: np.ndarray, num_codes: int, rng: np.random.Generator) -> np.ndarray:
    size = max(_START_ROWS_PER_CODE * num_codes, 4096)
    if size < len(vectors):
        vectors = vectors[np.sort(rng.choice(len(vectors), size, replace=False))]
    drawn = _plus_plus(vectors, num_codes, rng)
    mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
    starts = [
        _lloyd(vectors, mean + np.float32(shrinkage) * (drawn - mean), _START_PASSES, 0.0, rng)
        for shrinkage in _START_SHRINKAGE
    ]
    return min(starts, key=lambda start: start[1])[0]


def _plus_plus(vectors: np.ndarray, num_codes: int, rng: np.random.Generator) -> np.ndarray:
    """Draw vectors with a chance that grows with the squared distance to those drawn before.

    One at a time up to 256 centroids; beyond, several a round, so that the cost does not grow with K squared.
    """
    chosen = [rng.integers(len(vectors), size=1)]
    nearest = np.full(len(vectors), np.inf, np.float32)
    per_round = -(-num_codes // _START_ROUNDS)
    missing = num_codes - 1
    while missing:
        nearest = np.minimum(nearest, assign(vectors, vectors[chosen[-1]])[1])
        cumulative = np.cumsum(nearest, dtype=np.float64)
        count = min(per_round, missing)
        if cumulative[-1] > 0:
            drawn = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
            chosen.append(np.minimum(drawn, len(vectors) - 1))
        else:  # fewer distinct vectors than centroids
            chosen.append(rng.integers(len(vectors), size=count))
        missing -= count
    return vectors[np.concatenate(chosen)]


def _lloyd(
    vectors: np.ndarray,
    centroids: np.ndarray,
    iterations: int,
    tolerance: float,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> tuple[np.ndarray, float]:
    """Centroids after at most ``iterations`` passes, and the sum of squared distances before the last one."""
    previous_codes, previous = None, np.inf
    for iteration in range(1, iterations + 1):
        codes, distances = assign(vectors, centroids)
        inertia = float(distances.sum(dtype=np.float64))
        if progress is not None:
            progress(iteration, inertia / len(vectors))
        if previous_codes is not None and np.array_equal(codes, previous_codes):
            break
        centroids = _means(vectors, codes, centroids)
        centroids = _fill_empty(vectors, codes, distances, centroids, rng)
        if previous - inertia < tolerance * previous < np.inf:
            break
        previous_codes, previous = codes, inertia
    return centroids, inertia


def _means(vectors: np.ndarray, codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The mean of each centroid's vectors; those without any stay where they are."""
    num_codes = len(centroids)
    sums = np.zeros(centroids.shape)
    for first in range(0, len(vectors), _UPDATE_ROWS):
        block = codes[first : first + _UPDATE_ROWS]
        shape = (len(block), num_codes)
        one_hot = sp.csr_matrix((np.ones(len(block), np.float32), block, np.arange(len(block) + 1)), shape=shape)
        sums += one_hot.T @ vectors[first : first + _UPDATE_ROWS]
    counts = np.bincount(codes, minlength=num_codes)[:, None]
    return np.where(counts, sums / np.maximum(counts, 1), centroids).astype(np.float32)


def _fill_empty(
    vectors: np.ndarray, codes: np.ndarray, distances: np.ndarray, centroids: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Move each centroid without vectors half-way to a random member of one of the costliest clusters."""
    counts = np.bincount(codes, minlength=len(centroids))
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return centroids
    cost = np.bincount(codes, weights=distances, minlength=len(centroids))
    costly = np.argsort(-cost, kind="stable")[: len(empty)]
    costly = costly[cost[costly] > 0]
    order = np.argsort(codes, kind="stable")
    first = np.cumsum(counts) - counts
    members = order[first[costly] + rng.integers(counts[costly])] if len(costly) else costly
    filled = centroids.copy()
    filled[empty[: len(costly)]] = (centroids[costly] + vectors[members]) / 2
    return filled
