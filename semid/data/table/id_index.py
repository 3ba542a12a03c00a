"""From raw ids to rows."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.table.files import INTEGER_PATTERN
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
        keys = ids.to_numpy() if pa.types.is_integer(ids.type) else ids.dictionary_encode().indices.to_numpy()
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(np.diff(keys[order]) == 0)
        if len(same):
            first, second = (int(row) for row in order[same[0] : same[0] + 2])
            raise InputError(
                f"Item id {ids[first].as_py()!r} occurs twice, at {where(first)} and {where(second)}: keep one."
            )
        self._order, self._sorted = order, keys[order]

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
