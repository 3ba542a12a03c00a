"""Several lists as one: their union, and short ones filled from another.

Legend: Q queries, C candidates of the largest union, k results.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.errors import InputError
from semid.ranking import Ranking


@dataclass(frozen=True, eq=False, kw_only=True)
class Filled:
    """Generated lists with their free places filled from retrieved ones.

    Attributes:
        ranking: the filled lists.
        filled: (Q,) int64 places that were filled; 0 where the generated list was long enough.
    """

    ranking: Ranking
    filled: np.ndarray


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


def fill(generated: Ranking, retrieved: Ranking, k: int) -> Filled:
    """Fill the places a generated list leaves free with the best retrieved items it does not hold.

    Filled items keep the order of the retrieved list and score below every generated one: the last generated
    score (0 if none) less 1 less what they lose to the best retrieved item.

    Args:
        generated: lists of any length, perhaps short or empty.
        retrieved: the same queries; k + the length of the generated list suffices to fill every place.

    Raises:
        InputError: rankings of different numbers of queries, or k < 1.
    """
    if len(generated) != len(retrieved):
        raise InputError(f"There are {len(generated)} generated but {len(retrieved)} retrieved lists.")
    if k < 1:
        raise InputError(f"{k} results per query were asked for: k must be at least 1.")
    own_items, own_scores = generated.items[:, :k], generated.scores[:, :k].astype(np.float64)
    kept = (own_items >= 0).sum(axis=1)
    # Only what stays in the list counts as present.
    fresh = (retrieved.items >= 0) & ~(retrieved.items[:, :, None] == own_items[:, None, :]).any(axis=2)
    floor = np.where(own_items >= 0, own_scores, 0).min(axis=1, initial=0) - 1
    best = retrieved.scores[:, :1].astype(np.float64)
    with np.errstate(invalid="ignore"):  # -inf - -inf of empty lists, masked right after
        lost = retrieved.scores - best
    items = np.concatenate([own_items, np.where(fresh, retrieved.items, -1)], axis=1)
    scores = np.concatenate([own_scores, np.where(fresh, floor[:, None] + lost, -np.inf)], axis=1)
    order = np.argsort(items < 0, axis=1, kind="stable")[:, :k]
    ranking = Ranking.padded(np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1), k)
    filled = (ranking.items >= 0).sum(axis=1) - kept
    bound = None if generated.bound is None else np.where(filled, np.float32(np.inf), generated.bound)
    return Filled(ranking=Ranking(ranking.items, ranking.scores, bound), filled=filled)
