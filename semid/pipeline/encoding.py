"""Codes for items given in files, and for the items of a dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.data.table.embeddings import keyed_chunks, open_vectors
from semid.data.table.files import find_table
from semid.data.table.id_index import IdIndex
from semid.errors import InputError
from semid.tokenizers.tokenizer import SemanticIdTokenizer

_BLOCK_ROWS = 1 << 14


def encode_files(
    tokenizer: SemanticIdTokenizer, files: Sequence[Path], names: Sequence[str], *, dataset: Dataset | None = None
) -> pa.Table:
    """Codes of the items whose vectors lie in files.

    Args:
        files: ``.npy`` matrices with one row an item, all of the same items, where a row of zeros means missing and
            the row number is the id; or ``.parquet`` files with ``item_id`` and ``emb``, joined by id.
        names: which embedding each file is; those of the tokenizer without a file are missing for every item.
        dataset: items that it holds get the codes they have there, all others the nearest codes, which need not be
            free.

    Returns:
        ``item_id``, ``codes``, one row an item in the order in which they first appear.

    Raises:
        InputError: unreadable or contradictory files, or embeddings that the tokenizer was not fitted on.
    """
    _check_names(tokenizer, files, names)
    kinds = {path.suffix for path in files}
    if kinds not in ({".npy"}, {".parquet"}):
        listed = ", ".join(str(path) for path in files)
        raise InputError(f"Vectors must be in .npy files or in .parquet files, all of one kind, not {listed}.")
    read = _read_matrices if kinds == {".npy"} else _read_keyed
    ids, given = read(dict(zip(names, files, strict=True)))
    dims = dict(zip(tokenizer.config.embeddings, tokenizer.preprocessor_.dims, strict=True))
    embeddings = [given.get(name) or _absent(name, len(ids), dim) for name, dim in dims.items()]
    rows = list(tokenizer.encode(embeddings))
    if dataset is not None:
        _require_own(tokenizer, dataset)
        known = _item_index(dataset).rows(ids)
        for place in np.flatnonzero(known >= 0):
            rows[place] = tokenizer.semantic_ids_.codes[known[place]]
    return _table(ids, rows)


def encode_catalogue(tokenizer: SemanticIdTokenizer, dataset: Dataset) -> pa.Table:
    """The codes of all items of the dataset that the tokenizer was fitted on: ``item_id``, ``codes``.

    Raises:
        InputError: it was fitted on another dataset.
    """
    _require_own(tokenizer, dataset)
    return _table(pa.array(dataset.item_ids), list(tokenizer.semantic_ids_.codes))


def _check_names(tokenizer: SemanticIdTokenizer, files: Sequence[Path], names: Sequence[str]) -> None:
    own = tokenizer.config.embeddings
    unknown = [name for name in names if name not in own]
    if unknown:
        raise InputError(f"The tokenizer was not fitted on an embedding {unknown[0]!r}; it knows: {', '.join(own)}.")
    if len(files) != len(names) or len(set(names)) < len(names):
        raise InputError(
            f"{len(files)} files were given for the embeddings {', '.join(names)}: give one file for each, in order."
        )


def _require_own(tokenizer: SemanticIdTokenizer, dataset: Dataset) -> None:
    if tokenizer.artifact_ is not None and dataset.artifact is not None:
        tokenizer.artifact_.require_parent("dataset", dataset.artifact)


def _item_index(dataset: Dataset) -> IdIndex:
    return IdIndex(pa.array(dataset.item_ids), lambda row: f"item row {row} of {dataset.location}")


def _absent(name: str, num_items: int, dim: int) -> Embedding:
    nothing = np.broadcast_to(np.float32(0), (num_items, dim))
    return Embedding(name, nothing, np.zeros(num_items, bool))


def _read_matrices(files: Mapping[str, Path]) -> tuple[pa.Array, dict[str, Embedding]]:
    matrices = {name: open_vectors(path) for name, path in files.items()}
    sizes = {files[name]: len(matrix) for name, matrix in matrices.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path} {size}" for path, size in sizes.items())
        raise InputError(
            f"The files have different numbers of rows ({listed}): give every file a row for every item."
        )
    embeddings = {name: Embedding(name, matrix, _valid(files[name], matrix)) for name, matrix in matrices.items()}
    return pa.array(np.arange(len(next(iter(matrices.values()))))), embeddings


def _valid(path: Path, matrix: np.ndarray) -> np.ndarray:
    """(R,) bool, whether a row is not all zero."""
    valid = np.zeros(len(matrix), bool)
    for first in range(0, len(matrix), _BLOCK_ROWS):
        block = np.asarray(matrix[first : first + _BLOCK_ROWS])
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise InputError(f"{path} row {first + bad[0]} has NaN or infinity: correct it; zeros mean missing.")
        valid[first : first + len(block)] = block.any(axis=1)
    return valid


def _read_keyed(files: Mapping[str, Path]) -> tuple[pa.Array, dict[str, Embedding]]:
    parts = {name: _keyed_parts(path) for name, path in files.items()}
    all_ids = [ids for ids, _ in parts.values()]
    if len({ids.type for ids in all_ids}) > 1:
        raise InputError("Item ids are integers in one file and strings in another: write them alike.")
    ids = pc.unique(pa.concat_arrays(all_ids))
    index = IdIndex(ids, lambda row: f"row {row}")
    embeddings = {}
    for name, (own_ids, vectors) in parts.items():
        rows = index.rows(own_ids)
        valid = np.zeros(len(ids), bool)
        valid[rows] = vectors.any(axis=1)
        aligned = np.zeros((len(ids), vectors.shape[1]), np.float32)
        aligned[rows] = vectors
        embeddings[name] = Embedding(name, aligned, valid)
    return ids, embeddings


def _keyed_parts(path: Path) -> tuple[pa.Array, np.ndarray]:
    table = find_table(path.parent, path.stem)
    if table is None:
        raise InputError(f"No file {path}: check the path.")
    table.require("item_id", "emb")
    chunks = [(ids, vectors) for _, ids, vectors in keyed_chunks(table)]
    if not chunks:
        raise InputError(f"{path} has no vectors in column 'emb': complete it.")
    ids = pa.concat_arrays([ids for ids, _ in chunks])
    IdIndex(ids, lambda row: f"vector {row} of {path}")  # an id twice is an error
    return ids, np.concatenate([vectors for _, vectors in chunks])


def _table(ids: pa.Array, rows: Sequence[np.ndarray]) -> pa.Table:
    codes = pa.array([row.tolist() for row in rows], pa.list_(pa.int32()))
    return pa.table({"item_id": ids, "codes": codes})
