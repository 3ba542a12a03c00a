"""One item per code: apply a collision policy to a whole catalogue, and report what it did (see ``placement.py``)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.tokenizers.collisions.packing import bucket_sizes, check_capacity
from semid.tokenizers.collisions.placement import (
    OVERFLOWS,
    POLICIES,
    Rows,
    check_arguments,
    needs_room,
    place,
    squared_errors,
)

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
    vectors: Rows,
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
        policy, overflow: see ``placement.py``.
        level: where ``nearest`` looks for a free code, ``-1`` for the last.
        seed: of ``overflow="random"``.

    Raises:
        InputError: an unknown policy or level, more items than codes, or an overflow where that is an error.
    """
    check_arguments(len(codebooks), policy, overflow, level)
    num_codes = tuple(len(codebook) for codebook in codebooks)
    if needs_room(policy, overflow):
        check_capacity(len(codes), num_codes)
    contested = np.flatnonzero(bucket_sizes(codes) > 1)
    alone = np.delete(codes, contested, axis=0)
    placed = place(
        alone,
        codes[contested],
        vectors[contested],
        codebooks,
        policy=policy,
        overflow=overflow,
        level=level,
        seed=seed,
    )
    width = placed.codes.shape[1] if len(contested) else codes.shape[1] + (policy == "extra")
    resolved = np.zeros((len(codes), width), np.int32)
    resolved[:, : codes.shape[1]] = codes
    resolved[contested] = placed.codes
    if width > len(codebooks):
        num_codes = (*num_codes, int(resolved[:, -1].max(initial=0)) + 1)
    report = report_moves(codes, resolved, vectors, codebooks, policy, overflow, placed.overflowed)
    return Resolution(codes=resolved, num_codes=num_codes, report=report)


def report_moves(
    before: np.ndarray,
    after: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    policy: str,
    overflow: str,
    overflowed: int,
) -> CollisionReport:
    """What giving items other codes than their nearest ones did.

    Args:
        before: (N, L) nearest codes.
        after: (N, L) or (N, L + 1) codes.
        vectors, codebooks: as for :func:`resolve`.
        policy, overflow: that were in force.
        overflowed: number of items that found no free code beside their other codes.
    """
    sizes_before, sizes_after = bucket_sizes(before), bucket_sizes(after)
    error_before = float(squared_errors(before, vectors, codebooks).mean(dtype=np.float64))
    error_after = float(squared_errors(after, vectors, codebooks).mean(dtype=np.float64))
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
