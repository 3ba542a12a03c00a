"""The split protocols: each turns a block of users into training ends and queries.

In every protocol the training events of a user are a prefix of its events.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from semid.data.building.row_file import BlockReader
from semid.data.dataset import SPLITS
from semid.data.events import TIME_MISSING
from semid.data.splits import SPLIT_CODES, Block, Picks, SplitConfig, SplitInput, user_blocks
from semid.errors import InputError


@dataclass
class Cutter:
    """One protocol at work: state that is carried from block to block, and what it dropped."""

    config: SplitConfig
    source: SplitInput
    actions: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def count(self, what: str, number: int) -> None:
        if number:
            self.facts[what] = self.facts.get(what, 0) + int(number)

    def eligible(self, block: Block) -> np.ndarray:
        """Absolute positions of the events that may be targets, increasing."""
        positions: np.ndarray = np.arange(len(block.items)) + block.offsets[0]
        if len(self.actions):
            positions = positions[np.isin(block.actions, self.actions)]
        return positions


Cut = Callable[[Block], tuple[np.ndarray, dict[str, Picks]]]


def _last(eligible: np.ndarray, starts: np.ndarray, ends: np.ndarray, back: int = 0) -> np.ndarray:
    """Per user the eligible position in ``starts:ends`` that has ``back`` eligible ones after it, or -1. (u,)"""
    low, high = np.searchsorted(eligible, starts), np.searchsorted(eligible, ends)
    found = high - 1 - back
    padded = np.append(eligible, -1)
    return np.where(found >= low, padded[np.where(found >= low, found, -1)], -1)


def _first(eligible: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Per user the first eligible position in ``starts:ends``, or -1. (u,)"""
    found = np.searchsorted(eligible, starts)
    padded = np.append(eligible, np.iinfo(np.int64).max)[found]
    return np.where(padded < ends, padded, -1)


def _with_history(block: Block, targets: np.ndarray) -> np.ndarray:
    """Targets (u,), -1 where there is none or nothing precedes it."""
    return np.where(targets > block.offsets[:-1], targets, -1)


def _picks(targets: np.ndarray) -> Picks:
    users = np.flatnonzero(targets >= 0)
    return Picks.single(users, targets[users])


def leave_last_out(cutter: Cutter) -> Cut:
    """The last target event of each user for testing, the one before it for validation."""

    def cut(block: Block) -> tuple[np.ndarray, dict[str, Picks]]:
        eligible, starts, ends = cutter.eligible(block), block.offsets[:-1], block.offsets[1:]
        test = _with_history(block, _last(eligible, starts, ends))
        valid = _with_history(block, _last(eligible, starts, ends, back=1))
        valid = np.where(test >= 0, valid, -1)
        cutter.count("users_without_test_query", (test < 0).sum())
        train_end = np.where(valid >= 0, valid, np.where(test >= 0, test, ends))
        return train_end, {"valid": _picks(valid), "test": _picks(test)}

    return cut


def time_cut(cutter: Cutter) -> Cut:
    """Everything before the first cut trains; the first target event after each cut is a query.

    An event without a time counts as simultaneous with the one before it; events before a user's first time
    train.
    """
    config = cutter.config
    valid_from, test_from = config.time_cuts or _time_quantiles(cutter.source, config.time_shares)
    if valid_from >= test_from:
        raise InputError(
            f"Both time cuts fall on {test_from}: too many events share a time; give time_cuts or other time_shares."
        )
    cutter.facts["time_cuts"] = [int(valid_from), int(test_from)]

    def cut(block: Block) -> tuple[np.ndarray, dict[str, Picks]]:
        eligible, starts, ends = cutter.eligible(block), block.offsets[:-1], block.offsets[1:]
        times = _filled_times(block)
        cuts = []
        for instant in (valid_from, test_from):
            late = np.flatnonzero(times >= instant) + block.offsets[0]
            first = _first(late, starts, ends)
            cuts.append(np.where(first >= 0, first, ends))
        valid = _with_history(block, _first(eligible, cuts[0], cuts[1]))
        test = _with_history(block, _first(eligible, cuts[1], ends))
        return cuts[0], {"valid": _picks(valid), "test": _picks(test)}

    return cut


def _filled_times(block: Block) -> np.ndarray:
    """Times with missing ones taken from the event before, TIME_MISSING where the user has none yet."""
    starts = block.offsets[:-1] - block.offsets[0]
    source = np.where(block.times != TIME_MISSING, np.arange(len(block.times)), -1)
    source[starts[starts < len(source)]] = starts[starts < len(source)]
    return block.times[np.maximum.accumulate(source)] if len(source) else block.times


def _time_quantiles(source: SplitInput, shares: tuple[float, float]) -> tuple[int, int]:
    """The times below which the given shares of timed events lie, exactly, in memory independent of them."""
    low, high, total = np.iinfo(np.int64).max, np.iinfo(np.int64).min, 0
    for block in user_blocks(source):
        known = block.times[block.times != TIME_MISSING]
        if len(known):
            low, high, total = min(low, int(known.min())), max(high, int(known.max())), total + len(known)
    if not total:
        raise InputError("Protocol 'time' needs timestamps: add a timestamp column or use another protocol.")
    first, second = (_order_statistic(source, int(share * total), low, high) for share in shares)
    return first, second


def _order_statistic(source: SplitInput, rank: int, low: int, high: int) -> int:
    """The time of number ``rank`` in sorted order, by ever finer histograms of ``low..high``."""
    while low < high:
        width = -(-(high - low + 1) // (1 << 16))
        counts = np.zeros((high - low) // width + 1, np.int64)
        for block in user_blocks(source):
            inside = block.times[(block.times >= low) & (block.times <= high)]
            counts += np.bincount((inside - low) // width, minlength=len(counts))
        before = np.cumsum(counts)
        chosen = int(np.searchsorted(before, rank, side="right"))
        rank -= int(before[chosen - 1]) if chosen else 0
        low, high = low + chosen * width, min(high, low + (chosen + 1) * width - 1)
    return low


def user_split(cutter: Cutter) -> Cut:
    """Some users for testing, some for validation, by sampling without replacement block by block."""
    config = cutter.config
    num_users = len(BlockReader(cutter.source.path / "events" / "offsets.npy")) - 1
    test, valid = int(config.test_users * num_users), int(config.valid_users * num_users)
    left = np.array([test, valid, num_users - test - valid])
    rng = np.random.default_rng(config.seed)

    def cut(block: Block) -> tuple[np.ndarray, dict[str, Picks]]:
        nonlocal left
        starts, ends = block.offsets[:-1], block.offsets[1:]
        taken = rng.multivariate_hypergeometric(left, len(starts))
        left = left - taken
        role = rng.permutation(np.repeat([2, 1, 0], taken))
        targets = _with_history(block, _last(cutter.eligible(block), starts, ends))
        for name, code in (("test", 2), ("valid", 1)):
            cutter.count(f"{name}_users_without_target", ((role == code) & (targets < 0)).sum())
        picks = {name: _picks(np.where(role == code, targets, -1)) for name, code in (("valid", 1), ("test", 2))}
        return np.where(role == 0, ends, starts), picks

    return cut


def given_split(cutter: Cutter) -> Cut:
    """What the input says, by a code of each event; splits with queries of their own only need ``train_end``."""
    hold_out = not _names_validation(cutter.source)
    if hold_out:
        cutter.facts["validation"] = "last training target event of each user, as the input names none"

    def cut(block: Block) -> tuple[np.ndarray, dict[str, Picks]]:
        starts, ends = block.offsets[:-1], block.offsets[1:]
        codes = np.zeros(len(block.items), np.int8) if block.splits is None else block.splits
        held_out = _first(np.flatnonzero(codes != 0) + block.offsets[0], starts, ends)
        train_end = np.where(held_out >= 0, held_out, ends)
        within = np.repeat(train_end, np.diff(block.offsets)) - block.offsets[0]
        cutter.count("train_events_after_a_held_out_event", (codes[np.arange(len(codes)) >= within] == 0).sum())
        picks = {name: _coded(cutter, block, codes, name, train_end) for name in SPLITS}
        if hold_out:
            valid = _with_history(block, _last(cutter.eligible(block), starts, train_end))
            train_end = np.where(valid >= 0, valid, train_end)
            picks["valid"] = _picks(valid)
        return train_end, picks

    return cut


def _names_validation(source: SplitInput) -> bool:
    if "valid" in source.given:
        return True
    codes = SPLIT_CODES["valid"]
    return source.splits_path is not None and any(
        bool((block.splits == codes).any()) for block in user_blocks(source) if block.splits is not None
    )


def _coded(cutter: Cutter, block: Block, codes: np.ndarray, name: str, train_end: np.ndarray) -> Picks:
    """Queries from the events of one code: one each, or one a user where events have no order."""
    eligible = cutter.eligible(block)
    targets = eligible[codes[eligible - block.offsets[0]] == SPLIT_CODES[name]]
    users = np.searchsorted(block.offsets, targets, side="right") - 1
    if cutter.source.ordered:
        keep = targets > block.offsets[users]
        cutter.count(f"{name}_events_without_history", (~keep).sum())
        return Picks.single(users[keep], targets[keep])
    keep = train_end[users] > block.offsets[users]
    cutter.count(f"{name}_events_without_history", (~keep).sum())
    owners, counts = np.unique(users[keep], return_counts=True)
    return Picks(owners, train_end[owners], counts, targets[keep])


CUTS: Mapping[str, Callable[[Cutter], Cut]] = {
    "leave-last-out": leave_last_out,
    "time": time_cut,
    "user": user_split,
    "given": given_split,
}
