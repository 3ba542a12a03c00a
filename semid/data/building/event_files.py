"""Writes event logs and queries as streams, checking them on the way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from semid.data.building.arrays import ArrayWriter
from semid.data.events import LATEST_TIME, TIME_MISSING, going_back
from semid.errors import InputError

_EVENT_TYPES = {"items": np.int32, "actions": np.int8, "times": np.int64, "offsets": np.int64}
_QUERY_TYPES = {
    "users": np.int32,
    "start": np.int64,
    "end": np.int64,
    "target_items": np.int32,
    "target_actions": np.int8,
    "target_offsets": np.int64,
}


class EventsWriter:
    """One event log, user after user.

    Args:
        folder: where ``items``, ``actions``, ``times`` and ``offsets`` go.
        label: how messages name the owner of a run of events, given its number.
        splits_path: where the split code of each event goes, if any are given.
    """

    def __init__(self, folder: Path, label: Callable[[int], str], splits_path: Path | None = None) -> None:
        self.num_users = 0
        self.num_events = 0
        self.has_splits = False
        self._label = label
        self._writers = {name: ArrayWriter(folder / f"{name}.npy", kind) for name, kind in _EVENT_TYPES.items()}
        self._writers["offsets"].append([0])
        self._splits_path = splits_path
        self._splits: ArrayWriter | None = None

    def append(
        self,
        num_items: int,
        lengths: np.ndarray,
        items: np.ndarray,
        actions: np.ndarray,
        times: np.ndarray,
        splits: np.ndarray | None = None,
    ) -> None:
        """Append the events of the next users; see :meth:`DatasetBuilder.append_events`."""
        ends = np.cumsum(np.asarray(lengths, np.int64))
        total = int(ends[-1]) if len(ends) else 0
        assert len(items) == len(actions) == len(times) == total, (len(items), len(actions), len(times), total)
        self._check_items(num_items, ends, np.asarray(items))
        self._check_times(ends, np.asarray(times))
        for name, values in (("items", items), ("actions", actions), ("times", times)):
            self._writers[name].append(values)
        self._writers["offsets"].append(self.num_events + ends)
        self._append_splits(splits)
        self.num_users += len(ends)
        self.num_events += total

    def _append_splits(self, splits: np.ndarray | None) -> None:
        if splits is not None and not self.num_users:
            assert self._splits_path is not None
            self._splits = ArrayWriter(self._splits_path, np.int8)
            self.has_splits = True
        assert (splits is not None) == self.has_splits, "split codes are for all users or none"
        if self._splits is not None:
            self._splits.append(splits)

    def _check_items(self, num_items: int, ends: np.ndarray, items: np.ndarray) -> None:
        wrong = np.flatnonzero((items < 0) | (items >= num_items))
        if len(wrong):
            raise InputError(
                f"An event of {self._owner(ends, wrong[0])} has item row {items[wrong[0]]}, but there are only "
                f"{num_items} items: correct the event or add the item."
            )

    def _check_times(self, ends: np.ndarray, times: np.ndarray) -> None:
        """Times must not decrease within a user; missing ones are skipped."""
        known = np.flatnonzero(times != TIME_MISSING)
        late = known[times[known] > LATEST_TIME]
        if len(late):
            raise InputError(
                f"An event of {self._owner(ends, late[0])} has time {times[late[0]]}, in Unix seconds after the year "
                "5000: these look like milliseconds; give seconds."
            )
        for first, second in going_back(times, ends)[:1]:
            raise InputError(
                f"The events of {self._owner(ends, first)} go back in time, from {times[first]} to "
                f"{times[second]}: sort each user's events by time."
            )

    def _owner(self, ends: np.ndarray, event: int) -> str:
        return self._label(self.num_users + int(np.searchsorted(ends, event, side="right")))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._splits is not None:
            self._splits.close()


class QueriesWriter:
    """The queries of one split, in any number of pieces."""

    def __init__(self, folder: Path) -> None:
        self.num_queries = 0
        self._num_targets = 0
        self._writers = {name: ArrayWriter(folder / f"{name}.npy", kind) for name, kind in _QUERY_TYPES.items()}
        self._writers["target_offsets"].append([0])

    def append(
        self,
        users: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        target_counts: np.ndarray,
        target_items: np.ndarray,
        target_actions: np.ndarray,
    ) -> None:
        """Append queries (q,) whose targets, ``target_counts`` of each, follow one another."""
        ends = self._num_targets + np.cumsum(np.asarray(target_counts, np.int64))
        columns = {
            "users": users,
            "start": start,
            "end": end,
            "target_items": target_items,
            "target_actions": target_actions,
            "target_offsets": ends,
        }
        for name, values in columns.items():
            self._writers[name].append(values)
        self.num_queries += len(users)
        self._num_targets += len(target_items)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class GivenWriter:
    """Queries that come with the input: each has a history of its own and its targets."""

    def __init__(self, folder: Path, split: str) -> None:
        self._events = EventsWriter(folder / "events", lambda row: f"{split} query {row}")
        self._queries = QueriesWriter(folder)

    @property
    def num_queries(self) -> int:
        return self._queries.num_queries

    def append(
        self,
        num_items: int,
        users: np.ndarray,
        lengths: np.ndarray,
        items: np.ndarray,
        actions: np.ndarray,
        times: np.ndarray,
        target_counts: np.ndarray,
        target_items: np.ndarray,
        target_actions: np.ndarray,
    ) -> None:
        """Append queries; see :meth:`DatasetBuilder.append_given`."""
        ends = self._events.num_events + np.cumsum(np.asarray(lengths, np.int64))
        self._events.append(num_items, lengths, items, actions, times)
        self._queries.append(users, ends - lengths, ends, target_counts, target_items, target_actions)

    def close(self) -> None:
        self._events.close()
        self._queries.close()
