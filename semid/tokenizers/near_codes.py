"""Codes near those of an item, level by level: what a model may be shown in place of the item's own in training.

One reading of the "random-k" regularisation of codes by the first place of the Tencent Advertising Algorithm
Challenge 2025: a code is drawn among the k whose centroids are nearest.

Shapes: N items, L levels, K_l codes a level, d width of the latents, k codes wanted.
"""

from collections.abc import Sequence

import numpy as np

from semid.errors import InputError
from semid.tokenizers.clustering.nearest import distance_tiles
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles
from semid.tokenizers.collisions.rows import Rows
from semid.tokenizers.vectors import row_blocks

# Rows to a thread: their centroids are made ready anew each time.
_TOGETHER = 1 << 12


def near_codes(
    latents: Rows, codes: np.ndarray, codebooks: Sequence[np.ndarray], k: int, *, known: np.ndarray
) -> np.ndarray:
    """For each code of each item the k codes nearest at its level: its own first, then the others, nearest first.

    Near is a centroid to what the item's *own* codes before that level leave of it, r_l = z − Σ_{m<l} e^m_{c_m}. The
    own code need not be the nearest one: a beam or a collision may have brought it there. Where codes are parallel,
    centroids are zero outside their own part of the space, so that this is the distance in the part: that of the
    subspace for a product quantiser, that on the grid for FSQ. Distances are plain also for codes fitted by direction
    or in balance, as they are where collisions are resolved.

    Args:
        latents: (N, d) float32, fetched block by block.
        codes: (N, L) int32, or (N, L + 1) with an additional level, which has no centroids: there the own code is
            repeated.
        codebooks: L arrays (K_l, d) float32.
        k: from 1 to the least K_l.
        known: (N,) bool, whether the latents mean anything; if not, every code is the own one.

    Returns:
        (N, L, k) int32, or (N, L + 1, k); all of them in memory beside one block of latents.

    Raises:
        InputError: k below 1, or above the number of codes of a level.
    """
    _check_wanted(k, codebooks)
    near = np.repeat(codes[:, :, None], k, axis=2)
    for block in row_blocks(len(codes)):
        rows = block.start + np.flatnonzero(known[block])
        left = np.asarray(latents[block], np.float32)[known[block]]
        for level, codebook in enumerate(codebooks):
            own = codes[rows, level]
            near[rows, level, 1:] = _nearest_others(left, codebook, own, k - 1)
            left -= codebook[own]
    return near


def _nearest_others(points: np.ndarray, codebook: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """The centroids nearest to (n, d) points other than those of their own (n,) codes, in order: (n, count) int32."""
    found = np.empty((len(points), count), np.int32)

    def fill(rows: slice) -> None:
        for block, distances in distance_tiles(points[rows], codebook):
            lines, chosen = np.arange(len(distances)), own[rows][block]
            for rank in range(count):  # for few codes faster than a partition, and sorted
                distances[lines, chosen] = np.inf
                chosen = distances.argmin(1)
                found[rows][block, rank] = chosen

    run_tiles(fill, row_tiles(len(points), _TOGETHER))
    return found


def _check_wanted(k: int, codebooks: Sequence[np.ndarray]) -> None:
    if k < 1:
        raise InputError(f"{k} near codes were asked for: ask for at least 1, an item's own.")
    sizes = [len(codebook) for codebook in codebooks]
    least = min(sizes)
    if k > least:
        level = sizes.index(least) + 1
        raise InputError(
            f"{k} near codes were asked for but level {level} has only {least}: ask for at most {least}."
        )
