"""Streaming writers of ``.npy`` files: memory stays flat, and a full disk is an error, not a crash."""

import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

# Room for the header, which is written again with the final length when the file is closed.
_HEADER_BYTES = 128


class ArrayWriter:
    """Append rows to a ``.npy`` file whose length is not known in advance.

    Args:
        path: the file; folders are made.
        dtype: of the array.
        row_shape: shape of one row, ``()`` for a flat array.
    """

    def __init__(self, path: Path, dtype: Any, row_shape: tuple[int, ...] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.length = 0
        self._file: IO[bytes] = path.open("wb")
        self._file.write(b" " * _HEADER_BYTES)

    def append(self, rows: Any) -> None:
        """Write rows of shape (n, *row_shape)."""
        array = np.ascontiguousarray(rows, dtype=self.dtype)
        assert array.shape[1:] == self.row_shape, (array.shape, self.row_shape)
        self._file.write(array.data if array.size else b"")
        self.length += len(array)

    def close(self) -> None:
        """Write the header; the file is complete after this."""
        shape = (self.length, *self.row_shape)
        text = f"{{'descr': {npy.dtype_to_descr(self.dtype)!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
        prefix = npy.magic(1, 0) + (_HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(prefix + text.encode("latin1").ljust(_HEADER_BYTES - 11) + b"\n")
        self._file.close()

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one whole array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=False)


def allocate_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A zeroed ``.npy`` file mapped for writing in any order.

    The blocks are reserved first: on a full disk that raises OSError here instead of killing the process
    with a bus error at some later write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    empty = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=(0, *shape[1:]))
    del empty
    with path.open("r+b") as file:
        npy.write_array_header_1_0(
            file, {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        )
        start = file.tell()
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if size:
            _reserve(file.fileno(), start + size)
    mapped: np.memmap = np.lib.format.open_memmap(path, mode="r+")
    return mapped


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS: the room is not reserved, only claimed
        os.truncate(descriptor, size)
