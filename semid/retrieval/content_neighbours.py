"""Items by what they are alone, whoever took them: how like the content of a history they are.

Legend: N items, Q queries, C items of each query, D width, k results.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from semid.data.events import Queries
from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.exact import exact_search

_DECAY = 0.7
# Numbers gathered at a time: what stays in the cache.
_GATHERED = 1 << 19


@dataclass(frozen=True, eq=False)
class ContentNeighbours:
    """Content of items, compared by cosine.

    Attributes:
        content: (N, D) float32 of any length.
        scale: (N,) float32, 1 / length; 0 where nothing is known of an item.
    """

    content: np.ndarray
    scale: np.ndarray

    @staticmethod
    def of(content: np.ndarray, known: np.ndarray) -> "ContentNeighbours":
        """From vectors (N, D), and (N,) bool which items have one."""
        lengths = np.sqrt(np.einsum("nd,nd->n", content, content))
        scale = np.divide(1, lengths, out=np.zeros(len(lengths), np.float32), where=known & (lengths > 0))
        return ContentNeighbours(content, scale)

    def unit_vectors(self, rows: np.ndarray) -> np.ndarray:
        """(R, D) of some items; zeros where nothing is known."""
        vectors: np.ndarray = self.content[rows] * self.scale[rows, None]
        return vectors

    def profiles(self, queries: Queries) -> np.ndarray:
        """(Q, D) unit vectors of the histories, the sum of their items', later ones weighing more.

        Zeros where nothing is known of any item.
        """
        lengths = queries.end - queries.start
        query = np.repeat(np.arange(len(queries)), lengths)
        place = np.arange(len(query)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        items = queries.log.items[np.repeat(queries.start, lengths) + place]
        weights = _DECAY ** (np.repeat(lengths, lengths) - 1 - place) * self.scale[items]
        shape = (len(queries), len(self.content))
        sums = sp.csr_matrix((weights.astype(np.float32), (query, items)), shape=shape) @ self.content
        profiles: np.ndarray = sums / np.maximum(
            np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny
        )
        return profiles

    def cosines(self, profiles: np.ndarray, items: np.ndarray) -> np.ndarray:
        """(Q, C) of profiles (Q, D) and items (Q, C); 0 where either is not known, and for item -1."""
        found = np.empty(items.shape, np.float32)
        rows = np.maximum(items, 0)
        step = max(_GATHERED // max(items.shape[1] * self.content.shape[1], 1), 1)
        for first in range(0, len(items), step):
            part = slice(first, first + step)
            found[part] = np.matmul(self.content[rows[part]], profiles[part, :, None])[..., 0]
        return np.where(items < 0, 0, found * self.scale[rows])

    def ranking(self, queries: Queries, candidates: np.ndarray, k: int, seen: np.ndarray | None = None) -> Ranking:
        """The k candidates most like the history.

        Args:
            candidates: (C,) item rows that may be recommended.
            seen: (Q, S) item rows never to return, padded with -1.

        Raises:
            InputError: no candidate has content.
        """
        rows = self.known(candidates)
        if not len(rows):
            raise InputError("No candidate has content to be compared by: use embeddings that items have.")
        profiles = self.profiles(queries)
        return where_known(profiles, exact_search(profiles, self.unit_vectors(rows), k, rows, seen))

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Those of some items of which something is known."""
        return rows[np.flatnonzero(self.scale[rows])]


def where_known(profiles: np.ndarray, ranking: Ranking) -> Ranking:
    """The lists of those profiles that are not zeros: nothing known of the history, nothing to say."""
    blank = np.max(np.abs(profiles), axis=1, keepdims=True) == 0
    return Ranking(np.where(blank, -1, ranking.items), np.where(blank, -np.inf, ranking.scores))
