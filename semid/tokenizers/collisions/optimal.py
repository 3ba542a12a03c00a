"""Free codes at the least added distortion: a matching of items to the paths of the last two levels.

The items of every cell, a prefix of all but the last two levels, are matched to its free leaves: each item knows
its cheapest few, and more of them only if it loses those (``paths.py``, ``auction.py``). Cells with more items than
leaves give the excess to their siblings first (``rooms.py``). Items that share all their codes with very many others,
those of small cells with few leaves to spare, and those whom the auction leaves without a leaf, are matched
afterwards, some hundred at a time.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from semid.tokenizers.collisions.auction import Auction
from semid.tokenizers.collisions.packing import bucket_sizes, pack
from semid.tokenizers.collisions.paths import PathLists, PathSearch
from semid.tokenizers.collisions.rooms import make_room
from semid.tokenizers.collisions.rows import Rows

# Leaves an item is told of: at first, then each time it has lost all that were worth having.
_WIDTHS = (16, 128, 1024)
# Paths compared for all items together in the first of these; the next compares twice as many an item, the last all.
_PATHS = 1 << 27
_MOST_UPPERS = 32
# Items that bid at the same time, in memory: about 100 MB.
_TOGETHER = 1 << 18
# Items that want the same codes, beyond which they do not bid; and how many are matched together afterwards.
_PILE = 512
_CHUNK = 256


def cheapest_matching(
    taken: np.ndarray,
    wanted: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    errors: np.ndarray,
    *,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """A leaf of its own for each item, with nearly the least sum of squared errors over the last two levels.

    Args:
        taken: (M, L) codes nobody may have, unique.
        wanted: (n, L) int32, what the items' vectors were encoded as.
        vectors: (n, D) float32.
        codebooks: L arrays (K_l, D) float32, with at least M + n leaves.
        errors: (n,) squared error of each item at ``wanted``.
        rng: if given, costs are random: any free leaf of the cell may do.

    Returns:
        (n, L) int32 codes, unique and none of them taken.
    """
    if not len(wanted):
        return wanted
    if len(codebooks) == 1:  # a level above it with one code that stands for nothing
        books = [np.zeros((1, codebooks[0].shape[1]), np.float32), codebooks[0]]
        rows = [np.pad(codes, ((0, 0), (1, 0))) for codes in (taken, wanted)]
        return cheapest_matching(rows[0], rows[1], vectors, books, errors, rng=rng)[:, 1:]
    wanted = make_room(taken, wanted, vectors, codebooks, errors, len(codebooks) - 2)
    cells, leaves = _number_leaves(taken, wanted, [len(book) for book in codebooks[-2:]])
    search = PathSearch(vectors, wanted, cells, codebooks, leaves, rng)
    leaf, homeless = _bid(search)
    _match_in_chunks(search, homeless, leaf, np.concatenate([leaves, leaf[leaf >= 0]]), errors)
    node, low = np.divmod(leaf, len(codebooks[-1]))
    return np.column_stack([wanted[:, :-2], node % len(codebooks[-2]), low]).astype(np.int32)


def _number_leaves(taken: np.ndarray, wanted: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the items, counted from 0, and the taken leaves of these cells, rising."""
    prefixes = pack(np.concatenate([wanted, taken])[:, :-2])
    inside, cells = np.unique(prefixes[: len(wanted)], return_inverse=True)
    at = np.minimum(np.searchsorted(inside, prefixes[len(wanted) :]), len(inside) - 1)
    here = inside[at] == prefixes[len(wanted) :]
    leaves = (at[here] * sizes[0] + taken[here, -2]) * sizes[1] + taken[here, -1]
    return cells, np.sort(leaves)


def _bid(search: PathSearch) -> tuple[np.ndarray, np.ndarray]:
    """Leaf of each item by auction, -1 for none, and the items that have none."""
    later = (bucket_sizes(search.codes) > _PILE) | _crowded(search)
    order = np.argsort(search.cells, kind="stable")
    items = order[~later[order]]
    uppers = min(max(_PATHS // (max(1, len(items)) * len(search.lower)), 4), _MOST_UPPERS)
    leaf = np.full(len(later), -1)
    for bidders in _whole_cells(items, search.cells[items]):
        leaf[bidders] = _auction_off(search, bidders, uppers)
    return leaf, order[leaf[order] < 0]


def _whole_cells(items: np.ndarray, cells: np.ndarray) -> Iterator[np.ndarray]:
    """Items, in the order of their cells, some cells at a time: no more than are wanted together, or one cell."""
    ends = np.append(np.flatnonzero(np.diff(cells)) + 1, len(cells))
    first = 0
    while first < len(items):
        fits = np.searchsorted(ends, first + _TOGETHER, side="right")
        last = int(ends[fits - 1]) if fits and ends[fits - 1] > first else int(ends[fits])
        yield items[first:last]
        first = last


def _auction_off(search: PathSearch, items: np.ndarray, uppers: int) -> np.ndarray:
    """Leaves of all items of some cells; -1 for those that get none."""
    cells = search.cells[items]
    rivals = np.bincount(cells - cells[0])[cells - cells[0]]
    auction = Auction(len(items))
    stage = np.zeros(len(items), np.int64)
    bidding = np.arange(len(items))
    while len(bidding):  # those that lost all they knew of; each comes back once a stage at most
        lowest = int(stage[bidding].min())
        if lowest == len(_WIDTHS):
            break
        through = len(search.upper) if lowest == len(_WIDTHS) - 1 else min(uppers << lowest, len(search.upper))
        now = bidding[stage[bidding] == lowest]
        lists = search.cheapest(items[now], _WIDTHS[lowest], through)
        lists = _open_ended(lists, rivals[now], through == len(search.upper))
        later = bidding[stage[bidding] > lowest]
        stage[now] += 1
        bidding = np.concatenate([later, auction.enter(now, lists)])
    return auction.leaf


def _crowded(search: PathSearch) -> np.ndarray:
    """Which items are in small cells that they will half fill: bidding would go on and on there. (n,) bool"""
    counts = np.bincount(search.cells)
    free = search.num_leaves - search.taken_in_cells(len(counts))
    crowded: np.ndarray = ((counts <= _CHUNK) & (2 * counts >= free))[search.cells]
    return crowded


def _open_ended(lists: PathLists, rivals: np.ndarray, everywhere: bool) -> PathLists:
    """No horizon for those who know as many free leaves as there are items in their cell: one of them is theirs."""
    enough = (np.isfinite(lists.costs).sum(1) >= rivals) & everywhere
    return PathLists(lists.leaves, lists.costs, np.where(enough, np.float32(np.inf), lists.horizon))


def _match_in_chunks(
    search: PathSearch, homeless: np.ndarray, leaf: np.ndarray, taken: np.ndarray, errors: np.ndarray
) -> None:
    """Match the homeless of each cell to its free leaves, some hundred similar items at a time; writes into ``leaf``.

    A chunk is matched exactly to twice as many leaves: those nearest to the mean of its items.
    """
    if not len(homeless):
        return
    taken = np.sort(taken)
    homeless = homeless[np.lexsort((errors[homeless], *search.codes[homeless].T[::-1], search.cells[homeless]))]
    cells, first = np.unique(search.cells[homeless], return_index=True)
    for cell, members in zip(cells, np.split(homeless, first[1:]), strict=True):
        bounds = np.searchsorted(taken, [cell * search.num_leaves, (cell + 1) * search.num_leaves])
        inside = taken[bounds[0] : bounds[1]]
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            search.set_taken(inside)
            leaf[chunk] = _match_chunk(search, chunk)
            inside = np.sort(np.concatenate([inside, leaf[chunk]]))


def _match_chunk(search: PathSearch, items: np.ndarray) -> np.ndarray:
    """Leaves of items of one cell, matched exactly to the free leaves nearest to their mean."""
    residuals = search.residuals(items)
    mean = residuals.mean(0, dtype=np.float64).astype(np.float32)[None]
    uppers = max(16, 4 * len(items) // len(search.lower))
    while True:
        uppers = min(uppers, len(search.upper))
        count = min(2 * len(items), uppers * len(search.lower))
        leaves, costs = search.among(mean, search.cells[items[:1]], search.codes[items[:1], -2], count, uppers)
        leaves = leaves[np.isfinite(costs)]
        if len(leaves) >= len(items):
            break
        assert uppers < len(search.upper), "every cell has a leaf for each of its items"
        uppers *= 4
    node, low = np.divmod(leaves, len(search.lower))
    stand_for = search.upper[node % len(search.upper)] + search.lower[low]
    if search.rng is None:
        matrix = (stand_for * stand_for).sum(1) - 2 * residuals @ stand_for.T
    else:
        matrix = search.rng.random((len(items), len(leaves)))
    chosen: np.ndarray = leaves[linear_sum_assignment(matrix)[1]]
    return chosen
