"""Item vectors kept for exact search in torch, on a CPU or a GPU: the index of small catalogues, and the oracle.

Legend: Q queries, C items, D width, k results.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semid.ranking import Ranking
from semid.retrieval.exact import check_items, check_search, search_columns
from semid.retrieval.item_index import ItemIndex, as_matrix, check_added, check_removed

EXACT = "exact"
# Scores of a block of items: what stays in the cache of a core, and what keeps a GPU busy.
_SCORES_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 26}


@dataclass(frozen=True, eq=False)
class ExactIndex(ItemIndex):
    """All vectors, compared with every query.

    A query takes 2 C D operations. One at a time it must also read 4 C D bytes, which takes longer; many at a time
    share them.

    Attributes:
        columns: (D, C) float32, the items in increasing order of row. This way round because products with few
            queries are several times as fast.
        item_rows: (C,) int64, increasing.
    """

    columns: Tensor
    item_rows: np.ndarray
    factory: str = EXACT

    @staticmethod
    def build(
        vectors: np.ndarray, item_rows: np.ndarray | None = None, device: str | torch.device = "cpu"
    ) -> "ExactIndex":
        """Keep vectors for searching.

        Args:
            vectors: (C, D) floats; normalise for cosine.
            item_rows: (C,) distinct item rows; ``0..C-1`` if None.
            device: where they are kept and searched.

        Raises:
            InputError: no items, shapes that do not fit, rows that repeat, NaN or infinite values.
        """
        vectors = as_matrix(vectors, "Item vectors")
        rows = np.arange(len(vectors)) if item_rows is None else np.asarray(item_rows)
        check_items(len(vectors), rows)
        return _in_order(torch.from_numpy(vectors).T.to(device), rows)

    @property
    def rows(self) -> np.ndarray:
        return self.item_rows

    @property
    def dim(self) -> int:
        return len(self.columns)

    @property
    def nbytes(self) -> int:
        return self.columns.nbytes + self.item_rows.nbytes

    def search(self, queries: np.ndarray, k: int, seen: np.ndarray | None = None) -> Ranking:
        """The k nearest items of each query, best first, equal scores by lowest item row; provably so.

        Raises:
            InputError: see :meth:`ItemIndex.search`.
        """
        vectors = torch.from_numpy(as_matrix(queries, "Queries")).to(self.columns.device)
        check_search(vectors.shape, (len(self), self.dim), k, seen)
        block = _SCORES_AT_ONCE.get(vectors.device.type, 1 << 20) // min(max(len(vectors), 1), 256)
        return search_columns(vectors, lambda low, high: self.columns[:, low:high], self.item_rows, k, seen, block)

    def with_items(self, vectors: np.ndarray, item_rows: np.ndarray) -> "ExactIndex":
        vectors, rows = as_matrix(vectors, "New item vectors"), np.asarray(item_rows)
        check_added(self, vectors, rows)
        added = torch.from_numpy(vectors).T.to(self.columns.device)
        return _in_order(torch.cat([self.columns, added], dim=1), np.concatenate([self.item_rows, rows]))

    def without_items(self, item_rows: np.ndarray) -> "ExactIndex":
        rows = np.asarray(item_rows)
        check_removed(self, rows)
        kept = ~np.isin(self.item_rows, rows)
        return ExactIndex(self.columns[:, torch.from_numpy(kept).to(self.columns.device)], self.item_rows[kept])


def _in_order(columns: Tensor, rows: np.ndarray) -> ExactIndex:
    """An index of vectors (D, C) and their rows in any order."""
    order = np.argsort(rows, kind="stable")
    places = torch.from_numpy(order).to(columns.device)
    return ExactIndex(columns.index_select(1, places), rows[order].astype(np.int64))
