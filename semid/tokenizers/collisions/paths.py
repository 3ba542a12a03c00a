"""The cheapest free paths of items over the last two levels, many items at once and never all paths of one.

All codes form a tree whose leaves are full rows of codes. A *cell* is a prefix of all but the last two levels; under
it lie K_a · K_b leaves, a path each: an upper code a and a lower code b. With r what is left of a vector after the
cell's prefix, a path costs

    |r - u_a - l_b|² = |r|² + (|u_a|² - 2 r·u_a) + (|l_b|² - 2 r·l_b) + 2 u_a·l_b,

whose last term no item has a part in: no residual is formed for any path.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.clustering.tiles import row_tiles, run_tiles
from semid.tokenizers.collisions.rows import Rows
from semid.tokenizers.rq_kmeans import decode

# Items whose vectors are fetched together.
_FETCHED = 1 << 13
# Items whose inner products with the centroids are held together, and paths that are compared together: 1 MB, what
# stays in a core's cache.
_ROWS = 1 << 10
_PATHS = 1 << 18
# Inner products of the centroids of both levels, kept up to this many.
_KEPT_PRODUCTS = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class PathLists:
    """Paths of n items, in no order.

    Attributes:
        leaves: (n, m) int64 leaf: (cell · K_a + upper code) · K_b + lower code.
        costs: (n, m) float32 squared error of the item there; inf where there is no free leaf left.
        horizon: (n,) float32; no leaf that was compared and left out costs less. inf if all free leaves are there.
    """

    leaves: np.ndarray
    costs: np.ndarray
    horizon: np.ndarray


class PathSearch:
    """Finds cheap leaves for items.

    Args:
        vectors: (n, D) of the items.
        codes: (n, L) where they would like to be, L ≥ 2; the prefix of the cell is that of these.
        cells: (n,) int64 cell of each.
        codebooks: L arrays (K_l, D) float32.
        taken: (t,) int64 leaves nobody may have, rising.
        rng: if given, costs are drawn at random instead.
    """

    def __init__(
        self,
        vectors: Rows,
        codes: np.ndarray,
        cells: np.ndarray,
        codebooks: Sequence[np.ndarray],
        taken: np.ndarray,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.vectors, self.codes, self.cells, self.codebooks, self.rng = vectors, codes, cells, codebooks, rng
        upper, lower = codebooks[-2:]
        # Both levels are moved to their means, the items by both: far from the origin no precision is lost.
        means = [book.mean(0, dtype=np.float64).astype(np.float32) for book in (upper, lower)]
        self.shift = means[0] + means[1]
        self.upper, self.lower = upper - means[0], lower - means[1]
        both = np.concatenate([self.upper, self.lower])
        self.lengths = torch.from_numpy((both * both).sum(1))
        self.both = torch.from_numpy(np.ascontiguousarray(-2 * both.T))
        small = len(upper) * len(lower) <= _KEPT_PRODUCTS
        self.between = 2 * self.upper @ self.lower.T if small else None
        self.set_taken(taken)

    @property
    def num_leaves(self) -> int:
        """Leaves of a cell."""
        return len(self.upper) * len(self.lower)

    def set_taken(self, taken: np.ndarray) -> None:
        """Replace the leaves that nobody may have: (t,) int64, rising."""
        nodes, self._low = np.divmod(taken, len(self.lower))
        self._first = np.flatnonzero(np.diff(nodes, prepend=-1))
        self._nodes = nodes[self._first]
        self._count = np.diff(self._first, append=len(nodes))

    def taken_in_cells(self, num_cells: int) -> np.ndarray:
        """How many leaves of each cell nobody may have. (num_cells,) int64"""
        taken = np.bincount(self._nodes // len(self.upper), self._count, num_cells)
        return taken.astype(np.int64)

    def residuals(self, items: np.ndarray) -> np.ndarray:
        """What is left of items after the prefix of their cells, moved by the means of both levels. (n, D)"""
        return self._after_prefix(items, self.vectors[items])

    def _after_prefix(self, items: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        rest: np.ndarray = vectors - self.shift
        if len(self.codebooks) > 2:
            rest -= decode(self.codes[items, :-2], self.codebooks[:-2])
        return rest

    def cheapest(self, items: np.ndarray, count: int, uppers: int) -> PathLists:
        """The ``count`` cheapest free leaves of items, through each one's ``uppers`` nearest upper centroids."""
        uppers = min(uppers, len(self.upper))
        width = min(count, uppers * len(self.lower))
        leaves = np.empty((len(items), width), np.int64)
        costs = np.empty((len(items), width), np.float32)
        for first in range(0, len(items), _FETCHED):
            fetched = self.vectors[items[first : first + _FETCHED]]

            def search(tile: slice, first: int = first, fetched: np.ndarray = fetched) -> None:
                block = slice(first + tile.start, first + tile.stop)
                some = items[block]
                rest = self._after_prefix(some, fetched[tile])
                leaves[block], costs[block] = self.among(rest, self.cells[some], self.codes[some, -2], width, uppers)

            tiles = row_tiles(len(fetched), _ROWS)
            if self.rng is None:
                run_tiles(search, tiles)
            else:  # the order of the draws must not depend on threads
                for tile in tiles:
                    search(tile)
        free = np.isfinite(costs)
        horizon = np.where(free, costs, -np.inf).max(1, initial=-np.inf).astype(np.float32)
        if uppers == len(self.upper):
            horizon[~free.all(1) | (width == self.num_leaves)] = np.inf
        return PathLists(leaves, costs, horizon)

    def among(
        self, residuals: np.ndarray, cells: np.ndarray, own: np.ndarray, count: int, uppers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Leaves and costs of the cheapest paths of residuals; those through the code ``own`` are always compared."""
        apart = torch.addmm(self.lengths, torch.from_numpy(residuals), self.both).numpy()
        apart[:, : len(self.upper)] += np.einsum("nd,nd->n", residuals, residuals)[:, None]
        to_upper, to_lower = apart[:, : len(self.upper)], apart[:, len(self.upper) :]
        if self.rng is not None:
            to_upper = self.rng.random(to_upper.shape, np.float32)
        near = _nearest_uppers(to_upper, own, uppers)
        leaves = np.empty((len(cells), count), np.int64)
        costs = np.empty((len(cells), count), np.float32)
        size = max(1, _PATHS // (uppers * len(self.lower)))
        for first in range(0, len(cells), size):
            block = slice(first, first + size)
            through = near[block]
            paths = self._path_costs(np.take_along_axis(to_upper[block], through, 1), to_lower[block], through)
            nodes = cells[block, None] * len(self.upper) + through
            self._close_taken(paths, nodes)
            flat = paths.reshape(len(paths), -1)
            best, costs[block] = smallest(flat, count)
            by, low = np.divmod(best, len(self.lower))
            leaves[block] = np.take_along_axis(nodes, by, 1) * len(self.lower) + low
        return leaves, costs

    def _path_costs(self, to_upper: np.ndarray, to_lower: np.ndarray, through: np.ndarray) -> np.ndarray:
        """(n, uppers, K_b) costs."""
        if self.rng is not None:
            return self.rng.random((*through.shape, len(self.lower)), np.float32)
        if self.between is not None:
            paths = np.take(self.between, through, axis=0)
        else:
            codes, place = np.unique(through, return_inverse=True)
            paths = np.take(2 * self.upper[codes] @ self.lower.T, place.reshape(through.shape), axis=0)
        paths += to_lower[:, None, :]
        paths += to_upper[:, :, None]
        return paths

    def _close_taken(self, paths: np.ndarray, nodes: np.ndarray) -> None:
        """Make the paths to taken leaves infinitely dear."""
        if not len(self._nodes):
            return
        wanted = nodes.reshape(-1)
        at = np.minimum(np.searchsorted(self._nodes, wanted), len(self._nodes) - 1)
        some = np.flatnonzero(self._nodes[at] == wanted)
        count = self._count[at[some]]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        low = self._low[np.repeat(self._first[at[some]], count) + within]
        paths.reshape(-1, paths.shape[2])[np.repeat(some, count), low] = np.inf


def smallest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` smallest values of each row, in no order; of equal ones those further left.

    A row is cut into strips: its smallest values lie in the strips with the smallest minima, so that of all others
    nothing but the minimum is looked at.

    Args:
        values: (n, W) float32; what lies below zero counts as zero.
        count: at most W.

    Returns:
        (n, count) int64 columns and (n, count) float32 values.
    """
    num_rows, width = values.shape
    if count == width:
        return np.broadcast_to(np.arange(width), values.shape), np.maximum(values, 0)
    depth = 1
    while width % (2 * depth) == 0 and 8 * depth * depth * count <= 3 * width:
        depth *= 2
    if depth == 1:
        return _smallest_of(values, np.arange(width), count)
    strips = values.reshape(num_rows, depth, -1)
    chosen, _ = _smallest_of(strips.min(1), np.arange(strips.shape[2]), count)
    columns = (np.arange(depth)[:, None] * strips.shape[2] + chosen[:, None, :]).reshape(num_rows, -1)
    return _smallest_of(np.take_along_axis(values, columns, 1), columns, count)


def _smallest_of(values: np.ndarray, columns: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """As integers, values that are not negative keep their order; each is ranked together with its column."""
    ranked = np.maximum(values, 0).view(np.int32).astype(np.int64)
    ranked <<= 32
    ranked |= columns
    ranked.partition(count - 1, axis=1)
    best = ranked[:, :count]
    return best & 0xFFFFFFFF, (best >> 32).astype(np.int32).view(np.float32)


def _nearest_uppers(distances: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` nearest upper codes of each item, rising, its own code among them. (n, count)"""
    ranked = distances.copy()
    ranked[np.arange(len(own)), own] = 0
    return np.sort(smallest(ranked, count)[0], axis=1)
