"""Semantic IDs: which codes an item has, and which item has given codes."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from semid.errors import InputError


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The codes of every item row of one catalogue.

    Attributes:
        codes: (N, L) int32, level by level from coarse to fine.
        num_codes: K per level; ``codes[:, l] < num_codes[l]``.
    """

    codes: np.ndarray
    num_codes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.num_codes):
            raise InputError(f"Codes have shape {self.codes.shape}, expected (N, {len(self.num_codes)}).")
        if len(self.codes) and (self.codes.min() < 0 or (self.codes.max(axis=0) >= self.num_codes).any()):
            raise InputError(f"Codes lie outside 0..K-1 for K = {self.num_codes}.")

    @property
    def num_items(self) -> int:
        return len(self.codes)

    @property
    def num_levels(self) -> int:
        return len(self.num_codes)

    def keys(self, codes: np.ndarray | None = None, *, levels: int | None = None) -> np.ndarray:
        """One int64 for the first ``levels`` codes of each row, which sorts like they do. (M,)

        The codes are the digits of the key. Where that would take more than 63 bits, the codes before a level are
        replaced by their rank among those of the catalogue; rows that begin like no item then have the key -1.
        """
        rows = self.codes if codes is None else codes
        key = np.zeros(len(rows), np.int64)
        unknown = []
        for level in range(self.num_levels if levels is None else levels):
            if level in self._prefixes:
                prefixes = self._prefixes[level]
                rank = np.minimum(np.searchsorted(prefixes, key), len(prefixes) - 1)
                unknown.append(prefixes[rank] != key)
                key = rank
            key *= self.num_codes[level]
            key += rows[:, level]
        if unknown:
            key[np.any(unknown, axis=0)] = -1
        return key

    @cached_property
    def _prefixes(self) -> dict[int, np.ndarray]:
        """Levels at which keys would outgrow 63 bits, and the rising keys that the catalogue has before them."""
        found: dict[int, np.ndarray] = {}
        if prod(self.num_codes) < 2**63:
            return found
        key, size = np.zeros(self.num_items, np.int64), 1
        for level, width in enumerate(self.num_codes):
            if size * width >= 2**63:
                found[level], key = np.unique(key, return_inverse=True)
                size = len(found[level])
            key = key * width + self.codes[:, level]
            size *= width
        return found

    def split(self, keys: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
        """Undo one step of :meth:`keys`: the keys of the first ``levels - 1`` codes, and the last codes. (M,) each"""
        before = keys // self.num_codes[levels - 1]
        codes = keys - before * self.num_codes[levels - 1]  # several times faster than divmod
        return (self._prefixes[levels - 1][before] if levels - 1 in self._prefixes else before), codes

    def sorted_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """All keys in rising order and their item rows, equal keys by row. (N,) int64 each"""
        keys, bits = self.keys(), max(self.num_items - 1, 0).bit_length()
        if int(keys.max(initial=0)) >> (63 - bits):
            order = np.argsort(keys, kind="stable")
            return keys[order], order
        # Key and row fit in one integer: sorting values is several times faster than sorting places.
        keys <<= bits
        keys |= np.arange(self.num_items)
        keys.sort()
        rows = keys & ((1 << bits) - 1)
        keys >>= bits
        return keys, rows

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        return self.sorted_rows()

    @property
    def order(self) -> np.ndarray:
        """Item rows sorted by their codes. (N,) int64"""
        return self._sorted[1]

    @property
    def _sorted_keys(self) -> np.ndarray:
        return self._sorted[0]

    @property
    def is_unique(self) -> bool:
        """Whether no two items share all their codes."""
        return bool((np.diff(self._sorted_keys) > 0).all())

    def items_of(self, codes: np.ndarray) -> np.ndarray:
        """Item row of each (M, L) row of codes, the lowest row if several share them, -1 if none. (M,) int64"""
        wanted = self.keys(codes)
        position = np.searchsorted(self._sorted_keys, wanted)
        clipped = np.minimum(position, self.num_items - 1)
        return np.where(self._sorted_keys[clipped] == wanted, self.order[clipped], -1)
