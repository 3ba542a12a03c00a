"""How published systems make codes unique, each as its paper or its code does it, with the codebooks given."""

from collections.abc import Sequence
from itertools import product

import numpy as np


def sinkhorn_last_level(
    codes: np.ndarray,
    vectors: np.ndarray,
    codebooks: Sequence[np.ndarray],
    *,
    rounds: int = 20,
    sharpness: float = 0.003,
    iterations: int = 50,
) -> np.ndarray:
    """LC-Rec (arXiv 2311.09049): items that share codes are spread over the last level by optimal transport.

    Each group anew in every round, until none is left or the rounds are over; other items are not looked at, so that
    groups may meet again and some codes stay shared.
    """
    resolved, last = codes.copy(), codebooks[-1]
    for _ in range(rounds):
        _, bucket, sizes = np.unique(resolved, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(bucket.reshape(-1), kind="stable")
        groups = [rows for rows in np.split(order, np.cumsum(sizes)[:-1]) if len(rows) > 1]
        if not groups:
            break
        for rows in groups:
            before = sum(book[resolved[rows, level]] for level, book in enumerate(codebooks[:-1]))
            distances = (((vectors[rows] - before)[:, None] - last) ** 2).sum(2, dtype=np.float64)
            resolved[rows, -1] = _transport(distances, sharpness, iterations).argmax(1)
    return resolved


def _transport(distances: np.ndarray, sharpness: float, iterations: int) -> np.ndarray:
    middle = (distances.max() + distances.min()) / 2
    scaled = (distances - middle) / (distances.max() - middle + 1e-5)
    plan = np.exp(-scaled / sharpness)
    for _ in range(iterations):
        plan /= plan.sum(0, keepdims=True) * plan.shape[1] + 1e-300
        plan /= plan.sum(1, keepdims=True) * plan.shape[0] + 1e-300
    return plan


def candidate_matching(
    codes: np.ndarray, vectors: np.ndarray, codebooks: Sequence[np.ndarray], *, width: int = 8
) -> np.ndarray:
    """Purely Semantic Indexing (arXiv 2509.16446), exhaustive candidate matching.

    Items in order; one whose codes are taken gets the free combination of the ``width`` nearest centroids of each
    level, for the residuals of its own codes, with the least sum of distances. None free: the codes stay shared.
    """
    resolved, taken = codes.copy(), set()
    combinations = np.array(list(product(range(width), repeat=len(codebooks))))
    for item, own in enumerate(map(tuple, codes.tolist())):
        if own not in taken:
            taken.add(own)
            continue
        rest, nearest, distances = vectors[item].copy(), [], []
        for level, book in enumerate(codebooks):
            apart = ((rest - book) ** 2).sum(1)
            chosen = np.argsort(apart, kind="stable")[:width]
            nearest.append(chosen)
            distances.append(np.sqrt(apart[chosen]))
            rest = rest - book[own[level]]
        total = sum(distances[level][combinations[:, level]] for level in range(len(codebooks)))
        for rank in np.argsort(total, kind="stable"):
            path = tuple(int(nearest[level][place]) for level, place in enumerate(combinations[rank]))
            if path not in taken:
                resolved[item] = path
                taken.add(path)
                break
    return resolved
