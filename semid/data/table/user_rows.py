"""Rows of users as they stream by in the order of their ids."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder, RawIdWriter
from semid.errors import InputError


class UserRows:
    """Writes raw user ids and remembers the rows of some of them.

    Args:
        builder: the dataset; its messages name users by id while their events are appended.
        wanted: (W,) distinct ids whose rows are asked for later; those without events become users with none.
    """

    def __init__(self, builder: DatasetBuilder, wanted: pa.Array | None = None) -> None:
        self._builder = builder
        self._writer: RawIdWriter | None = None
        self._num_rows = 0
        self._type = None if wanted is None else wanted.type
        self._wanted = [] if wanted is None else wanted.take(pc.sort_indices(wanted)).to_pylist()
        self._rows = np.zeros(len(self._wanted), np.int64)
        self._next = 0

    def add(self, ids: pa.Array, counts: np.ndarray) -> np.ndarray:
        """Append users: ``ids`` (u,) increasing and beyond all before, with their numbers of events.

        Returns:
            event counts with wanted users who have no events in between. (u + …,)
        """
        if self._type not in (None, ids.type):
            raise InputError(
                f"User ids of the events are {ids.type} but those of the users or given queries are {self._type}: "
                "write them alike."
            )
        if self._next < len(self._wanted) and len(ids):
            ids, counts = self._merged(ids, counts)
        self._write(ids)
        return counts

    def finish(self) -> None:
        """Append the wanted users beyond the last one."""
        rest = self._wanted[self._next :]
        if rest:
            self._rows[self._next :] = self._num_rows + np.arange(len(rest))
            self._next = len(self._wanted)
            self._write(pa.array(rest))
            none = np.zeros(0, np.int64)
            self._builder.append_events(
                np.zeros(len(rest), np.int64), none, none, none, none if self._builder.has_splits else None
            )

    def rows(self, ids: pa.Array) -> np.ndarray:
        """Rows of wanted ids. (n,) int64"""
        place: np.ndarray = pc.index_in(ids, pa.array(self._wanted, ids.type)).to_numpy()
        rows: np.ndarray = self._rows[place]
        return rows

    def _merged(self, ids: pa.Array, counts: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        last: Any = ids[-1].as_py()
        stop = self._next
        while stop < len(self._wanted) and self._wanted[stop] <= last:
            stop += 1
        here = pa.array(self._wanted[self._next : stop], ids.type)
        union = pc.unique(pa.concat_arrays([ids, here]))
        union = union.take(pc.sort_indices(union))
        merged = np.zeros(len(union), np.int64)
        merged[pc.index_in(ids, union).to_numpy()] = counts
        self._rows[self._next : stop] = self._num_rows + pc.index_in(here, union).to_numpy()
        self._next = stop
        return union, merged

    def _write(self, ids: pa.Array) -> None:
        if self._writer is None:
            self._writer = self._builder.raw_ids("users", ids.type)
        first = self._num_rows
        self._builder.name_user = lambda row: repr(ids[row - first].as_py())
        self._writer.append(ids)
        self._num_rows += len(ids)
