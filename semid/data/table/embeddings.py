"""Embeddings beside a table: ``emb_NAME.npy`` in the row order of items, or ``emb_NAME.parquet`` with item ids."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder
from semid.data.building.embedding_files import EmbeddingBuilder, check_join
from semid.data.building.row_file import release
from semid.data.reading import PrepareConfig
from semid.data.table.files import TableFile, find_table, identifiers
from semid.data.table.id_index import IdIndex
from semid.errors import InputError
from semid.progress import Progress

_CHUNK_BYTES = 8 << 20
_CHUNK_ROWS = 1 << 10
_ENDINGS = (".f16.npy", ".npy", ".parquet")


def find_embeddings(source: Path, chosen: tuple[str, ...] | None) -> dict[str, Path]:
    """Embedding files by id.

    Raises:
        InputError: a chosen id is not there, or an id has two files.
    """
    found: dict[str, Path] = {}
    for path in sorted(source.glob("emb_*")):
        ending = next((end for end in _ENDINGS if path.name.endswith(end)), None)
        if ending is None:
            continue
        name = path.name.removeprefix("emb_").removesuffix(ending)
        if name in found:
            raise InputError(f"{found[name]} and {path} are both embedding {name!r}: keep one.")
        found[name] = path
    unknown = [name for name in chosen or () if name not in found]
    if unknown:
        raise InputError(f"{source} has no embedding {unknown[0]!r}; it has: {', '.join(found) or 'none'}.")
    return found if chosen is None else {name: found[name] for name in chosen}


def open_vectors(path: Path) -> np.ndarray:
    """Map an ``emb_NAME.npy`` file. (R, D)

    Raises:
        InputError: not a readable matrix of floats.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable .npy file ({error}): write it again with numpy.save.") from None
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.shape[1]:
        shape = getattr(vectors, "shape", None)
        raise InputError(f"{path} has shape {shape}, but an embedding is a matrix of floats, one row per item.")
    return vectors


def write_embeddings(
    builder: DatasetBuilder, paths: dict[str, Path], items: IdIndex, config: PrepareConfig, progress: Progress
) -> None:
    """Copy embeddings into the dataset, a few MiB at a time."""
    for name, path in paths.items():
        if path.suffix == ".npy":
            _write_matrix(builder, name, path, len(items), config, progress)
        else:
            _write_keyed(builder, name, path, items, config, progress)


def _write_matrix(
    builder: DatasetBuilder, name: str, path: Path, num_items: int, config: PrepareConfig, progress: Progress
) -> None:
    vectors = open_vectors(path)
    if len(vectors) != num_items:
        raise InputError(
            f"{path} has {len(vectors)} rows but there are {num_items} items: give a vector per item, in their order."
        )
    embedding = builder.embedding(name, vectors.shape[1], config.float_dtype)
    step = max(1, _CHUNK_BYTES // (vectors.shape[1] * vectors.itemsize))
    zeros = 0
    for first in range(0, num_items, step):
        chunk = np.array(vectors[first : first + step])
        release(vectors)
        rows = np.arange(first, first + len(chunk))
        _check_finite(path, rows, chunk)
        zeros += _put(embedding, rows, chunk)
        progress(f"embedding {name}", first + len(chunk), num_items)
    facts = builder.report.setdefault("embeddings", {}).setdefault(name, {})
    facts["zero_rows_taken_as_missing"] = zeros


def _check_finite(path: Path, rows: np.ndarray, vectors: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise InputError(
            f"{path} row {rows[bad[0]]} has NaN or infinity: correct the vector; a row of zeros means missing."
        )


def _put(embedding: EmbeddingBuilder, rows: np.ndarray, vectors: np.ndarray) -> int:
    """Store the vectors that are not all zero, the usual stand-in for a missing one; returns how many were."""
    there = vectors.any(axis=1)
    embedding.put(rows[there], vectors[there].astype(np.float32))
    return int((~there).sum())


def _write_keyed(
    builder: DatasetBuilder, name: str, path: Path, items: IdIndex, config: PrepareConfig, progress: Progress
) -> None:
    table = find_table(path.parent, path.stem)
    assert table is not None
    table.require("item_id", "emb")
    embedding: EmbeddingBuilder | None = None
    joined = vectors_there = 0
    for done, ids, vectors in keyed_chunks(table):
        vectors_there += len(vectors)
        if embedding is None:
            embedding = builder.embedding(name, vectors.shape[1], config.float_dtype)
        rows = items.rows(ids)
        _put(embedding, rows[rows >= 0], vectors[rows >= 0])
        joined += int((rows >= 0).sum())
        progress(f"embedding {name}", done, table.num_rows)
    if embedding is None:
        raise InputError(f"{path} has no vectors in column 'emb': complete it or remove the file.")
    example = table.column("item_id")[0].as_py()
    rate = check_join(
        name, joined, vectors_there, len(items), config.min_join_rate, f"{example!r}, … in {path}", items.examples()
    )
    builder.report.setdefault("embeddings", {}).setdefault(name, {})["join_rate"] = rate


def keyed_chunks(table: TableFile) -> Iterator[tuple[int, pa.Array, np.ndarray]]:
    """Rows read, ids and float vectors of the rows that have a vector, checked to be of one width."""
    width: int | None = None
    for first, batch in table.batches(["item_id", "emb"], _CHUNK_ROWS):
        there = batch["emb"].is_valid()
        kept = batch["emb"].filter(there)
        if not len(kept):
            continue
        ids = identifiers(table, "item_id", first, batch["item_id"]).filter(there)
        numbers = np.flatnonzero(there.to_numpy(zero_copy_only=False)) + first
        lengths = _lengths(table, kept)
        width = int(lengths[0]) if width is None else width
        wrong = np.flatnonzero(lengths != width)
        if len(wrong) or not width:
            row = int(wrong[0]) if len(wrong) else 0
            raise InputError(
                f"{table.where(int(numbers[row]))} has an embedding of {lengths[row]} values after {width}: "
                "give every item a vector of the same length."
            )
        vectors = kept.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, width)
        _check_finite(table.path, numbers, vectors)
        yield first + batch.num_rows, ids, vectors


def _lengths(table: TableFile, values: pa.Array) -> np.ndarray:
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise InputError(f"{table.path} column 'emb' has type {kind}: it must hold lists of numbers.")
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise InputError(f"{table.path} column 'emb' has type {kind}: it must hold lists of numbers.")
    lengths: np.ndarray = pc.list_value_length(values).to_numpy()
    return lengths
