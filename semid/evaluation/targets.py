"""What queries ask for: their distinct target items, with the weight of what was done to each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semid.data.dataset import ranges
from semid.data.events import ACTION_UNKNOWN, Queries
from semid.errors import InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class Targets:
    """The distinct targets of Q queries; query q's are ``offsets[q]:offsets[q + 1]``, heaviest first.

    Attributes:
        items: (G,) int64 item rows.
        weights: (G,) float64.
        offsets: (Q + 1,) int64.

    Raises:
        InputError: a query without targets, or one that asks for no item row.
    """

    items: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        if len(self) and self.counts.min() < 1:
            raise InputError(
                f"Query {self.counts.argmin()} has no target: only queries with targets can be evaluated."
            )
        if self.items.min(initial=0) < 0:
            raise InputError(f"A target is item {self.items.min()}: targets are item rows, from 0 on.")

    @staticmethod
    def of(queries: Queries, action_weights: Sequence[float] | None = None) -> "Targets":
        """Targets with the weight of their actions; an unknown action weighs 1.

        Args:
            action_weights: by action code; every target weighs 1 if None.

        Raises:
            InputError: as the class; an action without a weight, or a weight that is negative or not finite.
        """
        table, place = _weights(queries.target_actions, action_weights)
        items = queries.target_items.astype(np.int64)
        given = Targets(items=items, weights=table[place], offsets=queries.target_offsets)
        if len(items) == len(given):
            return given
        # Query, item and place in the table as one integer: sorting values is several times faster than places.
        item_bits, place_bits = int(items.max()).bit_length(), len(table).bit_length()
        keys = np.sort((given.rows << item_bits | items) << place_bits | place)
        keys = keys[np.diff(keys >> place_bits, prepend=-1) > 0]  # the heaviest of each query and item
        place, keys = keys & ((1 << place_bits) - 1), keys >> place_bits
        rows, items = keys >> item_bits, keys & ((1 << item_bits) - 1)
        keys = np.sort((rows << place_bits | place) << item_bits | items)
        items, place = keys & ((1 << item_bits) - 1), keys >> item_bits & ((1 << place_bits) - 1)
        offsets = np.append(0, np.cumsum(np.bincount(rows, minlength=len(given))))
        return Targets(items=items, weights=table[place], offsets=offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of targets of each query. (Q,) int64"""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """Query of each target. (G,) int64"""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Which of its query's targets each is, from 0 for the heaviest. (G,) int64"""
        return np.zeros(len(self), np.int64) if len(self.items) == len(self) else ranges(0, self.counts)

    @cached_property
    def query_weights(self) -> np.ndarray:
        """Sum of the target weights of each query. (Q,) float64"""
        return self.reduce(np.add, self.weights)

    def reduce(self, operation: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Values of targets (G,) as one of each query (Q,): the sum by ``np.add``, the least by ``np.minimum``."""
        if len(values) == len(self):
            return values
        reduced: np.ndarray = operation.reduceat(values, self.offsets[:-1])
        return reduced


def _weights(actions: np.ndarray, weights: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """The different weights, heaviest first, and where in them each action is. (W,) float64 and (G,) int64"""
    if weights is None:
        return np.ones(1), np.zeros(len(actions), np.int64)
    table = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(table).all() or (table < 0).any():
        raise InputError(f"Action weights {list(weights)} must be finite and not negative.")
    highest = int(actions.max(initial=-1))
    if highest >= len(table):
        raise InputError(f"A target has action {highest} but there are weights for {len(table)} actions only.")
    lightest_last, places = np.unique(-np.append(table, 1.0), return_inverse=True)
    return -lightest_last, places[np.where(actions == ACTION_UNKNOWN, len(table), actions)]
