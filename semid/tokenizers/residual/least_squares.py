"""The codebooks that fit given codes best: least squares over all levels at once, and what an item contributes.

Shapes: N vectors, D width, L levels, M = Σ_l K_l centroids. With the one-hot matrix H (N, M) that marks the codes of
each vector at all levels, the centroids B (M, D) solve (HᵀH + ridge) B = HᵀX (additive quantisation: Babenko and
Lempitsky 2014; Martinez et al. 2018, "LSQ++"). A fit level by level stops where each level fits best given those
before; this lets the earlier ones know of the later.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch

from semid.tokenizers.clustering.tiles import one_thread_each
from semid.tokenizers.collisions.rows import Rows

# Vectors counted for each centroid beside its own, all at the mean (levels after the first: at 0). Fewer fit the
# vectors at hand better and others worse; and it decides what no vector does.
RIDGE = 1.0
# Most centroids whose equations are solved at once, in a matrix of 8 M² bytes; with more, sweeps over the levels.
_DENSE = 6144
_SWEEPS = 8
_BLOCK = 1 << 14


def solve_codebooks(vectors: Rows, codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Centroids of least squared error plus ridge for given codes.

    Args:
        vectors: (N, D) float32, fetched block by block.
        codes: (N, L) int.
        codebooks: L arrays (K_l, D) to begin with where the equations are too many to be solved at once.

    Returns:
        L arrays (K_l, D) float32. The mean of what the vectors get from each level but the first is 0, so that
        the first levels of a path approximate the vector too.
    """
    sizes = [len(book) for book in codebooks]
    ends = np.cumsum(sizes)
    offsets = ends - sizes
    marks = _marks(codes + offsets, int(ends[-1]))
    mean = _mean(vectors)
    pairs = (marks.T @ marks).tocsr().astype(np.float64)
    counts = pairs.diagonal()
    sums = _sums(marks, vectors) - counts[:, None] * mean
    if ends[-1] <= _DENSE:
        solved = _solve(pairs, sums)
    else:
        start = np.concatenate([codebooks[0] - mean.astype(np.float32), *codebooks[1:]]).astype(np.float64)
        solved = _sweep(pairs, counts, sums, start, [slice(*ends_) for ends_ in zip(offsets, ends, strict=True)])
    books = [solved[first:end] for first, end in zip(offsets, ends, strict=True)]
    for level, book in enumerate(books[1:], start=1):
        surplus = np.einsum("k,kd->d", counts[offsets[level] : ends[level]], book) / len(vectors)
        book -= surplus
        books[0] += surplus
    books[0] += mean
    return [np.ascontiguousarray(book, np.float32) for book in books]


def _solve(pairs: sp.csr_matrix, sums: np.ndarray) -> np.ndarray:
    """Cholesky's factors, by torch: SciPy's took thirty times as long."""
    normal = torch.from_numpy(pairs.toarray())
    normal.diagonal().add_(RIDGE)
    with one_thread_each():
        solved: np.ndarray = torch.cholesky_solve(torch.from_numpy(sums), torch.linalg.cholesky(normal)).numpy()
    return solved


def _sweep(
    pairs: sp.csr_matrix, counts: np.ndarray, sums: np.ndarray, solved: np.ndarray, levels: list[slice]
) -> np.ndarray:
    """Gauss-Seidel: each level solved exactly with the others as they stand, in turn."""
    for _ in range(_SWEEPS):
        for level in levels:
            own = counts[level, None]
            left = sums[level] - pairs[level] @ solved + own * solved[level]
            solved[level] = left / (own + RIDGE)
    return solved


def _marks(columns: np.ndarray, width: int) -> sp.csr_matrix:
    num_rows, levels = columns.shape
    starts = np.arange(0, columns.size + 1, levels)
    return sp.csr_matrix((np.ones(columns.size, np.float32), columns.ravel(), starts), shape=(num_rows, width))


def _mean(vectors: Rows) -> np.ndarray:
    total: np.ndarray = np.zeros(vectors.shape[1])
    for first in range(0, len(vectors), _BLOCK):
        total += vectors[first : first + _BLOCK].sum(0, dtype=np.float64)
    return total / len(vectors)


def _sums(marks: sp.csr_matrix, vectors: Rows) -> np.ndarray:
    """Sums of the vectors of each centroid, (M, D) float64."""
    sums = np.zeros((marks.shape[1], vectors.shape[1]))
    for first in range(0, len(vectors), _BLOCK):
        rows = slice(first, first + _BLOCK)
        sums += marks[rows].T @ vectors[rows]
    return sums
