"""What lists show: how often each candidate, how unequally, and how surprising their items are."""

import numpy as np

from semid.evaluation.matching import blocks


def times_shown(items: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """How many lists have each candidate. (C,) int64

    Args:
        items: (Q, k) item rows, -1 where a list is shorter.
        candidates: (C,) distinct item rows.
    """
    times = np.zeros(max(int(items.max(initial=0)), int(candidates.max())) + 2, np.int64)
    for rows in blocks(*items.shape):
        np.add.at(times, items[rows].ravel(), 1)  # -1 goes to the last place, which is of no item
    shown: np.ndarray = times[candidates]
    return shown


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of n counts, not all 0: 0 where all are the same, 1 - 1/n where all but one are 0.

    Half the mean absolute difference of two counts over their mean; with the counts x in rising order,
    sum_i (2 i - n - 1) x_i / (n sum_i x_i), i = 1 … n.
    """
    rising, n = np.sort(counts), len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ rising / (n * rising.sum()))


def mean_of_listed(items: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean value of the items of each list, 0 where it is empty, and whether it is not. (Q,) float64 and bool

    Args:
        items: (Q, k) item rows, -1 where a list is shorter.
        values: (N + 1,) by item, and 0 for the row -1.
    """
    total, listed = np.empty(len(items)), np.empty(len(items), np.int64)
    for rows in blocks(*items.shape):
        values[items[rows]].sum(axis=1, out=total[rows])
        (items[rows] >= 0).sum(axis=1, out=listed[rows])
    return total / np.maximum(listed, 1), listed > 0
