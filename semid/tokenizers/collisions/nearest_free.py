"""The greedy rule: at one level, each item in turn takes the nearest centroid that is still free.

The rule of the innovation award winner of the Tencent Advertising Algorithm Challenge 2025, at its second level.
Items that share their other codes are served in the order given.
"""

from collections.abc import Sequence

import numpy as np

from semid.tokenizers.clustering.nearest import distance_tiles
from semid.tokenizers.collisions.packing import pack
from semid.tokenizers.rq_kmeans import decode

# Marks of one block of groups: groups × K.
_MARKS = 1 << 24


def take_nearest_free(
    taken: np.ndarray,
    wanted: np.ndarray,
    vectors: np.ndarray,
    codebooks: Sequence[np.ndarray],
    level: int,
    choices: int = 1,
    draws: np.ndarray | None = None,
) -> np.ndarray:
    """The nearest free codes of items at one level.

    Args:
        taken: (M, L) codes nobody may take.
        wanted: (n, L) codes of items; those that share all but this level are served in this order.
        vectors: (n, D) float32.
        codebooks: L arrays (K_l, D).
        level: where to look.
        choices: the code is one of so many nearest free ones, or of all where fewer are free.
        draws: (n,) which of them, each in [0, 1); the nearest if None.

    Returns:
        (n,) codes at that level, -1 where none was free.
    """
    group = pack(np.delete(np.concatenate([wanted, taken]), level, axis=1))
    order = np.argsort(group[: len(wanted)], kind="stable")
    groups, loser_group = np.unique(group[order], return_inverse=True)
    place = np.searchsorted(groups, group[len(wanted) :])
    concerned = groups[np.minimum(place, len(groups) - 1)] == group[len(wanted) :]
    marked = np.column_stack([place[concerned], taken[concerned, level]])
    rows = wanted[order]
    targets = vectors[order] - decode(rows, codebooks) + codebooks[level][rows[:, level]]
    found = np.empty(len(wanted), np.int64)
    drawn = np.zeros(len(wanted)) if draws is None else draws[order]
    found[order] = _serve(loser_group, targets, codebooks[level], marked, drawn, choices)
    return found


def _serve(
    group: np.ndarray,
    targets: np.ndarray,
    codebook: np.ndarray,
    taken: np.ndarray,
    draws: np.ndarray,
    choices: int,
) -> np.ndarray:
    """Serve the members of each group in turn with one of the nearest centroids not yet taken in it.

    The first members of all groups are served together, then the second ones, and so on.

    Args:
        group: (n,) int64 group of each member, rising, from 0.
        targets: (n, D) float32.
        codebook: (K, D) float32.
        taken: (m, 2) group and code.
        draws: (n,) which of the nearest free ones each member wants, in [0, 1).
        choices: how many these are, if as many are free.

    Returns:
        (n,) int64 codes, -1 where none was free.
    """
    found = np.full(len(group), -1, np.int64)
    counts = np.bincount(group)
    first = np.cumsum(counts) - counts
    largest_first = np.argsort(-counts, kind="stable")
    size = max(1, _MARKS // len(codebook))
    for start in range(0, len(counts), size):
        block = largest_first[start : start + size]
        position = np.full(len(counts), -1)
        position[block] = np.arange(len(block))
        marks = np.zeros((len(block), len(codebook)), bool)
        here = position[taken[:, 0]] >= 0
        marks[position[taken[here, 0]], taken[here, 1]] = True
        free = len(codebook) - marks.sum(1)
        for turn in range(min(int(counts[block[0]]), len(codebook))):
            waiting = np.flatnonzero((counts[block] > turn) & (free > turn))
            members = first[block[waiting]] + turn
            wish = draws[members] * np.minimum(choices, (free - turn)[waiting])
            found[members] = _nearest_unmarked(targets[members], codebook, marks, waiting, wish.astype(np.int64))
            marks[waiting, found[members]] = True
    return found


def _nearest_unmarked(
    targets: np.ndarray, codebook: np.ndarray, marks: np.ndarray, rows: np.ndarray, ranks: np.ndarray
) -> np.ndarray:
    """The unmarked centroid of the wanted rank by distance, for each target."""
    codes = np.empty(len(targets), np.int64)
    highest = int(ranks.max(initial=0))
    for block, tile in distance_tiles(targets, codebook):
        tile[marks[rows[block]]] = np.inf
        if not highest:
            codes[block] = tile.argmin(1)
            continue
        nearest = np.argpartition(tile, np.arange(highest + 1), axis=1)
        codes[block] = np.take_along_axis(nearest, ranks[block, None], 1)[:, 0]
    return codes
