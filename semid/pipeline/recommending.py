"""Recommendations with raw ids, batch by batch, so that memory does not grow with the queries."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.pipeline.answering import Answer, Answerer, check_modes
from semid.pipeline.histories import QueryBatch, is_integer
from semid.progress import Progress


def recommend(
    answerer: Answerer,
    dataset: Dataset,
    batches: Iterable[QueryBatch],
    modes: Sequence[str] = ("generative",),
    progress: Progress | None = None,
) -> Iterator[pa.RecordBatch]:
    """Answer queries in one or more modes.

    Args:
        answerer: of a model that was trained on ``dataset``.
        batches: from :class:`~semid.pipeline.histories.HistoryReader` or
            :func:`~semid.pipeline.histories.queries_of_split`.
        modes: of MODES.
        progress: called with what is done, how many queries, and None.

    Yields:
        Rows ``query`` (its number), ``user_id``, ``mode``, ``items`` (raw ids, best first), ``scores``, and
        ``fallback``: whether ANN had to help as the beams found too few items, null where that cannot be.

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
        for mode, answer in answerer.answers(batch.queries, modes).items():
            yield _rows(batch, users, mode, answer, raw_ids)
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
    fallback = [None] * count if answer.fallback is None else answer.fallback.tolist()
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.arange(batch.first, batch.first + count)),
            users,
            pa.array([mode] * count),
            pa.ListArray.from_arrays(offsets, raw_ids.take(pa.array(items[there]))),
            pa.ListArray.from_arrays(offsets, pa.array(answer.ranking.scores[there])),
            pa.array(fallback, pa.bool_()),
        ],
        names=["query", "user_id", "mode", "items", "scores", "fallback"],
    )
