"""Lists with at most one item of each group, such as a series, a maker or a cluster.

Legend: Q queries, C places, N items.
"""

from dataclasses import replace

import numpy as np

from semid.ranking import Ranking


def first_of_each(ranking: Ranking, groups: np.ndarray) -> Ranking:
    """Every list without the items that come after one of the same group.

    Args:
        ranking: lists of C places.
        groups: (N,) int64, the group of each item; -1 of none, which is never left out.

    Returns:
        Lists of C places, padded with -1. What is left out need not be bounded, so the bound stays.
    """
    items = ranking.items
    group = np.where(items < 0, -1, groups[np.maximum(items, 0)])
    order = np.argsort(group, axis=1, kind="stable")
    ordered = np.take_along_axis(group, order, axis=1)
    repeated = np.zeros(items.shape, bool)
    repeated[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    again = np.empty(items.shape, bool)
    np.put_along_axis(again, order, repeated, axis=1)
    kept = np.argsort(again, axis=1, kind="stable")
    gone = np.take_along_axis(again, kept, axis=1)
    return replace(
        ranking,
        items=np.where(gone, -1, np.take_along_axis(items, kept, axis=1)),
        scores=np.where(gone, -np.inf, np.take_along_axis(ranking.scores, kept, axis=1)),
    )
