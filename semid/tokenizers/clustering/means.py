"""The mean of each centroid's vectors."""

import numpy as np
import scipy.sparse as sp

_BLOCK_ROWS = 1 << 14


def cell_means(vectors: np.ndarray, codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The mean of each centroid's vectors; centroids without any stay where they are.

    Args:
        vectors: (N, D) float32.
        codes: (N,) int, the centroid of each.
        centroids: (K, D) float32.

    Returns:
        (K, D) float32: sums of blocks in float32, added in float64 in a fixed order.
    """
    num_codes = len(centroids)
    sums = np.zeros(centroids.shape)
    for first in range(0, len(vectors), _BLOCK_ROWS):
        block = codes[first : first + _BLOCK_ROWS]
        shape = (len(block), num_codes)
        one_hot = sp.csr_matrix((np.ones(len(block), np.float32), block, np.arange(len(block) + 1)), shape=shape)
        sums += one_hot.T @ vectors[first : first + _BLOCK_ROWS]
    counts = np.bincount(codes, minlength=num_codes)[:, None]
    return np.where(counts, sums / np.maximum(counts, 1), centroids).astype(np.float32)
