"""The directions that hold most of the vectors' energy, and how many of them a screen should look at.

Shapes: N vectors, D width, d leading dimensions, K centroids.
"""

from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.clustering.tiles import one_thread_each

_SAMPLE = 1 << 14
_BLOCK_ROWS = 2048
_PROBES = 128
# Screened multiplications that cost as much as one of the exact comparison of a pair.
_PAIR_COST = 60
# The same of one of a projection that the passes have to earn back.
_PROJECTION_COST = 0.5
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


def screen_width(principal: Principal, vectors: np.ndarray, centroids: np.ndarray, known: int) -> int:
    """How many leading axes make products and exact comparisons together cheapest.

    Args:
        principal: axes of the vectors.
        vectors: (N, D) float32.
        centroids: (K, D) float32 like those to compare with.
        known: axes along which the vectors are known already.
    """
    dim = vectors.shape[1]
    widths = [width for width in sorted({*_WIDTHS, known}) if width <= dim // 2]
    probes = vectors[:: len(vectors) // _PROBES + 1]
    own, others = probes - principal.mean, centroids - principal.mean
    distances = np.square(own).sum(1)[:, None] + np.square(others).sum(1) - 2 * (own @ others.T)
    gaps = (distances - distances.min(1, keepdims=True)) / 2
    tails = [_tails(principal, points, widths) for points in (probes, centroids)]
    costs: dict[int, float] = {dim: float(len(centroids) * dim)}
    for position, width in enumerate(widths):
        tail, tau = tails[0][:, position], tails[1][:, position]
        lost = tail[:, None] * (tau[distances.argmin(1)][:, None] + tau)
        pairs = (gaps <= lost).sum(1)
        costs[width] = len(centroids) * width + _PAIR_COST * dim * float(pairs[pairs > 1].sum()) / len(probes)
        if width != known:
            costs[width] += _PROJECTION_COST * dim * width
    best: int = min(costs, key=lambda width: costs[width])
    return best


def _tails(principal: Principal, points: np.ndarray, widths: list[int]) -> np.ndarray:
    """Length of each point beyond the leading axes: (n, len(widths))."""
    squares = np.square((points - principal.mean) @ principal.axes)
    beyond = np.cumsum(squares[:, ::-1], axis=1)[:, ::-1]
    lengths: np.ndarray = np.sqrt(beyond[:, widths])
    return lengths
