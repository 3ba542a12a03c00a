"""The floor every model must beat: the most popular items the user has not seen."""

import numpy as np
import torch

from semid.errors import InputError
from semid.ranking import Ranking
from semid.selection import nth_unseen, sorted_seen

_QUERY_BLOCK = 16384


def popularity_ranking(
    train_counts: np.ndarray, candidates: np.ndarray, num_queries: int, k: int, seen: np.ndarray | None = None
) -> Ranking:
    """The k candidates with the most training events for each query, equal counts by lowest item row.

    Args:
        train_counts: (N,) training events of each item.
        candidates: (C,) item rows that may be recommended.
        num_queries: Q.
        k: results per query; lists are padded with -1 where fewer than k candidates remain.
        seen: (Q, S) item rows never to return, padded with -1.

    Returns:
        Ranking scored by count.

    Raises:
        InputError: no candidates, rows outside the catalogue, k < 1 or ``seen`` of another length.
    """
    candidates = np.unique(candidates)
    _check(train_counts, candidates, num_queries, k, seen)
    # Stable and candidates ascending: equal counts stay in order of row.
    order = candidates[np.argsort(-train_counts[candidates].astype(np.int64), kind="stable")]
    if seen is None:
        seen = np.full((num_queries, 0), -1, np.int64)
    position = np.full(len(train_counts) + 1, -1, np.int64)  # the last place is for padding, reached by -1
    position[order] = np.arange(len(order))
    parts = []
    for first in range(0, max(num_queries, 1), _QUERY_BLOCK):
        hidden = sorted_seen(torch.from_numpy(position[seen[first : first + _QUERY_BLOCK]]), len(order))
        places = nth_unseen(hidden, torch.arange(k).expand(len(hidden), -1)).numpy()
        there = places < len(order)
        items = np.where(there, order[np.minimum(places, len(order) - 1)], -1).astype(np.int64)
        scores = np.where(there, train_counts[items], -np.inf).astype(np.float32)
        parts.append(Ranking(items, scores, scores[:, -1]))
    return Ranking.concatenate(parts)


def _check(counts: np.ndarray, candidates: np.ndarray, num_queries: int, k: int, seen: np.ndarray | None) -> None:
    if not len(candidates):
        raise InputError("There are no candidate items to rank: give at least one item row.")
    if candidates[0] < 0 or candidates[-1] >= len(counts):
        raise InputError(f"Candidates must be item rows 0..{len(counts) - 1}, the items that have a count.")
    if k < 1:
        raise InputError(f"{k} results per query were asked for: k must be at least 1.")
    if seen is None:
        return
    if seen.ndim != 2 or len(seen) != num_queries:
        raise InputError(f"Seen items have shape {seen.shape}: give ({num_queries}, S) item rows, padded with -1.")
    if seen.size and (seen.min() < -1 or seen.max() >= len(counts)):
        raise InputError(f"Seen items must be item rows 0..{len(counts) - 1}, or -1 for padding.")
