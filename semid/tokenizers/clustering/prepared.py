"""Vectors made ready to be assigned to centroids again and again.

Shapes: N vectors, D width, d dimensions of the head, K centroids, G anchors. A centroid c can be nearest to x only if
‖c - r‖ ≤ ‖x - r‖ + ‖x - b‖ for the anchor r of x and any centroid b (triangle inequality, in the head). In the order
of their distance from the anchor those come first, so that a tile of like vectors takes one product with the first m
centroids of its group.
"""

import numpy as np
import torch

from semid.tokenizers.clustering.grouping import Group, group
from semid.tokenizers.clustering.projection import Projection, project_all
from semid.tokenizers.clustering.rerank import nearest_pairs, squared_distances
from semid.tokenizers.clustering.scan import least, scan
from semid.tokenizers.clustering.screening import (
    Columns,
    Frame,
    Points,
    best_theta,
    has_half_precision,
    make_columns,
    project,
)
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

# Elements of one tile of screen values: what fits into the cache of a core.
_TILE_ELEMENTS = 1 << 21
_TILE_ROWS = (64, 4096)
# The library that multiplies compiles its code anew for every size, at the cost of a small tile: few sizes are used.
_COLUMN_STEP = 128
# Rows with several candidates are decided after so many tiles, or earlier if there are so many pairs.
_TILES_AT_ONCE, _MOST_PAIRS = 8, 1 << 18
# Columns that give the first bound on the distance to the nearest centroid.
_FIRST_COLUMNS = 128
# Vectors that show how far a typical one is from its centroid.
_PROBES = 64
# Distances between anchors and centroids come from float64 products; this is far more than their rounding.
_DISTANCE_SLACK = 1e-6


class PreparedVectors:
    """Vectors in the frame of some first centroids.

    Args:
        vectors: (N, D) float32, kept, not copied.
        centroids: (K, D) float32 like those to come. They decide which are compared first, but never a result.
        projection: of the vectors; by default in all dimensions, about the centroids' mean.
    """

    def __init__(self, vectors: np.ndarray, centroids: np.ndarray, projection: Projection | None = None) -> None:
        if projection is None:
            projection = project_all(vectors, centroids, None, has_half_precision())
        self._vectors, self._frame = vectors, projection.frame
        self._probes = projection.points.head[:: len(vectors) // _PROBES + 1]
        self._groups = group(self._frame, projection.points, centroids)
        self._codes = np.zeros(len(vectors), np.int32)
        self._before: np.ndarray | None = None  # centroids of the pass before
        # Of that pass, upper bounds on each vector's distance to its centroid, in the frame.
        self._upper = np.zeros(len(vectors), np.float32)

    def assign(self, centroids: np.ndarray) -> np.ndarray:
        """The nearest of (K, D) float32 centroids for each vector: (N,) int32, the lowest of equally near ones."""
        distinct = first_of_equal(centroids)
        kept = np.ascontiguousarray(centroids[distinct])
        points = project(self._frame, kept)
        codes = np.zeros(len(self._vectors), np.int32)
        if bool(points.comparable().all()):
            self._follow(centroids)
            self._screen(kept, points, codes)
            self._before = centroids.copy()
            far = [part.rows[~part.comparable] for part in self._groups]
            brute(self._vectors, kept, np.concatenate(far), codes)
        else:
            self._before = None
            brute(self._vectors, kept, np.arange(len(codes)), codes)
        self._codes = distinct[codes].astype(np.int32)
        return self._codes

    def _follow(self, centroids: np.ndarray) -> None:
        """Raise the upper bounds by what each centroid has moved since."""
        if len(self._groups) == 1 or self._before is None or self._before.shape != centroids.shape:
            self._before = None
            return
        moved = np.sqrt(np.square(centroids.astype(np.float64) - self._before).sum(1)) * self._frame.scale
        self._upper += (moved * (1 + _DISTANCE_SLACK)).astype(np.float32)[self._codes]

    def _screen(self, centroids: np.ndarray, points: Points, codes: np.ndarray) -> None:
        theta = self._theta(points)
        if len(self._groups) == 1:
            whole = self._groups[0]
            columns = make_columns(self._frame, points, whole.anchor, theta)
            size = int(np.clip(_TILE_ELEMENTS // len(centroids), *_TILE_ROWS))

            def run(rows: slice) -> None:
                pairs = _OpenPairs(self._vectors, centroids, codes)
                for tile in row_tiles(rows.stop - rows.start, size):
                    self._scan(whole, slice(rows.start + tile.start, rows.start + tile.stop), columns, None, pairs)
                pairs.settle()

            run_tiles(run, row_tiles(len(codes), size * _TILES_AT_ONCE))
            return
        distances = _anchor_distances(self._frame, self._groups, points)

        def run_group(number: int) -> None:
            self._screen_group(self._groups[number], distances[number], theta, centroids, points, codes)

        run_tiles(run_group, np.argsort([-len(part.rows) for part in self._groups], kind="stable").tolist())

    def _screen_group(
        self,
        part: Group,
        distances: np.ndarray,
        theta: float,
        centroids: np.ndarray,
        points: Points,
        codes: np.ndarray,
    ) -> None:
        order = np.argsort(distances)
        distances = distances[order]

        def nearest_columns(count: int) -> Columns:
            return make_columns(self._frame, points[torch.from_numpy(order[:count])], part.anchor, theta)

        if self._before is None:
            first = nearest_columns(_FIRST_COLUMNS)
            for rows in row_tiles(len(part.rows), _TILE_ELEMENTS // _FIRST_COLUMNS):
                self._upper[part.rows[rows]] = np.sqrt(2 * least(self._frame, part.side[rows], first))
        reach = part.radius + self._upper[part.rows] * np.float32(1 + 1e-3)
        reach[~part.comparable] = 0
        by_reach = np.argsort(-reach)
        counts = np.searchsorted(distances, reach[by_reach], side="right")
        counts = np.minimum(-(-np.maximum(counts, 1) // _COLUMN_STEP) * _COLUMN_STEP, len(order))
        columns = nearest_columns(int(counts[0]))
        pairs = _OpenPairs(self._vectors, centroids, codes)
        start = 0
        while start < len(by_reach):
            count = int(counts[start])
            tile = _next_rows(by_reach[start:], count)
            self._scan(part, tile, columns[:count], order, pairs)
            start += len(tile)
        pairs.settle()

    def _scan(
        self, part: Group, rows: slice | np.ndarray, columns: Columns, order: np.ndarray | None, pairs: "_OpenPairs"
    ) -> None:
        """Screen some rows of a group; ``order`` tells the centroid of each column."""
        side = part.side[rows] if isinstance(rows, slice) else part.side.take(rows)
        found = scan(self._frame, side, columns)
        own = part.rows[rows]
        best, candidates = found.codes, found.candidates
        if order is not None:
            best, candidates = order[best], order[candidates]
            self._upper[own] = np.sqrt(2 * found.bounds)
        pairs.add(own, best, own[found.rows], candidates)

    def _theta(self, points: Points) -> float:
        distances = torch.cdist(self._probes, points.head).amin(1)
        return best_theta(float(distances.median()), float(np.median(self._groups[0].side.error)))


class _OpenPairs:
    """Codes of a thread's rows, and the rows with several candidates until they are decided, many at once."""

    def __init__(self, vectors: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> None:
        self._vectors, self._centroids, self._codes = vectors, centroids, codes
        self._rows: list[np.ndarray] = []
        self._candidates: list[np.ndarray] = []

    def add(self, rows: np.ndarray, codes: np.ndarray, open_rows: np.ndarray, candidates: np.ndarray) -> None:
        """Take over what a scan found."""
        self._codes[rows] = codes
        self._rows.append(open_rows)
        self._candidates.append(candidates)
        if sum(map(len, self._rows)) > _MOST_PAIRS:
            self.settle()

    def settle(self) -> None:
        """Decide all open rows."""
        rows, candidates = np.concatenate(self._rows), np.concatenate(self._candidates)
        settled, nearest = nearest_pairs(self._vectors, self._centroids, rows, candidates)
        self._codes[settled] = nearest
        self._rows, self._candidates = [rows[:0]], [candidates[:0]]


def _next_rows(rows: np.ndarray, num_columns: int) -> np.ndarray:
    """The first rows, as many as make a tile; the last is repeated so that their number is one of a few."""
    most = int(np.clip(1 << (_TILE_ELEMENTS // num_columns).bit_length() - 1, *_TILE_ROWS))
    taken = min(most, -(-len(rows) * 4 // most) * most // 4)
    return rows[:taken] if taken <= len(rows) else np.append(rows, np.full(taken - len(rows), rows[-1]))


def _anchor_distances(frame: Frame, groups: list[Group], points: Points) -> np.ndarray:
    """(G, K) lower bounds on the distance of each centroid's true head from each anchor."""
    anchors = torch.stack([part.anchor for part in groups]).double()
    heads = points.head.double()
    lengths = torch.linalg.vecdot(anchors, anchors)[:, None] + torch.linalg.vecdot(heads, heads)
    squares = torch.addmm(lengths, anchors, heads.T, alpha=-2).clamp_min_(0)
    slack = lengths.sqrt() * _DISTANCE_SLACK + points.size.sqrt() * (frame.head_error * (1 + 1e-3))
    bounds: np.ndarray = (squares.sqrt_() - slack).numpy()
    return bounds


def first_of_equal(centroids: np.ndarray) -> np.ndarray:
    """Indices of the centroids less those equal to an earlier one, as far as a checksum shows them: rising."""
    weights = np.cos(np.arange(1, centroids.shape[1] + 1))
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.einsum("kd,d->k", centroids, weights)
    _, first, inverse = np.unique(sums, return_index=True, return_inverse=True)
    if len(first) == len(centroids):
        return np.arange(len(centroids))
    equal = (centroids == centroids[first[inverse]]).all(1)
    equal[first] = False
    return np.flatnonzero(~equal)


def brute(vectors: np.ndarray, centroids: np.ndarray, rows: np.ndarray, codes: np.ndarray) -> None:
    """The plain search in float64, for what products in low precision cannot compare."""
    every = np.arange(len(centroids))
    for row in rows:
        own = np.full(len(every), row)
        codes[row] = squared_distances(vectors, centroids, own, every, np.float64).argmin()
