"""TencentGR's ``indexer.pkl``: which re-id each raw item, user and feature value has."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from semid.data.building.arrays import ArrayWriter
from semid.data.building.row_file import BlockReader, RowFile
from semid.data.formats.pickles import MapChunk, MapPath, stream_maps
from semid.errors import InputError

_BLOCK = 1 << 18
_SECTIONS = ("u", "i", "f")


def raw_ids(values: Sequence[Any], where: str) -> np.ndarray:
    """Raw ids as int64, whether they are integers or strings of digits. (n,)

    Raises:
        InputError: something else; the message begins with ``where``.
    """
    try:
        array = np.asarray(values)
        if (array.dtype.kind not in "iuUS" or array.ndim != 1) and len(array):
            raise ValueError
        return array.astype(np.int64)
    except (ValueError, OverflowError):
        wrong = next((value for value in values if not _is_integer(value)), None)
        raise InputError(f"{where} has the raw id {wrong!r}: raw ids are integers or strings of digits.") from None


def _is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lstrip("-").isdigit()
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


class ItemLookup:
    """Finds rows by raw id: two sorted arrays and a binary search.

    Attributes:
        raw: (N,) int64, raw id of each row.
    """

    def __init__(self, raw: np.ndarray) -> None:
        self.raw = raw
        self._order = np.argsort(raw, kind="stable").astype(np.int32)
        self._sorted = raw[self._order]

    def rows(self, raw: np.ndarray) -> np.ndarray:
        """Row of each raw id, -1 where there is none. (n,) int64"""
        if not len(self._sorted):
            return np.full(len(raw), -1, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, raw), len(self._sorted) - 1)
        return np.where(self._sorted[place] == raw, self._order[place].astype(np.int64), -1)


class UserNames:
    """Raw user strings by re-id, kept on disk: memory does not grow with users."""

    def __init__(self, spool: Callable[[str], Path]) -> None:
        self.count = 0
        self._spool = spool
        self._text_path = spool("user_names.bin")
        self._text = self._text_path.open("wb")
        self._length = 0
        paths = spool("user_name_ids.npy"), spool("user_name_ends.npy")
        self._arrived = ArrayWriter(paths[0], np.int64), ArrayWriter(paths[1], np.int64)
        self._arrived_paths = paths
        self._spans: RowFile | None = None

    def append(self, names: Sequence[Any], reids: np.ndarray) -> None:
        """Add users in any order."""
        encoded = [str(name).encode() for name in names]
        self._text.write(b"".join(encoded))
        ends = self._length + np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._length = int(ends[-1]) if len(ends) else self._length
        self._arrived[0].append(reids)
        self._arrived[1].append(ends)
        self.count += len(encoded)

    def close(self, where: str) -> None:
        """End of the users: now they can be looked up.

        Raises:
            InputError: re-ids are not 1..U, each once.
        """
        self._text.close()
        for writer in self._arrived:
            writer.close()
        reids, ends = (BlockReader(path) for path in self._arrived_paths)
        self._spans = RowFile(self._spool("user_name_spans.npy"), np.int64, (self.count + 1, 2))
        start = 0
        for first in range(0, self.count, _BLOCK):
            block, stops = reids.read(first, first + _BLOCK), ends.read(first, first + _BLOCK)
            _require_range(block, self.count, f"{where} 'u'")
            starts = np.concatenate([[start], stops[:-1]])
            # Ends are stored plus one, so that a name of no characters differs from no name.
            self._spans.put(block, np.stack([starts, stops + 1], axis=1))
            start = int(stops[-1])
        for first in range(1, self.count + 1, _BLOCK):
            block = np.arange(first, min(first + _BLOCK, self.count + 1))
            absent = block[self._spans.get(block)[:, 1] == 0]
            if len(absent):
                raise InputError(f"{where} 'u' gives no user the re-id {absent[0]}: re-ids must be 1..{self.count}.")
        self._file = self._text_path.open("rb")

    def get(self, reids: np.ndarray) -> list[str]:
        """Raw strings of re-ids, which must be 1..count."""
        assert self._spans is not None
        descriptor = self._file.fileno()
        spans = self._spans.get(reids).tolist()
        return [os.pread(descriptor, end - 1 - start, start).decode() for start, end in spans]


class Indexer:
    """What ``indexer.pkl`` says.

    Attributes:
        path: the file.
        items: raw item ids; row r has re-id r + 1.
        users: raw user strings by re-id.
        field_sizes: number of values of each feature field.
    """

    def __init__(self, path: Path, spool: Callable[[str], Path]) -> None:
        """Read the file.

        Args:
            path: ``indexer.pkl``.
            spool: gives the path of a temporary file by name.

        Raises:
            InputError: not a pickle of plain data, no map of users or items, or re-ids that are not 1, 2, 3, ….
        """
        if not path.is_file():
            raise InputError(f"No {path}: without the indexer raw ids cannot be told; get it again.")
        self.path = path
        self.users = UserNames(spool)
        self.field_sizes: dict[str, int] = {}
        self._field_parts: dict[str, list[tuple[np.ndarray, pa.Array]]] = {}
        self._item_parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._found: set[str] = set()
        for chunk in stream_maps(path, _is_wanted):
            self._take(chunk)
        lacking = {"u", "i"} - self._found
        if lacking:
            raise InputError(f"{path} has no map {sorted(lacking)[0]!r}: it is another file or incomplete.")
        self.users.close(str(path))
        self.items = ItemLookup(self._raw_by_row())

    @property
    def num_items(self) -> int:
        return len(self.items.raw)

    def field_values(self, field: str, count: int) -> tuple[np.ndarray, pa.Array]:
        """Re-ids (n,) and the raw values they stand for; those of a field that is not here, 1..count, stand for
        themselves."""
        if field not in self._field_parts:
            reids = np.arange(1, count + 1)
            return reids, pa.array(reids).cast(pa.string())
        parts, values = zip(*self._field_parts[field], strict=True)
        return np.concatenate(parts), pa.concat_arrays(values)

    def example_items(self) -> str:
        """A few raw item ids for messages."""
        return ", ".join(str(raw) for raw in self.items.raw[:3])

    def _take(self, chunk: MapChunk) -> None:
        if not chunk.path:
            broken = set(_SECTIONS).intersection(chunk.keys)
            if broken:
                raise InputError(f"{self.path} entry {sorted(broken)[0]!r} is not a map: it is another file.")
            return
        section = chunk.path[0]
        self._found.add(section)
        if section == "u":
            self.users.append(chunk.keys, self._reids(chunk, "u"))
        elif section == "i":
            self._item_parts.append((raw_ids(chunk.keys, f"{self.path} 'i'"), self._reids(chunk, "i")))
        elif len(chunk.path) == 2:
            field = str(chunk.path[1])
            self.field_sizes[field] = self.field_sizes.get(field, 0) + len(chunk.keys)
            part = self._reids(chunk, "f"), pa.array(map(str, chunk.keys), pa.string())
            self._field_parts.setdefault(field, []).append(part)

    def _reids(self, chunk: MapChunk, section: str) -> np.ndarray:
        values = np.asarray(chunk.values)
        if values.dtype.kind not in "iu" and len(values):
            raise InputError(f"{self.path} {section!r} has re-ids that are not integers: it is another file.")
        return values.astype(np.int64)

    def _raw_by_row(self) -> np.ndarray:
        parts = self._item_parts
        raw = np.concatenate([part[0] for part in parts])
        reids = np.concatenate([part[1] for part in parts])
        self._item_parts = []
        _require_range(reids, len(raw), f"{self.path} 'i'")
        by_row = np.empty(len(raw), np.int64)
        by_row[reids - 1] = raw
        given = np.zeros(len(raw), np.bool_)
        given[reids - 1] = True
        if not given.all():
            absent = int(np.flatnonzero(~given)[0]) + 1
            raise InputError(f"{self.path} 'i' gives no item the re-id {absent}: re-ids must be 1..{len(raw)}.")
        return by_row


def _is_wanted(path: MapPath) -> bool:
    if len(path) == 2:
        return bool(path[0] == "f")
    return len(path) == 0 or (len(path) == 1 and path[0] in _SECTIONS)


def _require_range(reids: np.ndarray, count: int, where: str) -> None:
    wrong = reids[(reids < 1) | (reids > count)]
    if len(wrong):
        raise InputError(f"{where} has {count} entries but the re-id {wrong[0]}: re-ids must be 1..{count}.")
