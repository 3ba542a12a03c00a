"""Where items lie within their leaf: at a place of its circle, one of every kind at each place."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Kinds of items, 0 to ``count`` - 1, told apart by price, pace and style; one of each makes a single kind."""

    prices: int = 1
    paces: int = 1
    styles: int = 1

    @property
    def count(self) -> int:
        return self.prices * self.paces * self.styles

    def join(self, price: np.ndarray, pace: np.ndarray, style: np.ndarray) -> np.ndarray:
        """The kind of so many items. (n,)"""
        kind: np.ndarray = (price * self.paces + pace) * self.styles + style
        return kind

    def price(self, kind: np.ndarray) -> np.ndarray:
        """(n,)"""
        price: np.ndarray = kind // (self.paces * self.styles)
        return price

    def pace(self, kind: np.ndarray) -> np.ndarray:
        """(n,)"""
        pace: np.ndarray = kind // self.styles % self.paces
        return pace

    def style(self, kind: np.ndarray) -> np.ndarray:
        """(n,)"""
        style: np.ndarray = kind % self.styles
        return style


class Places:
    """Leaves as circles of places.

    Item ``index`` of a leaf, from 0, is the one with ``index = place · kinds + kind``. What is left over where the
    kinds do not divide the leaf lies at its end and is shown to nobody.

    Attributes:
        lengths: (leaves,) places of each circle.
    """

    def __init__(self, sizes: np.ndarray, num_kinds: int) -> None:
        self._num_kinds = num_kinds
        self._last = sizes - 1
        self.lengths = np.maximum(sizes // num_kinds, 1)

    def place(self, leaf: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Place of the item on the circle. (n,)"""
        place: np.ndarray = index // self._num_kinds % self.lengths[leaf]
        return place

    def kind(self, index: np.ndarray) -> np.ndarray:
        """Kind of the item. (n,)"""
        kind: np.ndarray = index % self._num_kinds
        return kind

    def index(self, leaf: np.ndarray, place: np.ndarray, kind: np.ndarray) -> np.ndarray:
        """The item there; in a leaf too small to have one, the last. (n,)"""
        index: np.ndarray = np.minimum(place * self._num_kinds + kind, self._last[leaf])
        return index
