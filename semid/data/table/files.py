"""Reads parquet and CSV tables in batches; whatever is wrong in them is one sentence with file and row."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from semid.data.formats.parquet_files import readable
from semid.errors import InputError

BATCH_ROWS = 1 << 17
_CSV_BLOCK_BYTES = 8 << 20
_READ_BYTES = 1 << 20
# No leading zero, and short enough for int64: "007" is a name, not the number seven.
INTEGER_PATTERN = "^(0|-?[1-9][0-9]{0,17})$"
_FLOAT_PATTERN = "^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True, eq=False)
class TableFile:
    """A table on disk.

    Attributes:
        path: a ``.parquet`` or ``.csv`` file.
        schema: column types; for CSV int64, double or string, by all values of the column.
        num_rows: R.
    """

    path: Path
    schema: pa.Schema
    num_rows: int

    def __contains__(self, column: str) -> bool:
        return column in self.schema.names

    def batches(self, columns: list[str], num_rows: int | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Some columns in batches of ``num_rows`` (of CSV: some MiB), each with the number of its first row.

        Raises:
            InputError: the file is truncated or damaged.
        """
        first = 0
        with readable(self.path):
            for batch in self._typed_batches(columns, num_rows or BATCH_ROWS):
                yield first, batch
                first += batch.num_rows

    def _typed_batches(self, columns: list[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        if self.path.suffix == ".parquet":
            # Without these two settings whole row groups are read ahead and memory grows along the file.
            with pq.ParquetFile(self.path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
                yield from file.iter_batches(batch_size=num_rows, columns=columns, use_threads=False)
            return
        schema = pa.schema([self.schema.field(name) for name in columns])
        for batch in _csv_batches(self.path, columns):
            yield pa.RecordBatch.from_arrays([pc.cast(batch[f.name], f.type) for f in schema], schema=schema)

    def column(self, name: str) -> pa.ChunkedArray:
        """One whole column."""
        return pa.chunked_array([batch[name] for _, batch in self.batches([name])], self.schema.field(name).type)

    def where(self, row: int) -> str:
        """How messages name a row."""
        return f"{self.path} line {row + 2}" if self.path.suffix == ".csv" else f"{self.path} row {row}"

    def require(self, *columns: str) -> None:
        """Raise InputError unless the columns are there and there is at least one row."""
        for column in columns:
            if column not in self:
                raise InputError(
                    f"{self.path} has no column {column!r}; it has: {', '.join(self.schema.names) or 'none'}."
                )
        if not self.num_rows:
            raise InputError(f"{self.path} has no rows: give at least one.")


def find_table(folder: Path, stem: str) -> TableFile | None:
    """The table ``stem.parquet`` or ``stem.csv`` of a folder, None if there is neither.

    Raises:
        InputError: it cannot be read.
    """
    for suffix, opener in _OPENERS.items():
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return opener(path)
    return None


def open_table(path: Path) -> TableFile:
    """A ``.parquet`` or ``.csv`` file.

    Raises:
        InputError: another suffix, no such file, or it cannot be read.
    """
    if path.suffix not in _OPENERS:
        raise InputError(f"{path} has the suffix {path.suffix!r}: tables are .parquet or .csv files.")
    if not path.is_file():
        raise InputError(f"There is no file {path}: correct the path.")
    return _OPENERS[path.suffix](path)


def _open_parquet(path: Path) -> TableFile:
    with readable(path), pq.ParquetFile(path) as file:
        return TableFile(path, file.schema_arrow, file.metadata.num_rows)


def _open_csv(path: Path) -> TableFile:
    """Types come from all values: a later value must not turn out to be a name where numbers were assumed."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        names = next(csv.reader(file), [])
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path} does not start with a line of distinct column names: add one.")
    integer, floating, num_rows = dict.fromkeys(names, True), dict.fromkeys(names, True), 0
    with readable(path):
        for batch in _csv_batches(path, names):
            num_rows += batch.num_rows
            for name in names:
                integer[name] &= _all_match(batch[name], INTEGER_PATTERN)
                floating[name] &= _all_match(batch[name], _FLOAT_PATTERN)
    types = [pa.int64() if integer[n] else pa.float64() if floating[n] else pa.string() for n in names]
    return TableFile(path, pa.schema(list(zip(names, types, strict=True))), num_rows)


_OPENERS = {".parquet": _open_parquet, ".csv": _open_csv}


def _all_match(values: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(values, pattern)).as_py() is not False


def _csv_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    broken: list[Any] = []

    def note(row: Any) -> str:
        broken.append(row)
        return "error"

    try:
        with pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=pa_csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        ) as reader:
            yield from reader
    except pa.ArrowInvalid:
        if not broken:
            raise
        row = broken[0]
        raise InputError(
            f"{path} line {row.number} has {row.actual_columns} values instead of {row.expected_columns}: correct it."
        ) from None


def identifiers(table: TableFile, name: str, first_row: int, values: pa.Array) -> pa.Array:
    """Ids as int64 or string.

    Raises:
        InputError: a missing id, or a type that is neither.
    """
    values = decoded(values)
    if pa.types.is_floating(values.type):
        whole = pc.equal(values, pc.floor(values))
        values = pc.if_else(whole, values, None)  # NaN is how pandas writes a missing number
    if values.null_count:
        row = first_row + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{table.where(row)} has no {name}: complete the row or remove it.")
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return values.cast(pa.int64())
    if pa.types.is_string(values.type):
        return values
    raise InputError(f"{table.path} column {name!r} has type {values.type}: ids must be integers or strings.")


def decoded(values: pa.Array) -> pa.Array:
    """Plain values of a dictionary or large-string column."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.string()) if pa.types.is_large_string(values.type) else values


def integers(table: TableFile, name: str, first_row: int, values: pa.Array, missing: int | None) -> np.ndarray:
    """Integers, instants as Unix seconds; ISO dates are understood. (n,) int64

    Args:
        missing: what a missing value becomes; None makes it an error.

    Raises:
        InputError: a value that is no number or instant, or a missing one that must be there.
    """
    values = decoded(values)
    if pa.types.is_string(values.type):
        values = _parsed(table, name, first_row, values)
    if pa.types.is_temporal(values.type):
        values = values.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    elif pa.types.is_floating(values.type):
        values = pc.floor(pc.if_else(pc.is_finite(values), values, None)).cast(pa.int64())
    elif pa.types.is_null(values.type) or pa.types.is_integer(values.type):
        values = values.cast(pa.int64())
    else:
        raise InputError(f"{table.path} column {name!r} has type {values.type}: integers are needed.")
    if values.null_count and missing is None:
        row = first_row + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{table.where(row)} has no {name}: complete the row or remove it.")
    filled: np.ndarray = values.fill_null(missing or 0).to_numpy()
    return filled


def _parsed(table: TableFile, name: str, first_row: int, values: pa.Array) -> pa.Array:
    for kind in (pa.int64(), pa.timestamp("s")):
        try:
            return values.cast(kind)
        except pa.ArrowInvalid:
            continue
    numeric = pc.match_substring_regex(values, INTEGER_PATTERN)
    # What the first value is, the others must be.
    row = pc.index(numeric, False).as_py() if numeric.drop_null()[0].as_py() else _first_undated(values)
    raise InputError(
        f"{table.where(first_row + row)} has {name} {values[row].as_py()!r}, which is not an integer or a date like "
        "those before it: correct it."
    )


def _first_undated(values: pa.Array) -> int:
    for row, value in enumerate(values):
        try:
            value.cast(pa.timestamp("s"))
        except pa.ArrowInvalid:
            return row
    raise AssertionError("the whole column could not be read as dates, but every value can")
