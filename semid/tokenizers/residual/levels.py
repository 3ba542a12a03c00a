"""Fitting one level of residual codebooks: starts, Hartigan's moves kept where they pay, balance, directions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from semid.tokenizers.clustering import kmeans as engine
from semid.tokenizers.clustering.balanced import assign_balanced, fit_balanced
from semid.tokenizers.clustering.hartigan import hartigan
from semid.tokenizers.clustering.kmeans import KMeansConfig, Start, fit_clusters, fit_kmeans
from semid.tokenizers.clustering.lloyd import Clusters, ClusterSums
from semid.tokenizers.clustering.nearest import assign, nearest_codes
from semid.tokenizers.clustering.starts import plus_plus, sample_rows, shrunk, spherical

STARTS = (*engine.STARTS, "shrunk", "spherical")
# How near to the mean a shrunk start is, and the most vectors a code that a start is drawn from.
_SHRINKAGE, _START_ROWS = 0.3, 64
_HARTIGAN_PASSES, _HARTIGAN_TOLERANCE = 6, 3e-3
# Passes between directions and the means of the vectors themselves.
_DIRECTION_PASSES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """How one level is fitted.

    Attributes:
        kmeans: the plain fit, but for its start.
        start: one of ``STARTS``.
        hartigan: let vectors move by Hartigan's rule after the plain fit.
        judged: keep that only if there are vectors held out and it has less error on them.
        balanced: slack of cells of equal size; None for cells of any size.
        normalise: go by directions.
    """

    kmeans: KMeansConfig
    start: str
    hartigan: bool
    judged: bool
    balanced: float | None
    normalise: bool


def fit_level(residuals: np.ndarray, held_out: np.ndarray, how: Level) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of one level, and the codes they were fitted with.

    Args:
        residuals: (N, D) float32, what the levels before leave of the vectors.
        held_out: (M, D) float32, the same of vectors that nothing is fitted to; may be empty.
        how: to fit.

    Returns:
        (K, D) float32 centroids and (N,) int32 codes.
    """
    if how.balanced is not None:
        return fit_balanced(residuals, how.kmeans, slack=how.balanced)
    if how.normalise:
        return _fit_directions(residuals, how.kmeans)
    plain, codes, _ = _fit_plain(residuals, how)
    if not how.hartigan:
        return plain, codes
    rng = np.random.default_rng(how.kmeans.seed)
    moved, moved_codes = hartigan(
        residuals, codes, len(plain), rng, passes=_HARTIGAN_PASSES, tolerance=_HARTIGAN_TOLERANCE
    )
    if how.judged and not (len(held_out) and _error(held_out, moved) < _error(held_out, plain)):
        return plain, codes
    return moved, moved_codes


def _fit_plain(residuals: np.ndarray, how: Level) -> Clusters:
    config = how.kmeans
    if how.start in engine.STARTS:
        return fit_clusters(residuals, replace(config, start=cast(Start, how.start)))
    rng = np.random.default_rng(config.seed)
    some = sample_rows(residuals, max(_START_ROWS * config.num_codes, 4096), rng)
    if how.start == "spherical":
        start = spherical(some, config.num_codes, rng)
    else:
        start = shrunk(plus_plus(some, config.num_codes, rng), some, _SHRINKAGE)
    return fit_clusters(residuals, config, start=start)


def encode_level(residuals: np.ndarray, centroids: np.ndarray, *, normalise: bool) -> np.ndarray:
    """The (N,) int32 codes of residuals: the nearest centroids, or those nearest in direction."""
    if normalise:
        return nearest_codes(_directions(residuals), _directions(centroids))
    return nearest_codes(residuals, centroids)


def encode_levels(vectors: np.ndarray, codebooks: Sequence[np.ndarray], *, normalise: bool) -> np.ndarray:
    """Codes level by level, each of what those before leave: (N, L) int32."""
    return _by_level(vectors, codebooks, lambda left, book: encode_level(left, book, normalise=normalise))


def encode_levels_balanced(vectors: np.ndarray, codebooks: Sequence[np.ndarray], slack: float) -> np.ndarray:
    """The same with at most ⌈N/K⌉ · slack vectors to a centroid at every level."""
    return _by_level(vectors, codebooks, lambda left, book: assign_balanced(left, book, slack))


def _by_level(
    vectors: np.ndarray, codebooks: Sequence[np.ndarray], encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    left = np.array(vectors, np.float32)
    codes = np.empty((len(vectors), len(codebooks)), np.int32)
    for level, codebook in enumerate(codebooks):
        codes[:, level] = encode(left, codebook)
        left -= codebook[codes[:, level]]
    return codes


def _fit_directions(residuals: np.ndarray, config: KMeansConfig) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of like direction, whose centroids are the means of the vectors as they are.

    Sums of centroids then approximate the vectors. (Means of directions would have to be scaled to be summed.)
    """
    directions = _directions(residuals)
    centroids = fit_kmeans(directions, config)
    sums = ClusterSums(residuals, len(centroids))
    for _ in range(_DIRECTION_PASSES):
        codes = nearest_codes(directions, _directions(centroids))
        sums.update(codes)
        centroids = sums.means(centroids)
    return centroids, encode_level(residuals, centroids, normalise=True)


def _directions(vectors: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None])


def _error(vectors: np.ndarray, centroids: np.ndarray) -> float:
    return float(assign(vectors, centroids)[1].mean(dtype=np.float64))
