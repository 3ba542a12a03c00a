"""The interactions of a table: checked, sorted by user and time with bounded memory, and appended.

Users become rows in the order of their ids. A file already in that order is streamed; any other is first dealt
into buckets of neighbouring ids on disk, each small enough to sort in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.data.splits import SPLIT_CODES
from semid.data.table.files import TableFile, decoded, identifiers, integers
from semid.data.table.id_index import IdIndex
from semid.data.table.user_rows import UserRows
from semid.errors import InputError
from semid.progress import Progress

_BUCKET_EVENTS = 1 << 20
_SAMPLE_EVERY = 512
_MAX_ACTIONS = 127
_KNOWN_ACTIONS = ("exposure", "click", "conversion")


@dataclass(kw_only=True)
class Scan:
    """What one pass over the interactions finds.

    Attributes:
        sorted_by_user: whether user ids never decrease.
        sample: every so many-th user id, for cutting buckets.
        actions: number of events of each action.
        null_actions: events without one.
    """

    sorted_by_user: bool = True
    sample: list[Any] = field(default_factory=list)
    actions: dict[Any, int] = field(default_factory=dict)
    null_actions: int = 0


def scan_interactions(table: TableFile) -> Scan:
    """Look once at users and actions.

    Raises:
        InputError: a needed column is missing, or the file cannot be read.
    """
    table.require("user_id", "item_id")
    if not {"timestamp", "position", "split"} & set(table.schema.names):
        raise InputError(
            f"{table.path} has no timestamp and no position column: add one, so that events have an order."
        )
    scan, last = Scan(), None
    columns = ["user_id"] + (["action"] if "action" in table else [])
    for first, batch in table.batches(columns):
        users = identifiers(table, "user_id", first, batch["user_id"])
        if not len(users):
            continue
        decreases = pc.any(pc.less(users[1:], users[:-1])).as_py() or (last is not None and users[0].as_py() < last)
        scan.sorted_by_user &= not decreases
        last = users[-1].as_py()
        scan.sample.extend(users[::_SAMPLE_EVERY].to_pylist())
        if "action" in table:
            _count_actions(table, scan, batch["action"])
    return scan


def _count_actions(table: TableFile, scan: Scan, values: pa.Array) -> None:
    values = decoded(values)
    if not (pa.types.is_string(values.type) or pa.types.is_integer(values.type) or pa.types.is_null(values.type)):
        raise InputError(f"{table.path} column 'action' has type {values.type}: actions must be strings or integers.")
    for entry in pc.value_counts(values).to_pylist():
        if entry["values"] is None:
            scan.null_actions += entry["counts"]
        else:
            scan.actions[entry["values"]] = scan.actions.get(entry["values"], 0) + entry["counts"]


def action_order(counts: dict[Any, int]) -> list[Any]:
    """Actions weakest first: exposure, click, conversion by name; integers by value; others most frequent first."""
    if len(counts) > _MAX_ACTIONS:
        raise InputError(f"There are {len(counts)} different actions, but at most {_MAX_ACTIONS} can be told apart.")
    if set(counts) <= set(_KNOWN_ACTIONS):
        return [name for name in _KNOWN_ACTIONS if name in counts]
    if all(isinstance(action, int) for action in counts):
        return sorted(counts)
    return sorted(counts, key=lambda action: (-counts[action], action))


def write_events(
    builder: DatasetBuilder,
    table: TableFile,
    scan: Scan,
    items: IdIndex,
    users: UserRows,
    *,
    null_action: str,
    progress: Progress,
) -> None:
    """Append all events of the table to the dataset, and the users to ``users``."""
    actions = action_order(scan.actions)
    builder.action_names = tuple(str(action) for action in actions)
    builder.ordered = "timestamp" in table or "position" in table
    if scan.null_actions:
        builder.report["null_actions"] = scan.null_actions
    reader = _Normaliser(table, items, actions, null_action)
    for chunk in _by_user(builder, scan, reader, progress):
        _append(builder, users, chunk)


class _Normaliser:
    """Turns batches of the file into ``user, item, action, time, order, split`` without missing values."""

    def __init__(self, table: TableFile, items: IdIndex, actions: Sequence[Any], null_action: str) -> None:
        self.table = table
        self._items = items
        self._actions = pa.array(actions) if actions else None
        self._null_action = null_action
        known = ("user_id", "item_id", "timestamp", "position", "action", "split")
        self._columns = [name for name in known if name in table]

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        for first, batch in self.table.batches(self._columns):
            columns = {
                "user": identifiers(self.table, "user_id", first, batch["user_id"]),
                "item": item_rows(self.table, "item_id", first, batch["item_id"], self._items),
                "action": self._action_codes(first, batch),
                "time": self._numbers(first, batch, "timestamp", TIME_MISSING),
            }
            if "position" in self._columns:
                columns["position"] = self._numbers(first, batch, "position", None)
            if "split" in self._columns:
                columns["split"] = split_codes(self.table, first, batch["split"])
            normal = pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
            if self._null_action == "drop" and "action" in self._columns:
                normal = normal.filter(pa.array(columns["action"] != ACTION_UNKNOWN))
            yield first + batch.num_rows, normal

    def _numbers(self, first: int, batch: pa.RecordBatch, name: str, missing: int | None) -> np.ndarray:
        if name not in self._columns:
            return np.full(batch.num_rows, missing, np.int64)
        return integers(self.table, name, first, batch[name], missing)

    def _action_codes(self, first: int, batch: pa.RecordBatch) -> np.ndarray:
        if "action" not in self._columns:
            return np.full(batch.num_rows, ACTION_UNKNOWN, np.int8)
        values = decoded(batch["action"])
        if values.null_count and self._null_action == "error":
            row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{self.table.where(row)} has no action: complete it, or choose another null_action.")
        if self._actions is None:
            return np.full(batch.num_rows, ACTION_UNKNOWN, np.int8)
        codes: np.ndarray = pc.index_in(values, self._actions).fill_null(ACTION_UNKNOWN).to_numpy()
        return codes.astype(np.int8)


def item_rows(table: TableFile, name: str, first_row: int, values: pa.Array, items: IdIndex) -> np.ndarray:
    """Item rows of raw ids, all of them known. (n,) int32

    Raises:
        InputError: a missing or an unknown id.
    """
    ids = identifiers(table, name, first_row, values)
    rows = items.rows(ids)
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        there = dict.fromkeys(repr(ids[int(position)].as_py()) for position in unknown[:100])
        raise InputError(
            f"{table.where(first_row + int(unknown[0]))} has {name} {ids[int(unknown[0])].as_py()!r}, which is no "
            f"item; unknown ids start {', '.join(list(there)[:3])} and items start {items.examples()}: "
            "add the items or correct the ids."
        )
    return rows.astype(np.int32)


def split_codes(table: TableFile, first_row: int, values: pa.Array) -> np.ndarray:
    """Codes of a split column that holds 0/1/2 or train/valid/test. (n,) int8

    Raises:
        InputError: any other value.
    """
    values = decoded(values)
    known = pa.array(list(SPLIT_CODES)) if pa.types.is_string(values.type) else pa.array([0, 1, 2], values.type)
    codes = pc.index_in(values, known)
    if codes.null_count:
        row = int(np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(
            f"{table.where(first_row + row)} has split {values[row].as_py()!r}: "
            "it must be 0, 1, 2 or train, valid, test."
        )
    found: np.ndarray = codes.to_numpy()
    return found.astype(np.int8)


def _by_user(builder: DatasetBuilder, scan: Scan, reader: _Normaliser, progress: Progress) -> Iterator[pa.Table]:
    """Chunks of events of consecutive users, every user whole, users in the order of their ids."""
    total = reader.table.num_rows
    if scan.sorted_by_user:
        yield from _streamed(reader, progress)
        return
    bounds = _bucket_bounds(scan.sample, -(-total // _BUCKET_EVENTS))
    paths = [builder.spool(f"bucket{number}.arrow") for number in range(len(bounds) + 1)]
    _deal(reader, bounds, paths, progress)
    for path in paths:
        if path.exists():
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                yield stream.read_all()
            path.unlink()


def _streamed(reader: _Normaliser, progress: Progress) -> Iterator[pa.Table]:
    carried: pa.Table | None = None
    for done, batch in reader.batches():
        table = pa.Table.from_batches([batch])
        carried = table if carried is None else pa.concat_tables([carried, table])
        progress("interactions", done, reader.table.num_rows)
        if not carried.num_rows:
            continue
        # The last user may go on in the next batch.
        last = pc.index(carried["user"], carried["user"][-1]).as_py()
        if last:
            yield carried.slice(0, last)
            carried = carried.slice(last)
    if carried is not None and carried.num_rows:
        yield carried


def _bucket_bounds(sample: list[Any], num_buckets: int) -> list[Any]:
    """Ids that start the second and each later bucket."""
    ordered = sorted(sample)
    return sorted({ordered[len(ordered) * number // num_buckets] for number in range(1, num_buckets)})


def _deal(reader: _Normaliser, bounds: list[Any], paths: list[Path], progress: Progress) -> None:
    edges = np.array(bounds, np.int64 if bounds and isinstance(bounds[0], int) else object)
    writers: dict[int, Any] = {}
    try:
        for done, batch in reader.batches():
            encoded = batch["user"].dictionary_encode()
            ids = np.array(encoded.dictionary.to_pylist(), edges.dtype)
            buckets = np.searchsorted(edges, ids, side="right")[encoded.indices.to_numpy()]
            for bucket in np.unique(buckets):
                if bucket not in writers:
                    writers[bucket] = pa.ipc.new_stream(str(paths[bucket]), batch.schema)
                writers[bucket].write_batch(batch.filter(pa.array(buckets == bucket)))
            progress("interactions", done, reader.table.num_rows)
    finally:
        for writer in writers.values():
            writer.close()


def _append(builder: DatasetBuilder, users: UserRows, chunk: pa.Table) -> None:
    ids, codes = _sorted_users(chunk["user"].combine_chunks())
    columns = {name: chunk[name].to_numpy() for name in chunk.schema.names if name != "user"}
    order = _event_order(codes, columns)
    counts = np.bincount(codes, minlength=len(ids))
    lengths = users.add(ids, counts)
    splits = columns["split"][order] if "split" in columns else None
    builder.append_events(lengths, columns["item"][order], columns["action"][order], columns["time"][order], splits)


def _sorted_users(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Distinct ids in order, and for each value the number of its id."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    encoded = values.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), rank[encoded.indices.to_numpy()]


def _event_order(codes: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Sorts by user, then position, else time, else split; file order breaks ties.

    Without positions, an event without a time stays behind the event that precedes it in the file.
    """
    by_user = np.argsort(codes, kind="stable")
    if "position" in columns:
        key = columns["position"][by_user]
    elif (columns["time"] != TIME_MISSING).any():
        times, owners = columns["time"][by_user], codes[by_user]
        source = np.where(times != TIME_MISSING, np.arange(len(times)), 0)
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        source[starts] = starts
        key = times[np.maximum.accumulate(source)]
    elif "split" in columns:
        key = columns["split"][by_user]
    else:
        return by_user
    order: np.ndarray = by_user[np.lexsort((key, codes[by_user]))]
    return order
