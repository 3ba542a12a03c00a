"""One item per code: apply a collision policy to a whole catalogue, and report what it did (see ``placement.py``)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.tokenizers.collisions.identical import count_identical
from semid.tokenizers.collisions.packing import bucket_sizes, check_capacity
from semid.tokenizers.collisions.placement import (
    OVERFLOWS,
    POLICIES,
    check_arguments,
    needs_room,
    place,
    squared_errors,
)
from semid.tokenizers.collisions.rows import ChosenRows, Rows

__all__ = [
    "OVERFLOWS",
    "POLICIES",
    "CollisionReport",
    "Resolution",
    "bucket_sizes",
    "check_capacity",
    "report_moves",
    "resolve",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CollisionReport:
    """What a resolution did. Shares are of all items.

    Attributes:
        policy, overflow: as asked for.
        colliding_before, colliding_after: share of items that share all their codes with another item.
        largest_before, largest_after: most items with the same codes.
        identical: share that have the codes and the vector of another item.
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
    identical: float
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
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    *,
    policy: str = "nearest",
    overflow: str = "spill",
    level: int = -1,
    choices: int = 8,
    seed: int = 0,
) -> Resolution:
    """Apply a collision policy.

    Args:
        codes: (N, L) int32.
        vectors: (N, D) float32, what the codes stand for.
        codebooks: L arrays (K_l, D) float32.
        policy, overflow: see ``placement.py``.
        level: where ``nearest`` and ``random-k`` look for a free code, ``-1`` for the last.
        choices: k of ``random-k``.
        seed: of ``random-k`` and of ``overflow="random"``.

    Raises:
        InputError: an unknown policy or level, more items than codes, or an overflow where that is an error.
    """
    check_arguments(len(codebooks), policy, overflow, level, choices)
    num_codes = tuple(len(codebook) for codebook in codebooks)
    if needs_room(policy, overflow):
        check_capacity(len(codes), num_codes)
    errors = squared_errors(codes, vectors, codebooks)
    contested = np.flatnonzero(bucket_sizes(codes) > 1)
    placed = place(
        np.delete(codes, contested, axis=0),
        codes[contested],
        ChosenRows(vectors, contested),
        codebooks,
        policy=policy,
        overflow=overflow,
        level=level,
        choices=choices,
        seed=seed,
        errors=errors[contested],
    )
    resolved = np.zeros((len(codes), placed.codes.shape[1]), np.int32)
    resolved[:, : codes.shape[1]] = codes
    resolved[contested] = placed.codes
    if resolved.shape[1] > len(codebooks):
        num_codes = (*num_codes, int(resolved[:, -1].max(initial=0)) + 1)
    report = report_moves(codes, resolved, vectors, codebooks, policy, overflow, placed.overflowed, errors=errors)
    return Resolution(codes=resolved, num_codes=num_codes, report=report)


def report_moves(
    before: np.ndarray,
    after: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    policy: str,
    overflow: str,
    overflowed: int,
    *,
    errors: np.ndarray | None = None,
) -> CollisionReport:
    """What giving items other codes than their nearest ones did.

    Args:
        before: (N, L) nearest codes.
        after: (N, L) or (N, L + 1) codes.
        vectors, codebooks: as for :func:`resolve`.
        policy, overflow: that were in force.
        overflowed: number of items that found no free code beside their other codes.
        errors: (N,) squared error of each item at ``before``, if known.
    """
    if errors is None:
        errors = squared_errors(before, vectors, codebooks)
    sizes = bucket_sizes(before)
    colliding, largest = np.flatnonzero(sizes > 1), int(sizes.max())
    sizes = bucket_sizes(after)
    changed = before != after[:, : before.shape[1]]
    moved = np.flatnonzero(changed.any(axis=1))
    rise = squared_errors(after[moved], ChosenRows(vectors, moved), codebooks).astype(np.float64) - errors[moved]
    total = float(errors.sum(dtype=np.float64))
    return CollisionReport(
        policy=policy,
        overflow=overflow,
        colliding_before=len(colliding) / len(before),
        colliding_after=float((sizes > 1).mean()),
        largest_before=largest,
        largest_after=int(sizes.max()),
        identical=count_identical(before[colliding], ChosenRows(vectors, colliding)) / len(before),
        moved=len(moved) / len(before),
        prefix_changed=float(changed[:, :-1].any(axis=1).mean()),
        overflowed=overflowed / len(before),
        added_distortion=float(rise.sum()) / total if total > 0 else None,
    )
