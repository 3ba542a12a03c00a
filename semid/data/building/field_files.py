"""Writes categorical columns: single-value codes in one matrix, multi-value columns as offsets and values."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semid.data.building.arrays import ArrayWriter
from semid.data.building.row_file import BlockReader, RowFile
from semid.data.dataset import ranges
from semid.data.features import FIELD_RESERVED
from semid.data.field_values import VALUES_NAME, VALUES_SCHEMA

_BLOCK = 1 << 18


class FieldsBuilder:
    """The columns of R items or users being written; rows in any order, never put means missing.

    Attributes:
        names: single-value columns.
        num_rows: R.
        sizes: number of codes of each single-value column, reserved ones included; grows with what is put,
            set it higher where the vocabulary is known to be larger.
        list_sizes: the same for multi-value columns.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], num_rows: int) -> None:
        self.names = names
        self.num_rows = num_rows
        self.sizes = [FIELD_RESERVED] * len(names)
        self.list_sizes: dict[str, int] = {}
        self._folder = folder
        self._single = RowFile(folder / "single.npy", np.int32, (num_rows, len(names)))
        self._lists: dict[str, _ListSpool] = {}
        self._values: list[pa.Table] = []

    def put(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Set the codes (n, F) of the given rows (n,)."""
        self._single.put(rows, values)
        if len(values):
            self.sizes = [max(a, int(b) + 1) for a, b in zip(self.sizes, values.max(axis=0), strict=True)]

    def put_list(self, name: str, rows: np.ndarray, lengths: np.ndarray, values: np.ndarray) -> None:
        """Set column ``name`` of the given rows, each row once: ``lengths`` (n,), ``values`` (sum(lengths),)."""
        if name not in self._lists:
            self._lists[name] = _ListSpool(self._folder, name, self.num_rows)
        self._lists[name].append(rows, lengths, values)
        largest = int(values.max()) + 1 if len(values) else FIELD_RESERVED
        self.list_sizes[name] = max(self.list_sizes.get(name, FIELD_RESERVED), largest)

    def add_list(self, name: str) -> None:
        """Announce a multi-value column, which then exists even if nothing is put."""
        self.put_list(name, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))

    def put_values(self, name: str, codes: np.ndarray, values: pa.Array) -> None:
        """Record which values (n,) the codes (n,) of column ``name`` stand for: another dataset has other codes."""
        columns = {"field": pa.repeat(name, len(codes)), "code": codes.astype(np.int32), "value": values}
        self._values.append(pa.table(columns, schema=VALUES_SCHEMA))

    def close(self) -> dict[str, Any]:
        """Finish the files; returns the facts the artifact records."""
        self._single.close()
        if self._values:
            pq.write_table(pa.concat_tables(self._values), self._folder / VALUES_NAME)
        for spool in self._lists.values():
            spool.close()
        return {"names": list(self.names), "sizes": list(self.sizes), "lists": dict(self.list_sizes)}


class _ListSpool:
    """Values in order of arrival; put into row order on closing, unless they came in row order."""

    def __init__(self, folder: Path, name: str, num_rows: int) -> None:
        self._paths = {part: folder / f"{name}.{part}.npy" for part in ("rows", "arrived", "lengths")}
        self._offsets_path = folder / f"{name}.offsets.npy"
        self._values_path = folder / f"{name}.values.npy"
        self._rows = ArrayWriter(self._paths["rows"], np.int64)
        self._arrived = ArrayWriter(self._paths["arrived"], np.int32)
        self._lengths = RowFile(self._paths["lengths"], np.int64, (num_rows,))
        self._num_rows = num_rows
        self._last_row = -1
        self._ordered = True

    def append(self, rows: np.ndarray, lengths: np.ndarray, values: np.ndarray) -> None:
        rows = np.asarray(rows, np.int64)
        self._rows.append(rows)
        self._arrived.append(values)
        self._lengths.put(rows, np.asarray(lengths, np.int64))
        if len(rows):
            self._ordered &= int(rows[0]) > self._last_row and bool((np.diff(rows) > 0).all())
            self._last_row = int(rows[-1])

    def close(self) -> None:
        for writer in (self._rows, self._arrived, self._lengths):
            writer.close()
        self._write_offsets()
        if self._ordered:
            self._paths.pop("arrived").rename(self._values_path)
        else:
            self._reorder()
        for path in self._paths.values():
            path.unlink()

    def _write_offsets(self) -> None:
        lengths = BlockReader(self._paths["lengths"])
        total = 0
        with ArrayWriter(self._offsets_path, np.int64) as offsets:
            offsets.append([0])
            for first in range(0, self._num_rows, _BLOCK):
                ends = total + np.cumsum(lengths.read(first, first + _BLOCK))
                offsets.append(ends)
                total = int(ends[-1])

    def _reorder(self) -> None:
        rows, arrived = BlockReader(self._paths["rows"]), BlockReader(self._paths["arrived"])
        starts = np.load(self._offsets_path, mmap_mode="r")
        values = RowFile(self._values_path, np.int32, (len(arrived),))
        taken = 0
        for first in range(0, len(rows), _BLOCK):
            block = rows.read(first, first + _BLOCK)
            lengths = starts[block + 1] - starts[block]
            places = ranges(starts[block], lengths)
            values.put(places, arrived.read(taken, taken + len(places)))
            taken += len(places)
        values.close()
