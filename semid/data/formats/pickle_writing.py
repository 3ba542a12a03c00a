"""Writes large pickled maps and lists piece by piece, as any reader of pickles understands them."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

_HEADER = b"\x80\x04"
_EMPTY_MAP, _EMPTY_LIST, _MARK, _SET_ITEMS, _SET_ITEM, _APPENDS, _STOP = b"}", b"]", b"(", b"u", b"s", b"e", b"."
_LONG1, _BINFLOAT = 0x8A, ord("G")
_INTEGER = np.dtype([("code", "u1"), ("bytes", "u1"), ("value", "<i8")])
_FLOAT = np.dtype([("code", "u1"), ("value", ">f8")])


class PickleStream:
    """One pickle, whose root is a map or a list, written without ever being held in memory.

    Args:
        path: the file.
        root: ``dict`` or ``list``.
    """

    def __init__(self, path: Path, root: type) -> None:
        self._file = path.open("wb")
        self._file.write(_HEADER + (_EMPTY_MAP if root is dict else _EMPTY_LIST))

    def open_map(self, key: str) -> None:
        """Begin a map within the map that is open; entries go into it until :meth:`close_map`."""
        self._file.write(_text(key) + _EMPTY_MAP)

    def close_map(self) -> None:
        """End the map begun last."""
        self._file.write(_SET_ITEM)

    def put_integers(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Entries from int64 to int64."""
        self._entries(np.stack([_integers(keys), _integers(values)], axis=1).tobytes())

    def put_texts(self, keys: Iterable[str], values: np.ndarray) -> None:
        """Entries from strings to int64."""
        size = _INTEGER.itemsize
        numbers = _integers(values).tobytes()
        self._entries(b"".join(_text(key) + numbers[i * size : (i + 1) * size] for i, key in enumerate(keys)))

    def put_vectors(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Entries from int64 (n,) to lists of floats (n, D)."""
        floats = np.empty(vectors.shape, _FLOAT)
        floats["code"] = _BINFLOAT
        floats["value"] = vectors
        rows = (
            key.tobytes() + _EMPTY_LIST + _MARK + row.tobytes() + _APPENDS
            for key, row in zip(_integers(keys), floats, strict=True)
        )
        self._entries(b"".join(rows))

    def append_integers(self, values: Sequence[int] | np.ndarray) -> None:
        """Elements of the root list."""
        self._file.write(_MARK + _integers(np.asarray(values, np.int64)).tobytes() + _APPENDS)

    def _entries(self, data: bytes) -> None:
        self._file.write(_MARK + data + _SET_ITEMS)

    def __enter__(self) -> "PickleStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write(_STOP)
        self._file.close()


def _integers(values: np.ndarray) -> np.ndarray:
    encoded = np.empty(len(values), _INTEGER)
    encoded["code"], encoded["bytes"] = _LONG1, 8
    encoded["value"] = values
    return encoded


def _text(value: str) -> bytes:
    data = value.encode()
    if len(data) < 256:
        return b"\x8c" + bytes((len(data),)) + data
    return b"X" + struct.pack("<I", len(data)) + data
