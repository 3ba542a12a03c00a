"""Ranked items per query: what every way of recommending answers with."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best items of Q queries, best first.

    Attributes:
        items: (Q, k) int64 item rows; -1 where a query has fewer than k results, always at the end.
        scores: (Q, k) float32, not increasing along a row; -inf where items is -1.
        exact: (Q,) bool, whether the list is provably the true top k of its scoring; None if not known.
    """

    items: np.ndarray
    scores: np.ndarray
    exact: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.items)

    def top(self, k: int) -> "Ranking":
        """The first k columns; where the longer list was proven exact the shorter one is, perhaps elsewhere too."""
        return Ranking(self.items[:, :k], self.scores[:, :k], self.exact)

    @staticmethod
    def concatenate(parts: "list[Ranking]") -> "Ranking":
        """Rankings of consecutive batches of queries as one."""
        exact = [part.exact for part in parts if part.exact is not None]
        return Ranking(
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate(exact) if len(exact) == len(parts) else None,
        )
