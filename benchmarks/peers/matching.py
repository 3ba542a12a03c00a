"""Unique codes by an optimal matching within each prefix: the textbook way, which touches the last level alone."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment


def hungarian_within_prefix(codes: np.ndarray, vectors: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Codes whose last level minimises the squared error of every prefix in which items share their codes.

    Items of a prefix beyond K keep their codes, shared.

    Args:
        codes: (N, L) int.
        vectors: (N, D) float32.
        codebooks: L arrays (K_l, D).
    """
    resolved, last = codes.copy(), codebooks[-1]
    prefixes = np.unique(codes[:, :-1], axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(prefixes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(prefixes[order])) + 1):
        if len(np.unique(codes[rows, -1])) == len(rows):
            continue
        before = sum(book[codes[rows, level]] for level, book in enumerate(codebooks[:-1]))
        residuals = vectors[rows] - before
        cost = (last**2).sum(1) - 2 * residuals @ last.T
        chosen, columns = linear_sum_assignment(cost)
        resolved[rows[chosen], -1] = columns
    return resolved
