"""Rows of embeddings as centred float32, block by block, from arrays or mapped files larger than memory."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion.workers import Workers

SLAB_ROWS = 256
_BLOCK_BYTES = 16 << 20
_COPY_BYTES = 1 << 17
_SEARCHED_ROWS = 1 << 16

# Which rows of an array: a stretch, read in order, or any rows, gathered.
Where = slice | np.ndarray


class RowSource:
    """The rows of several embeddings side by side, or some of them.

    Args:
        embeddings: one row an item; ``vectors`` need only be sliceable and to have a shape and a dtype.
        rows: (M,) the rows meant, best in rising order; None for all.

    Attributes:
        dims: width of each embedding.
        columns: the columns of each in the concatenation.
        width: of the concatenation.

    Raises:
        InputError: no embedding, or arrays of other shapes, lengths or types than wanted.
    """

    def __init__(self, embeddings: Sequence[Embedding], rows: np.ndarray | None = None) -> None:
        _check_embeddings(embeddings)
        self.embeddings = embeddings
        self.dims = tuple(embedding.dim for embedding in embeddings)
        self.columns = columns_of(self.dims)
        self.width = sum(self.dims)
        self._rows = rows

    def __len__(self) -> int:
        return len(self.embeddings[0].valid) if self._rows is None else len(self._rows)

    def where(self, block: slice) -> Where:
        """The rows that a slice of positions stands for."""
        if self._rows is None:
            return slice(block.start, min(block.stop, len(self)))
        rows = self._rows[block]
        in_order = len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        return slice(int(rows[0]), int(rows[-1]) + 1) if in_order else rows

    def valid(self, block: slice) -> np.ndarray:
        """(n, E) bool: which embeddings the items at these positions have."""
        where = self.where(block)
        return np.stack([np.asarray(embedding.valid[where]) for embedding in self.embeddings], axis=1)

    def blocks(self) -> Iterator[slice]:
        """Slices of positions of which the concatenation takes a few MiB as float32."""
        size = max(1, _BLOCK_BYTES // (4 * self.width * SLAB_ROWS)) * SLAB_ROWS
        return stretches(len(self), size)

    def centred(self, means: Sequence[torch.Tensor], workers: Workers) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield blocks of the concatenation minus the means, zero where an embedding is missing.

        Args:
            means: (D_e,) float32 of each embedding.
            workers: read and convert.

        Yields:
            (n, width) float32, to be used before the next one is asked for, and (n, E) bool valid.

        Raises:
            InputError: NaN or infinity in a valid row.
        """
        buffer = torch.empty(0, self.width)
        for block in self.blocks():
            num_rows = min(block.stop, len(self)) - block.start
            if not len(buffer):
                buffer = torch.empty(num_rows, self.width)
            part = buffer[:num_rows]
            self.prefetch(slice(block.stop, block.stop + num_rows))
            workers.run(self._filler(block, part, means), slabs_of(num_rows))
            self.release()
            yield part, self.valid(block)

    def _filler(self, block: slice, part: torch.Tensor, means: Sequence[torch.Tensor]) -> Callable[[slice], None]:
        def fill(slab: slice) -> None:
            positions = slice(block.start + slab.start, block.start + slab.stop)
            for number, (mean, columns) in enumerate(zip(means, self.columns, strict=True)):
                self.fill(number, positions, part[slab, columns], mean)

        return fill

    def fill(self, number: int, positions: slice, out: torch.Tensor, mean: torch.Tensor) -> None:
        """Write one embedding's rows, minus the mean and zero where not valid, to (n, D_e) float32 ``out``.

        Raises:
            InputError: NaN or infinity in a valid row.
        """
        embedding, where = self.embeddings[number], self.where(positions)
        _copy(embedding.vectors[where], out)
        out.sub_(mean)
        valid = np.asarray(embedding.valid[where])
        if not valid.all():
            out[torch.from_numpy(~valid)] = 0
        # One sum is cheaper than looking at every number; it may overflow, so look then.
        if not np.isfinite(float(out.sum())):
            _check_finite(embedding, where, out)
        if isinstance(where, np.ndarray):
            _release(embedding.vectors)  # each gathered row maps pages around it

    def prefetch(self, block: slice) -> None:
        """Have the system read the rows at these positions while something else is computed."""
        where = self.where(slice(min(block.start, len(self)), min(block.stop, len(self))))
        if isinstance(where, slice) and where.stop > where.start:
            for embedding in self.embeddings:
                _read_ahead(embedding.vectors, where)

    def release(self) -> None:
        """Let go of what was mapped."""
        for embedding in self.embeddings:
            _release(embedding.vectors)


def columns_of(dims: Sequence[int]) -> list[slice]:
    """The columns of each embedding in the concatenation."""
    ends = np.cumsum(dims)
    return [slice(int(end - dim), int(end)) for end, dim in zip(ends, dims, strict=True)]


def stretches(num_rows: int, size: int) -> Iterator[slice]:
    """Consecutive slices of ``size`` rows, the last one shorter."""
    for first in range(0, num_rows, size):
        yield slice(first, min(first + size, num_rows))


def slabs_of(num_rows: int) -> Iterator[slice]:
    """Stretches small enough to stay in a core's cache."""
    return stretches(num_rows, SLAB_ROWS)


def spread_rows(source: RowSource, number: int, count: int) -> np.ndarray:
    """Up to ``count`` rows spread evenly over the catalogue that have this embedding, in short runs.

    Raises:
        InputError: no row has it.
    """
    run = 16
    starts = np.linspace(0, max(0, len(source) - run), max(1, count // run)).astype(np.int64)
    positions = np.unique(np.minimum(starts[:, None] + np.arange(run), len(source) - 1))
    rows, valid = _rows_at(source, positions), source.embeddings[number].valid
    rows = rows[np.asarray(valid[rows])]
    if not len(rows):  # a rare one: its first rows
        rows = _first_valid(source, number, count)
    return rows


def _rows_at(source: RowSource, positions: np.ndarray) -> np.ndarray:
    where = source.where(slice(0, len(source)))
    return np.asarray(positions + where.start if isinstance(where, slice) else where[positions])


def _first_valid(source: RowSource, number: int, count: int) -> np.ndarray:
    embedding = source.embeddings[number]
    for block in stretches(len(source), _SEARCHED_ROWS):
        found = np.flatnonzero(np.asarray(embedding.valid[source.where(block)]))[:count]
        if len(found):
            return _rows_at(source, block.start + found)
    raise InputError(
        f"Embedding {embedding.name!r} has no valid row among the {len(source)} to fit on: leave it out."
    )


def _check_embeddings(embeddings: Sequence[Embedding]) -> None:
    if not embeddings:
        raise InputError("No embedding was given: name at least one.")
    for embedding in embeddings:
        shape, dtype = embedding.vectors.shape, embedding.vectors.dtype
        if len(shape) != 2 or shape[1] < 1:
            raise InputError(f"Embedding {embedding.name!r} has shape {shape}, expected (items, dimensions).")
        if dtype.kind not in "fiu" and dtype.name != "bfloat16":
            raise InputError(f"Embedding {embedding.name!r} holds {dtype}: give floating-point numbers.")
        num_rows, wanted = shape[0], embeddings[0].vectors.shape[0]
        if num_rows != wanted or len(embedding.valid) != num_rows:
            raise InputError(
                f"Embedding {embedding.name!r} has {num_rows} rows and {len(embedding.valid)} validity marks, "
                f"but {embeddings[0].name!r} has {wanted} rows: all need one row an item."
            )


def _copy(vectors: np.ndarray, out: torch.Tensor) -> None:
    """Convert by torch, which is ten times as fast with float16 as numpy."""
    if vectors.dtype not in (np.float16, np.float32, np.float64):
        vectors = vectors.astype(np.float32)
    if vectors.flags.writeable:
        out.copy_(torch.from_numpy(vectors))
        return
    # Torch takes no read-only memory. Copies are kept small: large ones would be fresh pages every time.
    for rows in stretches(len(vectors), max(1, _COPY_BYTES // max(1, vectors.itemsize * vectors.shape[1]))):
        out[rows].copy_(torch.from_numpy(np.array(vectors[rows])))


def _check_finite(embedding: Embedding, where: Where, values: torch.Tensor) -> None:
    finite = torch.isfinite(values).all(dim=1).numpy()
    if not finite.all():
        first = int(np.argmin(finite))
        row = where.start + first if isinstance(where, slice) else int(where[first])
        raise InputError(
            f"Embedding {embedding.name!r} has NaN or infinity in row {row}: correct or leave out that row."
        )


def _mapping(array: Any) -> mmap.mmap | None:
    """The mapped file that an array lies in; None if it is none, or holds changes that the file does not have."""
    owner = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode == "c":
            return None
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None


def _release(array: Any) -> None:
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _read_ahead(array: Any, rows: slice) -> None:
    mapping = _mapping(array)
    if mapping is None or not array.flags.c_contiguous or not hasattr(mmap, "MADV_WILLNEED"):
        return
    start = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    first = array.__array_interface__["data"][0] - start + rows.start * array.strides[0]
    page = first - first % mmap.PAGESIZE
    mapping.madvise(mmap.MADV_WILLNEED, page, first + (rows.stop - rows.start) * array.strides[0] - page)
