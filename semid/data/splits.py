"""How events are cut into training events and queries: the settings, and what is cut piece by piece."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semid.data.building.row_file import BlockReader
from semid.errors import InputError

SPLIT_CODES = {"train": 0, "valid": 1, "test": 2}
PROTOCOLS = ("auto", "leave-last-out", "time", "user", "given")
HELD_OUT_AMONG = ("all", "candidates")
_BLOCK_USERS = 1 << 13
_BLOCK_EVENTS = 1 << 21


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How queries are cut.

    * ``leave-last-out``: a user's last target event is its test query, the one before it the validation query.
    * ``time``: two instants for all users; a user's first target event after each is a query.
    * ``user``: some users are held out entirely; their last target event is the query. This is the offline
      protocol others use for TencentGR-1M: 10 % of users, seed 2025, targets at least a click.
    * ``given``: the input says which events or queries belong to which split. Where it names no validation
      events, every user's last training target event is held out for validation.
    * ``auto``: ``given`` where the input says so, otherwise ``leave-last-out``.

    A query has at least one event of history; a target event without one makes no query.

    Attributes:
        protocol: one of the above.
        target_actions: actions an event needs to be a target; empty means click and whatever is stronger where
            there are clicks (nobody is asked for the next exposure), otherwise any.
        seed: of the choice of users and of items held out.
        test_users, valid_users: share of all users held out by ``user``.
        time_cuts: Unix seconds where validation and test start; None takes them from ``time_shares``.
        time_shares: share of all timed events before each cut.
        candidates_only: drop targets that are not candidates; None means only in ``user``. Queries whose histories
            come with the input are kept as they are.
        hold_out_items: share of the items that occur in training that are made new, so that cold start can be
            judged: their events vanish, from the histories of queries too, but queries still ask for them. A query
            with nothing else in its history is dropped.
        hold_out_among: which items these may be, ``all`` or ``candidates``.
    """

    protocol: str = "auto"
    target_actions: tuple[str, ...] = ()
    seed: int = 2025
    test_users: float = 0.1
    valid_users: float = 0.05
    time_cuts: tuple[int, int] | None = None
    time_shares: tuple[float, float] = (0.8, 0.9)
    candidates_only: bool | None = None
    hold_out_items: float = 0.0
    hold_out_among: str = "all"

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InputError(f"Unknown split protocol {self.protocol!r}: use one of {', '.join(PROTOCOLS)}.")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} must be at least 0.")
        if min(self.test_users, self.valid_users) < 0 or self.test_users + self.valid_users >= 1:
            raise InputError(
                f"test_users={self.test_users} and valid_users={self.valid_users} must leave some users."
            )
        if self.time_cuts is not None and not self.time_cuts[0] < self.time_cuts[1]:
            raise InputError(f"time_cuts={self.time_cuts} must be two increasing instants.")
        if not 0 < self.time_shares[0] <= self.time_shares[1] < 1:
            raise InputError(f"time_shares={self.time_shares} must be two increasing shares between 0 and 1.")
        if not 0 <= self.hold_out_items < 1:
            raise InputError(f"hold_out_items={self.hold_out_items} must be a share from 0 to below 1.")
        if self.hold_out_among not in HELD_OUT_AMONG:
            raise InputError(
                f"Unknown hold_out_among {self.hold_out_among!r}: use one of {', '.join(HELD_OUT_AMONG)}."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitInput:
    """What is to be cut.

    Attributes:
        path: the dataset's directory, with ``events/`` written.
        num_items: N.
        candidates: sorted candidate rows.
        action_names: of the action codes.
        splits_path: int8 split code of each event, None where the input has none.
        ordered: whether the events of a user have an order; without one their codes say which is which.
        given: splits whose queries are already written, with their number.
    """

    path: Path
    num_items: int
    candidates: np.ndarray
    action_names: tuple[str, ...]
    splits_path: Path | None = None
    ordered: bool = True
    given: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive users: ``offsets`` (u + 1,) are absolute, event arrays start at ``offsets[0]``."""

    first_user: int
    offsets: np.ndarray
    items: np.ndarray
    actions: np.ndarray
    times: np.ndarray
    splits: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Picks:
    """Queries of one block: block-relative users, absolute history ends, absolute target positions."""

    users: np.ndarray
    ends: np.ndarray
    target_counts: np.ndarray
    targets: np.ndarray

    @staticmethod
    def single(users: np.ndarray, targets: np.ndarray) -> "Picks":
        """One target each, whose history is all that precedes it."""
        return Picks(users, targets, np.ones(len(users), np.int64), targets)


def user_blocks(source: SplitInput) -> Iterator[Block]:
    """All users in order, some thousands at a time, fewer where they have many events."""
    readers = [BlockReader(source.path / "events" / f"{name}.npy") for name in ("items", "actions", "times")]
    offsets = BlockReader(source.path / "events" / "offsets.npy")
    codes = BlockReader(source.splits_path) if source.splits_path else None
    user = 0
    while user < len(offsets) - 1:
        there = offsets.read(user, user + _BLOCK_USERS + 1)
        fitting = int(np.searchsorted(there, there[0] + _BLOCK_EVENTS, side="right"))
        there = there[: max(2, fitting)]
        span = int(there[0]), int(there[-1])
        items, actions, times = (reader.read(*span) for reader in readers)
        yield Block(user, there, items, actions, times, codes.read(*span) if codes else None)
        user += len(there) - 1
