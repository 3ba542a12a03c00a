"""Embeddings keyed by raw id, joined with the items of a dataset; a join that misses is an error, not zeros."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semid.data.building.builder import DatasetBuilder
from semid.data.building.embedding_files import EmbeddingBuilder
from semid.data.tencentgr.indexer import ItemLookup
from semid.errors import InputError

_NAME = re.compile(r"emb_(?P<id>.+)_(?P<dim>\d+)")


@dataclass(frozen=True, eq=False)
class VectorBatch:
    """Some rows of an embedding file.

    Attributes:
        path: the file.
        places: (n,) number of each row within it, as messages name it.
        raw: (n,) int64 raw ids.
        vectors: (n, D) float; rows without a vector are not in the batch.
        skipped: number of rows that had no raw id or no vector.
    """

    path: Path
    places: np.ndarray
    raw: np.ndarray
    vectors: np.ndarray
    skipped: int


@dataclass(frozen=True)
class EmbeddingSource:
    """One embedding on disk: its id and width by its name, and where it lies."""

    name: str
    dim: int
    path: Path


def find_embeddings(folder: Path, suffix: str, wanted: tuple[str, ...] | None) -> list[EmbeddingSource]:
    """The embeddings in a folder, by id.

    Args:
        folder: may be absent.
        suffix: what follows ``emb_<id>_<dim>`` in the names of folders.
        wanted: ids to take, None for all.

    Raises:
        InputError: a wanted id is not there, or an id is there twice.
    """
    found: dict[str, EmbeddingSource] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        stem = path.name.removesuffix(suffix) if path.is_dir() else path.name.removesuffix(".pkl")
        match = _NAME.fullmatch(stem)
        if match is None or (path.is_file() and path.suffix != ".pkl"):
            continue
        name = match["id"]
        if name in found:
            raise InputError(f"Embedding {name} is there twice, as {found[name].path} and {path}: keep one.")
        found[name] = EmbeddingSource(name, int(match["dim"]), path)
    for name in wanted or ():
        if name not in found:
            raise InputError(f"No embedding {name!r} in {folder}; it has: {', '.join(found) or 'none'}.")
    names = sorted(found, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    return [found[name] for name in names if wanted is None or name in wanted]


class EmbeddingJoin:
    """Puts one embedding into a dataset.

    The width comes from the first vector and must be the one in the name. Of several vectors for one item the
    first counts.
    """

    def __init__(
        self,
        source: EmbeddingSource,
        items: ItemLookup,
        builder: DatasetBuilder,
        float_dtype: str,
        min_join_rate: float,
    ) -> None:
        self._source = source
        self._items = items
        self._builder = builder
        self._float_dtype = float_dtype
        self._min_join_rate = min_join_rate
        self._written: EmbeddingBuilder | None = None
        self._seen = np.zeros(len(items.raw), np.bool_)
        self._facts = {"vectors": 0, "without_vector": 0, "without_item": 0, "repeated": 0}
        self._examples: list[int] = []

    def run(self, batches: Iterable[VectorBatch]) -> Iterator[int]:
        """Join all batches; yields the number of rows read so far.

        Raises:
            InputError: another width than the name says, NaN or infinity, no vector at all, or a join rate under
                the threshold.
        """
        rows = 0
        for batch in batches:
            self._put(batch)
            rows += len(batch.raw) + batch.skipped
            yield rows
        self._finish()

    def _put(self, batch: VectorBatch) -> None:
        self._facts["without_vector"] += batch.skipped
        if not len(batch.raw):
            return
        check_vectors(self._source, batch)
        self._facts["vectors"] += len(batch.raw)
        self._examples = self._examples or batch.raw[:3].tolist()
        rows = self._items.rows(batch.raw)
        first = np.zeros(len(rows), np.bool_)
        first[np.unique(rows, return_index=True)[1]] = True
        joined = rows >= 0
        fresh = joined & first & ~self._seen[np.maximum(rows, 0)]
        self._facts["without_item"] += int((~joined).sum())
        self._facts["repeated"] += int((joined & ~fresh).sum())
        self._seen[rows[fresh]] = True
        if self._written is None:
            self._written = self._builder.embedding(self._source.name, batch.vectors.shape[1], self._float_dtype)
        self._written.put(rows[fresh], batch.vectors[fresh])

    def _finish(self) -> None:
        source, facts = self._source, self._facts
        if not facts["vectors"]:
            raise InputError(f"{source.path} holds no vectors: get the embedding again or remove it.")
        num_items = len(self._items.raw)
        joined = int(self._seen.sum())
        rate = joined / max(1, min(facts["vectors"] - facts["repeated"], num_items))
        if rate < self._min_join_rate:
            items = ", ".join(str(raw) for raw in self._items.raw[:3])
            raise InputError(
                f"Only {rate:.1%} of embedding {source.name} joins with the items (min_join_rate is "
                f"{self._min_join_rate:.1%}): its raw ids are like {', '.join(map(str, self._examples))}, those of "
                f"the indexer and the candidates like {items}; are they of the same data set?"
            )
        report = self._builder.report.setdefault("embeddings", {})
        report[source.name] = {**facts, "join_rate": rate, "coverage": joined / max(1, num_items)}


def check_vectors(source: EmbeddingSource, batch: VectorBatch) -> None:
    """Raise InputError unless the vectors have the width that the name promises and are finite."""
    if batch.vectors.shape[1] != source.dim:
        raise InputError(
            f"{batch.path} row {batch.places[0]} has a vector of {batch.vectors.shape[1]} numbers, but "
            f"{source.path.name} promises {source.dim}: get the embedding again or mend its name."
        )
    bad = np.flatnonzero(~np.isfinite(batch.vectors).all(axis=1))
    if len(bad):
        raise InputError(
            f"{batch.path} row {batch.places[bad[0]]} (raw id {batch.raw[bad[0]]}) has NaN or infinity in its "
            "vector: correct it, or remove the row so that it counts as missing."
        )


def stacked(path: Path, rows: list[np.ndarray], places: list[int]) -> np.ndarray:
    """Vectors of one width as a matrix.

    Raises:
        InputError: the widths differ; names the first that does.
    """
    for vector, place in zip(rows, places, strict=True):
        if vector.ndim != 1 or len(vector) != len(rows[0]):
            raise mixed(path, place, vector.size, len(rows[0]))
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def mixed(path: Path, place: int, width: int, expected: int) -> InputError:
    """The error for vectors of different widths in one embedding."""
    return InputError(
        f"{path} row {place} has a vector of {width} numbers after vectors of {expected}: an embedding has one width."
    )
