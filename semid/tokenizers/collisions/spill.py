"""Free codes for items whose own prefix is full: the cheapest free path under the nearest prefix that has room.

All codes form a tree: the root, K_1 children, and so on down to the leaves, one a full row of codes. A *prefix* of
depth d is a node, packed into one integer like the first d digits of a number; a leaf holds at most one item.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

# Paths looked at together in the search over the last two levels.
_PATHS = 1 << 18
# Inner products of the centroids of the last two levels, kept up to this many.
_KEPT_PRODUCTS = 1 << 22


def spill(
    codes: np.ndarray,
    homeless: np.ndarray,
    vectors: np.ndarray,
    codebooks: Sequence[np.ndarray],
    *,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Give each homeless item a leaf of its own, leaving all others where they are.

    An item takes the free path of least squared error over the last two levels, under its own prefix of the levels
    above. Where that is full, it goes one level up: to the nearest centroid whose subtree has room, and so on down
    to the last two levels. Where those have more than 2^18 paths together, only the paths through the nearest
    centroids of the upper one are compared. Items are served in the order given.

    Args:
        codes: (N, L) int32; the rows that are not homeless are unique. L ≥ 2.
        homeless: item rows without a code of their own; their ``codes`` say where they would like to be.
        vectors: (N, D) float32.
        codebooks: L arrays (K_l, D), with at least N leaves.
        rng: if given, the free path is drawn at random instead of by error.

    Returns:
        (N, L) int32, all unique.
    """
    codes = codes.copy()
    placed = np.ones(len(codes), bool)
    placed[homeless] = False
    tree = _Tree(codes[placed], [len(codebook) for codebook in codebooks])
    search = _Search(tree, codes, vectors, codebooks, rng)
    for depth in range(len(codebooks) - 2, -1, -1):
        homeless = _place_under_own_prefix(search, homeless, depth)
    assert not len(homeless), "the caller checks that the tree has a leaf for every item"
    return codes


def _place_under_own_prefix(search: "_Search", rows: np.ndarray, depth: int) -> np.ndarray:
    """Place what fits under the items' own prefixes of this depth; the rows that do not."""
    prefixes = search.tree.pack(search.codes[rows], depth)
    placed = np.zeros(len(rows), bool)
    for members in _groups(prefixes):
        prefix = int(prefixes[members[0]])
        fitting = members[: int(search.tree.room(depth, prefix).sum())]
        search.place(rows[fitting], depth, prefix)
        placed[fitting] = True
    return rows[~placed]


class _Tree:
    """Which leaves are taken, and how many are free under each prefix; what is asked often is kept."""

    def __init__(self, codes: np.ndarray, num_codes: Sequence[int]) -> None:
        self.num_codes = tuple(num_codes)
        self.num_levels = len(num_codes)
        self._keys = np.sort(self.pack(codes, self.num_levels))
        self._rooms: dict[tuple[int, int], np.ndarray] = {}
        self._added: list[dict[int, int]] = [{} for _ in range(self.num_levels + 1)]

    def pack(self, codes: np.ndarray, depth: int) -> np.ndarray:
        key = np.zeros(len(codes), np.int64)
        for level in range(depth):
            key = key * self.num_codes[level] + codes[:, level]
        return key

    def room(self, depth: int, prefix: int) -> np.ndarray:
        """Free leaves under each child of a prefix: (K_depth,) int64, at the last level 0 or 1."""
        if (depth, prefix) not in self._rooms:
            self._rooms[depth, prefix] = self._count_room(depth, prefix)
        return self._rooms[depth, prefix]

    def _count_room(self, depth: int, prefix: int) -> np.ndarray:
        width, leaves = self.num_codes[depth], prod(self.num_codes[depth + 1 :])
        bounds = np.searchsorted(self._keys, (prefix * width + np.arange(width + 1)) * leaves)
        room = leaves - np.diff(bounds)
        if self._added[depth].get(prefix):
            added = self._added[depth + 1]
            room -= [added.get(prefix * width + child, 0) for child in range(width)]
        return room

    def take(self, path: Sequence[int]) -> None:
        """Mark one leaf as taken."""
        prefix = 0
        for depth, child in enumerate(path):
            self._added[depth][prefix] = self._added[depth].get(prefix, 0) + 1
            room = self._rooms.get((depth, prefix))
            if room is not None:
                room[child] -= 1
            prefix = prefix * self.num_codes[depth] + child
        self._added[self.num_levels][prefix] = 1


class _Search:
    """Finds and takes leaves, writing them into ``codes``."""

    def __init__(
        self,
        tree: _Tree,
        codes: np.ndarray,
        vectors: np.ndarray,
        codebooks: Sequence[np.ndarray],
        rng: np.random.Generator | None,
    ) -> None:
        self.tree, self.codes, self.vectors, self.codebooks, self.rng = tree, codes, vectors, codebooks, rng
        self.lengths = [np.einsum("kd,kd->k", codebook, codebook) for codebook in codebooks]
        upper, lower = codebooks[-2:]
        fits = len(upper) * len(lower) <= _KEPT_PRODUCTS
        self.products = upper @ lower.T if fits else None

    def place(self, rows: np.ndarray, depth: int, prefix: int) -> None:
        """Place items under a prefix that has room for all of them."""
        if not len(rows):
            return
        residuals = self.vectors[rows] - self._reconstruct(depth, prefix)
        if depth < self.tree.num_levels - 2:
            self._descend(rows, residuals, depth, prefix)
        else:
            self._place_pairs(rows, residuals, prefix)

    def _reconstruct(self, depth: int, prefix: int) -> np.ndarray:
        total: np.ndarray = np.zeros(self.vectors.shape[1], np.float32)
        for level in range(depth - 1, -1, -1):
            prefix, code = divmod(prefix, len(self.codebooks[level]))
            total += self.codebooks[level][code]
        return total

    def _descend(self, rows: np.ndarray, residuals: np.ndarray, depth: int, prefix: int) -> None:
        room = self.tree.room(depth, prefix).copy()
        chosen = np.empty(len(rows), np.int64)
        for number, residual in enumerate(residuals):
            chosen[number] = np.where(room > 0, self._distances(residual, depth), np.inf).argmin()
            room[chosen[number]] -= 1
        for members in _groups(chosen):
            self.place(rows[members], depth + 1, prefix * len(room) + int(chosen[members[0]]))

    def _distances(self, residual: np.ndarray, depth: int) -> np.ndarray:
        """Squared distances to the centroids of a level, less the squared length of the residual; random with rng."""
        if self.rng is not None:
            return self.rng.random(len(self.lengths[depth]))
        distances: np.ndarray = self.lengths[depth] - 2 * (self.codebooks[depth] @ residual)
        return distances

    def _place_pairs(self, rows: np.ndarray, residuals: np.ndarray, prefix: int) -> None:
        """Cheapest free pairs of the last two levels; equal vectors share one search."""
        _, group = np.unique(residuals, axis=0, return_inverse=True)
        for members in sorted(_groups(group.reshape(-1)), key=lambda members: int(members[0])):
            equal = rows[members]
            while len(equal):
                taken = self._take_pairs(residuals[members[0]], len(equal), prefix)
                self.codes[equal[: len(taken)]] = taken
                equal = equal[len(taken) :]

    def _take_pairs(self, residual: np.ndarray, count: int, prefix: int) -> np.ndarray:
        """Take up to ``count`` free leaves under the nearest centroids that have any; their codes, cheapest first."""
        upper, lower = self.tree.num_levels - 2, self.tree.num_levels - 1
        distances = np.where(self.tree.room(upper, prefix) > 0, self._distances(residual, upper), np.inf)
        tried = min(max(16, _PATHS // len(self.codebooks[lower])), int(np.isfinite(distances).sum()))
        nearest = np.argpartition(distances, tried - 1)[:tried]
        nearest.sort()
        first_child = prefix * len(distances)
        free = np.stack([self.tree.room(lower, first_child + int(child)) for child in nearest]) > 0
        cost = np.where(free, self._pair_costs(residual, distances[nearest], nearest), np.inf)
        best = _smallest(cost.reshape(-1), min(count, int(free.sum())))
        parents, leaves = np.divmod(best, cost.shape[1])
        path = np.empty((len(best), self.tree.num_levels), np.int32)
        path[:, :upper] = self._unpack(prefix, upper)
        path[:, upper], path[:, lower] = nearest[parents], leaves
        for row in path.tolist():
            self.tree.take(row)
        return path

    def _pair_costs(self, residual: np.ndarray, distances: np.ndarray, parents: np.ndarray) -> np.ndarray:
        upper, lower = self.codebooks[-2:]
        if self.rng is not None:
            return self.rng.random((len(parents), len(lower)))
        between = upper[parents] @ lower.T if self.products is None else self.products[parents]
        costs: np.ndarray = distances[:, None] + self._distances(residual, len(self.codebooks) - 1) + 2 * between
        return costs

    def _unpack(self, prefix: int, depth: int) -> list[int]:
        path = []
        for level in range(depth - 1, -1, -1):
            prefix, code = divmod(prefix, self.tree.num_codes[level])
            path.append(code)
        return path[::-1]


def _groups(keys: np.ndarray) -> list[np.ndarray]:
    """Positions of each distinct key, in order of the keys; none if there are no keys."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(keys) else []


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the smallest values, smallest first, the earlier of two equal ones first."""
    if count == 1:
        return np.array([values.argmin()])
    kept = np.sort(np.argpartition(values, count - 1)[:count])
    ordered: np.ndarray = kept[np.argsort(values[kept], kind="stable")]
    return ordered
