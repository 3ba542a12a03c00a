"""The event log: what every user did, in time order, as flat arrays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ACTION_UNKNOWN = -1
TIME_MISSING = np.iinfo(np.int64).min
# Unix seconds of about the year 5000; what lies after it was not counted in seconds.
LATEST_TIME = 96_000_000_000
# Most events, padding included, of the histories of one batch of queries.
_PADDED_EVENTS = 1 << 22


@dataclass(frozen=True, eq=False)
class EventLog:
    """M events of U users; user u's events are ``offsets[u]:offsets[u + 1]``, oldest first.

    Attributes:
        items: (M,) int32 item rows.
        actions: (M,) int8 index into the dataset's action names, ACTION_UNKNOWN where not given.
        times: (M,) int64 Unix seconds, TIME_MISSING where not given.
        offsets: (U + 1,) int64.
    """

    items: np.ndarray
    actions: np.ndarray
    times: np.ndarray
    offsets: np.ndarray

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class Queries:
    """Q questions "what does this user take next?", with their answers.

    The history of query q is ``log.items[start[q]:end[q]]``; for given queries ``log`` is their own log,
    otherwise it is the dataset's.

    Attributes:
        log: where the histories lie.
        users: (Q,) int32 user rows.
        start, end: (Q,) int64 event positions in ``log``.
        target_items: (G,) int32 item rows, all queries one after the other.
        target_actions: (G,) int8, as in EventLog.
        target_offsets: (Q + 1,) int64.
    """

    log: EventLog
    users: np.ndarray
    start: np.ndarray
    end: np.ndarray
    target_items: np.ndarray
    target_actions: np.ndarray
    target_offsets: np.ndarray

    @staticmethod
    def after(log: EventLog, users: np.ndarray, rows: np.ndarray | None = None) -> "Queries":
        """What comes after the whole histories of a log, with no known answer.

        Args:
            users: (Q,) user row of each query, -1 for somebody unknown.
            rows: (Q,) histories of the log; all if None.
        """
        rows = np.arange(log.num_users) if rows is None else rows
        return Queries(
            log=log,
            users=users.astype(np.int32),
            start=log.offsets[rows],
            end=log.offsets[rows + 1],
            target_items=np.empty(0, np.int32),
            target_actions=np.empty(0, np.int8),
            target_offsets=np.zeros(len(rows) + 1, np.int64),
        )

    def __len__(self) -> int:
        return len(self.users)

    def sample(self, count: int) -> "Queries":
        """At most ``count`` queries, the same random ones every time, in their order."""
        return self if count >= len(self) else self.select(self.sampled(count))

    def sampled(self, count: int) -> np.ndarray:
        """Places of the queries that :meth:`sample` takes."""
        if count >= len(self):
            return np.arange(len(self))
        return np.sort(np.random.default_rng(0).choice(len(self), count, replace=False))

    def batches(self, size: int) -> Iterator["Queries"]:
        """Consecutive queries, at most ``size`` at a time, fewer where padding them to the longest takes much."""
        first = 0
        while first < len(self):
            longest = np.maximum.accumulate((self.end - self.start)[first : first + size])
            fitting = int(np.count_nonzero(longest * np.arange(1, len(longest) + 1) <= _PADDED_EVENTS))
            last = first + max(fitting, 1)
            yield self.select(np.arange(first, last))
            first = last

    def select(self, rows: np.ndarray) -> "Queries":
        """The queries at the given positions, targets included."""
        counts = np.diff(self.target_offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        targets = np.repeat(self.target_offsets[:-1][rows], counts) + within
        return Queries(
            log=self.log,
            users=self.users[rows],
            start=self.start[rows],
            end=self.end[rows],
            target_items=self.target_items[targets],
            target_actions=self.target_actions[targets],
            target_offsets=offsets,
        )


def going_back(times: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Neighbouring events with a time, of one user, of which the second is earlier. (n, 2) places

    Args:
        times: (M,) of users one after the other.
        ends: (u,) where the events of each end.
    """
    known = np.flatnonzero(times != TIME_MISSING)
    users = np.searchsorted(ends, known, side="right")
    first = np.flatnonzero((np.diff(times[known]) < 0) & (users[1:] == users[:-1]))
    return np.stack([known[first], known[first + 1]], axis=1)
