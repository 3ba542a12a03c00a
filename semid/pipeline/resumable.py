"""Long results written part by part, so that a killed run goes on where it stood."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semid.artifacts import create_file, full_disk_named
from semid.errors import InputError
from semid.pipeline.resultfiles import check_result_path, write_rows

logger = logging.getLogger(__name__)
_STATE = "state.json"


def write_resumable(
    batches_from: Callable[[int], Iterable[pa.RecordBatch]],
    out: Path,
    *,
    made_from: Mapping[str, Any],
    resume: bool = False,
) -> int:
    """Write batches to ``out`` as :func:`write_rows` does, keeping each in ``OUT.parts`` until all are there.

    Args:
        batches_from: the batches from a row on; called with the number of rows that are done.
        out: a ``.parquet`` or ``.jsonl`` file.
        made_from: plain values that the rows depend on; parts made from others are not gone on with.
        resume: go on from the parts of a run that was stopped; without any, begin.

    Returns:
        The number of rows in the file.

    Raises:
        InputError: another suffix, or parts of a run with other settings or inputs.
    """
    check_result_path(out)
    parts = out.with_name(f"{out.name}.parts")
    if parts.exists() and not resume:
        logger.warning("Starting anew: %s of an unfinished run is replaced; --resume would go on with it.", parts)
        shutil.rmtree(parts)
    try:
        _begin(parts, made_from)
        _write_parts(parts, batches_from)
        count = write_rows(_read(parts), out)
    except BaseException as stop:
        done = _rows(parts)
        if not done:
            shutil.rmtree(parts, ignore_errors=True)
        elif isinstance(stop, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"Interrupted: {done} rows are in {parts}; --resume goes on from there."
            ) from None
        raise
    shutil.rmtree(parts)
    return count


def _begin(parts: Path, made_from: Mapping[str, Any]) -> None:
    state, told = parts / _STATE, json.dumps(dict(made_from))
    if parts.exists():
        if not state.is_file() or state.read_text(encoding="utf-8") != told:
            raise InputError(f"{parts} was made with other settings or inputs: start without --resume.")
        return
    parts.mkdir(parents=True)
    with create_file(state) as partial:
        partial.write_text(told, encoding="utf-8")


def _write_parts(parts: Path, batches_from: Callable[[int], Iterable[pa.RecordBatch]]) -> None:
    number = len(_finished(parts))
    with full_disk_named(parts):
        for batch in batches_from(_rows(parts)):
            with create_file(parts / f"{number:08d}.parquet") as partial:
                pq.write_table(pa.Table.from_batches([batch]), partial)
            number += 1


def _rows(parts: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in _finished(parts))


def _finished(parts: Path) -> list[Path]:
    return sorted(parts.glob("[0-9]*.parquet"))


def _read(parts: Path) -> Iterator[pa.RecordBatch]:
    for path in _finished(parts):
        yield from pq.ParquetFile(path).iter_batches()
