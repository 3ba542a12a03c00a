"""Codes for items given in files, and for the items of a dataset, a block of items after the other."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.row_file import RowFile, release
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.data.table.embeddings import keyed_chunks, open_vectors
from semid.data.table.files import TableFile, find_table
from semid.data.table.id_index import IdIndex
from semid.errors import InputError
from semid.pipeline.resultfiles import write_rows
from semid.pipeline.resumable import write_resumable
from semid.progress import Progress, silent
from semid.tokenizers.tokenizer import SemanticIdTokenizer

BLOCK_ROWS = 1 << 16


def encode(
    tokenizer: SemanticIdTokenizer,
    files: Sequence[Path],
    names: Sequence[str],
    *,
    dataset: Dataset | None,
    out: Path | TextIO,
    resume: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the codes of items in files, or of the dataset if there are no files; the number of rows.

    Args:
        names: which embedding each file is; those of the tokenizer that are not from behaviour, in order, if empty.
        out: a ``.parquet`` or ``.jsonl`` file, which can be resumed, or a stream.

    Raises:
        InputError: see :func:`open_items`, :func:`encode_items` and :func:`write_resumable`.
    """
    if not files:
        assert dataset is not None
        return write_rows(encode_catalogue(tokenizer, dataset), out)
    scratch = out.parent if isinstance(out, Path) else None
    with open_items(tokenizer, files, names or tokenizer.config.content, scratch) as items:

        def batches(first: int) -> Iterator[pa.RecordBatch]:
            return encode_items(tokenizer, items, dataset=dataset, first=first, progress=progress)

        if not isinstance(out, Path):
            return write_rows(batches(0), out)
        return write_resumable(batches, out, made_from=_inputs(tokenizer, files, names, dataset), resume=resume)


def _inputs(
    tokenizer: SemanticIdTokenizer, files: Sequence[Path], names: Sequence[str], dataset: Dataset | None
) -> dict[str, object]:
    artifacts = [tokenizer.artifact_, dataset.artifact if dataset else None]
    stats = [path.stat() for path in files]
    return {
        "checksums": [artifact.checksum if artifact else None for artifact in artifacts],
        "files": [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in zip(files, stats, strict=True)],
        "names": list(names),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemFiles:
    """Items whose vectors lie in files.

    Attributes:
        ids: (M,) of the items, in the order in which they first appear.
        matrices: (M, D) vectors by embedding, mapped; a row of zeros is missing.
        sources: the file of each, for messages.
    """

    ids: pa.Array
    matrices: Mapping[str, np.ndarray]
    sources: Mapping[str, Path]

    def embeddings(self, dims: Mapping[str, int], rows: slice) -> list[Embedding]:
        """The vectors of some rows in the embeddings named; those without a file are missing for every item.

        Raises:
            InputError: NaN or infinity.
        """
        return [self._embedding(name, dim, rows) for name, dim in dims.items()]

    def _embedding(self, name: str, dim: int, rows: slice) -> Embedding:
        num_rows = rows.stop - rows.start
        if name not in self.matrices:
            return Embedding.absent(name, num_rows, dim)
        block = np.array(self.matrices[name][rows])
        release(self.matrices[name])
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            place = f"item {self.ids[rows.start + bad[0]].as_py()!r} of {self.sources[name]}"
            raise InputError(f"The vector of {place} has NaN or infinity: correct it; zeros mean missing.")
        return Embedding(name, block, np.asarray(block.any(axis=1)))


@contextmanager
def open_items(
    tokenizer: SemanticIdTokenizer, files: Sequence[Path], names: Sequence[str], scratch: Path | None = None
) -> Iterator[ItemFiles]:
    """Open files of vectors; those that are not matrices are copied into a scratch folder while they are in use.

    Args:
        files: ``.npy`` matrices with one row an item, all of the same items, where a row of zeros means missing and
            the row number is the id; or ``.parquet`` files with ``item_id`` and ``emb``, joined by id.
        names: which embedding each file is; those of the tokenizer without a file are missing for every item.
        scratch: folder for the copies; the system's temporary folder by default.

    Raises:
        InputError: unreadable or contradictory files, or embeddings that the tokenizer was not fitted on.
    """
    _check_names(tokenizer, files, names)
    sources = dict(zip(names, files, strict=True))
    kinds = {path.suffix for path in files}
    if kinds == {".npy"}:
        yield _open_matrices(sources)
    elif kinds == {".parquet"}:
        with tempfile.TemporaryDirectory(prefix=".semid-encode-", dir=scratch) as folder:
            yield _spool_keyed(sources, Path(folder))
    else:
        listed = ", ".join(str(path) for path in files)
        raise InputError(f"Vectors must be in .npy files or in .parquet files, all of one kind, not {listed}.")


def encode_items(
    tokenizer: SemanticIdTokenizer,
    items: ItemFiles,
    *,
    dataset: Dataset | None = None,
    first: int = 0,
    progress: Progress | None = None,
) -> Iterator[pa.RecordBatch]:
    """Codes of items in files: ``item_id``, ``codes``, in batches of 65,536 items.

    Args:
        dataset: items that it holds get the codes they have there, all others the nearest codes, which need not be
            free.
        first: begin with this item, the others being done.

    Raises:
        InputError: a dataset that the tokenizer was not fitted on, other dimensions than fitted, NaN or infinity.
    """
    dims = dict(zip(tokenizer.config.embeddings, tokenizer.preprocessor_.dims, strict=True))
    index = None
    if dataset is not None:
        _require_own(tokenizer, dataset)
        index = _item_index(dataset)
    for start in range(first, len(items.ids), BLOCK_ROWS):
        (progress or silent)("encode items", start, len(items.ids))
        rows = slice(start, min(start + BLOCK_ROWS, len(items.ids)))
        ids = items.ids[rows]
        codes: Sequence[np.ndarray] = list(tokenizer.encode(items.embeddings(dims, rows), first_row=start))
        if index is not None:
            known = index.rows(ids)
            own = tokenizer.semantic_ids_.codes
            codes = [own[row] if row >= 0 else nearest for row, nearest in zip(known, codes, strict=True)]
        yield _batch(ids, codes)


def encode_catalogue(tokenizer: SemanticIdTokenizer, dataset: Dataset, *, first: int = 0) -> Iterator[pa.RecordBatch]:
    """The codes of all items of the dataset that the tokenizer was fitted on: ``item_id``, ``codes``.

    Raises:
        InputError: it was fitted on another dataset.
    """
    _require_own(tokenizer, dataset)
    ids = pa.array(dataset.item_ids)
    for start in range(first, len(ids), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        yield _batch(ids[rows], list(tokenizer.semantic_ids_.codes[rows]))


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


def _open_matrices(files: Mapping[str, Path]) -> ItemFiles:
    matrices = {name: open_vectors(path) for name, path in files.items()}
    sizes = {files[name]: len(matrix) for name, matrix in matrices.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path} {size}" for path, size in sizes.items())
        raise InputError(
            f"The files have different numbers of rows ({listed}): give every file a row for every item."
        )
    ids = pa.array(np.arange(len(next(iter(matrices.values())))))
    return ItemFiles(ids=ids, matrices=matrices, sources=files)


def _spool_keyed(files: Mapping[str, Path], folder: Path) -> ItemFiles:
    tables = {name: _open_keyed(path) for name, path in files.items()}
    all_ids = {name: _ids(table, files[name]) for name, table in tables.items()}
    if len({ids.type for ids in all_ids.values()}) > 1:
        raise InputError("Item ids are integers in one file and strings in another: write them alike.")
    ids = pc.unique(pa.concat_arrays(list(all_ids.values())))
    index = IdIndex(ids, lambda row: f"row {row}")
    matrices = {}
    for number, (name, table) in enumerate(tables.items()):
        path = folder / f"{number}.npy"
        spool = None
        for _, own_ids, vectors in keyed_chunks(table):
            spool = spool or RowFile(path, np.float32, (len(ids), vectors.shape[1]))
            spool.put(index.rows(own_ids), vectors)
        assert spool is not None, "a file without vectors is refused above"
        spool.close()
        matrices[name] = open_vectors(path)
    return ItemFiles(ids=ids, matrices=matrices, sources=files)


def _open_keyed(path: Path) -> TableFile:
    table = find_table(path.parent, path.stem)
    if table is None:
        raise InputError(f"No file {path}: check the path.")
    table.require("item_id", "emb")
    return table


def _ids(table: TableFile, path: Path) -> pa.Array:
    chunks = [ids for _, ids, _ in keyed_chunks(table)]
    if not chunks:
        raise InputError(f"{path} has no vectors in column 'emb': complete it.")
    ids = pa.concat_arrays(chunks)
    IdIndex(ids, lambda row: f"vector {row} of {path}")  # an id twice is an error
    return ids


def _batch(ids: pa.Array, rows: Sequence[np.ndarray]) -> pa.RecordBatch:
    codes = pa.array([row.tolist() for row in rows], pa.list_(pa.int32()))
    return pa.record_batch({"item_id": ids, "codes": codes})
