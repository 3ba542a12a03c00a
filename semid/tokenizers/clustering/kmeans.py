"""k-means: a good start, growing batches, then exact passes over all vectors.

Shapes: N vectors, D width, K centroids.
"""

from dataclasses import dataclass
from typing import Literal, get_args, overload

import numpy as np
import torch

from semid.errors import InputError
from semid.tokenizers.clustering.hierarchical import hierarchical_codes
from semid.tokenizers.clustering.lloyd import ClusterSums, lloyd
from semid.tokenizers.clustering.lloyd import Progress as Progress
from semid.tokenizers.clustering.principal import Principal, principal_axes, screen_basis
from semid.tokenizers.clustering.starts import afkmc2, plus_plus, shrunk
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

# A start is a k-means++ draw, moved towards the mean by each of these factors; the better one after a few passes is
# kept. On residuals of real embeddings most of a vector is noise, and centroids that start far out strand: they keep
# single points and leave nearly all others to a few. Nearer starts mend that, but may merge well parted clusters.
_START_SHRINKAGE = (1.0, 0.3)
_START_PASSES = 6
_START_ROWS_PER_CODE = 32
# Batches grow by this factor, as long as they are at most half of all vectors, with few passes over each.
_GROWTH = 4
_BATCH_PASSES, _BATCH_TOLERANCE = 5, 2e-3
# From so many centroids on the start is hierarchical.
_HIERARCHICAL_CODES = 512
_ROWS_PER_SPLIT_CODE = 256
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
        start: "hierarchical" clusters coarsely and splits each cluster; "plus-plus" draws by squared distance,
            "afkmc2" nearly so without a pass over all vectors for each draw, "random" evenly. "auto" is hierarchical
            for many centroids; for few it draws by squared distance and keeps the better of that draw and the same
            moved towards the mean.
    """

    num_codes: int
    iterations: int = 25
    tolerance: float = 1e-4
    sample: int | None = None
    seed: int = 0
    start: Start = "auto"

    def __post_init__(self) -> None:
        if self.num_codes < 1:
            raise InputError(f"The number of codes is {self.num_codes} but must be at least 1.")
        if self.iterations < 1:
            raise InputError(f"The number of iterations is {self.iterations} but must be at least 1.")
        if self.sample is not None and self.sample < self.num_codes:
            raise InputError(f"A sample of {self.sample} vectors is too small for {self.num_codes} codes.")
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
    num_codes = config.num_codes
    if len(vectors) < num_codes:
        raise InputError(
            f"Cannot make {num_codes} codes from {len(vectors)} vectors: use at most {len(vectors)} codes."
        )
    rng = np.random.default_rng(config.seed)
    if config.sample is not None and config.sample < len(vectors):
        vectors = _draw(vectors, config.sample, rng)
    vectors = np.ascontiguousarray(vectors, np.float32)
    axes = principal_axes(vectors) if vectors.shape[1] >= _LEAST_WIDTH else None
    centroids = _start(vectors, config, axes, rng) if start is None else start.astype(np.float32)
    basis = None if axes is None else screen_basis(axes, vectors, centroids)
    centroids, _ = lloyd(
        vectors,
        centroids,
        iterations=config.iterations,
        tolerance=config.tolerance,
        rng=rng,
        basis=basis,
        progress=progress,
    )
    return centroids


def _draw(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    drawn: np.ndarray = vectors[np.sort(rng.choice(len(vectors), count, replace=False))]
    return drawn


def _start(vectors: np.ndarray, config: KMeansConfig, axes: Principal | None, rng: np.random.Generator) -> np.ndarray:
    num_codes = config.num_codes
    kind = config.start
    if kind == "auto" and num_codes >= _HIERARCHICAL_CODES:
        kind = "hierarchical"
    if kind == "random":
        return _draw(vectors, num_codes, rng)
    if kind == "hierarchical" and num_codes >= 4:
        size, start = _ROWS_PER_SPLIT_CODE * num_codes, _hierarchical
    else:
        size, start = max(_START_ROWS_PER_CODE * num_codes, 4096), _flat
    batch = _draw(vectors, size, rng) if size < len(vectors) else vectors
    centroids = start(batch, config, kind, axes, rng)
    while _GROWTH * size <= len(vectors) / 2:
        size *= _GROWTH
        batch = _draw(vectors, size, rng)
        basis = None if axes is None else screen_basis(axes, batch, centroids)
        centroids, _ = lloyd(
            batch, centroids, iterations=_BATCH_PASSES, tolerance=_BATCH_TOLERANCE, rng=rng, basis=basis
        )
    return centroids


def _flat(
    vectors: np.ndarray, config: KMeansConfig, kind: Start, axes: Principal | None, rng: np.random.Generator
) -> np.ndarray:
    if kind == "afkmc2":
        return afkmc2(vectors, config.num_codes, rng)
    drawn = plus_plus(vectors, config.num_codes, rng)
    if kind == "plus-plus":
        return drawn
    starts = [
        lloyd(vectors, shrunk(drawn, vectors, shrinkage), iterations=_START_PASSES, tolerance=0.0, rng=rng)
        for shrinkage in _START_SHRINKAGE
    ]
    return min(starts, key=lambda fitted: fitted[1])[0]


def _hierarchical(
    vectors: np.ndarray, config: KMeansConfig, kind: Start, axes: Principal | None, rng: np.random.Generator
) -> np.ndarray:
    heads = (
        vectors - vectors.mean(0, dtype=np.float64).astype(np.float32) if axes is None else _project(vectors, axes)
    )
    codes = hierarchical_codes(heads, config.num_codes, rng)
    sums = ClusterSums(vectors, config.num_codes)
    sums.update(codes)
    return sums.means(np.repeat(vectors.mean(0, dtype=np.float64)[None], config.num_codes, axis=0))


def _project(vectors: np.ndarray, axes: Principal) -> np.ndarray:
    """The vectors along their leading axes."""
    width = int(np.clip(axes.width_for(_START_ENERGY), *_START_WIDTH))
    basis = torch.from_numpy(axes.axes[:, :width].astype(np.float32))
    heads = np.empty((len(vectors), width), np.float32)

    def fill(rows: slice) -> None:
        torch.mm(
            torch.from_numpy(vectors[rows] - axes.mean.astype(np.float32)), basis, out=torch.from_numpy(heads[rows])
        )

    run_tiles(fill, row_tiles(len(vectors), 2048))
    return heads
