"""The nearest centroid of each vector.

Shapes: N vectors, D width, K centroids. Distances of one tile of rows to all centroids are held at a time, never
N × K.
"""

from collections.abc import Iterator

import numpy as np
import torch

# Elements of one tile of distances: 8 MB. Smaller ones cost more in threads waiting for each other than they save.
_TILE_ELEMENTS = 1 << 21


def assign(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each vector, the lowest index where two are equally near.

    Args:
        vectors: (N, D) float32.
        centroids: (K, D) float32.

    Returns:
        (N,) int32 codes and (N,) float32 squared distances.
    """
    codes = np.zeros(len(vectors), np.int32)
    distances = np.empty(len(vectors), np.float32)
    if len(centroids) == 1:  # one centroid needs no search
        difference = vectors - centroids
        return codes, np.einsum("nd,nd->n", difference, difference)
    for rows, tile in distance_tiles(vectors, centroids):
        codes[rows] = tile.argmin(1)
        difference = vectors[rows] - centroids[codes[rows]]
        distances[rows] = np.einsum("nd,nd->n", difference, difference)
    return codes, distances


def distance_tiles(vectors: np.ndarray, centroids: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and their (rows, K) squared distances to all centroids, less the squared length of the vector.

    The buffer is used again for the next tile. Both sides are moved to the centroids' mean first, so that vectors far
    from the origin lose no precision.
    """
    shift = centroids.mean(0, dtype=np.float64).astype(np.float32)
    moved = torch.from_numpy(centroids - shift)
    lengths = (moved * moved).sum(1)
    transposed = (-2 * moved).T.contiguous()
    size = max(16, _TILE_ELEMENTS // len(centroids))
    buffer = torch.empty(min(size, len(vectors)), len(centroids))
    for first in range(0, len(vectors), size):
        rows = slice(first, min(first + size, len(vectors)))
        tile = torch.from_numpy(vectors[rows] - shift)
        out = buffer[: len(tile)]
        torch.addmm(lengths, tile, transposed, out=out)
        yield rows, out.numpy()
