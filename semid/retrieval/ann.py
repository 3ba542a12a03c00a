"""Approximate nearest items by inner product, with any Faiss index. The only module that imports Faiss."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.exact import check_items, check_search, exact_search
from semid.selection import is_in

INDEX_NAME = "index.faiss"
ROWS_NAME = "index_rows.safetensors"
_FLAT_UNTIL = 50_000
_PLAIN_IVF_UNTIL = 2_000_000


def auto_factory(num_items: int) -> str:
    """The Faiss factory string for a catalogue of this size.

    Exact where a scan is fast enough; then inverted lists, about 4 * sqrt(N) of them as Faiss advises; then the
    same with a graph to find the lists and 8-bit vectors.
    """
    if num_items <= _FLAT_UNTIL:
        return "Flat"
    lists = 1 << round(np.log2(4 * np.sqrt(num_items)))
    return f"IVF{lists},Flat" if num_items <= _PLAIN_IVF_UNTIL else f"IVF{lists}_HNSW32,SQ8"


@dataclass(frozen=True, eq=False)
class AnnIndex:
    """Item vectors in a Faiss index.

    Attributes:
        index: the trained and filled Faiss index, inner product.
        item_rows: (C,) int64 item row of each vector.
        factory: the Faiss factory string it was made from.
    """

    index: Any
    item_rows: np.ndarray
    factory: str

    @staticmethod
    def build(vectors: np.ndarray, item_rows: np.ndarray | None = None, factory: str = "auto") -> "AnnIndex":
        """Train an index on the vectors and add them.

        Args:
            vectors: (C, D) floats; normalise for cosine.
            item_rows: (C,) distinct item rows; ``0..C-1`` if None.
            factory: a Faiss factory string such as ``"HNSW32"`` or ``"IVF1024,PQ16"``; ``"auto"`` chooses by C.

        Raises:
            InputError: Faiss is not installed, does not know the factory or cannot train it on these vectors;
                NaN or infinite values; shapes that do not fit.
        """
        faiss = _faiss()
        vectors = _matrix(vectors, "Item vectors")
        rows = np.arange(len(vectors)) if item_rows is None else np.asarray(item_rows)
        check_items(len(vectors), rows)
        factory = auto_factory(len(vectors)) if factory == "auto" else factory
        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"Faiss cannot make an index {factory!r} for width {vectors.shape[1]} ({_reason(error)}): "
                "use a Faiss factory string such as Flat, HNSW32 or IVF1024,Flat."
            ) from None
        lists = faiss.try_extract_index_ivf(index)
        if lists is not None:
            # Faiss looks into one list by default and would find half of the neighbours.
            lists.nprobe = max(1, min(lists.nlist, max(8, lists.nlist // 16)))
            lists.cp.min_points_per_centroid = 1  # no warning on stderr; too few for a list each is an error
        try:
            index.train(vectors)
            index.add(vectors)
        except RuntimeError as error:
            raise InputError(
                f"Faiss cannot train {factory!r} on {len(vectors)} vectors ({_reason(error)}): "
                "choose a smaller index, or Flat."
            ) from None
        return AnnIndex(index, rows.astype(np.int64), factory)

    def __len__(self) -> int:
        return len(self.item_rows)

    @property
    def dim(self) -> int:
        return int(self.index.d)

    @property
    def nbytes(self) -> int:
        """Of the index as it is saved, and the item rows."""
        return len(_faiss().serialize_index(self.index)) + self.item_rows.nbytes

    def search(self, queries: np.ndarray, k: int, seen: np.ndarray | None = None) -> Ranking:
        """About the k nearest items of each query, best first.

        Queries that get fewer than k unseen items are asked again for twice as many, looking at more of the
        index, until they have k or there is nothing more to look at. An index that compresses its vectors
        answers with approximate scores.

        Args:
            queries: (Q, D) floats.
            seen: (Q, S) item rows never to return, padded with -1.

        Raises:
            InputError: shapes that do not fit, k < 1, NaN or infinite values.
        """
        queries = _matrix(queries, "Queries")
        check_search(queries.shape, (len(self), self.dim), k, seen)
        items = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        open_queries = np.arange(len(queries))
        fetch = min(len(self), k if seen is None else 2 * k)
        while len(open_queries):
            found, found_scores = self._fetch(queries[open_queries], fetch)
            hidden = found < 0
            if seen is not None:
                hidden |= is_in(found, seen[open_queries])
            part_items, part_scores = _first_shown(found, found_scores, hidden, k)
            items[open_queries], scores[open_queries] = part_items, part_scores
            if fetch == len(self):
                break
            open_queries = open_queries[(part_items < 0).any(axis=1)]
            fetch = min(len(self), 2 * fetch)
        return Ranking(items, scores, scores[:, -1] if self.factory == "Flat" else None)

    def recall_against_exact(self, queries: np.ndarray, vectors: np.ndarray, k: int) -> float:
        """Share of the exact top k that the index finds.

        Args:
            queries: (Q, D) floats.
            vectors: (C, D) the vectors it was built from, in the same order.
        """
        truth = exact_search(queries, vectors, k, item_rows=self.item_rows).items
        wanted = truth >= 0
        return float((is_in(truth, self.search(queries, k).items) & wanted).sum() / max(1, wanted.sum()))

    def save(self, directory: Path) -> None:
        """Write ``index.faiss`` and ``index_rows.safetensors`` into a directory, made if it is not there."""
        faiss = _faiss()
        directory.mkdir(parents=True, exist_ok=True)
        try:
            faiss.write_index(self.index, str(directory / INDEX_NAME))
        except RuntimeError as error:
            raise OSError(f"Faiss could not write {directory / INDEX_NAME} ({_reason(error)}).") from None
        save_file({"item_rows": self.item_rows}, directory / ROWS_NAME, metadata={"factory": self.factory})

    @staticmethod
    def load(directory: Path, dim: int | None = None) -> "AnnIndex":
        """Read what :meth:`save` wrote.

        Args:
            dim: width that queries will have; checked if given.

        Raises:
            InputError: Faiss is not installed, or a file is missing, damaged or does not belong to the other.
        """
        faiss = _faiss()
        for name in (INDEX_NAME, ROWS_NAME):
            if not (directory / name).is_file():
                raise InputError(f"{directory} has no {name}: build the index again.")
        try:
            index = faiss.read_index(str(directory / INDEX_NAME))
            rows = load_file(directory / ROWS_NAME)["item_rows"]
            factory = _metadata(directory / ROWS_NAME)["factory"]
        except (RuntimeError, MemoryError, SafetensorError, KeyError) as error:
            raise InputError(f"The index in {directory} is damaged ({_reason(error)}): build it again.") from None
        if index.ntotal != len(rows):
            raise InputError(
                f"The index in {directory} has {index.ntotal} vectors but {len(rows)} item rows: build it again."
            )
        if dim is not None and index.d != dim:
            raise InputError(f"The index in {directory} has width {index.d}, not {dim}: build it for this model.")
        return AnnIndex(index, rows, factory)

    def _fetch(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, count) item rows, -1 where the index found fewer, and their scores, equal scores by row."""
        params = _widened(_faiss(), self.index, count / len(self), count)
        scores, positions = self.index.search(queries, count, params=params)
        items = np.where(positions < 0, -1, self.item_rows[positions])
        scores = np.where(positions < 0, -np.inf, scores)
        order = np.lexsort((items, -scores), axis=1)
        return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _widened(faiss: Any, index: Any, share: float, count: int) -> Any:
    """Search settings wide enough for ``count`` results, a share of all; None where there is nothing to set."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = _widened(faiss, index.index, share, count)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = _widened(faiss, index.base_index, share, count)
        return inner and faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        # Twice the share of the lists, since lists differ in size; all of them before giving up.
        lists = index.nlist if share == 1 else min(index.nlist, int(np.ceil(2 * share * index.nlist)))
        return faiss.SearchParametersIVF(nprobe=max(index.nprobe, lists))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(index.hnsw.efSearch, 64, 2 * count))
    return None


def _first_shown(items: np.ndarray, scores: np.ndarray, hidden: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k columns that are not hidden, in order, padded with -1 and -inf."""
    order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
    gone = np.take_along_axis(hidden, order, axis=1)
    items = np.where(gone, -1, np.take_along_axis(items, order, axis=1))
    scores = np.where(gone, -np.inf, np.take_along_axis(scores, order, axis=1))
    missing = ((0, 0), (0, k - items.shape[1]))
    return np.pad(items, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf)


def _matrix(vectors: np.ndarray, what: str) -> np.ndarray:
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise InputError(f"{what} have shape {matrix.shape}: give a matrix, one vector a row.")
    if not np.isfinite(matrix).all():
        raise InputError(f"{what} hold NaN or infinity: the embeddings or the model are broken.")
    return matrix


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        metadata: dict[str, str] | None = file.metadata()
    return metadata or {}


def _reason(error: BaseException) -> str:
    """The last line of an error, where Faiss says what is wrong after saying where in its source."""
    return str(error).strip().rsplit("\n", 1)[-1].rsplit("Error: ", 1)[-1] or type(error).__name__


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise InputError(
            "ANN search needs Faiss, which is not installed: run pip install 'semid[cpu]' (or 'semid[gpu]')."
        ) from None
