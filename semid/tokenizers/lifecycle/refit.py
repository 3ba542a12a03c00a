"""A refit that keeps the codes it can: warm start, old labels, and new codes only where they pay.

1. Joint least squares give the codebooks that the old codes stand for; centroids hardly missed are moved to where
   they are missed (``warm.py``), and the fit goes on from there. Each level's centroids get the old labels that most
   of their items have (linear assignment).
2. Codes without regard for the old ones, with codebooks fitted to them by joint least squares, have some error; a
   share more of it, the tolerance, is allowed.
3. If codebooks fitted to the old codes reach that, no item moves.
4. Otherwise an item keeps its old codes unless new ones lower the error enough: those whose old codes cost least
   stay, as many as the error allowed admits; for given codebooks no other choice keeps more. The others, new items
   among them, get the codes that are free then. The codebooks are fitted to these codes, which lowers the error, so
   that more can stay: both repeat while codes are won back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment

from semid.codes import SemanticIds
from semid.tokenizers.collisions.packing import pack
from semid.tokenizers.collisions.placement import place, squared_errors
from semid.tokenizers.collisions.rows import ChosenRows, Rows
from semid.tokenizers.lifecycle.append import CollisionPolicy, encode_rows
from semid.tokenizers.lifecycle.warm import spread_out
from semid.tokenizers.quantiser import FitProgress
from semid.tokenizers.residual.least_squares import solve_codebooks
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

KEEP_TOLERANCE = 0.02
_ROUNDS = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inherited:
    """A catalogue of which some items have codes from before.

    Attributes:
        vectors: (N, D) float32.
        known: (N,) bool, whether the item has any embedding; those without keep their codes, whatever they cost.
        rows: (n,) rising rows of the items that have old codes.
        codes: their codes, in this order.
    """

    vectors: Rows
    known: np.ndarray
    rows: np.ndarray
    codes: SemanticIds


def fit_from_codes(
    vectors: np.ndarray, codes: np.ndarray, config: RQKMeansConfig, *, progress: FitProgress | None = None
) -> RQKMeans:
    """Residual codebooks that begin at those the old codes stand for, and keep their labels.

    The old codes alone carry over, not the old centroids: the vectors may come from another projection than before.

    Args:
        vectors: (n, D) float32, old and new items.
        codes: (n, L) or wider, -1 throughout for items without old codes; at least one has some.
        config: how to fit.
        progress: as for a fit.
    """
    has = np.flatnonzero(codes[:, 0] >= 0)
    old, own = vectors[has], codes[has, : config.levels]
    mean = old.mean(0, dtype=np.float64).astype(np.float32)
    nothing = [np.tile(mean if level == 0 else 0 * mean, (size, 1)) for level, size in enumerate(config.num_codes)]
    quantiser = RQKMeans(config)
    start = spread_out(vectors, solve_codebooks(old, own, nothing), quantiser)
    return relabel(quantiser.fit_from(start, vectors, progress=progress), old, own)


def relabel(quantiser: RQKMeans, vectors: np.ndarray, codes: np.ndarray) -> RQKMeans:
    """Number the centroids of each level so that as many items as possible have their old code at it.

    Args:
        quantiser: fitted; its codebooks are put in another order.
        vectors: (n, D) float32.
        codes: (n, L) or wider, what the items had.
    """
    found = quantiser.encode(vectors)
    for level, codebook in enumerate(quantiser.codebooks_):
        labels = match_labels(codes[:, level], found[:, level], len(codebook))
        ordered = np.empty_like(codebook)
        ordered[labels] = codebook
        quantiser.codebooks_[level] = ordered
    return quantiser


def match_labels(old: np.ndarray, new: np.ndarray, size: int) -> np.ndarray:
    """The old label of each new one, one to one, with the most items whose label stays.

    Args:
        old, new: (n,) labels below ``size`` of the same items.

    Returns:
        (size,) int64: new label k becomes ``labels[k]``. A label that no item of the other side shares keeps its
        number where that is free.
    """
    shared = sp.coo_matrix((np.ones(len(old)), (new, old)), shape=(size, size)).tocsr()
    labels = np.full(size, -1)
    sure = _sure_pairs(shared)
    labels[sure[0]] = sure[1]
    open_new, open_old = np.flatnonzero(labels < 0), np.setdiff1d(np.arange(size), sure[1])
    rest = shared[open_new][:, open_old].toarray()
    # among equals, a label that stays; a fraction that no count can outweigh
    rest += np.where(open_new[:, None] == open_old, 0.5 / max(size, 1), 0)
    rows, columns = linear_sum_assignment(rest, maximize=True)
    labels[open_new[rows]] = open_old[columns]
    return labels


def _sure_pairs(shared: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that some best matching has: each shares as much as the best others of its row and column together."""
    pairs = shared.tocoo()
    (best_row, others_row), (best_column, others_column) = (_best_two(x, pairs.data) for x in (pairs.row, pairs.col))
    both = np.intersect1d(best_row, best_column)
    row, column = pairs.row[both], pairs.col[both]
    sure = pairs.data[both] >= others_row[row] + others_column[column]
    return row[sure], column[sure]


def _best_two(labels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of the largest value of each label that occurs, and by label the second largest value, else 0."""
    order = np.lexsort((-values, labels))
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    second = np.zeros(int(labels.max(initial=-1)) + 1)
    after = starts + 1
    several = (after < len(order)) & ~np.isin(after, starts)
    second[labels[order[after[several]]]] = values[order[after[several]]]
    return order[starts], second


def keep_codes(
    items: Inherited, quantiser: RQKMeans, how: CollisionPolicy, *, tolerance: float
) -> tuple[SemanticIds, np.ndarray]:
    """Codes of a catalogue, with as many old ones as the tolerance allows; the codebooks are fitted to them.

    Args:
        items: the catalogue and the old codes.
        quantiser: freshly fitted; its codebooks are replaced.
        how: the collision policy.
        tolerance: share by which the error may exceed that of a choice without regard for old codes.

    Returns:
        The codes, and the (N, L) nearest codes under the new codebooks.

    Raises:
        InputError: more items than codes.
    """
    known_rows = np.flatnonzero(items.known)
    free = _free_codes(items, quantiser, how, encode_rows(items.vectors, quantiser))
    _fit_to(quantiser, items, known_rows, free)
    allowed = (1 + tolerance) * _total_error(items, free, quantiser)
    fresh = quantiser.codebooks_
    best = _keep_all(items, quantiser, how)
    if _total_error(items, best, quantiser) > allowed:
        quantiser.codebooks_ = fresh
        best = _keep_most(items, quantiser, how, allowed)
    num_codes = quantiser.num_codes
    if best.shape[1] > len(num_codes):
        num_codes = (*num_codes, int(best[:, -1].max(initial=0)) + 1)
    return SemanticIds(best, num_codes), encode_rows(items.vectors, quantiser)


def _keep_most(items: Inherited, quantiser: RQKMeans, how: CollisionPolicy, allowed: float) -> np.ndarray:
    """Codes of all items with few changes among those whose error, once codebooks are fitted to them, is allowed."""
    known_rows = np.flatnonzero(items.known)
    best, best_books, best_changed = None, quantiser.codebooks_, len(items.rows) + 1
    granted, credit = 0.0, 0.0
    for _ in range(_ROUNDS):
        codes = _keep_cheapest(items, quantiser, how, allowed + credit)
        _fit_to(quantiser, items, known_rows, codes)
        left = allowed - _total_error(items, codes, quantiser)
        if left < 0 and best is not None:  # too much was granted
            quantiser.codebooks_, credit = best_books, (granted + credit) / 2
            continue
        changed = _count_changed(items, codes)
        if changed >= best_changed:
            break
        best, best_books, best_changed = codes, quantiser.codebooks_, changed
        # what fitting the codebooks took off the error, the next round may spend on more old codes
        granted, credit = credit, credit + left
    quantiser.codebooks_ = best_books
    assert best is not None
    return best


def _fit_to(quantiser: RQKMeans, items: Inherited, rows: np.ndarray, codes: np.ndarray) -> None:
    own = codes[rows, : len(quantiser.codebooks_)]
    quantiser.codebooks_ = solve_codebooks(ChosenRows(items.vectors, rows), own, quantiser.codebooks_)


def _free_codes(items: Inherited, quantiser: RQKMeans, how: CollisionPolicy, wanted: np.ndarray) -> np.ndarray:
    """Codes of all items without regard for those they had."""
    nobody = np.empty((0, len(quantiser.codebooks_)), np.int32)
    return place(nobody, wanted, items.vectors, quantiser.codebooks_, **how.arguments).codes


def _keep_all(items: Inherited, quantiser: RQKMeans, how: CollisionPolicy) -> np.ndarray:
    """Codes of all items where every old one stays; the codebooks are fitted to them."""
    old = np.flatnonzero(items.known[items.rows])
    own = items.codes.codes[old, : len(quantiser.codebooks_)]
    there = ChosenRows(items.vectors, items.rows[old])
    quantiser.codebooks_ = solve_codebooks(there, own, quantiser.codebooks_)
    wanted = encode_rows(items.vectors, quantiser)
    codes = _place_around(items, np.ones(len(items.rows), bool), wanted, quantiser, how)
    _fit_to(quantiser, items, np.flatnonzero(items.known), codes)
    return codes


def _count_changed(items: Inherited, codes: np.ndarray) -> int:
    old = items.codes
    return int((codes[items.rows, : old.num_levels] != old.codes).any(axis=1).sum())


def _total_error(items: Inherited, codes: np.ndarray, quantiser: RQKMeans) -> float:
    return float(_errors(codes, items.vectors, quantiser.codebooks_)[items.known].sum())


def _keep_cheapest(items: Inherited, quantiser: RQKMeans, how: CollisionPolicy, allowed: float) -> np.ndarray:
    """Codes of all items: old ones where they cost least, up to the error allowed, and free ones for the rest."""
    codebooks, rows, old = quantiser.codebooks_, items.rows, items.codes
    wanted = encode_rows(items.vectors, quantiser)
    free = _free_codes(items, quantiser, how, wanted)
    free_errors = _errors(free, items.vectors, codebooks)
    old_errors = _errors(old.codes, ChosenRows(items.vectors, rows), codebooks)
    budget = max(allowed - float(free_errors[items.known].sum()), 0.0)
    kept = _cheapest(np.where(items.known[rows], old_errors - free_errors[rows], 0), budget)
    codes = _place_around(items, kept, wanted, quantiser, how)
    _return_home(codes, items, old_errors, codebooks)
    return codes


def _place_around(
    items: Inherited, kept: np.ndarray, wanted: np.ndarray, quantiser: RQKMeans, how: CollisionPolicy
) -> np.ndarray:
    """Old codes for the old items marked in ``kept``, and what is free then for all others."""
    old = items.codes
    stays = np.zeros(len(wanted), bool)
    stays[items.rows[kept]] = True
    others = np.flatnonzero(~stays)
    latents = ChosenRows(items.vectors, others)
    placed = place(old.codes[kept], wanted[others], latents, quantiser.codebooks_, **how.arguments).codes
    codes = np.zeros((len(wanted), max(placed.shape[1], old.num_levels)), np.int32)
    codes[others, : placed.shape[1]] = placed
    codes[stays, : old.num_levels] = old.codes[kept]
    return codes


def _errors(codes: np.ndarray, vectors: Rows, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    return squared_errors(codes[:, : len(codebooks)], vectors, codebooks).astype(np.float64)


def _cheapest(costs: np.ndarray, budget: float) -> np.ndarray:
    """(n,) bool: as many as possible whose costs together stay within the budget."""
    order = np.argsort(costs, kind="stable")
    chosen = np.zeros(len(costs), bool)
    # gains are no budget for others: what costs nothing stays anyway
    chosen[order[np.cumsum(np.maximum(costs[order], 0)) <= budget]] = True
    return chosen


def _return_home(
    codes: np.ndarray, items: Inherited, old_errors: np.ndarray, codebooks: Sequence[np.ndarray]
) -> None:
    """Give items that were moved back what they had, where nobody took it and it serves them no worse."""
    rows, old = items.rows, items.codes
    changed = np.flatnonzero((codes[rows, : old.num_levels] != old.codes).any(axis=1))
    now = _errors(codes[rows[changed]], ChosenRows(items.vectors, rows[changed]), codebooks)
    changed = changed[old_errors[changed] <= now]
    home = np.zeros((len(changed), codes.shape[1]), codes.dtype)
    home[:, : old.num_levels] = old.codes[changed]
    keys = pack(np.concatenate([home, codes]))
    free = ~np.isin(keys[: len(changed)], keys[len(changed) :])
    codes[rows[changed[free]]] = home[free]
