"""One item per code: what to do with items whose codes are the same.

Policies:
    ``nearest``: at one level (the last, unless told), the item closest to its centroid keeps it; the others, in order
        of rising distance, take the nearest centroid that is still free among the items with which they share the
        other codes.
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
from math import prod
from typing import Literal, get_args

import numpy as np

from semid.errors import InputError
from semid.tokenizers.clustering.nearest import distance_tiles
from semid.tokenizers.collisions.spill import spill
from semid.tokenizers.rq_kmeans import decode

Policy = Literal["nearest", "extra", "none"]
Overflow = Literal["spill", "extra", "error", "random"]
POLICIES: tuple[str, ...] = get_args(Policy)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)

# Marks of one block of groups: groups × K.
_MARKS = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class CollisionReport:
    """What a resolution did. Shares are of all items.

    Attributes:
        policy, overflow: as asked for.
        colliding_before, colliding_after: share of items that share all their codes with another item.
        largest_before, largest_after: most items with the same codes.
        moved: share of items whose codes changed, an additional level aside.
        prefix_changed: share whose codes before the last level changed.
        overflowed: share that found no free code beside their other codes.
        added_distortion: rise of the mean squared error by the moves, relative to the error before; None where that
            was zero.
    """

    policy: str
    overflow: str
    colliding_before: float
    colliding_after: float
    largest_before: int
    largest_after: int
    moved: float
    prefix_changed: float
    overflowed: float
    added_distortion: float | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Resolution:
    """Codes after a collision policy.

    Attributes:
        codes: (N, L) int32, or (N, L + 1) with an additional level.
        num_codes: K per level.
        report: what was done.
    """

    codes: np.ndarray
    num_codes: tuple[int, ...]
    report: CollisionReport


def resolve(
    codes: np.ndarray,
    vectors: np.ndarray,
    codebooks: Sequence[np.ndarray],
    *,
    policy: str = "nearest",
    overflow: str = "spill",
    level: int = -1,
    seed: int = 0,
) -> Resolution:
    """Apply a collision policy.

    Args:
        codes: (N, L) int32.
        vectors: (N, D) float32, what the codes stand for.
        codebooks: L arrays (K_l, D) float32.
        policy, overflow: see the module.
        level: where ``nearest`` looks for a free code, ``-1`` for the last.
        seed: of ``overflow="random"``.

    Raises:
        InputError: an unknown policy or level, more items than codes, or an overflow where that is an error.
    """
    level = _check_arguments(codes, codebooks, policy, overflow, level)
    num_codes = tuple(len(codebook) for codebook in codebooks)
    resolved, overflowed = codes, 0
    if policy == "nearest":
        resolved, homeless = _move_to_nearest_free(codes, vectors, codebooks, level)
        overflowed = len(homeless)
        if overflowed and overflow == "error":
            raise _overflow_error(codes, homeless, level, num_codes)
        if overflowed and overflow in ("spill", "random"):
            rng = np.random.default_rng(seed) if overflow == "random" else None
            resolved = spill(resolved, homeless, vectors, codebooks, rng=rng)
    if policy == "extra" or (policy == "nearest" and overflow == "extra" and overflowed):
        digits = _count_within(resolved, _squared_errors(resolved, vectors, codebooks))
        num_codes = (*num_codes, int(digits.max(initial=0)) + 1)
        resolved = np.column_stack([resolved, digits]).astype(np.int32)
    report = _report(codes, resolved, vectors, codebooks, policy, overflow, overflowed)
    return Resolution(codes=resolved, num_codes=num_codes, report=report)


def check_capacity(num_items: int, num_codes: Sequence[int]) -> None:
    """Raise InputError if there are fewer rows of codes than items; the message says how many would do."""
    capacity = prod(num_codes)
    if num_items <= capacity:
        return
    width = max(num_codes)
    levels = len(num_codes)
    while width > 1 and prod(num_codes) * width ** (levels - len(num_codes)) < num_items:
        levels += 1
    wider = 1
    while wider ** len(num_codes) < num_items:
        wider += 1
    more_levels = f"{levels} levels or " if width > 1 else ""
    raise InputError(
        f"{num_items} items do not fit into the {capacity} different codes of {len(num_codes)} levels of "
        f"{_sizes(num_codes)} codes: use at least {more_levels}{wider} codes a level."
    )


def bucket_sizes(codes: np.ndarray) -> np.ndarray:
    """How many items share all codes of each item, itself included. (N,) int64"""
    if not len(codes):
        return np.empty(0, np.int64)
    _, bucket, counts = np.unique(_pack(codes), return_inverse=True, return_counts=True)
    sizes: np.ndarray = counts[bucket]
    return sizes


def _check_arguments(
    codes: np.ndarray, codebooks: Sequence[np.ndarray], policy: str, overflow: str, level: int
) -> int:
    if policy not in POLICIES:
        raise InputError(f"Unknown collision policy {policy!r}: use one of {', '.join(POLICIES)}.")
    if overflow not in OVERFLOWS:
        raise InputError(f"Unknown overflow policy {overflow!r}: use one of {', '.join(OVERFLOWS)}.")
    if not -len(codebooks) <= level < len(codebooks):
        raise InputError(
            f"There is no level {level} to resolve collisions at: the codes have {len(codebooks)} levels."
        )
    if policy == "nearest" and overflow != "extra":
        check_capacity(len(codes), [len(codebook) for codebook in codebooks])
    return level % len(codebooks)


def _move_to_nearest_free(
    codes: np.ndarray, vectors: np.ndarray, codebooks: Sequence[np.ndarray], level: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes after the moves, and the rows of items that found none free, closest first."""
    codebook = codebooks[level]
    distances = _squared_errors(codes, vectors, codebooks)
    group = _pack(np.delete(codes, level, axis=1))
    order = np.lexsort((distances, codes[:, level], group))
    same = np.zeros(len(codes), bool)
    same[1:] = (np.diff(group[order]) == 0) & (np.diff(codes[order, level]) == 0)
    losers = order[same]
    losers = losers[np.lexsort((losers, distances[losers], group[losers]))]
    if not len(losers):
        return codes, losers
    groups, loser_group = np.unique(group[losers], return_inverse=True)
    holders = order[~same]
    place = np.searchsorted(groups, group[holders])
    concerned = groups[np.minimum(place, len(groups) - 1)] == group[holders]
    taken = np.column_stack([place[concerned], codes[holders[concerned], level]])
    targets = vectors[losers] - decode(codes[losers], codebooks) + codebook[codes[losers, level]]
    found = _nearest_free(loser_group, targets, codebook, taken)
    resolved = codes.copy()
    resolved[losers[found >= 0], level] = found[found >= 0]
    homeless = losers[found < 0]
    return resolved, homeless[np.lexsort((homeless, distances[homeless]))]


def _nearest_free(group: np.ndarray, targets: np.ndarray, codebook: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Serve the members of each group in turn with the nearest centroid not yet taken in it.

    The first members of all groups are served together, then the second ones, and so on.

    Args:
        group: (n,) int64 group of each member, rising, from 0.
        targets: (n, D) float32.
        codebook: (K, D) float32.
        taken: (m, 2) group and code, rising by group.

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
            found[members] = _nearest_unmarked(targets[members], codebook, marks, waiting)
            marks[waiting, found[members]] = True
    return found


def _nearest_unmarked(targets: np.ndarray, codebook: np.ndarray, marks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    codes = np.empty(len(targets), np.int64)
    for block, tile in distance_tiles(targets, codebook):
        tile[marks[rows[block]]] = np.inf
        codes[block] = tile.argmin(1)
    return codes


def _count_within(codes: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Number of each item among those with the same codes, from 0, by rising distance. (N,) int64"""
    keys = _pack(codes)
    order = np.lexsort((distances, keys))
    position = np.arange(len(codes))
    starts = np.concatenate([[True], np.diff(keys[order]) != 0])[: len(codes)]
    digits = np.empty(len(codes), np.int64)
    digits[order] = position - np.maximum.accumulate(np.where(starts, position, 0))
    return digits


def _squared_errors(codes: np.ndarray, vectors: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    difference = vectors - decode(codes, codebooks)
    errors: np.ndarray = np.einsum("nd,nd->n", difference, difference)
    return errors


def _pack(codes: np.ndarray) -> np.ndarray:
    """One int64 a row, equal where the rows are, rising in their order. (N,)"""
    keys = np.zeros(len(codes), np.int64)
    for column in codes.T:
        width = int(column.max(initial=0)) + 1
        if int(keys.max(initial=0)) >= 2**62 // width:
            _, keys = np.unique(keys, return_inverse=True)
        keys = keys * width + column
    return keys


def _overflow_error(codes: np.ndarray, homeless: np.ndarray, level: int, num_codes: tuple[int, ...]) -> InputError:
    others = np.delete(codes, level, axis=1)
    sizes = bucket_sizes(others)[homeless]
    row, size = homeless[sizes.argmax()], int(sizes.max())
    where = "prefix" if level == len(num_codes) - 1 else "group of other codes"
    return InputError(
        f"The {where} {tuple(others[row].tolist())} has {size} items but level {level + 1} has only "
        f"{num_codes[level]} codes: use at least {size} codes there, {len(num_codes) + 1} levels, "
        "or another overflow policy than 'error'."
    )


def _report(
    before: np.ndarray,
    after: np.ndarray,
    vectors: np.ndarray,
    codebooks: Sequence[np.ndarray],
    policy: str,
    overflow: str,
    overflowed: int,
) -> CollisionReport:
    sizes_before, sizes_after = bucket_sizes(before), bucket_sizes(after)
    error_before = float(_squared_errors(before, vectors, codebooks).mean(dtype=np.float64))
    error_after = float(_squared_errors(after, vectors, codebooks).mean(dtype=np.float64))
    changed = before != after[:, : before.shape[1]]
    return CollisionReport(
        policy=policy,
        overflow=overflow,
        colliding_before=float((sizes_before > 1).mean()),
        colliding_after=float((sizes_after > 1).mean()),
        largest_before=int(sizes_before.max()),
        largest_after=int(sizes_after.max()),
        moved=float(changed.any(axis=1).mean()),
        prefix_changed=float(changed[:, :-1].any(axis=1).mean()),
        overflowed=overflowed / len(before),
        added_distortion=error_after / error_before - 1 if error_before > 0 else None,
    )


def _sizes(num_codes: Sequence[int]) -> str:
    return str(num_codes[0]) if len(set(num_codes)) == 1 else ", ".join(map(str, num_codes))
