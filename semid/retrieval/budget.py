"""One list from several, each with a share of its places, as PinRec's outcome budgets (arXiv 2504.10507).

Legend: Q queries, k places, A lists.
"""

from collections.abc import Sequence

import numpy as np

from semid.errors import InputError
from semid.ranking import Ranking


def fill_budget(rankings: Sequence[Ranking], places: Sequence[int]) -> Ranking:
    """Lists of Σ places items: from each ranking its best items that no place before has, in even alternation.

    Each next place goes to the ranking that is furthest behind its share; where a ranking has no further item, the
    others take its places.

    Args:
        rankings: of the same queries, with at least Σ places columns each, so that what others took is made up for.
        places: how many places each has, A numbers of at least 0.

    Returns:
        Items in the order of the places; scores are minus the place, as those of different rankings do not compare.

    Raises:
        InputError: not one number a ranking, or none above 0.
    """
    k = sum(places)
    if len(places) != len(rankings) or min(places, default=0) < 0 or not k:
        raise InputError(f"A budget of {list(places)} places does not fit {len(rankings)} rankings.")
    turns = _turns(places)
    filled = np.full((len(rankings[0]), k), -1, np.int64)
    for query, row in enumerate(filled):
        left = [iter([item for item in ranking.items[query].tolist() if item >= 0]) for ranking in rankings]
        taken: set[int] = set()
        for place, turn in enumerate(turns):
            order = [left[turn], *left]
            item = next((item for source in order for item in source if item not in taken), None)
            if item is None:
                break
            row[place] = item
            taken.add(item)
    return Ranking.padded(filled, np.where(filled < 0, -np.inf, -np.arange(k, dtype=np.float64)), k)


def _turns(places: Sequence[int]) -> list[int]:
    """Whose turn each place is: the one that is furthest behind its share, the first of equals."""
    given, total, turns = np.zeros(len(places)), sum(places), []
    for place in range(1, total + 1):
        behind = np.array(places) * place / total - given
        turn = int(behind.argmax())
        given[turn] += 1
        turns.append(turn)
    return turns
