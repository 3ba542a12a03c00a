"""Ranked items per query: what every way of recommending answers with."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best items of Q queries, best first.

    Attributes:
        items: (Q, k) int64 item rows; -1 where a query has fewer than k results, always at the end.
        scores: (Q, k) float32, not increasing along a row; -inf where items is -1.
        bound: (Q,) float32, the most that an item not listed may score; None if not known.
    """

    items: np.ndarray
    scores: np.ndarray
    bound: np.ndarray | None = None

    @property
    def exact(self) -> np.ndarray | None:
        """(Q,) bool, whether the list is provably the true top k of its scoring; None if not known."""
        return None if self.bound is None else self.bound <= self.scores[:, -1]

    def __len__(self) -> int:
        return len(self.items)

    def top(self, k: int) -> "Ranking":
        """The first k columns."""
        if self.bound is None or k >= self.items.shape[1]:
            return Ranking(self.items[:, :k], self.scores[:, :k], self.bound)
        return Ranking(self.items[:, :k], self.scores[:, :k], np.maximum(self.bound, self.scores[:, k]))

    def scores_of(self, items: np.ndarray) -> np.ndarray:
        """The scores that items (Q, C) have in the lists; NaN where they are not in them. (Q, C)"""
        width = int(max(self.items.max(initial=-1), items.max(initial=-1))) + 2
        row = np.arange(len(self.items))[:, None] * width + 1
        keys, wanted = (self.items + row).ravel(), items + row
        order = np.argsort(keys, kind="stable")
        at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
        scores: np.ndarray = np.where((keys[at] == wanted) & (items >= 0), self.scores.ravel()[at], np.nan)
        return scores

    def select(self, rows: np.ndarray) -> "Ranking":
        """Those of some queries, (R,) places."""
        return Ranking(self.items[rows], self.scores[rows], None if self.bound is None else self.bound[rows])

    @staticmethod
    def padded(items: np.ndarray, scores: np.ndarray, k: int) -> "Ranking":
        """A ranking of k columns from at most as many: -1 and -inf where there are no more."""
        missing = ((0, 0), (0, k - items.shape[1]))
        scores = np.where(items < 0, -np.inf, scores)
        return Ranking(
            np.pad(items, missing, constant_values=-1),
            np.pad(scores, missing, constant_values=-np.inf).astype(np.float32),
        )

    @staticmethod
    def concatenate(parts: "list[Ranking]") -> "Ranking":
        """Rankings of consecutive batches of queries as one."""
        bounds = [part.bound for part in parts if part.bound is not None]
        return Ranking(
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate(bounds) if len(bounds) == len(parts) else None,
        )
