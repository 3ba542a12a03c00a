"""How many items have the very same vector as another one with the same codes."""

import numpy as np

from semid.tokenizers.collisions.packing import bucket_sizes, pack
from semid.tokenizers.collisions.rows import Rows

_BLOCK = 1 << 12


def count_identical(codes: np.ndarray, vectors: Rows) -> int:
    """Count items whose codes and float32 vector, bit for bit, another item has too.

    Vectors are compared by a random 64-bit sum of their words: two different ones of a bucket agree by a chance of
    one in billions.
    """
    weights = np.random.default_rng(0).integers(0, 2**64, vectors.shape[1], np.uint64, endpoint=False) | np.uint64(1)
    sums = np.empty(len(codes), np.int64)
    for first in range(0, len(codes), _BLOCK):
        rows = slice(first, min(first + _BLOCK, len(codes)))
        words = np.ascontiguousarray(vectors[rows], np.float32).view(np.uint32)
        sums[rows] = (words * weights).sum(1, dtype=np.uint64).view(np.int64)
    _, ranks = np.unique(sums, return_inverse=True)
    return int((bucket_sizes(np.column_stack([pack(codes), ranks])) > 1).sum())
