"""Plain lists of items as queries, and the items that queries have seen."""

from collections.abc import Sequence

import numpy as np

from semid.data.dataset import ranges
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING, EventLog, Queries
from semid.errors import InputError


def queries_from_histories(histories: Sequence[Sequence[int]], num_items: int) -> Queries:
    """Queries without targets, users or times from plain lists of item rows.

    Raises:
        InputError: a row that no item has.
    """
    lengths = np.array([len(history) for history in histories], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total, count = int(offsets[-1]), len(histories)
    items = np.fromiter((item for history in histories for item in history), np.int64, total)
    if total and (items.min() < 0 or items.max() >= num_items):
        raise InputError(f"A history holds item rows outside 0..{num_items - 1}: map raw ids to rows first.")
    log = EventLog(
        items.astype(np.int32), np.full(total, ACTION_UNKNOWN, np.int8), np.full(total, TIME_MISSING), offsets
    )
    return Queries.after(log, np.full(count, -1))


def seen_items(queries: Queries) -> np.ndarray:
    """(Q, S) int64 items of each query's whole history, -1 padded."""
    lengths = queries.end - queries.start
    seen = np.full((len(queries), int(lengths.max(initial=0))), -1, np.int64)
    seen[np.arange(seen.shape[1]) < lengths[:, None]] = queries.log.items[ranges(queries.start, lengths)]
    return seen
