"""The directions that hold most of the vectors' energy, and how many of them a screen should look at.

Shapes: N vectors, D width, d leading dimensions, K centroids.
"""

from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.clustering.tiles import one_thread_each

_SAMPLE = 1 << 14
_BLOCK_ROWS = 2048
# Narrower vectors are screened whole.
_LEAST_WIDTH = 64
_PROBES = 128
# Screened multiplications that cost as much as one of the exact comparison of a pair.
_PAIR_COST = 60
_WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Principal:
    """Principal axes of a sample.

    Attributes:
        mean: (D,) float64.
        axes: (D, D) float64, columns by falling energy.
        energy: (D,) mean squared length along each.
    """

    mean: np.ndarray
    axes: np.ndarray
    energy: np.ndarray

    def width_for(self, share: float) -> int:
        """Leading axes that hold this share of the energy."""
        total = np.cumsum(self.energy)
        return int(np.searchsorted(total, share * total[-1])) + 1


def principal_axes(vectors: np.ndarray) -> Principal:
    """Of at most 16384 rows of (N, D) float32, evenly spaced."""
    sample = vectors[:: len(vectors) // _SAMPLE + 1]
    mean = sample.mean(0, dtype=np.float64)
    moments = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    with one_thread_each():
        for first in range(0, len(sample), _BLOCK_ROWS):
            block = torch.from_numpy(sample[first : first + _BLOCK_ROWS] - mean.astype(np.float32))
            moments += (block.T @ block).double()
        energy, axes = torch.linalg.eigh(moments / len(sample))
    return Principal(mean, axes.numpy()[:, ::-1], np.maximum(energy.numpy()[::-1], 0))


def screen_basis(principal: Principal, vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray | None:
    """The leading axes to screen with: as many as make products and exact comparisons together cheapest.

    Args:
        principal: axes of the vectors.
        vectors: (N, D) float32.
        centroids: (K, D) float32 like those to compare with.

    Returns:
        (D, d) axes, or None where all dimensions serve best.
    """
    dim = vectors.shape[1]
    widths = [width for width in _WIDTHS if width <= dim // 2]
    probes = vectors[:: len(vectors) // _PROBES + 1]
    own, others = probes - principal.mean, centroids - principal.mean
    distances = np.square(own).sum(1)[:, None] + np.square(others).sum(1) - 2 * (own @ others.T)
    gaps = (distances - distances.min(1, keepdims=True)) / 2
    tails = [_tails(principal, points, widths) for points in (probes, centroids)]
    costs = {dim: len(centroids) * dim}
    for position, width in enumerate(widths):
        own, others = tails[0][:, position], tails[1][:, position]
        lost = own[:, None] * (others[distances.argmin(1)][:, None] + others)
        pairs = (gaps <= lost).sum(1)
        costs[width] = len(centroids) * width + _PAIR_COST * dim * pairs[pairs > 1].sum() / len(probes)
    best = min(costs, key=lambda width: costs[width])
    return None if best == dim else principal.axes[:, :best]


def _tails(principal: Principal, points: np.ndarray, widths: list[int]) -> np.ndarray:
    """Length of each point beyond the leading axes: (n, len(widths))."""
    squares = np.square((points - principal.mean) @ principal.axes)
    beyond = np.cumsum(squares[:, ::-1], axis=1)[:, ::-1]
    lengths: np.ndarray = np.sqrt(beyond[:, widths])
    return lengths
