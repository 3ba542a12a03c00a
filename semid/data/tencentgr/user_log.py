"""TencentGR's users and their events on their way into a dataset: re-ids become rows, gaps follow a policy."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from semid.data.building.builder import DatasetBuilder
from semid.data.building.row_file import RowFile
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.data.tencentgr.indexer import Indexer
from semid.errors import InputError

ACTION_NAMES = ("exposure", "click", "conversion")
NO_ITEM = 0
NO_ACTION = -(2**31)
_NAME_BLOCK = 1 << 16  # blocks of one size, so that the file does not depend on how users were read


@dataclass(frozen=True, eq=False)
class UserEvents:
    """Events of u users, one after the other.

    Attributes:
        users: (u,) int64 user re-ids.
        lengths: (u,) int64 number of events of each.
        items: (M,) int64 item re-ids, NO_ITEM where null.
        actions: (M,) int64, NO_ACTION where null.
        times: (M,) int64 Unix seconds, TIME_MISSING where null.
    """

    users: np.ndarray
    lengths: np.ndarray
    items: np.ndarray
    actions: np.ndarray
    times: np.ndarray

    def select(self, kept: np.ndarray) -> "UserEvents":
        """Only the events where ``kept`` (M,) is true."""
        owners = np.repeat(np.arange(len(self.users)), self.lengths)[kept]
        lengths = np.bincount(owners, minlength=len(self.users))
        return UserEvents(self.users, lengths, self.items[kept], self.actions[kept], self.times[kept])


class UserLog:
    """Writes users in order of appearance.

    An event without an item is dropped and counted. An event without a time is kept, its time missing. What an
    event without an action becomes is ``null_action``: see PrepareConfig.

    Attributes:
        facts: what was dropped or filled, for the report.
    """

    def __init__(self, indexer: Indexer, builder: DatasetBuilder, null_action: str) -> None:
        self.facts = {"events_without_item": 0, "events_without_action": 0, "events_without_time": 0}
        self._indexer = indexer
        self._builder = builder
        self._null_action = null_action
        self._names = builder.raw_ids("users", pa.string())
        self._unwritten: list[str] = []
        self._rows = RowFile(builder.spool("user_rows.npy"), np.int32, (indexer.users.count + 1,))
        builder.action_names = ACTION_NAMES

    @property
    def num_users(self) -> int:
        """Users so far."""
        return self._builder.num_users

    def append(self, events: UserEvents, where: str) -> None:
        """Add users with their events.

        Raises:
            InputError: a user unknown to the indexer or given twice, an item it does not know, an action other
                than 0, 1, 2, or a null action where the policy forbids it.
        """
        first_row = self._builder.num_users
        names = self._register(events.users, first_row, where)
        self._builder.name_user = lambda row: repr(names[row - first_row])
        self._check(events, names, where)
        events = self._filled(events, names, where)
        self.facts["events_without_time"] += int((events.times == TIME_MISSING).sum())
        actions = np.where(events.actions == NO_ACTION, ACTION_UNKNOWN, events.actions)
        self._builder.append_events(events.lengths, events.items - 1, actions, events.times)

    def finish(self) -> None:
        """All users are in."""
        if self._unwritten:
            self._names.append(self._unwritten)

    def rows(self, reids: np.ndarray) -> np.ndarray:
        """Row of each user re-id, -1 where it has no events in the input. (n,) int64"""
        known = (reids >= 1) & (reids <= self._indexer.users.count)
        return self._rows.get(np.where(known, reids, 0)).astype(np.int64) - 1

    def _register(self, users: np.ndarray, first_row: int, where: str) -> list[str]:
        count = self._indexer.users.count
        wrong = users[(users < 1) | (users > count)]
        if len(wrong):
            raise InputError(f"{where} has user {wrong[0]}, but the indexer knows only users 1..{count}.")
        ordered = np.sort(users)
        twice = np.concatenate([users[self._rows.get(users) > 0], ordered[1:][np.diff(ordered) == 0]])
        if len(twice):
            raise InputError(f"{where} has user {twice[0]}, who already came: keep one row for each user.")
        self._rows.put(users, np.arange(first_row + 1, first_row + 1 + len(users), dtype=np.int32))
        names = self._indexer.users.get(users)
        self._unwritten += names
        while len(self._unwritten) >= _NAME_BLOCK:
            self._names.append(self._unwritten[:_NAME_BLOCK])
            del self._unwritten[:_NAME_BLOCK]
        return names

    def _check(self, events: UserEvents, names: list[str], where: str) -> None:
        num_items = self._indexer.num_items
        wrong = np.flatnonzero((events.items < 0) | (events.items > num_items))
        if len(wrong):
            owner = names[_owner(events, int(wrong[0]))]
            raise InputError(
                f"{where} user {owner!r} has item {events.items[wrong[0]]}, but the indexer knows only items "
                f"1..{num_items}: items are re-ids there, not raw ids."
            )
        known = events.actions != NO_ACTION
        wrong = np.flatnonzero(known & ((events.actions < 0) | (events.actions >= len(ACTION_NAMES))))
        if len(wrong):
            owner = names[_owner(events, int(wrong[0]))]
            raise InputError(
                f"{where} user {owner!r} has action {events.actions[wrong[0]]}: actions are 0 exposure, 1 click, "
                "2 conversion."
            )

    def _filled(self, events: UserEvents, names: list[str], where: str) -> UserEvents:
        has_item = events.items != NO_ITEM
        if not has_item.all():
            self.facts["events_without_item"] += int((~has_item).sum())
            events = events.select(has_item)
        has_action = events.actions != NO_ACTION
        if has_action.all():
            return events
        self.facts["events_without_action"] += int((~has_action).sum())
        if self._null_action == "error":
            owner = names[_owner(events, int(np.flatnonzero(~has_action)[0]))]
            raise InputError(
                f"{where} user {owner!r} has an event without an action: set null_action to unknown or drop."
            )
        return events.select(has_action) if self._null_action == "drop" else events


def _owner(events: UserEvents, event: int) -> int:
    return int(np.searchsorted(np.cumsum(events.lengths), event, side="right"))
