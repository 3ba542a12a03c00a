"""The exact choice among a few candidate centroids of each vector.

Squared distances are sums of squared differences, first in float32 for all candidates, then in float64 for those that
float32 cannot tell apart.

Proof that no nearest centroid is lost. Each float32 difference and each square is rounded once (relative error at
most u = 2⁻²⁴ each, the difference entering twice) and a sum of D terms in any order adds at most D - 1 more, so that
the computed d² is within (1 ± (D + 4) u) of the true one as long as (D + 4) u is small, plus what underflow takes: at
most D · 2⁻¹²⁵. Two candidates whose values differ by more than both errors are therefore in their true order. Values
that overflow are infinite and stay candidates.
"""

import numpy as np

_CHUNK_ELEMENTS = 1 << 18


def nearest_pairs(
    vectors: np.ndarray, centroids: np.ndarray, rows: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pick the nearest of each row's candidates, the lowest code where several are equally near in float64.

    Args:
        vectors: (N, D) float32.
        centroids: (K, D) float32.
        rows: (P,) row of each candidate.
        codes: (P,) its centroid.

    Returns:
        The distinct rows and the code of each.
    """
    if not len(rows):
        return rows, codes
    order = np.argsort(rows.astype(np.int64) * len(centroids) + codes)
    rows, codes = rows[order], codes[order]
    rows, codes = _within_reach(rows, codes, squared_distances(vectors, centroids, rows, codes), vectors.shape[1])
    several = _in_groups_of_several(rows)
    if not several.any():
        return rows, codes
    close_rows, close_codes = rows[several], codes[several]
    exact = squared_distances(vectors, centroids, close_rows, close_codes, np.float64)
    order = np.lexsort((close_codes, exact, close_rows))
    close_rows, close_codes = close_rows[order], close_codes[order]
    first = _starts(close_rows)
    return np.append(rows[~several], close_rows[first]), np.append(codes[~several], close_codes[first])


def squared_distances(
    vectors: np.ndarray,
    centroids: np.ndarray,
    rows: np.ndarray,
    codes: np.ndarray,
    dtype: type[np.floating] = np.float32,
) -> np.ndarray:
    """Squared distance of each pair of a row and a centroid, computed in ``dtype``: (P,)."""
    distances = np.empty(len(rows), dtype)
    size = max(1, _CHUNK_ELEMENTS // max(1, vectors.shape[1]))
    with np.errstate(over="ignore"):
        for first in range(0, len(rows), size):
            chunk = slice(first, first + size)
            difference = vectors[rows[chunk]].astype(dtype, copy=False)
            difference -= centroids[codes[chunk]]
            distances[chunk] = np.einsum("nd,nd->n", difference, difference)
    return distances


def _within_reach(
    rows: np.ndarray, codes: np.ndarray, distances: np.ndarray, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    starts = np.flatnonzero(_starts(rows))
    lengths = np.diff(np.append(starts, len(rows)))
    least = np.repeat(np.minimum.reduceat(distances, starts), lengths).astype(np.float64)
    slack = (dim + 4) * 2.0**-23  # of both sides
    kept = distances <= least * (1 + 2 * slack) + dim * 2.0**-123
    return rows[kept], codes[kept]


def _starts(rows: np.ndarray) -> np.ndarray:
    changed: np.ndarray = np.append(True, rows[1:] != rows[:-1])
    return changed


def _in_groups_of_several(rows: np.ndarray) -> np.ndarray:
    same = rows[1:] == rows[:-1]
    several: np.ndarray = np.append(False, same) | np.append(same, False)
    return several
