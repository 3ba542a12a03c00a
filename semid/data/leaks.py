"""Whether a prepared dataset shows models what comes after a query: the rules of its protocol, asked of its data."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semid.data.added import check_added
from semid.data.building.row_file import release
from semid.data.dataset import Dataset, ranges
from semid.data.events import EventLog, Queries, going_back
from semid.data.telling import telling_columns
from semid.errors import InputError

_BLOCK_EVENTS, _BLOCK_USERS, _BLOCK_QUERIES = 1 << 21, 1 << 16, 1 << 14
# An item fits into so many bits together with an action.
_KEY_BITS = 40
# A history of so many events, its target not among them, hardly comes about twice.
_SURE = 3


@dataclass(frozen=True, kw_only=True)
class LeakReport:
    """What was looked at, where nothing leaks.

    Attributes:
        train_events: events that a model may learn from.
        queries: by split.
        held_out_items: items that may not have an event.
        added: embeddings that were added later.
        notes: what may be a leak or chance, a sentence each.
    """

    train_events: int
    queries: Mapping[str, int]
    held_out_items: int
    added: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        rows = [("training events", f"{self.train_events:,}, none of a user from after its queries")]
        rows += [(f"{split} queries", f"{n:,}, no history reaches its target") for split, n in self.queries.items()]
        if self.held_out_items:
            rows.append(("held-out items", f"{self.held_out_items:,}, none of which has an event"))
        if self.added:
            rows.append(("added embeddings", f"{self.added:,}, made from these training events"))
        return rows + [("note", note) for note in self.notes]


def check_leaks(dataset: Dataset) -> LeakReport:
    """Ask every rule, block by block: in flat memory, and in little more time than reading the events takes.

    docs/protocols.md lists the rules, and what none of them can see.

    Raises:
        InputError: something leaks; names the first user or query where it does.
    """
    log, trained = dataset.events, 0
    for first, offsets in _blocks_of_users(log):
        trained += _check_training(dataset, first, offsets)
        _check_events(dataset, log, first, offsets, lambda row: _user(dataset, row))
    notes = [note for split, queries in dataset.queries.items() for note in _check_queries(dataset, split, queries)]
    if dataset.artifact is not None:
        check_added(dataset.artifact)
    return LeakReport(
        train_events=trained,
        queries={split: len(queries) for split, queries in dataset.queries.items()},
        held_out_items=len(dataset.held_out),
        added=len(dataset.added),
        notes=tuple(notes),
    )


def _check_queries(dataset: Dataset, split: str, queries: Queries) -> list[str]:
    """The rules for one split; what may be a leak or chance."""
    own, by_chance = queries.log is not dataset.events, 0
    for first, offsets in _blocks_of_users(queries.log) if own else ():
        _check_events(dataset, queries.log, first, offsets, f"the history of {split} query {{}}".format)
    for first in range(0, len(queries), _BLOCK_QUERIES):
        rows = np.arange(first, min(first + _BLOCK_QUERIES, len(queries)))
        part = _Part(dataset, split, first, queries.select(rows))
        if own:
            by_chance += part.check_given()
        else:
            part.check_cut()
        _let_go(dataset.events)
    notes = [
        f"The user column {name!r} tells the targets of split {split}: if it was made from what users did later, "
        "leave it out."
        for name in telling_columns(dataset.user_fields, queries)
    ]
    if by_chance:
        notes.append(
            f"{by_chance:,} given {split} queries have their history and target side by side in training, too short "
            f"or repetitive to be sure: see that the interactions hold no row of split {split}."
        )
    return notes


def _check_training(dataset: Dataset, first: int, offsets: np.ndarray) -> int:
    """How many training events users have: the first of their events, by protocol ``time`` before the first cut."""
    starts, ends = offsets[:-1], offsets[1:]
    trained = np.asarray(dataset.train_end[first : first + len(starts)])
    _refuse(
        (trained < starts) | (trained > ends),
        lambda u: (
            f"Training on {_user(dataset, first + u)} ends at position {trained[u]}, but its events are at "
            f"{starts[u]}..{ends[u] - 1}"
        ),
    )
    rows = ranges(starts, trained - starts)
    cut = _split_facts(dataset).get("time_cuts", [None])[0]
    if cut is not None:
        times = dataset.events.times[rows]
        _refuse(
            times >= cut,
            lambda e: (
                f"Training on {_user(dataset, first + _owner(offsets, rows[e]))} reaches time {times[e]} at "
                f"position {rows[e]}, but the cut is at {cut}"
            ),
        )
    return len(rows)


def _check_events(
    dataset: Dataset, log: EventLog, first: int, offsets: np.ndarray, label: Callable[[int], str]
) -> None:
    """No time falls, and no held-out item has an event."""
    begin, span = offsets[0], slice(offsets[0], offsets[-1])
    items, times = np.asarray(log.items[span]), np.asarray(log.times[span])
    falls = np.zeros(len(times), bool)
    falls[going_back(times, offsets[1:] - begin)[:, 1]] = True
    _refuse(
        falls,
        lambda e: (
            f"The events of {label(first + _owner(offsets, begin + e))} go back in time at position {begin + e}, "
            f"to {times[e]}"
        ),
    )
    _refuse(
        np.isin(items, dataset.held_out),
        lambda e: (
            f"Item {_name(dataset.item_ids, items[e])} is held out, but an event of it is at position "
            f"{begin + e}, of {label(first + _owner(offsets, begin + e))}"
        ),
    )
    _let_go(log)


@dataclass(frozen=True)
class _Part:
    """Some consecutive queries of one split, from number ``first`` on."""

    dataset: Dataset
    split: str
    first: int
    queries: Queries

    def check_cut(self) -> None:
        """Histories are of their users, training ends before them, and their targets come after them."""
        log, queries = self.dataset.events, self.queries
        starts, ends = log.offsets[queries.users], log.offsets[queries.users + 1]
        self._check_histories(starts, ends)
        trained = self.dataset.train_end[queries.users]
        _refuse(
            trained > queries.end,
            lambda q: (
                f"Training on {self._user(q)} goes up to position {trained[q]}, but {self._query(q)} asks at "
                f"{queries.end[q]}"
            ),
        )
        if _split_facts(self.dataset).get("protocol") == "user":
            _refuse(trained > starts, lambda q: f"Training has events of {self._user(q)}, whom {self._query(q)} asks")
        _refuse(
            _reaching(log, queries, ends),
            lambda q: (
                f"The history of {self._query(q)} of {self._user(q)} ends at position {queries.end[q]} and "
                "already holds the event of its target"
            ),
        )

    def check_given(self) -> int:
        """Histories are their own, and training on the user does not hold one with its target right behind it.

        Returns:
            how many do that, but are so short or repetitive that it may be chance.
        """
        queries = self.queries
        offsets = queries.log.offsets[self.first : self.first + len(queries) + 1]
        self._check_histories(offsets[:-1], offsets[1:])
        by_chance = 0
        for query, target, position in _runs(self.dataset.events, self.dataset.train_end, queries):
            history = queries.log.items[queries.start[query] : queries.end[query]]
            if len(history) >= _SURE and target not in history:
                raise InputError(
                    f"Training on {self._user(query)} holds the history of {self._query(query)} and its target right "
                    f"behind it, at position {position}: take the rows of split {self.split} out of the interactions."
                )
            by_chance += 1
        return by_chance

    def _check_histories(self, starts: np.ndarray, ends: np.ndarray) -> None:
        start, end = self.queries.start, self.queries.end
        _refuse(
            (start < starts) | (end > ends) | (start >= end),
            lambda q: (
                f"The history of {self._query(q)} of {self._user(q)} is at {start[q]}..{end[q] - 1}, which is "
                f"not within {starts[q]}..{ends[q] - 1}"
            ),
        )

    def _query(self, place: int) -> str:
        return f"{self.split} query {self.first + place}"

    def _user(self, place: int) -> str:
        return _user(self.dataset, self.queries.users[place])


def _reaching(log: EventLog, queries: Queries, ends: np.ndarray) -> np.ndarray:
    """Which queries have a target whose event lies in the history and not after it. (Q,) bool

    Those of held-out items lie nowhere.

    Args:
        ends: (Q,) where the events of each query's user end.
    """
    asked = np.ones(len(queries), bool)
    simple = np.flatnonzero((np.diff(queries.target_offsets) == 1) & (queries.end < ends))
    at, target = queries.end[simple], queries.target_offsets[simple]
    same = (log.items[at] == queries.target_items[target]) & (log.actions[at] == queries.target_actions[target])
    asked[simple[same]] = False  # the usual case
    reaching = np.zeros(len(queries), bool)
    for rows in _batches(np.flatnonzero(asked), ends - queries.start):
        some = queries.select(rows)
        targets = _keys(np.diff(some.target_offsets), some.target_items, some.target_actions)
        earlier, later = (
            _keys(lengths, log.items[ranges(starts, lengths)], log.actions[ranges(starts, lengths)])
            for starts, lengths in ((some.start, some.end - some.start), (some.end, ends[rows] - some.end))
        )
        reaching[rows[targets[np.isin(targets, earlier) & ~np.isin(targets, later)] >> _KEY_BITS]] = True
    return reaching


def _runs(log: EventLog, train_end: np.ndarray, queries: Queries) -> Iterator[tuple[int, int, int]]:
    """Query, target and position of that in training, where the query's whole history stands right before it."""
    owners = np.repeat(np.arange(len(queries)), np.diff(queries.target_offsets))
    starts = log.offsets[queries.users][owners]
    lengths = train_end[queries.users][owners] - starts
    last = queries.log.items[queries.end - 1][owners]
    for targets in _batches(np.arange(len(owners)), lengths):
        at, asked = ranges(starts[targets], lengths[targets]), np.repeat(targets, lengths[targets])
        both = (log.items[at] == queries.target_items[asked]) & (log.items[at - 1] == last[asked])
        for position, target in zip(at[both].tolist(), asked[both].tolist(), strict=True):
            query = int(owners[target])
            history = queries.log.items[queries.start[query] : queries.end[query]]
            begin = position - len(history)
            if begin >= starts[target] and np.array_equal(log.items[begin:position], history):
                yield query, int(queries.target_items[target]), position


def _keys(counts: np.ndarray, items: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """One integer each for the number of its owner, who has ``counts`` of them, its item and its action."""
    owners = np.repeat(np.arange(len(counts)), counts)
    return (owners << _KEY_BITS) | (items.astype(np.int64) << 8) | (actions.astype(np.int64) + 1)


def _batches(rows: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of ``lengths``, as many at a time as have a block of events together, at least one."""
    while len(rows):
        count = max(1, int(np.searchsorted(np.cumsum(lengths[rows]), _BLOCK_EVENTS, side="right")))
        part, rows = np.split(rows, [count])
        yield part


def _blocks_of_users(log: EventLog) -> Iterator[tuple[int, np.ndarray]]:
    """The first of some consecutive users, and (u + 1,) where their events begin and the last one's end."""
    first = 0
    while first < log.num_users:
        offsets = np.asarray(log.offsets[first : first + _BLOCK_USERS + 1])
        offsets = offsets[: max(2, int(np.searchsorted(offsets, offsets[0] + _BLOCK_EVENTS, side="right")))]
        yield first, offsets
        first += len(offsets) - 1


def _let_go(log: EventLog) -> None:
    """Keep no pages of a mapped log in memory."""
    for column in (log.items, log.actions, log.times):
        release(column)


def _owner(offsets: np.ndarray, position: int) -> int:
    return int(np.searchsorted(offsets, position, side="right")) - 1


def _refuse(wrong: np.ndarray, sentence: Callable[[int], str]) -> None:
    """Raise InputError about the first place where something is wrong."""
    for place in np.flatnonzero(wrong)[:1]:
        raise InputError(f"{sentence(int(place))}: prepare the dataset again.")


def _user(dataset: Dataset, row: int) -> str:
    return f"user {_name(dataset.user_ids, row)}"


def _name(ids: np.ndarray, row: int) -> str:
    return repr(ids[row : row + 1].tolist()[0])


def _split_facts(dataset: Dataset) -> Mapping[str, Any]:
    report = dataset.artifact.details.get("report", {}) if dataset.artifact else {}
    facts: Mapping[str, Any] = report.get("split", {})
    return facts
