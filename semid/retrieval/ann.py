"""Approximate nearest items by inner product, with any Faiss index.

Legend: Q queries, C items, P positions in the index, M items that come or go, D width, k results.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval import faiss_kinds
from semid.retrieval.exact import check_items, check_search
from semid.retrieval.item_index import ItemIndex, as_matrix, check_added, check_removed
from semid.selection import is_in

INDEX_NAME = "index.faiss"
ROWS_NAME = "index_rows.safetensors"
# Items added and removed, over those at the build, from which on it is time to build anew.
_MOST_CHANGED = 0.3


@dataclass(frozen=True, eq=False)
class AnnIndex(ItemIndex):
    """Item vectors in a Faiss index.

    Removed items leave inverted lists (IVF); other kinds cannot forget, and only hide them.

    Attributes:
        index: the trained and filled Faiss index, inner product.
        item_rows: (P,) int64 item row of each position; -1 where it was removed.
        factory: the Faiss factory string it was made from.
        num_built: how many items it was trained on.
        device: where to search, as far as Faiss can do that there with its kind.
    """

    index: Any
    item_rows: np.ndarray
    factory: str
    num_built: int
    device: str = "cpu"

    @staticmethod
    def build(
        vectors: np.ndarray, item_rows: np.ndarray | None = None, factory: str = "Flat", device: str = "cpu"
    ) -> "AnnIndex":
        """Train an index on the vectors and add them.

        Args:
            vectors: (C, D) floats; normalise for cosine.
            item_rows: (C,) distinct item rows; ``0..C-1`` if None.
            factory: a Faiss factory string such as ``"HNSW32"`` or ``"IVF1024,PQ16"``.
            device: see above.

        Raises:
            InputError: Faiss is not installed, does not know the factory or cannot train it on these vectors;
                NaN or infinite values; shapes that do not fit.
        """
        vectors = as_matrix(vectors, "Item vectors")
        rows = np.arange(len(vectors)) if item_rows is None else np.asarray(item_rows)
        check_items(len(vectors), rows)
        return AnnIndex(faiss_kinds.make(vectors, factory), rows.astype(np.int64), factory, len(rows), device)

    @cached_property
    def rows(self) -> np.ndarray:
        return self.item_rows[self.item_rows >= 0]

    @property
    def dim(self) -> int:
        return int(self.index.d)

    @property
    def nbytes(self) -> int:
        return faiss_kinds.nbytes(self.index) + self.item_rows.nbytes

    @cached_property
    def _gpu(self) -> Any:
        device = torch.device(self.device)
        return None if device.type == "cpu" else faiss_kinds.on_gpu(self.index, device.index or 0)

    @property
    def hidden(self) -> int:
        """Removed items that the index still holds, as its kind cannot forget."""
        return int(self.index.ntotal) - len(self)

    @property
    def changed(self) -> float:
        """Items added and removed since it was built, over those at the build."""
        return (len(self.item_rows) - self.num_built + len(self.item_rows) - len(self)) / self.num_built

    @property
    def is_worn(self) -> bool:
        """Whether so much has changed that an index built anew would find more, or sooner."""
        return self.changed > _MOST_CHANGED

    def search(self, queries: np.ndarray, k: int, seen: np.ndarray | None = None) -> Ranking:
        """About the k nearest items of each query, best first.

        Queries that get fewer than k items that may be shown are asked again for twice as many, looking at more of
        the index, until they have k or there is nothing more to look at. An index that compresses its vectors
        answers with approximate scores. That the list is exact is said of ``Flat`` alone.

        Args:
            queries: (Q, D) floats.
            seen: (Q, S) item rows never to return, padded with -1.

        Raises:
            InputError: shapes that do not fit, k < 1, NaN or infinite values.
        """
        queries = as_matrix(queries, "Queries")
        check_search(queries.shape, (len(self), self.dim), k, seen)
        items = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        open_queries = np.arange(len(queries))
        total = int(self.index.ntotal)
        fetch = min(total, k if seen is None and not self.hidden else 2 * k)
        while len(open_queries):
            found, found_scores = self._fetch(queries[open_queries], fetch)
            hidden = found < 0
            if seen is not None:
                hidden |= is_in(found, seen[open_queries])
            part_items, part_scores = _first_shown(found, found_scores, hidden, k)
            items[open_queries], scores[open_queries] = part_items, part_scores
            if fetch == total:
                break
            open_queries = open_queries[(part_items < 0).any(axis=1)]
            fetch = min(total, 2 * fetch)
        return Ranking(items, scores, scores[:, -1] if self.factory == "Flat" else None)

    def with_items(self, vectors: np.ndarray, item_rows: np.ndarray) -> "AnnIndex":
        vectors, rows = as_matrix(vectors, "New item vectors"), np.asarray(item_rows)
        check_added(self, vectors, rows)
        if not len(vectors):
            return self
        index = faiss_kinds.grown(self.index, vectors, len(self.item_rows))
        return replace(self, index=index, item_rows=np.concatenate([self.item_rows, rows.astype(np.int64)]))

    def without_items(self, item_rows: np.ndarray) -> "AnnIndex":
        rows = np.asarray(item_rows)
        check_removed(self, rows)
        gone = np.isin(self.item_rows, rows)
        index = faiss_kinds.shrunk(self.index, np.flatnonzero(gone))
        left = np.where(gone, -1, self.item_rows)
        return replace(self, index=self.index if index is None else index, item_rows=left)

    def save(self, directory: Path) -> None:
        """Write ``index.faiss`` and ``index_rows.safetensors`` into a directory, made if it is not there."""
        directory.mkdir(parents=True, exist_ok=True)
        faiss_kinds.write(self.index, directory / INDEX_NAME)
        facts = {"factory": self.factory, "num_built": str(self.num_built)}
        save_file({"item_rows": self.item_rows}, directory / ROWS_NAME, metadata=facts)
        (directory / ROWS_NAME).chmod(directory.stat().st_mode & 0o666)  # safetensors keeps its files to their owner

    @staticmethod
    def load(directory: Path, dim: int | None = None, device: str = "cpu") -> "AnnIndex":
        """Read what :meth:`save` wrote.

        Args:
            dim: width that queries will have; checked if given.
            device: see above.

        Raises:
            InputError: Faiss is not installed, or a file is missing, damaged or does not belong to the other.
        """
        for name in (INDEX_NAME, ROWS_NAME):
            if not (directory / name).is_file():
                raise InputError(f"{directory} has no {name}: build the index again.")
        try:
            index = faiss_kinds.read(directory / INDEX_NAME)
            rows = load_file(directory / ROWS_NAME)["item_rows"]
            facts = _metadata(directory / ROWS_NAME)
            loaded = AnnIndex(index, rows, facts["factory"], int(facts["num_built"]), device)
        except (RuntimeError, MemoryError, SafetensorError, KeyError, ValueError) as error:
            problem = faiss_kinds.reason(error)
            raise InputError(f"The index in {directory} is damaged ({problem}): build it again.") from None
        if index.ntotal not in (len(loaded), len(rows)):
            raise InputError(
                f"The index in {directory} has {index.ntotal} vectors but {len(loaded)} item rows: build it again."
            )
        if dim is not None and index.d != dim:
            raise InputError(f"The index in {directory} has width {index.d}, not {dim}: build it for this model.")
        return loaded

    def _fetch(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, count) item rows, -1 where there were fewer or they were removed, and scores, equal ones by row."""
        scores, positions = faiss_kinds.search(self.index, queries, count, self._gpu)
        items = np.where(positions < 0, -1, self.item_rows[positions])
        scores = np.where(items < 0, -np.inf, scores)
        order = np.lexsort((items, -scores), axis=1)
        return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _first_shown(items: np.ndarray, scores: np.ndarray, hidden: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k columns that are not hidden, in order, padded with -1 and -inf."""
    if items.shape[1] == k and not hidden.any():
        return items, scores
    order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
    gone = np.take_along_axis(hidden, order, axis=1)
    items = np.where(gone, -1, np.take_along_axis(items, order, axis=1))
    scores = np.where(gone, -np.inf, np.take_along_axis(scores, order, axis=1))
    missing = ((0, 0), (0, k - items.shape[1]))
    return np.pad(items, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        metadata: dict[str, str] | None = file.metadata()
    return metadata or {}
