"""k-means: a good start, growing batches, then exact passes over all vectors.

Shapes: N vectors, D width, K centroids.
"""

from dataclasses import dataclass
from typing import Literal, get_args, overload

import numpy as np
import torch

from semid.errors import InputError
from semid.tokenizers.clustering.hierarchical import hierarchical_start
from semid.tokenizers.clustering.lloyd import Clusters, lloyd
from semid.tokenizers.clustering.lloyd import Progress as Progress
from semid.tokenizers.clustering.principal import principal_axes, screen_width
from semid.tokenizers.clustering.projection import Projection, project_all
from semid.tokenizers.clustering.screening import has_half_precision
from semid.tokenizers.clustering.starts import afkmc2, plus_plus, sample_rows, shrunk

# A start is a k-means++ draw, moved towards the mean by each of these factors; the better one after a few passes is
# kept. On residuals of real embeddings most of a vector is noise, and centroids that start far out strand: they keep
# single points and leave nearly all others to a few. Nearer starts mend that, but may merge well parted clusters.
_START_SHRINKAGE = (1.0, 0.3)
_START_PASSES = 6
_START_ROWS_PER_CODE = 32
# Batches grow by this factor, as long as they are at most half of all vectors, with few passes over each.
_GROWTH = 4
_BATCH_PASSES, _BATCH_TOLERANCE = 3, 2e-3
# From so many centroids, and pairs of a vector and a centroid, on the start is hierarchical.
_HIERARCHICAL_CODES, _HIERARCHICAL_PAIRS = 512, 1 << 26
_ROWS_PER_SPLIT_CODE = 64
# Share of the energy in the leading axes in which the hierarchical start is made, and the fewest and most of them.
_START_ENERGY, _START_WIDTH = 0.99, (16, 256)
# Axes pay from this width on.
_LEAST_WIDTH = 96

Start = Literal["auto", "hierarchical", "plus-plus", "afkmc2", "random"]
STARTS: tuple[str, ...] = get_args(Start)


@dataclass(frozen=True, kw_only=True, slots=True)
class KMeansConfig:
    """How to fit one set of centroids.

    Attributes:
        num_codes: K centroids.
        iterations: most passes of Lloyd's algorithm over all vectors.
        tolerance: stop once a pass lowers the error by less than this share; 0 runs until no vector moves.
        sample: most vectors to fit on, drawn by ``seed``; None for all.
        seed: of every random choice.
        relaxation: how far a centroid moves in a pass, from 1, to the mean of its vectors, to less than 2, twice as
            far. The result are means; beyond 1 fewer passes reach a lower error.
        start: "hierarchical" clusters coarsely and splits each cluster; "plus-plus" draws by squared distance,
            "afkmc2" nearly so without a pass over all vectors for each draw, "random" evenly. "auto" is hierarchical
            for many centroids of many vectors; else it draws by squared distance and keeps the better of that draw
            and the same moved towards the mean.
    """

    num_codes: int
    iterations: int = 25
    tolerance: float = 2e-4
    sample: int | None = None
    seed: int = 0
    relaxation: float = 1.7
    start: Start = "auto"

    def __post_init__(self) -> None:
        if self.num_codes < 1:
            raise InputError(f"The number of codes is {self.num_codes} but must be at least 1.")
        if self.iterations < 1:
            raise InputError(f"The number of iterations is {self.iterations} but must be at least 1.")
        if self.sample is not None and self.sample < self.num_codes:
            raise InputError(f"A sample of {self.sample} vectors is too small for {self.num_codes} codes.")
        if not 1 <= self.relaxation < 2:
            raise InputError(f"The relaxation is {self.relaxation} but must be at least 1 and less than 2.")
        if self.start not in STARTS:
            raise InputError(f"The start of k-means is {self.start!r} but must be one of {', '.join(STARTS)}.")


@overload
def fit_kmeans(
    vectors: np.ndarray, config: KMeansConfig, *, start: np.ndarray | None = None, progress: Progress | None = None
) -> np.ndarray: ...


@overload
def fit_kmeans(
    vectors: torch.Tensor,
    config: KMeansConfig,
    *,
    start: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> torch.Tensor: ...


def fit_kmeans(
    vectors: np.ndarray | torch.Tensor,
    config: KMeansConfig,
    *,
    start: np.ndarray | torch.Tensor | None = None,
    progress: Progress | None = None,
) -> np.ndarray | torch.Tensor:
    """Centroids with a low mean squared distance to the vectors.

    Args:
        vectors: (N, D) float32 array; or a tensor, on a GPU or not, for ``kmeans_gpu``.
        config: how to fit.
        start: (K, D) centroids to start from instead of what ``config.start`` says.
        progress: called with the pass over all vectors, from 1, and the mean squared distance before it.

    Returns:
        (K, D) float32. Centroids that no vector is nearest to remain only where there are fewer than K distinct
        vectors.

    Raises:
        InputError: fewer vectors than centroids.
    """
    if isinstance(vectors, torch.Tensor):
        from semid.tokenizers.clustering.kmeans_gpu import fit_kmeans_tensors  # which imports this module

        assert not isinstance(start, np.ndarray)
        return fit_kmeans_tensors(vectors, config, start=start, progress=progress)
    assert not isinstance(start, torch.Tensor)
    return fit_clusters(vectors, config, start=start, progress=progress).centroids


def fit_clusters(
    vectors: np.ndarray, config: KMeansConfig, *, start: np.ndarray | None = None, progress: Progress | None = None
) -> Clusters:
    """:func:`fit_kmeans` with the codes of the last pass, which are those of the sample where there is one."""
    num_codes = config.num_codes
    if len(vectors) < num_codes:
        raise InputError(
            f"Cannot make {num_codes} codes from {len(vectors)} vectors: use at most {len(vectors)} codes."
        )
    rng = np.random.default_rng(config.seed)
    if config.sample is not None:
        vectors = sample_rows(vectors, config.sample, rng)
    vectors = np.ascontiguousarray(vectors, np.float32)
    space = _Space(vectors)
    return lloyd(
        vectors,
        space.start(config, rng) if start is None else start.astype(np.float32),
        iterations=config.iterations,
        tolerance=config.tolerance,
        rng=rng,
        relaxation=config.relaxation,
        screen=space.screen,
        progress=progress,
    )


class _Space:
    """Vectors along their leading axes, where the start is made and, if it pays, the passes are screened."""

    def __init__(self, vectors: np.ndarray) -> None:
        dim = vectors.shape[1]
        self._vectors, self._half = vectors, has_half_precision()
        self._axes = principal_axes(vectors) if dim >= _LEAST_WIDTH else None
        self._width = dim
        if self._axes is not None:
            self._width = min(max(self._axes.width_for(_START_ENERGY), _START_WIDTH[0]), _START_WIDTH[1], dim // 2)
        self._projection = self._along(self._width)

    def _along(self, width: int) -> Projection:
        basis = None if self._axes is None or width == self._vectors.shape[1] else self._axes.axes[:, :width]
        return project_all(self._vectors, None, basis, self._half)

    def screen(self, centroids: np.ndarray) -> Projection:
        """The projection with which passes from these centroids are screened best."""
        if self._axes is None:
            return self._projection
        width = screen_width(self._axes, self._vectors, centroids, self._width)
        return self._projection if width == self._width else self._along(width)

    def start(self, config: KMeansConfig, rng: np.random.Generator) -> np.ndarray:
        """(K, D) centroids to start from."""
        if config.start == "random":
            return sample_rows(self._vectors, config.num_codes, rng)
        return self._projection.restore(_start(self._projection.heads, config, rng))


def _start(vectors: np.ndarray, config: KMeansConfig, rng: np.random.Generator) -> np.ndarray:
    """Centroids of one batch, then of greater ones."""
    hierarchical = config.start == "hierarchical"
    if config.start == "auto":
        pairs = len(vectors) * config.num_codes
        hierarchical = config.num_codes >= _HIERARCHICAL_CODES and pairs >= _HIERARCHICAL_PAIRS
    if hierarchical:
        size = _ROWS_PER_SPLIT_CODE * config.num_codes
    else:
        size = max(_START_ROWS_PER_CODE * config.num_codes, 4096)
    batch = sample_rows(vectors, size, rng)
    centroids = hierarchical_start(batch, config.num_codes, rng) if hierarchical else _flat_start(batch, config, rng)
    while size <= len(vectors) / 2:
        centroids = lloyd(
            batch,
            centroids,
            iterations=_BATCH_PASSES,
            tolerance=_BATCH_TOLERANCE,
            rng=rng,
            relaxation=config.relaxation,
        ).centroids
        size *= _GROWTH
        if size <= len(vectors) / 2:
            batch = sample_rows(vectors, size, rng)
    return centroids


def _flat_start(vectors: np.ndarray, config: KMeansConfig, rng: np.random.Generator) -> np.ndarray:
    if config.start == "afkmc2":
        return afkmc2(vectors, config.num_codes, rng)
    drawn = plus_plus(vectors, config.num_codes, rng)
    if config.start == "plus-plus":
        return drawn
    starts = [
        lloyd(
            vectors,
            shrunk(drawn, vectors, shrinkage),
            iterations=_START_PASSES,
            tolerance=0.0,
            rng=rng,
            relaxation=config.relaxation,
        )
        for shrinkage in _START_SHRINKAGE
    ]
    return min(starts, key=lambda fitted: fitted.inertia).centroids
