"""Lists that were made elsewhere, to be judged beside the model's on the same queries."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.data.table.id_index import IdIndex
from semid.errors import InputError
from semid.pipeline.records import Records, check_suffix, ids_of, is_integer, list_of, read_records
from semid.ranking import Ranking

COLUMNS = ("query", "user_id", "mode", "items", "scores")
EXAMPLE = '{"query": 0, "items": [12, 5]}'


def read_lists(path: Path, dataset: Dataset, queries: Queries, k: int) -> dict[str, Ranking]:
    """The lists of a file by mode, as ``semid generate`` writes them or any other system.

    A row has ``query``, its number from 0, and ``items``, raw ids with the best first; where known also ``user_id``,
    ``mode`` and ``scores``. Every query needs a row in each mode; an empty list is a miss.

    Args:
        queries: that the lists answer, all of a split.
        k: places that are read.

    Raises:
        InputError: a damaged file, a query that has no row or two, an item or user that is not the dataset's, an item
            twice in a list, or scores that are NaN or rise.
    """
    check_suffix(path, "lists")
    reader = _ListReader(path, dataset, queries, k)
    for records in read_records(path, COLUMNS, "items", EXAMPLE):
        reader.read(records)
    return reader.rankings()


class _ListReader:
    def __init__(self, path: Path, dataset: Dataset, queries: Queries, k: int) -> None:
        self._path, self._queries, self._k = path, queries, k
        self._item_ids = IdIndex(pa.array(dataset.item_ids), lambda row: f"item row {row} of {dataset.location}")
        self._user_ids = dataset.user_ids
        self._found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, records: Records) -> None:
        lists = [list_of(record, "items", where) for where, record in records]
        rows = self._item_ids.rows(ids_of([item for items in lists for item in items]))
        ends = np.cumsum([len(items) for items in lists])
        for (where, record), items, end in zip(records, lists, ends, strict=True):
            found = rows[end - len(items) : end]
            if (found < 0).any():
                raise InputError(
                    f"{where} lists item {items[int(np.argmax(found < 0))]!r}, which the dataset does not hold: the "
                    "file is of another dataset."
                )
            if len(np.unique(found)) < len(found):
                raise InputError(f"{where} lists an item twice: keep each once.")
            self._check_scores(where, record, len(found))
            query = self._query(where, record)
            listed, there = self._found.setdefault(str(record.get("mode") or self._path.stem), self._empty())
            if there[query]:
                raise InputError(f"{where} answers query {query} once more: keep one row for each query and mode.")
            there[query] = True
            listed[query, : len(found)] = found[: self._k]

    def _empty(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full((len(self._queries), self._k), -1, np.int64), np.zeros(len(self._queries), bool)

    def _query(self, where: str, record: dict[str, object]) -> int:
        query = record.get("query")
        if not is_integer(query) or not 0 <= int(str(query)) < len(self._queries):
            raise InputError(
                f"{where} answers query {query!r}, but the split has queries 0..{len(self._queries) - 1}: the file "
                "is of another split or dataset."
            )
        number = int(str(query))
        user = self._queries.users[number]
        given, known = record.get("user_id"), self._user_ids[user] if user >= 0 else None
        if given is not None and known is not None and str(given) != str(known):
            raise InputError(
                f"{where} says query {number} is of user {given!r}, but it is of {known!r}: the file is of another "
                "split or dataset."
            )
        return number

    def _check_scores(self, where: str, record: dict[str, object], count: int) -> None:
        scores = list_of(record, "scores", where, count)
        if any(not isinstance(score, int | float) or math.isnan(score) for score in scores):
            raise InputError(f"{where} has scores that are NaN or no numbers: correct them.")
        if any(later > earlier for earlier, later in pairwise(scores)):
            raise InputError(f"{where} has scores that rise along the list: give the best item first.")

    def rankings(self) -> dict[str, Ranking]:
        if not self._found:
            raise InputError(f"{self._path} has no lists: give a row for each query.")
        for mode, (_, there) in self._found.items():
            if not there.all():
                raise InputError(
                    f"{self._path} has lists of mode {mode!r} for {int(there.sum())} of {len(there)} queries; the "
                    f"first that lacks one is {int(np.argmin(there))}: give an empty list where there is nothing."
                )
        return {mode: Ranking.padded(items, _falling(items), self._k) for mode, (items, _) in self._found.items()}


def _falling(items: np.ndarray) -> np.ndarray:
    """Scores that say no more than the order."""
    return np.broadcast_to(-np.arange(items.shape[1], dtype=np.float64), items.shape)
