"""Large ``.npy`` files written in any order and read in blocks, with memory that does not grow with them."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from semid.data.building.arrays import allocate_array, write_array

_PAGE_BYTES = 4096
_TOUCHED_BYTES = 16 << 20


class RowFile:
    """A ``.npy`` file of known shape, zero at first, whose rows are written in any order.

    Written pages are handed back to the page cache at once, so that resident memory stays below some 16 MiB
    however large the file is.

    Args:
        path: the file; folders are made.
        dtype: of the array.
        shape: (R, ...).
    """

    def __init__(self, path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._array: np.ndarray = np.zeros(shape, self.dtype)[:0]
        if 0 in shape:
            write_array(path, np.zeros(shape, self.dtype))
        else:
            self._array = allocate_array(path, dtype, shape)
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._step = max(1, _TOUCHED_BYTES // max(_PAGE_BYTES, row_bytes))

    def put(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write ``values`` (n, ...) to the given rows (n,)."""
        if 0 in self.shape:
            return
        for first in range(0, len(rows), self._step):
            block = slice(first, first + self._step)
            self._array[rows[block]] = values[block]
            release(self._array)

    def get(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the given rows. (n, ...)"""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if 0 not in self.shape:
            for first in range(0, len(rows), self._step):
                block = slice(first, first + self._step)
                found[block] = self._array[rows[block]]
                release(self._array)
        return found

    def close(self) -> None:
        """Let go of the mapping."""
        self._array = np.zeros(self.shape, self.dtype) if 0 in self.shape else self._array[:0].copy()


def release(array: np.ndarray) -> None:
    """Drop the pages of a mapped file from this process; nothing that was written is lost.

    Arrays that are not mapped are left alone.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)


class BlockReader:
    """Reads slices of a ``.npy`` file into memory, without mapping it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            assert npy.read_magic(file) == (1, 0), path
            self.shape, fortran, self.dtype = npy.read_array_header_1_0(file)
            self._start = file.tell()
        assert not fortran, path
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return int(self.shape[0])

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows ``first:last``. (last - first, ...)"""
        count = max(0, min(last, len(self)) - first)
        flat = np.fromfile(
            self._path,
            self.dtype,
            count * (self._row_bytes // self.dtype.itemsize),
            offset=self._start + first * self._row_bytes,
        )
        rows: np.ndarray = flat.reshape(count, *self.shape[1:])
        return rows
