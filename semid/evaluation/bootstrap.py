"""How sure means over queries are: bootstrap intervals, and paired tests by flips of signs.

What is drawn is a *unit*: a user with all its queries, since queries of one user are alike (cluster bootstrap; Field
and Welsh, Bootstrapping clustered data, JRSS B 69, 2007), or the query where every user has one.

The units of a large set are first put together at random into groups of like size, and groups are drawn (the method
of random groups; Wolter, Introduction to Variance Estimation, 2007, chapter 2). That leaves the variance as it is:
the mean of m units put together at random has 1/m of the variance of one, and there are 1/m as many of them. Only
the estimate becomes noisier, with 4,096 groups by about 1 % of the width of an interval. A resample then costs B
numbers instead of Q: a thousand of them are one small matrix product.

A metric is the ratio of two sums over queries, of values times weights and of weights, and so it is in each resample.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semid.errors import InputError
from semid.evaluation.over_seeds import CONFIDENCE

# Numbers drawn at a time: a few megabytes.
_BLOCK_DRAWS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """How intervals and tests are made.

    Attributes:
        resamples: for intervals, at least 100.
        flips: of signs for tests, at least 100; where there are no more than that many, all of them are tried.
        most_groups: units beyond that many are put together into groups; at least 2.
        seed: of groups, resamples and flips.
    """

    resamples: int = 1000
    flips: int = 10_000
    most_groups: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.resamples, self.flips) < 100:
            raise InputError(f"resamples={self.resamples} and flips={self.flips} must each be at least 100.")
        if self.most_groups < 2:
            raise InputError(f"most_groups={self.most_groups} must be at least 2.")


@dataclass(frozen=True, eq=False)
class Groups:
    """Q queries in B groups.

    Attributes:
        of_query: (Q,) int64 group of each query, below B.
        count: B.
    """

    of_query: np.ndarray
    count: int

    @staticmethod
    def one(num_queries: int) -> "Groups":
        """All queries together."""
        return Groups(np.zeros(num_queries, np.int64), 1)

    @staticmethod
    def of(users: np.ndarray, config: BootstrapConfig) -> "Groups":
        """Random groups of users of like number; a group for each user where there are few.

        Args:
            users: (Q,) user row of each query; those below 0 are somebody unknown, another one each time.
        """
        named = np.where(users < 0, int(users.max(initial=-1)) + 1 + np.arange(len(users)), users)
        present = np.bincount(named) > 0
        units, num_units = (np.cumsum(present) - 1)[named], int(present.sum())
        if num_units <= config.most_groups:
            return Groups(units, num_units)
        size = -(-num_units // config.most_groups)
        count = -(-num_units // size)
        shuffled = np.random.default_rng(config.seed).permutation(num_units)
        return Groups((shuffled % count)[units], count)

    def sums(self, values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Values of queries (Q,) times their weights, and the weights, summed by group; None is 1 each. (2, B)"""
        if weights is None:
            return np.stack([np.bincount(self.of_query, values, self.count), self._sizes])
        return np.stack([np.bincount(self.of_query, x, self.count) for x in (values * weights, weights)])

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.bincount(self.of_query, minlength=self.count)


def resampled(sums: np.ndarray, config: BootstrapConfig) -> np.ndarray:
    """C metrics in each of R resamples of the groups, the same ones for all metrics. (R, C)

    Args:
        sums: (C, 2, B) by group, as :meth:`Groups.sums` has them.

    Returns:
        NaN where nothing that was drawn has a weight.
    """
    num_groups = sums.shape[2]
    flat = sums.reshape(-1, num_groups).T
    ratios = []
    for rows, rng in _blocks(config.resamples, num_groups, config.seed):
        drawn = rng.integers(num_groups, size=(rows, num_groups)) + num_groups * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        totals = times.astype(np.float64) @ flat
        with np.errstate(invalid="ignore"):
            ratios.append(totals[:, ::2] / totals[:, 1::2])
    return np.concatenate(ratios)


def percentile_intervals(values: np.ndarray) -> np.ndarray:
    """The middle 95 % of each column of (R, C), NaN left out: Efron's percentile interval. (2, C)"""
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile
    found: np.ndarray = quantile(values, ends, axis=0)
    return found


def sign_flip_p_values(differences: np.ndarray, config: BootstrapConfig) -> np.ndarray:
    """Two-sided p-values of paired differences, were their signs due to chance (Fisher's randomisation test). (D,)

    If it does not matter which of two systems answered, the difference of any group may as well have the other sign.
    The p-value is the share of sign choices whose sum is at least as far from 0 as the sum that was found; with
    random choices, those found count as one of them, so that it is never 0.

    Args:
        differences: (D, B) sums by group.
    """
    num_groups = differences.shape[1]
    total = differences.sum(axis=1)
    # Sums of the same differences in another order differ in their last digits.
    least = np.abs(total) - 1e-12 * np.abs(differences).sum(axis=1)
    if 2**num_groups <= config.flips:
        kept = np.arange(2**num_groups)[:, None] >> np.arange(num_groups) & 1
        share: np.ndarray = _as_far(kept, differences, least).mean(axis=0)
        return share
    far = np.ones(len(differences))
    for rows, rng in _blocks(config.flips, num_groups, config.seed):
        far += _as_far(rng.integers(2, size=(rows, num_groups), dtype=np.int8), differences, least).sum(axis=0)
    return far / (config.flips + 1)


def _as_far(kept: np.ndarray, differences: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Whether the sum where signs are kept, less that where they are not, is as far from 0 as needed. (R, D)"""
    sums = 2 * (kept.astype(np.float64) @ differences.T) - differences.sum(axis=1)
    far: np.ndarray = np.abs(sums) >= least
    return far


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values of several tests, corrected so that all hold together (Holm, Scand. J. Statistics 6, 1979). (D,)"""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)).clip(max=1)
    return corrected


def _blocks(count: int, num_groups: int, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
    """So many random rows of B numbers, some at a time, from one generator."""
    # Not the generator that made the groups.
    rng, step = np.random.default_rng((seed, 1)), max(_BLOCK_DRAWS // num_groups, 1)
    for first in range(0, count, step):
        yield min(step, count - first), rng
