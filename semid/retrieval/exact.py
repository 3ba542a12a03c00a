"""Exact nearest items by inner product: the oracle of every approximate search, and quick enough for small sets.

Legend: Q queries, C candidates, D width, S seen items, k results.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from semid.errors import InputError
from semid.ranking import Ranking
from semid.selection import best_positions, rank_by_score

_QUERY_BLOCK = 256


@torch.no_grad()
def exact_search(
    queries: np.ndarray | Tensor,
    items: np.ndarray | Tensor,
    k: int,
    item_rows: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    block: int = 16384,
) -> Ranking:
    """The k items with the largest inner product with each query, equal scores by lowest item row.

    A blocked matrix product: memory is that of 256 queries times ``block`` items, whatever Q and C are. Scores
    are computed in float32, or in float64 if both sides are.

    Args:
        queries: (Q, D) floats.
        items: (C, D) floats; normalise both sides for cosine.
        k: results per query; lists are padded with -1 where fewer than k items remain.
        item_rows: (C,) distinct item rows the vectors belong to; ``0..C-1`` if None.
        seen: (Q, S) item rows never to return, padded with -1.
        block: items per matrix product.

    Raises:
        InputError: shapes that do not fit, k < 1, no items, NaN or infinite values.
    """
    query_vectors, item_vectors = torch.as_tensor(queries), torch.as_tensor(items)
    rows = np.arange(len(item_vectors)) if item_rows is None else np.asarray(item_rows, np.int64)
    check_search(query_vectors.shape, item_vectors.shape, k, seen)
    check_items(len(item_vectors), rows)
    both_double = query_vectors.dtype == item_vectors.dtype == torch.float64
    query_vectors = query_vectors.to(torch.float64 if both_double else torch.float32)
    # Positions follow the rows, so that "lowest position first" means lowest row.
    order = None if (np.diff(rows) > 0).all() else np.argsort(rows, kind="stable")

    def columns(low: int, high: int) -> Tensor:
        part = item_vectors[low:high] if order is None else item_vectors[torch.from_numpy(order[low:high])]
        part = part.to(query_vectors)
        check_finite(part, "An item vector holds")
        return part.T

    return search_columns(query_vectors, columns, rows if order is None else rows[order], k, seen, block)


def search_columns(
    queries: Tensor,
    columns: Callable[[int, int], Tensor],
    item_rows: np.ndarray,
    k: int,
    seen: np.ndarray | None,
    block: int,
) -> Ranking:
    """As :func:`exact_search`, of items in increasing order of row.

    Args:
        columns: the vectors of the items from one position up to another, (D, M) of the queries' kind.

    Raises:
        InputError: NaN or infinite values among the queries.
    """
    found = []
    for first in range(0, max(len(queries), 1), _QUERY_BLOCK):
        part = queries[first : first + _QUERY_BLOCK]
        check_finite(part, "A query vector holds")
        hidden = None if seen is None else _positions_of(item_rows, seen[first : first + _QUERY_BLOCK])
        positions, scores = _search_block(part, columns, len(item_rows), hidden, min(k, len(item_rows)), block)
        found.append(_as_ranking(item_rows, positions, scores, k))
    return Ranking.concatenate(found)


def _search_block(
    queries: Tensor,
    columns: Callable[[int, int], Tensor],
    num_items: int,
    hidden: Tensor | None,
    k: int,
    block: int,
) -> tuple[Tensor, Tensor]:
    """Best k positions, in their order, and scores of a block of queries, merged over the blocks of items."""
    best_scores = queries.new_zeros(len(queries), 0)
    best = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    for low in range(0, num_items, block):
        scores = queries @ columns(low, min(low + block, num_items))
        if hidden is not None:
            _hide(scores, hidden, low)
        kept, kept_scores, _ = best_positions(scores, k)
        kept = kept + low
        if low:
            # Those of earlier blocks come first, so the merged list is in order of position again.
            merged = torch.cat([best, kept], dim=1)
            again, kept_scores, _ = best_positions(torch.cat([best_scores, kept_scores], dim=1), k)
            kept = merged.gather(1, again)
        best, best_scores = kept, kept_scores
    return best, best_scores


def _hide(scores: Tensor, hidden: Tensor, low: int) -> None:
    """Give -inf to the hidden positions that fall into this block."""
    within = hidden.to(scores.device) - low
    query, slot = ((within >= 0) & (within < scores.shape[1])).nonzero(as_tuple=True)
    scores[query, within[query, slot]] = -torch.inf


def _positions_of(sorted_rows: np.ndarray, rows: np.ndarray) -> Tensor:
    """Position of each row among the sorted ones, -1 if it is not there."""
    position = np.searchsorted(sorted_rows, rows).clip(max=len(sorted_rows) - 1)
    return torch.from_numpy(np.where(sorted_rows[position] == rows, position, -1))


def _as_ranking(sorted_rows: np.ndarray, positions: Tensor, scores: Tensor, k: int) -> Ranking:
    order = rank_by_score(scores)
    ranked = scores.gather(1, order).cpu().numpy().astype(np.float32)
    items = np.where(ranked > -np.inf, sorted_rows[positions.gather(1, order).cpu().numpy()], -1)
    ranking = Ranking.padded(items, ranked, k)
    return replace(ranking, bound=ranking.scores[:, -1])


def check_search(queries: tuple[int, ...], items: tuple[int, ...], k: int, seen: np.ndarray | None) -> None:
    """What every vector search asks of its queries.

    Raises:
        InputError: shapes that do not fit each other or k < 1.
    """
    if len(queries) != 2 or len(items) != 2 or queries[1] != items[1]:
        raise InputError(f"Queries {tuple(queries)} and items {tuple(items)} must be matrices of the same width.")
    if k < 1:
        raise InputError(f"{k} results per query were asked for: k must be at least 1.")
    if seen is not None and (seen.ndim != 2 or len(seen) != queries[0]):
        raise InputError(f"Seen items have shape {seen.shape}: give ({queries[0]}, S) item rows, padded with -1.")


def check_items(num_items: int, rows: np.ndarray) -> None:
    """What every vector search asks of its items.

    Raises:
        InputError: no items, or item rows that repeat, are below 0 or are not one for each vector.
    """
    if not num_items:
        raise InputError("There are no items to search: give at least one candidate.")
    if len(rows) != num_items:
        raise InputError(f"There are {num_items} item vectors but {len(rows)} item rows: give one row for each.")
    if rows.dtype.kind not in "iu" or rows.min() < 0:
        raise InputError("Item rows must be integers from 0 on.")
    if not (np.diff(rows) > 0).all() and len(np.unique(rows)) != len(rows):
        raise InputError("Item rows repeat: give every item once.")


def check_finite(vectors: Tensor, what: str) -> None:
    """Raise InputError, beginning with ``what``, where vectors hold NaN or infinity."""
    # A sum is finite only if all its terms are, and takes a fraction of the time of looking at each.
    if not bool(vectors.sum().isfinite()) and not bool(vectors.isfinite().all()):
        raise InputError(f"{what} NaN or infinity: the embeddings or the model are broken.")
