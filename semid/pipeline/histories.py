"""Histories that a user brings in a file, as queries on a dataset's items."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, LATEST_TIME, TIME_MISSING, EventLog, Queries
from semid.data.table.id_index import IdIndex
from semid.errors import InputError
from semid.pipeline.records import check_suffix, ids_of, is_integer, list_of, read_records

logger = logging.getLogger(__name__)

NEXT = "next"
COLUMNS = ("user_id", "history", "actions", "timestamps")
EXAMPLE = '{"user_id": 7, "history": [12, 5]}'


@dataclass(frozen=True, eq=False)
class QueryBatch:
    """Some consecutive queries.

    Attributes:
        first: number of the first one.
        user_ids: raw id of each query's user, None where not given.
        queries: their histories.
    """

    first: int
    user_ids: list[Any]
    queries: Queries


class HistoryReader:
    """Reads histories of raw item ids, oldest first, in batches.

    A row has ``history``, and where known ``user_id``, ``actions`` (names, one an item) and ``timestamps`` (Unix
    seconds, one an item). Items that the dataset does not hold are left out, and their number is logged.

    Args:
        path: ``.parquet`` with these columns, or JSON lines (``.jsonl``, ``.json``) with these keys.
        dataset: whose items, users and actions they name.

    Raises:
        InputError: another suffix.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        check_suffix(path, "histories")
        self._path = path
        self._actions = {name: code for code, name in enumerate(dataset.action_names)}
        self._items = IdIndex(pa.array(dataset.item_ids), lambda row: f"item row {row} of {dataset.location}")
        self._users = IdIndex(pa.array(dataset.user_ids), lambda row: f"user row {row} of {dataset.location}")

    def batches(self, size: int = 4096) -> Iterator[QueryBatch]:
        """All rows, ``size`` at a time.

        Raises:
            InputError: a damaged file, an empty history, no known item in one, or values that do not belong to it.
        """
        unknown = count = 0
        for records in read_records(self._path, COLUMNS, "history", EXAMPLE, size):
            queries, left_out = self._queries(records)
            unknown += left_out
            yield QueryBatch(count, [record.get("user_id") for _, record in records], queries)
            count += len(records)
        if not count:
            raise InputError(f"{self._path} has no histories: give at least one.")
        if unknown:
            logger.warning("Left out %d items of histories that the dataset does not hold.", unknown)

    def _queries(self, records: list[tuple[str, dict[str, Any]]]) -> tuple[Queries, int]:
        histories = [list_of(record, "history", where) for where, record in records]
        for (where, _), history in zip(records, histories, strict=True):
            if not history:
                raise InputError(f"{where} has an empty history: give at least one item.")
        lengths = np.array([len(history) for history in histories])
        items = self._items.rows(ids_of([item for history in histories for item in history]))
        actions = np.concatenate(
            [self._actions_of(where, r, len(h)) for (where, r), h in zip(records, histories, strict=True)]
        )
        times = np.concatenate(
            [_times_of(where, r, len(h)) for (where, r), h in zip(records, histories, strict=True)]
        )
        known = items >= 0
        owner = np.repeat(np.arange(len(records)), lengths)
        kept = np.bincount(owner[known], minlength=len(records))
        for number in np.flatnonzero(kept == 0)[:1]:
            raise InputError(
                f"{records[number][0]} names no item that the dataset holds, such as {self._items.examples()}."
            )
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        log = EventLog(items[known].astype(np.int32), actions[known], times[known], offsets)
        users = self._users.rows(ids_of([record.get("user_id") for _, record in records]))
        return Queries.after(log, users), int((~known).sum())

    def _actions_of(self, where: str, record: dict[str, Any], length: int) -> np.ndarray:
        names = list_of(record, "actions", where, length)
        for name in names or ():
            if name is not None and (not isinstance(name, str) or name not in self._actions):
                known = ", ".join(self._actions) or "none"
                raise InputError(f"{where} has the unknown action {name!r}; the dataset has: {known}.")
        codes = [self._actions.get(name, ACTION_UNKNOWN) for name in names] if names else [ACTION_UNKNOWN] * length
        return np.array(codes, np.int8)


def queries_of_split(dataset: Dataset, split: str, size: int = 4096) -> Iterator[QueryBatch]:
    """The queries of a split, ``size`` at a time; those of NEXT ask what comes after all that is known of each user.

    Raises:
        InputError: no such split.
    """
    if split == NEXT:
        users = np.flatnonzero(np.diff(dataset.events.offsets))
        queries = Queries.after(dataset.events, users, users)
    else:
        queries = dataset.split(split)
    first = 0
    for part in queries.batches(size):
        yield QueryBatch(first, dataset.user_ids[part.users].tolist(), part)
        first += len(part)


def _times_of(where: str, record: dict[str, Any], length: int) -> np.ndarray:
    values = list_of(record, "timestamps", where, length)
    if not values:
        return np.full(length, TIME_MISSING)
    if not all(is_integer(value) for value in values):
        raise InputError(f"{where} has timestamps that are no integers: give Unix seconds.")
    times = np.array(values, np.int64)
    if len(times) and times.max() > LATEST_TIME:
        raise InputError(
            f"{where} has timestamps after the year 5000: these look like milliseconds; give Unix seconds."
        )
    if (np.diff(times) < 0).any():
        raise InputError(f"{where} has timestamps that go backwards: give the oldest event first.")
    return times
