"""What follows what: the items that come after an item in training histories, and how strongly.

The neighbourhood method that neural recommenders are measured against, and what they are slow to learn: item-to-item
transitions (Rendle et al. 2010, "Factorizing personalized Markov chains"; Sarwar et al. 2001). Item i follows item j
with the strength Σ 1/d over the pairs at a distance of d ≤ window events in one history, over √(f_j f_i), the
frequencies of both. After a history, an item scores the sum of the strengths with which it follows each event, less
for events further back.

Legend: N items, E stored transitions, Q queries, C candidates a query.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from semid.data.cooccurrence import transition_counts
from semid.data.dataset import Dataset, ranges
from semid.data.events import Queries
from semid.ranking import Ranking

WINDOW = 5
# Followers kept of each item, and events of a history that are looked back at.
_MOST, _BACK = 128, 20
_DECAY = 0.7
# Training events counted: of more than these, the histories of some users drawn at random.
_MOST_EVENTS = 1 << 23


@dataclass(frozen=True, eq=False)
class Transitions:
    """Followers of every item.

    Attributes:
        strengths: (N, N) float32 sparse, row j the items that follow j; at most 128 a row.
    """

    strengths: sp.csr_matrix

    @staticmethod
    def of(dataset: Dataset, *, window: int = WINDOW) -> "Transitions":
        """Count the training events of a dataset; valid and test events are never read.

        Args:
            window: how many positions apart two events of one user may be.
        """
        counted = _some_users(dataset)
        counts = transition_counts(counted, window=window)
        scale = sp.diags(1 / np.sqrt(np.maximum(counted.train_counts, 1)))
        return Transitions(strongest((scale @ counts @ scale).tocsr(), _MOST).astype(np.float32))

    def after(self, queries: Queries) -> "Followers":
        """What follows each query's history."""
        rows, age, items = _backwards(queries, _BACK)
        shape = (len(queries), self.strengths.shape[0])
        weights = (_DECAY**age).astype(np.float32)
        return Followers((sp.csr_matrix((weights, (rows, items)), shape=shape) @ self.strengths).tocsr())

    def sources(self, history: np.ndarray, items: np.ndarray) -> np.ndarray:
        """How many events before the end of one history stands that which each item (C,) follows most.

        Returns:
            (C,) int64, -1 for items that follow none of the events looked back at.
        """
        latest = np.asarray(history[::-1][:_BACK])
        parts = self.strengths[latest][:, items].toarray() * _DECAY ** np.arange(len(latest))[:, None]
        return np.where(parts.any(axis=0), parts.argmax(axis=0), -1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The stored transitions."""
        matrix = self.strengths
        return {"offsets": matrix.indptr.astype(np.int64), "items": matrix.indices, "strengths": matrix.data}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "Transitions":
        """What :meth:`to_arrays` gave."""
        num_items = len(arrays["offsets"]) - 1
        parts = (arrays["strengths"], arrays["items"], arrays["offsets"])
        return Transitions(sp.csr_matrix(parts, shape=(num_items, num_items)))


@dataclass(frozen=True, eq=False)
class Followers:
    """What follows Q histories.

    Attributes:
        scores: (Q, N) float32 sparse.
    """

    scores: sp.csr_matrix

    def of(self, items: np.ndarray) -> np.ndarray:
        """Scores of given items (Q, C), 0 for those that do not follow and for padding -1. (Q, C) float32"""
        matrix = self.scores.sorted_indices()
        num_items = matrix.shape[1]
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        return _look_up(rows * num_items + matrix.indices, matrix.data, items, num_items, np.float32(0))

    def best(self, k: int, candidates: np.ndarray) -> Ranking:
        """The k strongest followers among candidates, the lowest row first of equal ones; lists may end early."""
        allowed = np.zeros(self.scores.shape[1], bool)
        allowed[candidates] = True
        rows = np.repeat(np.arange(self.scores.shape[0]), np.diff(self.scores.indptr))
        usable = allowed[self.scores.indices]
        rows, items, values = rows[usable], self.scores.indices[usable], self.scores.data[usable]
        order = np.lexsort((items, -values, rows))
        rows, items, values = rows[order], items[order], values[order]
        place = ranges(0, np.bincount(rows, minlength=self.scores.shape[0]))
        kept = place < k
        found = np.full((self.scores.shape[0], k), -1, np.int64)
        scores = np.full(found.shape, -np.inf, np.float32)
        found[rows[kept], place[kept]] = items[kept]
        scores[rows[kept], place[kept]] = values[kept]
        return Ranking(found, scores)


def ages(queries: Queries, items: np.ndarray) -> np.ndarray:
    """How many events before the end of its query's history an item stood last: (Q, C) int64, -1 if nowhere.

    Args:
        items: (Q, C) rows, -1 padded.
    """
    rows, age, past = _backwards(queries)
    width = max(int(past.max(initial=0)), int(items.max(initial=0))) + 1
    keys, first = np.unique(rows * width + past, return_index=True)  # the first of a key has the least age
    return _look_up(keys, age[first], items, width, np.int64(-1))


def latest_first(queries: Queries, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different candidates of each history, the one taken last first: queries, rising (M,), and items (M,)."""
    rows, _, past = _backwards(queries)
    there = np.isin(past, candidates)
    rows, past = rows[there], past[there]
    first = np.sort(np.unique(rows * (int(past.max(initial=0)) + 1) + past, return_index=True)[1])
    return rows[first], past[first]


def _look_up(keys: np.ndarray, values: np.ndarray, items: np.ndarray, width: int, missing: np.generic) -> np.ndarray:
    """Of each item (Q, C) the value at the key query · width + item, ``missing`` for others and -1. Keys rise."""
    if not len(keys):
        return np.full(items.shape, missing)
    wanted = np.arange(len(items))[:, None] * width + items
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[at] == wanted) & (items >= 0), values[at], missing)


def _backwards(queries: Queries, most: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, age and item of every event of the histories, or of the latest of each, the latest first. (M,) int64"""
    lengths = queries.end - queries.start if most is None else np.minimum(queries.end - queries.start, most)
    age = ranges(0, lengths)
    items = queries.log.items[np.repeat(queries.end, lengths) - 1 - age]
    return np.repeat(np.arange(len(queries)), lengths), age, items.astype(np.int64)


def _some_users(dataset: Dataset) -> Dataset:
    """The dataset with so many users' training events as can be counted in memory."""
    starts = dataset.events.offsets[:-1]
    lengths = dataset.train_end - starts
    if int(lengths.sum()) <= _MOST_EVENTS:
        return dataset
    order = np.random.default_rng(0).permutation(dataset.num_users)
    left_out = order[np.cumsum(lengths[order]) > _MOST_EVENTS]
    ends = np.array(dataset.train_end)
    ends[left_out] = starts[left_out]
    return replace(dataset, train_end=ends)


def strongest(matrix: sp.csr_matrix, most: int) -> sp.csr_matrix:
    """The most largest entries of every row."""
    lengths = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    kept = np.sort(order[ranges(0, lengths) < most])
    return sp.csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)
