"""Queries given with a table: ``official_eval`` beside interactions, or ``samples`` instead of them."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.data.splits import SPLIT_CODES
from semid.data.table.events import item_rows, split_codes
from semid.data.table.files import TableFile, identifiers
from semid.data.table.id_index import IdIndex
from semid.data.table.user_rows import UserRows
from semid.errors import InputError

_COLUMNS = ["split", "user_id", "history", "target"]


def query_users(table: TableFile) -> pa.Array:
    """The distinct users of the table.

    Raises:
        InputError: a needed column is missing, or the file cannot be read.
    """
    table.require(*_COLUMNS)
    parts = [identifiers(table, "user_id", first, batch["user_id"]) for first, batch in table.batches(["user_id"])]
    return pc.unique(pa.concat_arrays(parts))


def write_queries(
    builder: DatasetBuilder, table: TableFile, items: IdIndex, users: UserRows, *, allow_train: bool
) -> None:
    """Append the validation and test rows as given queries.

    Args:
        allow_train: whether rows of the training split may be there too; they are skipped.
    """
    for first, batch in table.batches(_COLUMNS):
        codes, user_ids, lengths, history, targets = _columns(table, first, batch, items)
        if not allow_train and (codes == SPLIT_CODES["train"]).any():
            row = first + int(np.flatnonzero(codes == SPLIT_CODES["train"])[0])
            raise InputError(f"{table.where(row)} is of split train, but these queries must be valid or test.")
        owners = np.repeat(np.arange(len(codes)), lengths)
        for split in ("valid", "test"):
            rows = np.flatnonzero(codes == SPLIT_CODES[split])
            if not len(rows):
                continue
            kept = history[(codes == SPLIT_CODES[split])[owners]]
            builder.append_given(
                split,
                users.rows(user_ids.take(pa.array(rows))),
                lengths[rows],
                kept,
                np.full(len(kept), ACTION_UNKNOWN, np.int8),
                np.full(len(kept), TIME_MISSING, np.int64),
                np.ones(len(rows), np.int64),
                targets[rows],
                np.full(len(rows), ACTION_UNKNOWN, np.int8),
            )


def _columns(
    table: TableFile, first: int, batch: pa.RecordBatch, items: IdIndex
) -> tuple[np.ndarray, pa.Array, np.ndarray, np.ndarray, np.ndarray]:
    """Split codes, user ids, history lengths, history item rows, target item rows."""
    history = batch["history"]
    if not (pa.types.is_list(history.type) or pa.types.is_large_list(history.type)):
        raise InputError(f"{table.path} column 'history' has type {history.type}: it must hold lists of item ids.")
    lengths: np.ndarray = pc.list_value_length(history).fill_null(0).to_numpy().astype(np.int64)
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        user = batch["user_id"][int(empty[0])].as_py()
        raise InputError(
            f"{table.where(first + int(empty[0]))} gives user {user!r} an empty history: "
            "complete it or remove the row."
        )
    return (
        split_codes(table, first, batch["split"]),
        identifiers(table, "user_id", first, batch["user_id"]),
        lengths,
        _history_rows(table, first, history, lengths, items),
        item_rows(table, "target", first, batch["target"], items),
    )


def _history_rows(table: TableFile, first: int, history: pa.Array, lengths: np.ndarray, items: IdIndex) -> np.ndarray:
    flat = history.flatten()
    found = items.rows(flat if not pa.types.is_integer(flat.type) else flat.cast(pa.int64()))
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        row = first + int(np.searchsorted(np.cumsum(lengths), unknown[0], side="right"))
        raise InputError(
            f"{table.where(row)} has history item {flat[int(unknown[0])].as_py()!r}, which is no item; items start "
            f"{items.examples()}: add the item or correct the id."
        )
    return found.astype(np.int32)


def write_training_samples(builder: DatasetBuilder, table: TableFile, items: IdIndex, users: UserRows) -> None:
    """Turn training rows back into events: each row is a history and the item that followed it.

    Rows of one user overlap, as each repeats what came before (perhaps cut to a window). They are taken in file
    order: what a row adds after its longest overlap with the events so far is appended.
    """
    sequences: dict[object, list[int]] = {}
    for user, sequence in _training_sequences(table, items):
        known = sequences.setdefault(user, [])
        known.extend(sequence[_overlap(known, sequence) :])
    if not sequences:
        raise InputError(f"{table.path} has no rows of split train: add some.")
    ids = pa.array(list(sequences))
    order = pc.sort_indices(ids)
    ids = ids.take(order)
    ordered = [sequences[user] for user in ids.to_pylist()]
    lengths = users.add(ids, np.array([len(sequence) for sequence in ordered], np.int64))
    events = np.array([item for sequence in ordered for item in sequence], np.int32)
    builder.append_events(
        lengths, events, np.full(len(events), ACTION_UNKNOWN, np.int8), np.full(len(events), TIME_MISSING, np.int64)
    )


def _training_sequences(table: TableFile, items: IdIndex) -> Iterator[tuple[object, list[int]]]:
    for first, batch in table.batches(_COLUMNS):
        codes, user_ids, lengths, history, targets = _columns(table, first, batch, items)
        ends = np.cumsum(lengths)
        for row in np.flatnonzero(codes == SPLIT_CODES["train"]):
            before = history[ends[row] - lengths[row] : ends[row]]
            yield user_ids[int(row)].as_py(), [*before.tolist(), int(targets[row])]


def _overlap(known: list[int], sequence: list[int]) -> int:
    """How much of the start of ``sequence`` is in ``known`` already: as its end, or all of it anywhere."""
    width = len(sequence)
    if any(known[start : start + width] == sequence for start in range(len(known) - width + 1)):
        return width
    return next(
        size for size in range(min(len(known), width), -1, -1) if known[len(known) - size :] == sequence[:size]
    )
