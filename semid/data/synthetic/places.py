"""Where items lie within their leaf: on a side, at a place of that side's circle, in a style."""

import numpy as np


class Places:
    """Leaves whose items differ by more than their place on a circle, where effects ask for it.

    Item ``index`` of a leaf, from 0, is the one with ``index = (side · length + place) · styles + style``. So sides
    are arcs of the leaf and show in vectors like places, whereas styles alternate too finely to show there. What
    the division of a leaf leaves over lies at its end and is shown to nobody.

    Attributes:
        sides, styles: how many there are in every leaf; one of each makes index and place the same.
        lengths: (leaves,) places of each side of a leaf.
    """

    def __init__(self, sizes: np.ndarray, *, sides: int, styles: int) -> None:
        self.sides = sides
        self.styles = styles
        self.lengths = np.maximum(sizes // (sides * styles), 1)
        self._last = sizes - 1

    def place(self, leaf: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Place on the circle of the item's side. (n,)"""
        place: np.ndarray = index // self.styles % self.lengths[leaf]
        return place

    def style(self, index: np.ndarray) -> np.ndarray:
        """Style of the item. (n,)"""
        style: np.ndarray = index % self.styles
        return style

    def index(self, leaf: np.ndarray, side: np.ndarray, place: np.ndarray, style: np.ndarray) -> np.ndarray:
        """The item there; in a leaf too small to have one, the last. (n,)"""
        index: np.ndarray = np.minimum((side * self.lengths[leaf] + place) * self.styles + style, self._last[leaf])
        return index
