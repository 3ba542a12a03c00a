"""Unique codes for items that want some, among codes that are taken: nobody who has a code is moved.

Policies:
    ``nearest``: the item closest to what its codes stand for gets them if they are free; the others, in order of
        rising distance, take the nearest centroid that is still free at one level (the last, unless told).
    ``extra``: one more level of codes counts the items that share theirs, the closest first.
    ``none``: several items may share their codes.

A prefix with more items than there are codes at the level overflows. ``nearest`` then does with those that found no
free code, by ``overflow``:
    ``spill``: the cheapest free path over the last two levels, then further up (see ``spill.py``);
    ``random``: a random free path, under the deepest prefix that has one;
    ``extra``: they keep their codes, told apart by one more level;
    ``error``: an InputError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from semid.errors import InputError
from semid.tokenizers.collisions.nearest_free import take_nearest_free
from semid.tokenizers.collisions.packing import bucket_sizes, check_capacity, pack
from semid.tokenizers.collisions.spill import spill
from semid.tokenizers.rq_kmeans import decode

Policy = Literal["nearest", "extra", "none"]
Overflow = Literal["spill", "extra", "error", "random"]
POLICIES: tuple[str, ...] = get_args(Policy)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)

# Vectors fetched at a time.
_BLOCK = 1 << 13


class Rows(Protocol):
    """(N, D) float32 vectors by row, possibly on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray | slice, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where items went.

    Attributes:
        codes: (n, L) int32, or (n, L + 1) with an additional level.
        overflowed: how many items found no free code beside their other codes.
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
    seed: int = 0,
) -> Placement:
    """Give items codes of their own.

    Args:
        taken: (M, L) codes that others have, or (M, L + 1) with an additional level; then the answer has one too.
        wanted: (n, L) int32, where the items would like to be.
        vectors: (n, D) float32, what the wanted codes stand for.
        codebooks: L arrays (K_l, D) float32.
        policy, overflow: see the module.
        level: where ``nearest`` looks for a free code, ``-1`` for the last.
        seed: of ``overflow="random"``.

    Raises:
        InputError: an unknown policy or level, more items than codes, or an overflow where that is an error.
    """
    num_levels = len(codebooks)
    check_arguments(num_levels, policy, overflow, level)
    others = taken[:, :num_levels]
    if needs_room(policy, overflow):
        check_capacity(len(taken) + len(wanted), [len(codebook) for codebook in codebooks])
    codes, shared, overflowed = wanted.copy(), np.zeros(len(wanted), bool), 0
    if policy == "nearest":
        codes, shared = _move_to_nearest_free(others, wanted, vectors, codebooks, level % num_levels)
        overflowed = int(shared.sum())
        if overflowed and overflow != "extra":
            codes = _house(others, codes, shared, vectors, codebooks, overflow, level % num_levels, seed)
            shared[:] = False
    if policy == "extra":
        shared[:] = True
    if shared.any() or taken.shape[1] > num_levels:
        codes = np.column_stack([codes, _digits(taken, codes, shared, vectors, codebooks)]).astype(np.int32)
    return Placement(codes, overflowed)


def needs_room(policy: str, overflow: str) -> bool:
    """Whether every item must get one of the codes that there are, so that more items than codes are a mistake."""
    return policy == "nearest" and overflow != "extra"


def check_arguments(num_levels: int, policy: str, overflow: str, level: int) -> None:
    """Raise InputError for policies or levels that there are not."""
    if policy not in POLICIES:
        raise InputError(f"Unknown collision policy {policy!r}: use one of {', '.join(POLICIES)}.")
    if overflow not in OVERFLOWS:
        raise InputError(f"Unknown overflow policy {overflow!r}: use one of {', '.join(OVERFLOWS)}.")
    if not -num_levels <= level < num_levels:
        raise InputError(f"There is no level {level} to resolve collisions at: the codes have {num_levels} levels.")


def squared_errors(codes: np.ndarray, vectors: Rows, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Squared distance of each item to what its codes stand for, fetched block by block. (N,) float32"""
    errors = np.empty(len(codes), np.float32)
    for first in range(0, len(codes), _BLOCK):
        rows = slice(first, first + _BLOCK)
        block = codes[rows]
        difference = vectors[rows] - decode(block, codebooks)
        np.einsum("nd,nd->n", difference, difference, out=errors[rows])
    return errors


def _move_to_nearest_free(
    taken: np.ndarray, wanted: np.ndarray, vectors: Rows, codebooks: Sequence[np.ndarray], level: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes after the moves, and which items found none free."""
    distances = squared_errors(wanted, vectors, codebooks)
    keys = pack(np.concatenate([wanted, taken]))
    order = np.lexsort((distances, keys[: len(wanted)]))
    ranked = keys[order]
    loses = np.empty(len(wanted), bool)
    loses[order] = np.isin(ranked, keys[len(wanted) :])
    loses[order[1:]] |= ranked[1:] == ranked[:-1]
    losers = np.flatnonzero(loses)
    losers = losers[np.argsort(distances[losers], kind="stable")]
    codes = wanted.copy()
    homeless = np.zeros(len(wanted), bool)
    if len(losers):
        held = np.concatenate([taken, wanted[~loses]])
        found = take_nearest_free(held, wanted[losers], vectors[losers], codebooks, level)
        codes[losers[found >= 0], level] = found[found >= 0]
        homeless[losers[found < 0]] = True
    return codes, homeless


def _house(
    taken: np.ndarray,
    codes: np.ndarray,
    homeless: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    overflow: str,
    level: int,
    seed: int,
) -> np.ndarray:
    """Codes with the homeless items under other prefixes."""
    if overflow == "error":
        raise _overflow_error(np.concatenate([taken, codes]), len(taken) + np.flatnonzero(homeless), level, codebooks)
    rows = np.flatnonzero(homeless)
    distances = squared_errors(codes[rows], vectors[rows], codebooks)
    rows = rows[np.argsort(distances, kind="stable")]
    rng = np.random.default_rng(seed) if overflow == "random" else None
    everyone = np.concatenate([codes[rows], codes[~homeless], taken])
    moved = codes.copy()
    moved[rows] = spill(everyone, np.arange(len(rows)), vectors[rows], codebooks, rng=rng)[: len(rows)]
    return moved


def _digits(
    taken: np.ndarray, codes: np.ndarray, shared: np.ndarray, vectors: Rows, codebooks: Sequence[np.ndarray]
) -> np.ndarray:
    """Codes at the additional level: from 0 by rising distance, after those that are taken."""
    num_levels = len(codebooks)
    keys = pack(np.concatenate([codes, taken[:, :num_levels]]))
    distances = squared_errors(codes, vectors, codebooks)
    distances[~shared] = -1  # those that hold their codes come first
    order = np.lexsort((distances, keys[: len(codes)]))
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
    codes: np.ndarray, homeless: np.ndarray, level: int, codebooks: Sequence[np.ndarray]
) -> InputError:
    others = np.delete(codes, level, axis=1)
    sizes = bucket_sizes(others)[homeless]
    row, size = homeless[sizes.argmax()], int(sizes.max())
    where = "prefix" if level == len(codebooks) - 1 else "group of other codes"
    return InputError(
        f"The {where} {tuple(others[row].tolist())} has {size} items but level {level + 1} has only "
        f"{len(codebooks[level])} codes: use at least {size} codes there, {len(codebooks) + 1} levels, "
        "or another overflow policy than 'error'."
    )
