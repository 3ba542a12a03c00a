"""The codebooks that fit given codes best: joint least squares over all levels.

With X ≈ Σ_l Z_l B_l, where Z_l marks the code of each item at level l, the normal equations hold for every level

    (Z_lᵀ Z_l) B_l = Z_lᵀ X − Σ_{m≠l} Z_lᵀ Z_m B_m

and only need sums of vectors by code and counts of pairs of codes: one pass over the vectors, whatever their number,
then sweeps over the levels (Gauss–Seidel), of which none raises the error.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from semid.tokenizers.collisions.rows import Rows
from semid.tokenizers.vectors import row_blocks

_BLOCK = 1 << 13
_SWEEPS = 20
_ENOUGH = 1e-4


def refine_codebooks(
    vectors: Rows, rows: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Codebooks with the least squared error for given codes, approached from those at hand.

    Args:
        vectors: (N, D) float32.
        rows: (n,) those to fit to.
        codes: (n, L) or wider, of these rows.
        codebooks: L arrays (K_l, D) float32; the centroid of a code that no row has stays as it is.

    Returns:
        L arrays (K_l, D) float32.
    """
    marks = [_marks(codes[:, level], len(codebook)) for level, codebook in enumerate(codebooks)]
    sums = _sums(vectors, rows, marks)
    counts = [np.asarray(mark.sum(axis=1)).reshape(-1, 1) for mark in marks]
    pairs = [[one @ other.T for other in marks] for one in marks]
    refined = [codebook.astype(np.float64) for codebook in codebooks]
    for _ in range(_SWEEPS):
        moved = 0.0
        for level, book in enumerate(refined):
            others = sum(pairs[level][m] @ refined[m] for m in range(len(refined)) if m != level)
            better = np.where(counts[level] > 0, (sums[level] - others) / np.maximum(counts[level], 1), book)
            moved = max(moved, float(np.abs(better - book).max(initial=0)) / max(float(np.abs(book).max()), 1e-30))
            refined[level] = better
        if moved < _ENOUGH:
            break
    return [book.astype(np.float32) for book in refined]


def _marks(column: np.ndarray, size: int) -> sp.csr_matrix:
    """(K, n) matrix with a one where an item has a code."""
    n = len(column)
    return sp.csr_matrix((np.ones(n), (column, np.arange(n))), shape=(size, n))


def _sums(vectors: Rows, rows: np.ndarray, marks: Sequence[sp.csr_matrix]) -> list[np.ndarray]:
    """Per level, the sums of the vectors by code: (K_l, D) float64."""
    sums = [np.zeros((mark.shape[0], vectors.shape[1])) for mark in marks]
    columns = [mark.tocsc() for mark in marks]
    for block in row_blocks(len(rows), _BLOCK):
        part = vectors[rows[block]].astype(np.float64)
        for total, mark in zip(sums, columns, strict=True):
            total += mark[:, block] @ part
    return sums
