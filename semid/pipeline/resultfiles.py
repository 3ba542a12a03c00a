"""Rows of results as parquet or JSON lines, written as they come and put in place when they are complete."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from semid.artifacts import create_file
from semid.data.formats.parquet_files import TableWriter
from semid.errors import InputError

SUFFIXES = (".parquet", ".jsonl")


def check_result_path(path: Path) -> None:
    """Raise InputError for a directory or a suffix that does not say how to write it; call before long work."""
    if path.is_dir():
        raise InputError(f"{path} is a directory: name a file in it, such as {path / 'result.jsonl'}.")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} has the suffix {path.suffix!r}: end its name in one of {', '.join(SUFFIXES)}.")


def write_rows(batches: Iterable[pa.RecordBatch], out: Path | TextIO) -> int:
    """Write batches of one schema; returns the number of rows.

    Args:
        out: a ``.parquet`` or ``.jsonl`` file, or a stream that gets JSON lines.

    Raises:
        InputError: as :func:`check_result_path`.
    """
    if not isinstance(out, Path):
        return _write_lines(batches, out)
    check_result_path(out)
    with create_file(out) as partial:
        if out.suffix == ".parquet":
            return _write_parquet(batches, partial)
        with partial.open("w", encoding="utf-8") as stream:
            return _write_lines(batches, stream)


def _write_lines(batches: Iterable[pa.RecordBatch], stream: TextIO) -> int:
    count = 0
    for batch in batches:
        for row in batch.to_pylist():
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += batch.num_rows
    return count


def _write_parquet(batches: Iterable[pa.RecordBatch], path: Path) -> int:
    rest: Iterator[pa.RecordBatch] = iter(batches)
    first = next(rest, None)
    if first is None:
        raise InputError("There are no rows to write.")
    count = 0
    with TableWriter(path, first.schema) as writer:
        for batch in chain([first], rest):
            writer.write_batch(batch)
            count += batch.num_rows
    return count
