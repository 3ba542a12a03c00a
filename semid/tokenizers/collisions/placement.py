"""Unique codes for items that want some, among codes that are taken: nobody who has a code is moved.

Policies:
    ``optimal``: the items whose codes are taken or wanted by several get the free codes that add the least squared
        error in sum, found over the last two levels (see ``optimal.py``). Never overflows.
    ``nearest``: the item closest to what its codes stand for gets them if they are free; the others, in order of
        rising distance, take the nearest centroid that is still free at one level (the last, unless told).
    ``random-k``: the same, but each of the others draws one of its k nearest free centroids, as in FORGE
        (arXiv 2509.20904).
    ``extra``: one more level of codes counts the items that share theirs, the closest first.
    ``none``: several items may share their codes.

A prefix with more items than there are codes at the level overflows. ``nearest`` and ``random-k`` then do with those
that found no free code, by ``overflow``:
    ``spill``: as ``optimal`` does with all;
    ``random``: a random free path over the last two levels, under the deepest prefix that has one;
    ``extra``: they keep their codes, told apart by one more level;
    ``error``: an InputError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from semid.errors import InputError
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles
from semid.tokenizers.collisions.nearest_free import take_nearest_free
from semid.tokenizers.collisions.optimal import cheapest_matching
from semid.tokenizers.collisions.packing import bucket_sizes, check_capacity, pack
from semid.tokenizers.collisions.rows import ChosenRows
from semid.tokenizers.collisions.rows import Rows as Rows
from semid.tokenizers.rq_kmeans import decode

Policy = Literal["optimal", "nearest", "random-k", "extra", "none"]
Overflow = Literal["spill", "extra", "error", "random"]
POLICIES: tuple[str, ...] = get_args(Policy)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)

# Vectors fetched at a time, and those whose errors are computed together.
_FETCHED = 1 << 14
_TOGETHER = 1 << 10


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where items went.

    Attributes:
        codes: (n, L) int32, or (n, L + 1) with an additional level.
        overflowed: how many items found no free code beside their other codes; ``nearest`` and ``random-k`` only.
    """

    codes: np.ndarray
    overflowed: int


def place(
    taken: np.ndarray,
    wanted: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    *,
    policy: str = "nearest",
    overflow: str = "spill",
    level: int = -1,
    choices: int = 8,
    seed: int = 0,
    errors: np.ndarray | None = None,
) -> Placement:
    """Give items codes of their own.

    Args:
        taken: (M, L) codes that others have, or (M, L + 1) with an additional level; then the answer has one too.
        wanted: (n, L) int32, where the items would like to be.
        vectors: (n, D) float32, what the wanted codes stand for.
        codebooks: L arrays (K_l, D) float32.
        policy, overflow: see the module.
        level: where ``nearest`` and ``random-k`` look for a free code, ``-1`` for the last.
        choices: k of ``random-k``.
        seed: of ``random-k`` and of ``overflow="random"``.
        errors: (n,) float32 squared error of each item at the wanted codes, if known.

    Raises:
        InputError: an unknown policy or level, more items than codes, or an overflow where that is an error.
    """
    num_levels = len(codebooks)
    check_arguments(num_levels, policy, overflow, level, choices)
    others = taken[:, :num_levels]
    if needs_room(policy, overflow):
        check_capacity(len(taken) + len(wanted), [len(codebook) for codebook in codebooks])
    if errors is None:
        errors = squared_errors(wanted, vectors, codebooks)
    codes, shared, overflowed = wanted, np.zeros(len(wanted), bool), 0
    rng = np.random.default_rng(seed)
    if policy == "optimal":
        codes = _match_contested(others, wanted, vectors, codebooks, errors)
    if policy in ("nearest", "random-k"):
        count = choices if policy == "random-k" else 1
        codes, shared = _move_at_level(others, wanted, vectors, codebooks, errors, level % num_levels, count, rng)
        overflowed = int(shared.sum())
        if overflowed and overflow != "extra":
            if overflow == "error":
                raise _overflow_error(others, codes, shared, level % num_levels, codebooks)
            codes = _house(others, codes, shared, vectors, codebooks, errors, rng if overflow == "random" else None)
            shared[:] = False
    if policy == "extra":
        shared[:] = True
    if shared.any() or taken.shape[1] > num_levels:
        codes = np.column_stack([codes, _digits(taken, codes, shared, errors, num_levels)]).astype(np.int32)
    return Placement(codes, overflowed)


def needs_room(policy: str, overflow: str) -> bool:
    """Whether every item must get one of the codes that there are, so that more items than codes are a mistake."""
    return policy == "optimal" or (policy in ("nearest", "random-k") and overflow != "extra")


def check_arguments(num_levels: int, policy: str, overflow: str, level: int, choices: int) -> None:
    """Raise InputError for policies, levels or numbers of choices that there are not."""
    if policy not in POLICIES:
        raise InputError(f"Unknown collision policy {policy!r}: use one of {', '.join(POLICIES)}.")
    if overflow not in OVERFLOWS:
        raise InputError(f"Unknown overflow policy {overflow!r}: use one of {', '.join(OVERFLOWS)}.")
    if not -num_levels <= level < num_levels:
        raise InputError(f"There is no level {level} to resolve collisions at: the codes have {num_levels} levels.")
    if choices < 1:
        raise InputError(f"Items cannot draw one of {choices} free codes: let them choose among at least 1.")


def squared_errors(codes: np.ndarray, vectors: Rows, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Squared distance of each item to what its codes stand for, fetched block by block. (N,) float32"""
    errors = np.empty(len(codes), np.float32)
    for first in range(0, len(codes), _FETCHED):
        fetched = vectors[slice(first, min(first + _FETCHED, len(codes)))]

        def measure(tile: slice, first: int = first, fetched: np.ndarray = fetched) -> None:
            rows = slice(first + tile.start, first + tile.stop)
            difference = decode(codes[rows], codebooks)
            difference -= fetched[tile]
            np.einsum("nd,nd->n", difference, difference, out=errors[rows])

        run_tiles(measure, row_tiles(len(fetched), _TOGETHER))
    return errors


def _match_contested(
    taken: np.ndarray, wanted: np.ndarray, vectors: Rows, codebooks: Sequence[np.ndarray], errors: np.ndarray
) -> np.ndarray:
    """``optimal``: codes of all items, those that alone want free ones left there."""
    rows = np.flatnonzero(_contested(taken, wanted))
    codes = wanted.copy()
    held = taken if len(rows) == len(wanted) else np.concatenate([taken, np.delete(wanted, rows, axis=0)])
    codes[rows] = cheapest_matching(held, wanted[rows], ChosenRows(vectors, rows), codebooks, errors[rows])
    return codes


def _contested(taken: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which codes others have or want too. (n,) bool"""
    keys = pack(np.concatenate([wanted, taken]))
    contested: np.ndarray = np.isin(keys[: len(wanted)], keys[len(wanted) :]) | (bucket_sizes(wanted) > 1)
    return contested


def _move_at_level(
    taken: np.ndarray,
    wanted: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    errors: np.ndarray,
    level: int,
    choices: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """``nearest`` and ``random-k``: codes after the moves, and which items found none free."""
    keys = pack(np.concatenate([wanted, taken]))
    order = np.lexsort((errors, keys[: len(wanted)]))
    ranked = keys[order]
    loses = np.empty(len(wanted), bool)
    loses[order] = np.isin(ranked, keys[len(wanted) :])
    loses[order[1:]] |= ranked[1:] == ranked[:-1]
    losers = np.flatnonzero(loses)
    losers = losers[np.argsort(errors[losers], kind="stable")]
    codes = wanted.copy()
    homeless = np.zeros(len(wanted), bool)
    if len(losers):
        held = np.concatenate([taken, wanted[~loses]])
        draws = rng.random(len(losers)) if choices > 1 else None
        found = take_nearest_free(held, wanted[losers], vectors[losers], codebooks, level, choices, draws)
        codes[losers[found >= 0], level] = found[found >= 0]
        homeless[losers[found < 0]] = True
    return codes, homeless


def _house(
    taken: np.ndarray,
    codes: np.ndarray,
    homeless: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    errors: np.ndarray,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """Codes with the homeless items on free paths over the last two levels."""
    rows = np.flatnonzero(homeless)
    held = np.concatenate([taken, codes[~homeless]])
    moved = codes.copy()
    moved[rows] = cheapest_matching(held, codes[rows], ChosenRows(vectors, rows), codebooks, errors[rows], rng=rng)
    return moved


def _digits(
    taken: np.ndarray, codes: np.ndarray, shared: np.ndarray, errors: np.ndarray, num_levels: int
) -> np.ndarray:
    """Codes at the additional level: from 0, the holder of the codes first, after those that are taken."""
    keys = pack(np.concatenate([codes, taken[:, :num_levels]]))
    order = np.lexsort((np.where(shared, errors, -1), keys[: len(codes)]))
    position = np.arange(len(codes))
    starts = np.concatenate([[True], np.diff(keys[order]) != 0])[: len(codes)]
    digits = np.empty(len(codes), np.int64)
    digits[order] = position - np.maximum.accumulate(np.where(starts, position, 0))
    last = taken[:, num_levels] if taken.shape[1] > num_levels else np.zeros(len(taken), np.int64)
    held, place = np.unique(keys[len(codes) :], return_inverse=True)
    if len(held):
        used = np.full(len(held), 0)
        np.maximum.at(used, place, last + 1)
        at = np.minimum(np.searchsorted(held, keys[: len(codes)]), len(held) - 1)
        digits += np.where(held[at] == keys[: len(codes)], used[at], 0)
    return digits


def _overflow_error(
    taken: np.ndarray, codes: np.ndarray, homeless: np.ndarray, level: int, codebooks: Sequence[np.ndarray]
) -> InputError:
    others = np.delete(np.concatenate([codes, taken]), level, axis=1)
    sizes = np.where(homeless, bucket_sizes(others)[: len(codes)], 0)
    row, size = sizes.argmax(), int(sizes.max())
    where = "prefix" if level == len(codebooks) - 1 else "group of other codes"
    return InputError(
        f"The {where} {tuple(others[row].tolist())} has {size} items but level {level + 1} has only "
        f"{len(codebooks[level])} codes: use at least {size} codes there, {len(codebooks) + 1} levels, "
        "or another overflow policy than 'error'."
    )
