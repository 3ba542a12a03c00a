"""Whether the items that came after the fit are still coded as well as those it saw, and when to refit.

Codes fit the items they were learned from better than any other item, so the error of new items is *not* compared
with the error of the old ones. A second quantiser is fitted to part of the old items; the others, held out, and the
new items are then both strangers to it. Without drift their errors have one distribution, whatever the codebooks.

The verdict is ``refit`` where, at an overall confidence of 95 %, one of these holds (Bonferroni over the four):
    the mean error of new items is more than 5 % above that of held-out old ones: seeds of one fit differ by up to
        4 %, so less could be had by chance;
    the share of new items that are farther from their codes than 99 % of one half of the held-out old ones is 5
        points above that of the other half;
    the share of new items whose prefix more items want than it has codes is 10 points above that of old ones;
    the components hold 10 points less of the energy of new items than of held-out old ones (``energy.py``).
Few new items give wide intervals, and no verdict that these do not bear.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.stats

from semid.errors import InputError
from semid.tokenizers.collisions.packing import bucket_sizes
from semid.tokenizers.lifecycle.append import encode_rows
from semid.tokenizers.lifecycle.drift_report import DriftReport, GroupFacts, percent
from semid.tokenizers.lifecycle.energy import Energy
from semid.tokenizers.lifecycle.intervals import ratio_of_means, share_difference
from semid.tokenizers.quantiser import Quantiser
from semid.tokenizers.vectors import Vectors, row_blocks

# Held-out and new items whose errors are compared: at most so many, the interval is narrow enough then.
_JUDGED = 20_000
_HELD_OUT_SHARE = 0.2
_FIT_ROWS_PER_CODE = 256
# Share of a squared length that float32 may err by.
_ROUNDING = 1e-12
_FEWEST = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftConfig:
    """When drift is worth a refit.

    Attributes:
        tolerance: rise of the mean error of new items over held-out old ones that is let pass.
        far: rise of the share of items farther from their codes than 99 % of unseen old ones that is let pass.
        crowded: rise of the share of items whose prefix more items want than it has codes that is let pass.
        lost: fall of the share of the energy that the components hold that is let pass.
        confidence: of the verdict.
        seed: of the samples and of the held-out items.
    """

    tolerance: float = 0.05
    far: float = 0.05
    crowded: float = 0.10
    lost: float = 0.10
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise InputError(f"The tolerance is {self.tolerance} but must be at least 0.")
        if not 0 < self.confidence < 1:
            raise InputError(f"The confidence is {self.confidence} but must lie between 0 and 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Coded:
    """A catalogue with its codes, as :func:`measure_drift` looks at it.

    Attributes:
        vectors: (N, D) float32.
        known: (N,) bool, whether the item has any embedding.
        codes: (N, L) or wider, after collisions were resolved.
        is_new: (N,) bool, whether the item came after the fit.
        coverage: by embedding, (N,) bool whether the item has it.
        energies: of unseen old and new items, where known; see :func:`unseen_energies`.
    """

    vectors: Vectors
    known: np.ndarray
    codes: np.ndarray
    is_new: np.ndarray
    coverage: Mapping[str, np.ndarray] = field(default_factory=dict)
    energies: tuple[Energy, Energy] | None = None


def measure_drift(
    items: Coded, quantiser: Quantiser, new_quantiser: Callable[[], Quantiser], config: DriftConfig
) -> DriftReport:
    """Compare the items that came after the fit with those before.

    Args:
        items: old and new ones with their codes.
        quantiser: that made the codes.
        new_quantiser: an unfitted one with the same settings, to judge both groups by.
        config: when to refit.

    Raises:
        InputError: too few old items with an embedding to hold any out.
    """
    if not items.is_new.any():
        return DriftReport(verdict="fine", reasons=("there are no items that came after the fit",))
    rng = np.random.default_rng(config.seed)
    errors = _unseen_errors(items, new_quantiser(), rng)
    nearest = encode_rows(items.vectors, quantiser)
    old, new = _describe_groups(items, nearest, quantiser, errors, rng)
    if len(errors[1]) < _FEWEST:
        reason = f"only {len(errors[1])} new items have an embedding: too few to tell"
        return DriftReport(verdict="fine", reasons=(reason,), old=old, new=new, confidence=config.confidence)
    return _judge(old, new, errors, items.energies, config)


def _unseen_errors(items: Coded, judge: Quantiser, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of held-out old items and of new items under a quantiser that saw neither."""
    old = rng.permutation(np.flatnonzero(items.known & ~items.is_new))
    largest = max(judge.num_codes)
    held = min(int(_HELD_OUT_SHARE * len(old)), _JUDGED, len(old) - largest)
    if held < _FEWEST:
        raise InputError(
            f"{len(old)} items that the {largest} codes a level were fitted on have an embedding: at least "
            f"{max(largest + _FEWEST, int(_FEWEST / _HELD_OUT_SHARE))} are needed to hold some out and tell drift."
        )
    most = max(_FIT_ROWS_PER_CODE * largest, 4 * _JUDGED)
    judge.fit(items.vectors[np.sort(old[held : held + most])])
    new = np.flatnonzero(items.known & items.is_new)
    if len(new) > _JUDGED:
        new = np.sort(rng.choice(new, _JUDGED, replace=False))
    return _squared_errors(items.vectors, np.sort(old[:held]), judge), _squared_errors(items.vectors, new, judge)


def _squared_errors(vectors: Vectors, rows: np.ndarray, quantiser: Quantiser) -> np.ndarray:
    block = vectors[rows]
    difference = (block - quantiser.decode(quantiser.encode(block))).astype(np.float64)
    errors: np.ndarray = np.einsum("nd,nd->n", difference, difference)
    lengths = np.einsum("nd,nd->n", block, block, dtype=np.float64)
    return np.where(errors > _ROUNDING * lengths, errors, 0.0)


def _describe_groups(
    items: Coded,
    nearest: np.ndarray,
    quantiser: Quantiser,
    unseen: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[GroupFacts, GroupFacts]:
    members = ~items.is_new, items.is_new
    colliding = bucket_sizes(nearest[members[0]]) > 1, (bucket_sizes(nearest) > 1)[members[1]]
    crowded = bucket_sizes(nearest[:, :-1]) > quantiser.num_codes[-1]
    displaced = (nearest[:, :-1] != items.codes[:, : nearest.shape[1] - 1]).any(axis=1)
    sums, variance = _error_sums(items, nearest, quantiser)
    size = int(items.is_new.sum())
    old_rows = np.flatnonzero(members[0])
    sample = rng.choice(old_rows, size, replace=False) if size < len(old_rows) else old_rows
    counted = sample, np.flatnonzero(members[1])
    old, new = (
        GroupFacts(
            items=int(member.sum()),
            known=int((member & items.known).sum()),
            relative_error=sums[number] / max(int((member & items.known).sum()), 1) / variance,
            unseen_error=float(unseen[number].mean()) / variance if len(unseen[number]) else 0.0,
            colliding=float(colliding[number].mean()),
            crowded=float(crowded[member].mean()),
            displaced=float(displaced[member].mean()),
            perplexity=_perplexities(nearest[counted[number]], quantiser.num_codes),
            coverage={name: float(np.mean(has[member])) for name, has in items.coverage.items()},
            captured=None if items.energies is None else items.energies[number].share,
        )
        for number, member in enumerate(members)
    )
    return old, new


def _error_sums(items: Coded, nearest: np.ndarray, quantiser: Quantiser) -> tuple[list[float], float]:
    """Sums of squared errors of known old and new items, and the variance of the old ones (1 where that is zero)."""
    sums, count, total, squares = [0.0, 0.0], 0, np.zeros(items.vectors.shape[1]), 0.0
    for rows in row_blocks(len(nearest)):
        block = items.vectors[rows].astype(np.float64)
        difference = block - quantiser.decode(nearest[rows])
        errors = np.einsum("nd,nd->n", difference, difference)
        for number, wanted in enumerate((False, True)):
            sums[number] += float(errors[items.known[rows] & (items.is_new[rows] == wanted)].sum())
        old = block[items.known[rows] & ~items.is_new[rows]]
        count, total, squares = count + len(old), total + old.sum(0), squares + float((old * old).sum())
    mean = total / count
    variance = squares / count - float(mean @ mean)
    return sums, variance if variance > 0 else 1.0


def _perplexities(codes: np.ndarray, num_codes: tuple[int, ...]) -> tuple[float, ...]:
    found = []
    for column, size in zip(codes.T, num_codes, strict=True):
        counts = np.bincount(column, minlength=size)
        share = counts[counts > 0] / len(column)
        found.append(float(np.exp(-(share * np.log(share)).sum())))
    return tuple(found)


def _judge(
    old: GroupFacts,
    new: GroupFacts,
    errors: tuple[np.ndarray, np.ndarray],
    energies: tuple[Energy, Energy] | None,
    config: DriftConfig,
) -> DriftReport:
    held, fresh = errors
    each = 1 - (1 - config.confidence) / 4
    ratio, interval = _ratio(fresh, held, each)
    limit, judged = np.quantile(held[::2], 0.99), held[1::2]
    far, far_old = int((fresh > limit).sum()), int((judged > limit).sum())
    far_interval = share_difference(far, len(fresh), far_old, len(judged), each)
    crowding = share_difference(
        round(new.crowded * new.items), new.items, round(old.crowded * old.items), old.items, each
    )
    reasons = []
    if interval is not None and interval[0] > 1 + config.tolerance:
        reasons.append(f"the error of new items is at least {percent(interval[0] - 1)} above that of unseen old ones")
    if far_interval[0] > config.far:
        reasons.append(
            f"{percent(far / len(fresh))} of the new items are far from any code, of unseen old ones "
            f"{percent(far_old / len(judged))}"
        )
    if crowding[0] > config.crowded:
        reasons.append(
            f"more items want the prefix than it has codes for {percent(new.crowded)} of the new items, for "
            f"{percent(old.crowded)} of the old ones"
        )
    if energies is not None and _surely_lost(*energies, each) > config.lost:
        reasons.append(
            f"the components hold {percent(energies[1].share)} of the energy of new items, of unseen old ones "
            f"{percent(energies[0].share)}"
        )
    verdict = "refit" if reasons else "fine"
    return DriftReport(
        verdict=verdict,
        reasons=tuple(reasons) or (_why_fine(interval, config),),
        old=old,
        new=new,
        error_ratio=ratio,
        error_interval=interval,
        far=far / len(fresh),
        far_interval=far_interval,
        confidence=config.confidence,
    )


def _ratio(fresh: np.ndarray, held: np.ndarray, confidence: float) -> tuple[float | None, tuple[float, float] | None]:
    if fresh.mean() == 0 or held.mean() == 0:  # exact codes leave nothing to compare
        return None, None
    ratio, low, high = ratio_of_means(fresh, held, confidence)
    return ratio, (low, high)


def _surely_lost(old: Energy, new: Energy, confidence: float) -> float:
    """Lower end of the interval of how much less of their energy the components hold of new items."""
    quantile = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    return old.share - new.share - quantile * math.sqrt(old.variance + new.variance)


def _why_fine(interval: tuple[float, float] | None, config: DriftConfig) -> str:
    if interval is not None and interval[1] > 1 + config.tolerance:
        return f"the error of new items is not shown to be more than {percent(config.tolerance)} above that of old"
    return "new items are coded as well as unseen old ones"
