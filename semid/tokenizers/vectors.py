"""Vectors of a catalogue, in memory or in a file larger than it, read a block or some rows at a time."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from semid.data.building.arrays import ArrayWriter
from semid.data.building.row_file import BlockReader, release
from semid.errors import InputError
from semid.tokenizers.quantiser import Quantiser

# Rows of one block: small enough that a block of wide vectors stays far below what fits into memory.
BLOCK_ROWS = 1 << 16
# Vectors that need more than this stay on disk.
MEMORY_BYTES = 256 << 20
# Rows gathered before their pages are let go of: the kernel may map up to 2 MB around each.
_GATHERED_ROWS = 1 << 7


class StoredVectors:
    """The (N, D) float32 rows of a ``.npy`` file, indexed like an array by slices and by arrays of rows.

    Slices are read, rows are gathered from a mapping whose pages are let go of at once, so that resident memory is
    what was asked for and no more.

    Args:
        path: the file; it must stay as long as the object is used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = BlockReader(path)
        self.shape = self._reader.shape
        self.dtype = self._reader.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            assert step == 1, "only whole stretches of rows are read"
            return self._reader.read(first, last)
        if not len(self):
            return np.empty((0, self.shape[1]), self.dtype)
        mapped = np.load(self.path, mmap_mode="r")
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        for first in range(0, len(rows), _GATHERED_ROWS):
            found[first : first + _GATHERED_ROWS] = mapped[rows[first : first + _GATHERED_ROWS]]
            release(mapped)
        return found

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        return self[:].astype(np.float32 if dtype is None else dtype, copy=False)  # type: ignore[call-overload,no-any-return]


Vectors = np.ndarray | StoredVectors


class Latents:
    """The latent points of vectors, computed when rows are asked for."""

    def __init__(self, vectors: Vectors, quantiser: Quantiser) -> None:
        self._vectors, self._quantiser = vectors, quantiser
        self.shape = (len(vectors), quantiser.codebooks_[0].shape[1])
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._quantiser.latents(self._vectors[rows])


def row_blocks(num_rows: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` rows."""
    for first in range(0, num_rows, size):
        yield slice(first, min(first + size, num_rows))


def collect_vectors(
    blocks: Iterable[np.ndarray], num_rows: int, dim: int, scratch: Path | None = None
) -> tuple[Vectors, tempfile.TemporaryDirectory[str] | None]:
    """Vectors that come in blocks, in memory where they are few, else in a file.

    Args:
        blocks: (B, D) float32 each, ``num_rows`` rows together.
        num_rows: N.
        dim: D.
        scratch: folder for the file; the system's temporary folder by default.

    Returns:
        The vectors, and the folder that holds them as long as it is referred to; None in memory.
    """
    if 4 * num_rows * dim <= MEMORY_BYTES:
        vectors, first = np.empty((num_rows, dim), np.float32), 0
        for block in blocks:
            vectors[first : first + len(block)] = block
            first += len(block)
        return vectors, None
    folder = tempfile.TemporaryDirectory(prefix=".semid-vectors-", dir=scratch)
    path = Path(folder.name) / "vectors.npy"
    with ArrayWriter(path, np.float32, (dim,)) as writer:
        for block in blocks:
            writer.append(block)
    return StoredVectors(path), folder


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Copy vectors into a ``.npy`` file, block by block."""
    with ArrayWriter(path, np.float32, (vectors.shape[1],)) as writer:
        for rows in row_blocks(len(vectors)):
            writer.append(vectors[rows])


def read_vectors(path: Path) -> Vectors:
    """What :func:`write_vectors` wrote: an array where that is small, else rows on disk.

    Raises:
        InputError: the file is no such matrix.
    """
    try:
        stored = StoredVectors(path)
    except (AssertionError, ValueError, EOFError):
        raise InputError(f"{path} does not hold vectors: make the tokenizer again.") from None
    if len(stored.shape) != 2 or stored.dtype != np.float32:
        raise InputError(
            f"{path} holds {stored.dtype} of shape {stored.shape}, not vectors: make the tokenizer again."
        )
    return stored if 4 * len(stored) * stored.shape[1] > MEMORY_BYTES else stored[:]
