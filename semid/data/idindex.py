"""From raw ids to rows."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.tablefiles import INTEGER_PATTERN
from semid.errors import InputError


class IdIndex:
    """Finds the row of raw ids; integer ids also match strings of their digits, and the other way round.

    Args:
        ids: (R,) int64 or string array; id i is row i.
        where: names a row for messages.

    Raises:
        InputError: an id occurs twice.
    """

    def __init__(self, ids: pa.Array, where: Callable[[int], str]) -> None:
        self.ids = ids
        self._order = np.zeros(0, np.int64)
        self._sorted = np.zeros(0, np.int64)
        if pa.types.is_integer(ids.type):
            values = ids.to_numpy()
            self._order = np.argsort(values, kind="stable")
            self._sorted = values[self._order]
            same = np.flatnonzero(np.diff(self._sorted) == 0)
            twice = self._order[same[0] : same[0] + 2] if len(same) else []
        else:
            codes = ids.dictionary_encode().indices.to_numpy()
            order = np.argsort(codes, kind="stable")
            same = np.flatnonzero(np.diff(codes[order]) == 0)
            twice = order[same[0] : same[0] + 2] if len(same) else []
        if len(twice):
            raise InputError(
                f"Item id {ids[int(twice[0])].as_py()!r} occurs twice, at {where(int(twice[0]))} and "
                f"{where(int(twice[1]))}: keep one."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, values: pa.Array) -> np.ndarray:
        """Row of each id, -1 where unknown or null. (n,) int64"""
        if not pa.types.is_integer(self.ids.type):
            found: np.ndarray = pc.index_in(values.cast(pa.string()), self.ids).fill_null(-1).to_numpy()
            return found.astype(np.int64)
        numbers = values
        if pa.types.is_string(values.type):
            is_number = pc.match_substring_regex(values, INTEGER_PATTERN)
            numbers = pc.if_else(is_number, values, None).cast(pa.int64())
        known = numbers.is_valid().to_numpy(zero_copy_only=False)
        wanted = numbers.fill_null(0).to_numpy()
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self) - 1)
        return np.where(known & (self._sorted[place] == wanted), self._order[place], -1)

    def examples(self) -> str:
        """A few ids for messages."""
        return ", ".join(repr(value.as_py()) for value in self.ids[:3])
