"""k-means of torch tensors, on a GPU or not: passes of exact assignment and means, nothing copied to the host.

Shapes: N vectors, D width, K centroids. Sums run in a fixed order, without atomic additions, so that a seed repeats.
"""

import numpy as np
import torch

from semid.errors import InputError
from semid.tokenizers.clustering.kmeans import KMeansConfig
from semid.tokenizers.clustering.lloyd import Progress
from semid.tokenizers.clustering.nearest_gpu import PreparedTensors, assign_tensors
from semid.tokenizers.clustering.starts import draw_rows

_START_ROWS_PER_CODE = 32
# Elements of the vectors gathered at a time: 256 MB.
_BLOCK_ELEMENTS = 1 << 26


def fit_kmeans_tensors(
    vectors: torch.Tensor,
    config: KMeansConfig,
    *,
    start: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Centroids with a low mean squared distance to the vectors.

    Args:
        vectors: (N, D) float32, on any device.
        config: how to fit. The start is drawn evenly for "random", by squared distance (k-means++) for all others.
        start: (K, D) centroids to start from instead.
        progress: called with the pass, from 1, and the mean squared distance before it.

    Returns:
        (K, D) float32 on that device.

    Raises:
        InputError: fewer vectors than centroids.
    """
    if len(vectors) < config.num_codes:
        raise InputError(
            f"Cannot make {config.num_codes} codes from {len(vectors)} vectors: use at most {len(vectors)} codes."
        )
    rng = np.random.default_rng(config.seed)
    if config.sample is not None and config.sample < len(vectors):
        vectors = _sample(vectors, config.sample, rng)
    centroids = _start(vectors, config, rng) if start is None else start.float()
    prepared = PreparedTensors(vectors, centroids)
    before: torch.Tensor | None = None
    previous, means, relaxation, relaxed = np.inf, centroids, config.relaxation, False
    for iteration in range(1, config.iterations + 1):
        codes = prepared.assign(centroids)
        clusters = Clusters(vectors, codes, centroids)
        inertia = float(clusters.cost.sum())
        if progress is not None:
            progress(iteration, inertia / len(vectors))
        moved = before is None or not torch.equal(codes, before)
        if not (moved or relaxed):
            break
        means = clusters.fill_empty(clusters.means, rng)
        if not moved or previous - inertia < config.tolerance * previous < np.inf:
            if not relaxed or config.tolerance > 0:
                break
            relaxation = 1.0  # a mean is where plain steps end
        before, previous, relaxed = codes, inertia, relaxation > 1
        stride = 1 + (relaxation - 1) * (means == clusters.means).all(1, keepdim=True).float()
        centroids = centroids + stride * (means - centroids) if relaxed else means
    return means


class Clusters:
    """The vectors of each centroid.

    Args:
        vectors: (N, D) float32.
        codes: (N,) int.
        centroids: (K, D) float32.

    Attributes:
        counts: (K,) vectors.
        means: (K, D) float32; a centroid without vectors stays where it is.
        cost: (K,) float64 sums of squared distances.
    """

    def __init__(self, vectors: torch.Tensor, codes: torch.Tensor, centroids: torch.Tensor) -> None:
        self._vectors = vectors
        self._order = torch.sort(codes, stable=True).indices
        self.counts = torch.bincount(codes, minlength=len(centroids))
        sums = torch.zeros_like(centroids, dtype=torch.float64)
        self.cost = torch.zeros_like(sums[:, 0])
        size = max(1, _BLOCK_ELEMENTS // vectors.shape[1])
        for first in range(0, len(vectors), size):
            rows = self._order[first : first + size]
            own = codes[rows].long()
            difference = vectors[rows] - centroids[own]
            lengths = torch.bincount(own, minlength=len(centroids))
            sums += _sum_segments(difference, lengths)
            self.cost += _sum_segments(difference.square_().sum(1), lengths)
        self.means = (centroids + sums / self.counts.clamp_min(1)[:, None]).float()

    def fill_empty(self, centroids: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Move each centroid without vectors half-way to a random member of one of the costliest clusters."""
        counts = self.counts.cpu().numpy()
        empty = np.flatnonzero(counts == 0)
        if not len(empty):
            return centroids
        cost = self.cost.cpu().numpy()
        costly = np.argsort(-cost, kind="stable")[: len(empty)]
        costly = costly[cost[costly] > 0]
        place = (np.cumsum(counts) - counts)[costly] + (rng.integers(counts[costly]) if len(costly) else 0)
        members = self._vectors[self._order[torch.from_numpy(place)]]
        filled = centroids.clone()
        filled[torch.from_numpy(empty[: len(costly)])] = (centroids[torch.from_numpy(costly)] + members) / 2
        return filled


def _sum_segments(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sums of consecutive rows, float64: one thread a sum on a GPU, in the order of the rows."""
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, initial=0).double()


def _sample(vectors: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
    rows = np.sort(rng.choice(len(vectors), count, replace=False))
    return vectors[torch.from_numpy(rows).to(vectors.device)]


def _start(vectors: torch.Tensor, config: KMeansConfig, rng: np.random.Generator) -> torch.Tensor:
    if config.start == "random":
        return _sample(vectors, config.num_codes, rng)
    size = max(_START_ROWS_PER_CODE * config.num_codes, 4096)
    sample = _sample(vectors, size, rng) if size < len(vectors) else vectors

    def distances_to(rows: list[int]) -> np.ndarray:
        distances: np.ndarray = assign_tensors(sample, sample[rows])[1].cpu().numpy()
        return distances

    def take(rows: np.ndarray) -> np.ndarray:
        taken: np.ndarray = sample[torch.from_numpy(rows)].cpu().numpy()
        return taken

    return sample[draw_rows(distances_to, take, len(sample), [int(rng.integers(len(sample)))], config.num_codes, rng)]
