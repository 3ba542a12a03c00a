"""Where the targets of queries stand in their lists, which must be such that this has one answer."""

from collections.abc import Iterator, Sequence

import numpy as np

from semid.errors import InputError
from semid.evaluation.targets import Targets
from semid.ranking import Ranking

# Of one block: what is compared stays in the cache.
_BLOCK_PLACES = 1 << 17


def check_lists(ranking: Ranking, num_queries: int, ks: Sequence[int]) -> None:
    """Raise if lists cannot be judged at each k.

    Raises:
        InputError: lists of fewer than k columns, of another number of queries, with a score that is not a number,
            or naming an item twice.
    """
    k = max(ks)
    if min(ks) < 1:
        raise InputError(f"Metrics at {min(ks)} were asked for: k must be at least 1.")
    if len(ranking) != num_queries:
        raise InputError(f"There are {len(ranking)} ranked lists but {num_queries} queries: give one list for each.")
    if ranking.items.shape[1] < k:
        raise InputError(f"Lists of {ranking.items.shape[1]} items cannot be judged at k = {k}: recommend more.")
    for rows in blocks(num_queries, k):
        if np.isnan(ranking.scores[rows]).any():
            query = rows.start + int(np.isnan(ranking.scores[rows]).any(axis=1).argmax())
            raise InputError(f"A score in the list of query {query} is not a number: nothing says what comes first.")
        ordered = np.sort(ranking.items[rows, :k], axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any():
            query, place = np.argwhere(twice)[0]
            raise InputError(f"The list of query {rows.start + query} names item {ordered[query, place]} twice.")


def target_places(items: np.ndarray, targets: Targets, k: int, names: np.ndarray | None = None) -> np.ndarray:
    """The first place of every target in the first k of its query's list, from 0; k where it has none. (G,) int32

    Every target is compared with every place: for lists of usual length that is quicker than to sort either.

    Args:
        items: (Q, at least k) item rows, -1 where a list is shorter.
        names: (N + 1,) what items are compared by, such as their first code, and -1; item rows if None.
    """
    places = np.full(len(targets.items), k, np.int32)
    offsets = targets.offsets
    targets_each = len(targets.items) // max(len(targets), 1)
    for rows in blocks(len(targets), k * targets_each):
        listed, wanted = items[rows, :k], targets.items[offsets[rows.start] : offsets[rows.stop]]
        if names is not None:
            listed, wanted = names[listed], names[wanted]
        if len(wanted) > len(listed):
            listed = np.repeat(listed, targets.counts[rows], axis=0)
        found = np.flatnonzero(listed == wanted[:, None])[::-1]  # the last written is the first place
        places[offsets[rows.start] + found // k] = found % k
    return places


def blocks(num_queries: int, places_each: int) -> Iterator[slice]:
    """Consecutive queries, so many at a time that their places stay in the cache."""
    step = max(_BLOCK_PLACES // max(places_each, 1), 1)
    for first in range(0, num_queries, step):
        yield slice(first, min(first + step, num_queries))
