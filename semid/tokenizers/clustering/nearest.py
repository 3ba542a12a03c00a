"""The nearest centroid of each vector, exact.

Shapes: N vectors, D width, K centroids. Values of one tile of rows are held at a time, never N × K.
"""

from collections.abc import Iterator
from typing import overload

import numpy as np
import torch

from semid.tokenizers.clustering.grouping import choose_anchors
from semid.tokenizers.clustering.nearest_gpu import assign_tensors
from semid.tokenizers.clustering.prepared import PreparedVectors, brute, first_of_equal
from semid.tokenizers.clustering.rerank import nearest_pairs, squared_distances
from semid.tokenizers.clustering.scan import scan
from semid.tokenizers.clustering.screening import (
    Points,
    best_theta,
    has_half_precision,
    make_columns,
    make_frame,
    make_rows,
    project,
)
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

# Elements of one tile of values: what fits into the cache of a core.
_TILE_ELEMENTS = 1 << 21
_TILE_ROWS = (64, 2048)
_PROBES = 64
# With fewer pairs than this, preparing for products in half precision costs more than it saves.
_HALF = 1 << 20
# Elements of the vectors prepared at a time: 64 MB, and half of that in half precision.
_BLOCK_ELEMENTS = 1 << 24


@overload
def assign(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


@overload
def assign(vectors: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


def assign(
    vectors: np.ndarray | torch.Tensor, centroids: np.ndarray | torch.Tensor
) -> tuple[np.ndarray, np.ndarray] | tuple[torch.Tensor, torch.Tensor]:
    """The nearest centroid of each vector, the lowest index where two are equally near in float64.

    Args:
        vectors: (N, D) float32 array; or a tensor, on a GPU or not.
        centroids: (K, D) float32, likewise.

    Returns:
        (N,) int32 codes and (N,) float32 squared distances, where the vectors are.
    """
    if isinstance(vectors, torch.Tensor):
        assert isinstance(centroids, torch.Tensor)
        return assign_tensors(vectors, centroids)
    assert isinstance(centroids, np.ndarray)
    codes = nearest_codes(vectors, centroids)
    return codes, own_distances(vectors, centroids, codes)


def nearest_codes(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """:func:`assign` without the distances."""
    codes = np.zeros(len(vectors), np.int32)
    if len(vectors) and len(centroids) > 1:
        for block in row_tiles(len(vectors), max(1, _BLOCK_ELEMENTS // vectors.shape[1])):
            codes[block] = _assign_block(vectors[block], centroids)
    return codes


def _assign_block(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    distinct = first_of_equal(centroids)
    kept = np.ascontiguousarray(centroids[distinct])
    screen = _Screen(vectors, kept)
    codes = np.zeros(len(vectors), np.int32)
    if screen.has_anchors:
        return PreparedVectors(vectors, centroids).assign(centroids)

    def find(rows: slice) -> None:
        codes[rows] = screen.codes(vectors[rows])

    run_tiles(find, row_tiles(len(vectors), screen.tile_rows))
    return distinct[codes].astype(np.int32)


class _Screen:
    """Centroids made ready for vectors that are compared once, each tile while it is in the cache.

    Args:
        vectors: (N, D) float32 like those to come: some of them show scale and typical distances.
        centroids: (K, D) float32.
    """

    def __init__(self, vectors: np.ndarray, centroids: np.ndarray) -> None:
        probes = vectors[:: len(vectors) // _PROBES + 1]
        self._frame = make_frame(
            probes, centroids, None, has_half_precision() and len(vectors) * len(centroids) > _HALF
        )
        self._centroids, self._anchor = centroids, torch.zeros(vectors.shape[1])
        points, some = project(self._frame, centroids), project(self._frame, probes)
        self._usable = bool(points.comparable().all())
        self.has_anchors = self._usable and len(choose_anchors(some.head, points.head, len(vectors))) > 1
        distance = float(torch.cdist(some.head, points.head).amin(1).median())
        error = float(np.median(make_rows(self._frame, some, self._anchor).error))
        self._columns = make_columns(self._frame, points, self._anchor, best_theta(distance, error))
        self.tile_rows = int(np.clip(_TILE_ELEMENTS // len(centroids), *_TILE_ROWS))

    def codes(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) nearest centroids of a tile."""
        codes = np.zeros(len(vectors), np.int32)
        own = project(self._frame, vectors)
        far = self._far(own)
        if len(far) < len(vectors):
            found = scan(self._frame, make_rows(self._frame, own, self._anchor), self._columns)
            codes[:] = found.codes
            settled, nearest_codes = nearest_pairs(vectors, self._centroids, found.rows, found.candidates)
            codes[settled] = nearest_codes
        brute(vectors, self._centroids, far, codes)
        return codes

    def _far(self, points: Points) -> np.ndarray:
        """Rows that products cannot compare."""
        return np.flatnonzero(~points.comparable().numpy()) if self._usable else np.arange(len(points.size))


def own_distances(vectors: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The squared distance of each vector to the centroid of its code: (N,) float32."""
    distances = np.empty(len(vectors), np.float32)

    def fill(rows: slice) -> None:
        distances[rows] = squared_distances(vectors[rows], centroids, np.arange(rows.stop - rows.start), codes[rows])

    run_tiles(fill, row_tiles(len(vectors), 8192))
    return distances


def distance_tiles(vectors: np.ndarray, centroids: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and their (rows, K) squared distances to all centroids, less the squared length of the vector.

    The buffer is used again for the next tile. Both sides are moved to the centroids' mean first, so that vectors far
    from the origin lose no precision.
    """
    shift = centroids.mean(0, dtype=np.float64).astype(np.float32)
    moved = torch.from_numpy(centroids - shift)
    lengths = (moved * moved).sum(1)
    transposed = (-2 * moved).T.contiguous()
    size = max(16, _TILE_ELEMENTS // len(centroids))
    buffer = torch.empty(min(size, len(vectors)), len(centroids))
    for first in range(0, len(vectors), size):
        rows = slice(first, min(first + size, len(vectors)))
        tile = torch.from_numpy(vectors[rows] - shift)
        out = buffer[: len(tile)]
        torch.addmm(lengths, tile, transposed, out=out)
        yield rows, out.numpy()
