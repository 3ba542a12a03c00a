"""Item-to-item neighbours: the baselines that every learned recommender is measured against.

Legend: N items, Q queries, k results, D width.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.data.transitions import Transitions, strongest
from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.exact import exact_search
from semid.selection import is_in

_NEIGHBOURS = 200
_BLOCK_ITEMS = 1 << 13
_DECAY = 0.7


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


@dataclass(frozen=True, eq=False)
class ContentNeighbours:
    """Items by what they are alone, whoever took them.

    Attributes:
        vectors: (N, D) float32 unit vectors, zeros where an item has none.
    """

    vectors: np.ndarray

    @staticmethod
    def of(content: np.ndarray, known: np.ndarray) -> "ContentNeighbours":
        """From vectors (N, D) of any length, and (N,) bool which items have one."""
        vectors = np.where(known[:, None], content, 0).astype(np.float32)
        return ContentNeighbours(
            vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        )

    def ranking(self, queries: Queries, candidates: np.ndarray, k: int, seen: np.ndarray | None = None) -> Ranking:
        """The k candidates whose content is most like that of the history, by cosine, later events weighing more.

        Args:
            candidates, seen: as in :func:`followers_ranking`.

        Raises:
            InputError: no candidate has content.
        """
        rows = candidates[self.vectors[candidates].any(1)]
        if not len(rows):
            raise InputError("No candidate has content to be compared by: use embeddings that items have.")
        wanted = _profiles(queries, len(self.vectors)) @ self.vectors
        found = exact_search(wanted, self.vectors[rows], k, rows, seen)
        blank = ~wanted.any(1)[:, None]  # nothing known of the history, nothing to say
        return Ranking(np.where(blank, -1, found.items), np.where(blank, -np.inf, found.scores))


def _profiles(queries: Queries, num_items: int) -> sp.csr_matrix:
    """(Q, N) weights of the items of each history, less the further back."""
    lengths = queries.end - queries.start
    query = np.repeat(np.arange(len(queries)), lengths)
    place = np.arange(len(query)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = queries.log.items[np.repeat(queries.start, lengths) + place]
    weights = (_DECAY ** (np.repeat(lengths, lengths) - 1 - place)).astype(np.float32)
    return sp.csr_matrix((weights, (query, items)), shape=(len(queries), num_items))
