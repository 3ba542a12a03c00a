"""What every index of item vectors can do: be searched, grow and shrink, and tell how much it finds.

Legend: Q queries, C items, M items that come or go, D width, S seen items, k results.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.exact import check_finite, check_items, exact_search
from semid.selection import is_in


class ItemIndex(ABC):
    """Item vectors that can be searched by inner product. None is changed: what grows or shrinks is a new one.

    Attributes:
        factory: what it was made from: ``"exact"`` or a Faiss factory string.
    """

    factory: str

    @property
    @abstractmethod
    def rows(self) -> np.ndarray:
        """(C,) int64 item rows that can be found, in the order in which they are kept."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Of the vectors, in whatever form they are kept, what helps to find them, and the item rows."""

    @abstractmethod
    def search(self, queries: np.ndarray, k: int, seen: np.ndarray | None = None) -> Ranking:
        """The k items that the index finds nearest to each query, best first.

        Args:
            queries: (Q, D) floats.
            seen: (Q, S) item rows never to return, padded with -1.

        Raises:
            InputError: shapes that do not fit, k < 1, NaN or infinite values.
        """

    @abstractmethod
    def with_items(self, vectors: np.ndarray, item_rows: np.ndarray) -> "ItemIndex":
        """The index of M more items.

        Args:
            vectors: (M, D) floats.
            item_rows: (M,) distinct item rows that it does not have.

        Raises:
            InputError: rows that it has, that repeat or are below 0; vectors of another width or number; NaN or
                infinite values; a kind of Faiss index that cannot grow.
        """

    @abstractmethod
    def without_items(self, item_rows: np.ndarray) -> "ItemIndex":
        """The index without M items.

        Args:
            item_rows: (M,) distinct item rows that it has.

        Raises:
            InputError: rows that it does not have or that repeat, or all of them.
        """

    def __len__(self) -> int:
        return len(self.rows)

    def recall_against_exact(self, queries: np.ndarray, vectors: np.ndarray, k: int) -> float:
        """Share of the exact top k that the index finds.

        Args:
            queries: (Q, D) floats.
            vectors: (C, D) its items' vectors, in the order of ``rows``.
        """
        truth = exact_search(queries, vectors, k, item_rows=self.rows).items
        wanted = truth >= 0
        return float((is_in(truth, self.search(queries, k).items) & wanted).sum() / max(1, wanted.sum()))


def as_matrix(vectors: np.ndarray, what: str) -> np.ndarray:
    """Vectors, one a row, as float32 without gaps.

    Raises:
        InputError: another shape, NaN or infinite values.
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise InputError(f"{what} have shape {matrix.shape}: give a matrix, one vector a row.")
    check_finite(torch.from_numpy(matrix), f"{what} hold")
    return matrix


def check_added(index: ItemIndex, vectors: np.ndarray, item_rows: np.ndarray) -> None:
    """What every index asks of items that come.

    Raises:
        InputError: see :meth:`ItemIndex.with_items`.
    """
    if vectors.shape[1] != index.dim:
        raise InputError(f"New item vectors have width {vectors.shape[1]}, but the index has {index.dim}.")
    if len(vectors):
        check_items(len(vectors), item_rows)
    there = item_rows[np.isin(item_rows, index.rows)]
    if len(there):
        raise InputError(f"Item row {there[0]} ({len(there)} in all) is in the index already: take it out first.")


def check_removed(index: ItemIndex, item_rows: np.ndarray) -> None:
    """What every index asks of items that go.

    Raises:
        InputError: see :meth:`ItemIndex.without_items`.
    """
    if not len(item_rows):
        return
    check_items(len(item_rows), item_rows)
    unknown = item_rows[~np.isin(item_rows, index.rows)]
    if len(unknown):
        raise InputError(f"Item row {unknown[0]} ({len(unknown)} in all) is not in the index: name items it has.")
    if len(item_rows) == len(index):
        raise InputError("No item would be left in the index: keep at least one.")
