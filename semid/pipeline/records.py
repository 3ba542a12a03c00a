"""Rows of a parquet or JSON lines file, some at a time, each with the words that name its place."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semid.errors import InputError

Records = list[tuple[str, dict[str, Any]]]


def check_suffix(path: Path, what: str) -> None:
    """Raise InputError unless the suffix says how to read it."""
    if path.suffix not in (".parquet", ".jsonl", ".json"):
        raise InputError(f"{path} has the suffix {path.suffix!r}: {what} are .parquet or .jsonl files.")


def read_records(
    path: Path, columns: Sequence[str], needed: str, example: str, size: int = 4096
) -> Iterator[Records]:
    """Where each row stands, and its values by column, ``size`` rows at a time.

    Args:
        columns: to read from parquet, where they are there; a JSON object has all that it has.
        needed: the one that has to be there.
        example: of an object, for messages.

    Raises:
        InputError: the file is damaged, or a row lacks what is needed.
    """
    return _parquet(path, columns, needed, size) if path.suffix == ".parquet" else _lines(path, needed, example, size)


def _lines(path: Path, needed: str, example: str, size: int) -> Iterator[Records]:
    records: Records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                record = json.loads(line.decode("utf-8"))
            except json.JSONDecodeError as error:
                raise InputError(f"{where} is truncated or not JSON ({error.msg}): correct it.") from None
            except UnicodeDecodeError:
                raise InputError(f"{where} is not UTF-8: convert the file.") from None
            if not isinstance(record, dict) or needed not in record:
                raise InputError(f"{where} must be an object like {example}.")
            records.append((where, record))
            if len(records) == size:
                yield records
                records = []
    if records:
        yield records


def _parquet(path: Path, columns: Sequence[str], needed: str, size: int) -> Iterator[Records]:
    first = 0
    try:
        with pq.ParquetFile(path) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            if needed not in there:
                raise InputError(f"{path} has no column {needed!r}; it has: {', '.join(file.schema_arrow.names)}.")
            for batch in file.iter_batches(batch_size=size, columns=there, use_threads=False):
                yield [(f"{path} row {first + place}", record) for place, record in enumerate(batch.to_pylist())]
                first += batch.num_rows
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is truncated or no parquet file ({error}): get it again.") from None


def list_of(record: dict[str, Any], name: str, where: str, length: int | None = None) -> list[Any]:
    """The list in a column; empty where it is missing and a length is given, which it then need not have."""
    values = record.get(name)
    if values is None and length is not None:
        return []
    if not isinstance(values, list):
        raise InputError(f"{where} has {name} {values!r}: it must be a list.")
    if length is not None and len(values) != length:
        raise InputError(f"{where} has {len(values)} {name} for {length} items: give one each.")
    return values


def is_integer(value: Any) -> bool:
    """Whether it is one that arrays can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


def ids_of(values: Sequence[Any]) -> pa.Array:
    """Raw ids as integers, or as strings where some are."""
    if all(value is None or is_integer(value) for value in values):
        return pa.array(values, pa.int64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())
