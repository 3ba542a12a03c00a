"""What is known of the items: which are candidates, how often training met each, and what their codes begin with."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semid.codes import SemanticIds
from semid.errors import InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """Facts of N items; what is not known is None, and the metrics made of it are left out.

    Attributes:
        candidates: (C,) item rows that may be recommended.
        train_counts: (N,) training events by item.
        codes: (N, L) int, from coarse to fine.

    Raises:
        InputError: no candidates, or facts of another number of items.
    """

    candidates: np.ndarray | None = None
    train_counts: np.ndarray | None = None
    codes: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.candidates is not None:
            if not len(self.candidates):
                raise InputError("There are no candidate items: give at least one item row.")
            object.__setattr__(self, "candidates", np.flatnonzero(np.bincount(self.candidates)))
        if self.train_counts is not None and self.codes is not None and len(self.codes) != len(self.train_counts):
            raise InputError(
                f"There are codes of {len(self.codes)} items but training events of {len(self.train_counts)}: "
                "both must be of the same items."
            )

    def require(self, items: np.ndarray, where: str) -> None:
        """Raise if some of the item rows are of no item that the pool knows."""
        known = [len(facts) for facts in (self.train_counts, self.codes) if facts is not None]
        highest = int(items.max(initial=-1))
        if known and highest >= known[0]:
            raise InputError(f"{where} item {highest} but there are {known[0]} items, from 0 on.")

    @cached_property
    def slices(self) -> dict[str, np.ndarray]:
        """By name, whether each item belongs to a part of the catalogue; every item belongs to one. (N,) bool each

        ``Cold`` has no training event. ``Head`` are the most popular items that together make 80 % of the training
        events, the usual 80/20 cut (Yin et al., Challenging the Long Tail Recommendation, PVLDB 5(9), 2012); items
        as popular as the last of them belong to it too, so that the order of rows decides nothing. ``Tail`` is the
        rest.
        """
        if self.train_counts is None:
            return {}
        falling = np.sort(self.train_counts)[::-1]
        events = np.cumsum(falling, dtype=np.int64)
        last = int(np.searchsorted(5 * events, 4 * events[-1])) if len(events) else 0
        least = max(int(falling[last]), 1) if len(events) else 1
        cold, head = self.train_counts == 0, self.train_counts >= least
        return {"Cold": cold, "Tail": ~(cold | head), "Head": head}

    @cached_property
    def information(self) -> np.ndarray | None:
        """Self-information of each item in bits, and 0 for the row -1. (N + 1,) float64

        -log2 p, where p = (c + 1) / (sum of c + N) is the share of the item's c training events, by Laplace's rule
        so that an item never seen has one.
        """
        if self.train_counts is None:
            return None
        shares = (self.train_counts + 1.0) / (self.train_counts.sum() + len(self.train_counts))
        return np.append(-np.log2(shares), 0.0)

    @cached_property
    def prefixes(self) -> tuple[np.ndarray, ...]:
        """One integer for the first 1 … L - 1 codes of each item, and -1 for the row -1. (N + 1,) int64 each"""
        if self.codes is None:
            return ()
        ids = SemanticIds(self.codes, tuple(int(code) + 1 for code in self.codes.max(axis=0, initial=0)))
        return tuple(np.append(ids.keys(levels=level), -1) for level in range(1, ids.num_levels))
