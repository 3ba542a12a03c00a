"""User columns by which the targets of queries can be told: a sign that they were made from what users did later."""

import numpy as np

from semid.data.events import Queries
from semid.data.features import FIELD_RESERVED, Fields

# A column tells the targets if it names this share of those it could name, and this much more often than the
# commonest target is right, of at least so many; so many queries are looked at.
_SEED = 271828  # not one that data may have been made with
_SHARE, _ABOVE_CHANCE, _FEWEST, _MOST_QUERIES = 0.5, 2.0, 50, 1 << 16


def telling_columns(columns: Fields, queries: Queries) -> list[str]:
    """Single-value columns of users that name the first target of their queries.

    One half of the users says which target goes with each value, and the other half is asked: a column of many
    values, each of which few users have, does not tell by that alone.

    Args:
        columns: of the users, by row.
    """
    if not columns.names or not len(queries):
        return []
    sample = queries.sample(_MOST_QUERIES)
    sample = sample.select(np.unique(sample.users, return_index=True)[1])
    targets = sample.target_items[sample.target_offsets[:-1]].astype(np.int64)
    learned = np.random.default_rng(_SEED).random(len(sample)) < 0.5
    asked = ~learned & np.isin(targets, targets[learned])
    if asked.sum() < _FEWEST:
        return []
    enough = max(_SHARE * asked.sum(), _ABOVE_CHANCE * np.bincount(targets[asked]).max(), _FEWEST)
    values = np.asarray(columns.values[sample.users], np.int64)
    telling = []
    for name, column in zip(columns.names, values.T, strict=True):
        guess = _commonest(column[learned], targets[learned], column)
        if (asked & (guess == targets) & (column >= FIELD_RESERVED)).sum() >= enough:
            telling.append(name)
    return telling


def _commonest(values: np.ndarray, targets: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The target that each asked value stands with most often, -1 if with none."""
    pairs, counts = np.unique(np.stack([values, targets], axis=1), axis=0, return_counts=True)
    pairs = pairs[np.lexsort((counts, pairs[:, 0]))]  # of each value the commonest last
    place = np.searchsorted(pairs[:, 0], asked, side="right") - 1
    return np.where((place >= 0) & (pairs[place, 0] == asked), pairs[place, 1], -1)
