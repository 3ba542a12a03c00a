"""Several lists as one.

Legend: Q queries, C candidates of the largest union.
"""

from collections.abc import Sequence

import numpy as np

from semid.errors import InputError
from semid.ranking import Ranking


def union(rankings: Sequence[Ranking]) -> np.ndarray:
    """Distinct items of several rankings of the same queries.

    Returns:
        (Q, C) int64 item rows, increasing along a row, padded with -1 at the end; C is the largest union.

    Raises:
        InputError: no ranking, or rankings of different numbers of queries.
    """
    if len({len(ranking) for ranking in rankings}) != 1:
        lengths = ", ".join(str(len(ranking)) for ranking in rankings) or "none"
        raise InputError(f"The rankings to unite must answer the same queries; their lengths are: {lengths}.")
    last = np.iinfo(np.int64).max
    items = np.concatenate([ranking.items for ranking in rankings], axis=1).astype(np.int64)
    items = np.sort(np.where(items < 0, last, items), axis=1)
    repeated = np.zeros(items.shape, bool)
    repeated[:, 1:] = items[:, 1:] == items[:, :-1]
    items = np.sort(np.where(repeated, last, items), axis=1)
    width = int((items < last).sum(axis=1).max(initial=0))
    return np.where(items == last, -1, items)[:, :width]
