"""Folders of parquet files, read batch by batch; a damaged file is one sentence that names it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semid.errors import InputError

_READ_BYTES = 1 << 20


class TableWriter(pq.ParquetWriter):  # type: ignore[misc]
    """A parquet file being written that is not completed behind one's back when an error leaves it unfinished."""

    def __del__(self) -> None:
        # On a full disk pyarrow's own would fail a second time, where nobody can catch it.
        pass


def data_files(folder: Path, pattern: str) -> list[Path]:
    """Regular files of a folder in name order, below it too; names beginning with ``_`` or ``.`` are not data."""
    found = (path for path in folder.rglob(pattern) if path.is_file())
    return sorted(p for p in found if not any(part[0] in "_." for part in p.relative_to(folder).parts))


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder.

    Raises:
        InputError: there are none.
    """
    files = data_files(folder, "*.parquet")
    if not files:
        raise InputError(f"{folder} holds no *.parquet files: get the folder again.")
    return files


def parquet_schema(files: Sequence[Path]) -> pa.Schema:
    """Schema of the first file; all files of a folder share it."""
    with readable(files[0]):
        return pq.read_schema(files[0])


def num_rows(files: Sequence[Path]) -> int:
    """Rows of all files together, from their footers."""
    total = 0
    for path in files:
        with readable(path):
            total += pq.read_metadata(path).num_rows
    return total


def parquet_batches(
    files: Sequence[Path], columns: Sequence[str], batch_rows: int
) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
    """Batches of at most ``batch_rows`` rows, with the file and the number of the first row within it.

    Column chunks are read through a small buffer, so that row groups of any size take little memory.

    Raises:
        InputError: a file is damaged, truncated or lacks a column.
    """
    for path in files:
        first = 0
        with readable(path), pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
            lacking = set(columns) - set(file.schema_arrow.names)
            if lacking:
                raise InputError(f"{path} has no column {sorted(lacking)[0]!r}: it is another file or incomplete.")
            for batch in file.iter_batches(batch_size=batch_rows, columns=list(columns), use_threads=False):
                yield path, first, batch
                first += batch.num_rows


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what pyarrow says about a damaged file into InputError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"{path} is truncated or damaged ({reason}): get it again.") from None


def plain(values: pa.Array) -> pa.Array:
    """Without dictionary encoding, extra-wide types, or NaN where a number is missing."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    if pa.types.is_floating(values.type):  # pandas turns integers with gaps into floats
        values = pc.if_else(pc.is_finite(values), values, None)
    return values


def integers(values: pa.Array, null: int, where: str) -> np.ndarray:
    """Integers, digit strings and whole floats as int64, nulls and NaN as ``null``. (n,)

    Raises:
        InputError: something else; the message begins with ``where``.
    """
    values = plain(values)
    try:
        filled: np.ndarray = values.cast(pa.int64()).fill_null(null).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{where} must hold integers ({str(error).splitlines()[0]}): correct it.") from None
    return filled


def list_lengths(values: pa.Array) -> np.ndarray:
    """Length of each list, 0 where it is null; the elements are ``values.flatten()``. (n,) int64"""
    lengths: np.ndarray = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists of any layout."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
