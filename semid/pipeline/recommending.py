"""Recommendations with raw ids, batch by batch, so that memory does not grow with the queries."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO
from zlib import crc32

import numpy as np
import pyarrow as pa

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.pipeline.answer import FALLBACKS, Answer
from semid.pipeline.answering import Answerer, check_modes
from semid.pipeline.histories import QueryBatch
from semid.pipeline.records import is_integer
from semid.pipeline.resultfiles import write_rows
from semid.pipeline.resumable import write_resumable
from semid.progress import Progress


def write_recommendations(
    answerer: Answerer,
    dataset: Dataset,
    batches: Callable[[], Iterable[QueryBatch]],
    modes: Sequence[str],
    *,
    out: Path | TextIO,
    source: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> int:
    """Answer queries batch by batch; the number of rows.

    Args:
        batches: all queries in batches whose sizes do not change.
        out: a ``.parquet`` or ``.jsonl`` file, which can be resumed, or a stream.
        source: the file that the queries are of, if any.

    Raises:
        InputError: see :func:`recommend` and :func:`write_resumable`.
    """

    def rows(done: int) -> Iterator[pa.RecordBatch]:
        return recommend(answerer, dataset, batches(), modes, progress, first=done // len(modes))

    if not isinstance(out, Path):
        return write_rows(rows(0), out)
    artifacts = (answerer.recommender.artifact, dataset.artifact)
    made_from = {
        "checksums": [artifact.checksum if artifact else None for artifact in artifacts],
        "candidates": crc32(answerer.recommender.candidates.tobytes()),
        "precision": str(answerer.recommender.encoder.dtype),
        "modes": list(modes),
        "answers": asdict(answerer.config),
        "source": [str(source), source.stat().st_size, source.stat().st_mtime_ns] if source else None,
    }
    return write_resumable(rows, out, made_from=made_from, resume=resume)


def recommend(
    answerer: Answerer,
    dataset: Dataset,
    batches: Iterable[QueryBatch],
    modes: Sequence[str] = ("generative",),
    progress: Progress | None = None,
    *,
    first: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Answer queries in one or more modes.

    Args:
        answerer: of a model that was trained on ``dataset``.
        batches: from :class:`~semid.pipeline.histories.HistoryReader` or
            :func:`~semid.pipeline.histories.queries_of_split`.
        modes: of MODES.
        progress: called with what is done, how many queries, and None.
        first: query to begin with, the first one of a batch.

    Yields:
        For each batch rows ``query`` (its number), ``user_id``, ``mode``, ``items`` (raw ids, best first),
        ``scores``, ``fallback``: for which reason the hybrid answered in place of mode ``generative``, null where it
        did not, and ``exact``: whether no other item can have a higher score than those listed; null
        where that is not known.

    Raises:
        InputError: an unknown mode, or a model of another dataset.
    """
    check_modes(modes)
    artifact = answerer.recommender.artifact
    if artifact is not None and dataset.artifact is not None:
        artifact.require_parent("dataset", dataset.artifact)
    raw_ids = pa.array(dataset.item_ids)
    user_type: pa.DataType | None = None
    for batch in batches:
        users = _user_ids(batch.user_ids, user_type)
        user_type = users.type
        if batch.first < first:
            continue
        answers = answerer.answers(batch.queries, modes)
        yield pa.concat_batches([_rows(batch, users, mode, answer, raw_ids) for mode, answer in answers.items()])
        if progress:
            progress("recommend", batch.first + len(batch.queries), None)


def _user_ids(values: Sequence[object], kind: pa.DataType | None) -> pa.Array:
    """One column type for all batches: integers if all of the first batch are, otherwise strings."""
    if kind is None:
        numbers = all(is_integer(value) for value in values)
        kind = pa.int64() if numbers else pa.string()
    if pa.types.is_integer(kind):
        wrong = [value for value in values if value is not None and not is_integer(value)]
        if wrong:
            raise InputError(f"User id {wrong[0]!r} comes after integer ids: write all user ids alike.")
        return pa.array(values, kind)
    return pa.array([None if value is None else str(value) for value in values], kind)


def _rows(batch: QueryBatch, users: pa.Array, mode: str, answer: Answer, raw_ids: pa.Array) -> pa.RecordBatch:
    items, count = answer.ranking.items, len(batch.queries)
    there = items >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32))
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.arange(batch.first, batch.first + count)),
            users,
            pa.array([mode] * count),
            pa.ListArray.from_arrays(offsets, raw_ids.take(pa.array(items[there]))),
            pa.ListArray.from_arrays(offsets, pa.array(answer.ranking.scores[there])),
            _reasons(answer.fallback, count),
            _known(answer.ranking.exact, count),
        ],
        names=["query", "user_id", "mode", "items", "scores", "fallback", "exact"],
    )


def _known(values: np.ndarray | None, count: int) -> pa.Array:
    return pa.nulls(count, pa.bool_()) if values is None else pa.array(values)


def _reasons(codes: np.ndarray | None, count: int) -> pa.Array:
    names = [None, *FALLBACKS]
    return pa.array([None] * count if codes is None else [names[code] for code in codes], pa.string())
