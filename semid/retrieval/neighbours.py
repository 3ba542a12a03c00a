"""Item-kNN: the items that the same users took, a baseline that every learned recommender is measured against.

Legend: N items, Q queries, k results.
"""

import numpy as np
import scipy.sparse as sp

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.data.transitions import Transitions, strongest
from semid.ranking import Ranking
from semid.selection import is_in

_NEIGHBOURS = 200
_BLOCK_ITEMS = 1 << 13


def item_knn(dataset: Dataset) -> Transitions:
    """Cosine of the sets of users who took an item in training: as strengths of what follows what.

    Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms". The 200 nearest of each item
    are kept; an item is no neighbour of its own.
    """
    rows = np.concatenate([*dataset.training_rows(), np.empty(0, np.int64)])
    users = np.searchsorted(dataset.events.offsets, rows, side="right") - 1
    shape = (dataset.num_users, dataset.num_items)
    taken = sp.csr_matrix((np.ones(len(rows), np.float32), (users, dataset.events.items[rows])), shape=shape)
    taken.data[:] = 1
    lengths = np.sqrt(np.maximum(np.asarray(taken.sum(0)).ravel(), 1))
    unit = (taken @ sp.diags(1 / lengths)).astype(np.float32).tocsc()
    blocks = []
    for first in range(0, dataset.num_items, _BLOCK_ITEMS):
        similar = (unit[:, first : first + _BLOCK_ITEMS].T @ unit).tocoo()
        other = similar.col != similar.row + first
        parts = (similar.data[other], (similar.row[other], similar.col[other]))
        blocks.append(strongest(sp.csr_matrix(parts, shape=similar.shape), _NEIGHBOURS))
    return Transitions(sp.vstack(blocks).tocsr())


def followers_ranking(
    neighbours: Transitions, queries: Queries, candidates: np.ndarray, k: int, seen: np.ndarray | None = None
) -> Ranking:
    """The k candidates nearest to the latest events of each history, later ones weighing more.

    Args:
        candidates: (C,) item rows that may be recommended.
        seen: (Q, S) item rows never to return, padded with -1.

    Returns:
        Lists may end early: only neighbours of the history are found.
    """
    hidden = 0 if seen is None else seen.shape[1]
    found = neighbours.after(queries).best(k + hidden, candidates)
    shown = found.items >= 0 if seen is None else (found.items >= 0) & ~is_in(found.items, seen)
    order = np.argsort(~shown, axis=1, kind="stable")[:, :k]
    items = np.where(shown, found.items, -1)
    return Ranking.padded(
        np.take_along_axis(items, order, axis=1), np.take_along_axis(found.scores, order, axis=1), k
    )
