"""Items and users as people know them: rows from raw ids, and raw ids with titles from rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semid.data.dataset import Dataset
from semid.data.table.files import TableFile, decoded, identifiers, open_table
from semid.data.table.id_index import IdIndex
from semid.errors import InputError


@dataclass(frozen=True)
class Named:
    """An item: its raw id, and its title where one is known."""

    id: int | str
    title: str | None = None


class Names:
    """The names of a dataset's items and users.

    Args:
        dataset: with raw ids, and perhaps titles of items.
        titles: ``FILE:COLUMN`` of a .parquet or .csv with a column ``item_id``, in place of the dataset's own titles.
    """

    def __init__(self, dataset: Dataset, titles: str | None = None) -> None:
        self._dataset = dataset
        self._table = None if titles is None else _opened(titles)

    def item(self, text: str) -> int:
        """Row of an item by its raw id.

        Raises:
            InputError: there is none.
        """
        return _row(self._dataset.item_ids, text, "item", self._dataset.location)

    def user(self, text: str) -> int:
        """Row of a user, likewise."""
        return _row(self._dataset.user_ids, text, "user", self._dataset.location)

    def items(self, rows: Sequence[int] | np.ndarray) -> dict[int, Named]:
        """The names of some items, by row; titles are read for these alone.

        Raises:
            InputError: the table of titles cannot be read.
        """
        rows = np.unique(np.asarray(rows, np.int64))
        titles = self._own_titles(rows) if self._table is None else self._given_titles(*self._table, rows)
        ids = self._dataset.item_ids[rows].tolist()
        return {row: Named(name, titles.get(row)) for row, name in zip(rows.tolist(), ids, strict=True)}

    def _own_titles(self, rows: np.ndarray) -> Mapping[int, str]:
        artifact = self._dataset.artifact
        if artifact is None or "title" not in pq.read_schema(artifact.path / "items.parquet").names:
            return {}
        column = pq.read_table(artifact.path / "items.parquet", columns=["title"])["title"]
        return _known(rows, column.take(pa.array(rows)))

    def _given_titles(self, table: TableFile, column: str, rows: np.ndarray) -> Mapping[int, str]:
        wanted = IdIndex(pa.array(self._dataset.item_ids[rows]), str)
        found: dict[int, str] = {}
        for first, batch in table.batches(["item_id", column]):
            places = wanted.rows(identifiers(table, "item_id", first, batch["item_id"]))
            there = np.flatnonzero(places >= 0)
            values = decoded(batch[column]).take(pa.array(there))
            if pa.types.is_nested(values.type):
                raise InputError(f"{table.path} column {column!r} has type {values.type}: titles are single values.")
            found |= _known(rows[places[there]], pc.cast(values, pa.string()))
        return found


def _opened(text: str) -> tuple[TableFile, str]:
    path, _, column = text.rpartition(":")
    if not path or not column:
        raise InputError(f"{text!r} names no titles: give FILE:COLUMN, such as items.csv:title.")
    table = open_table(Path(path))
    table.require("item_id", column)
    return table, column


def _known(rows: np.ndarray, titles: pa.Array | pa.ChunkedArray) -> dict[int, str]:
    return {row: title for row, title in zip(rows.tolist(), titles.to_pylist(), strict=True) if title}


def _row(ids: np.ndarray, text: str, what: str, location: str) -> int:
    if ids.dtype.kind == "i":
        found = np.flatnonzero(ids == int(text)) if text.removeprefix("-").isdecimal() else np.zeros(0, np.int64)
    else:
        found = np.flatnonzero(ids == text)
    if not len(found):
        there = ", ".join(map(repr, ids[:3].tolist()))
        raise InputError(f"There is no {what} {text!r} in {location}; its {what}s start {there}: correct the id.")
    return int(found[0])
