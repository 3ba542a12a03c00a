"""The mean over the seeds of a run, and how sure it is."""

from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


def mean_over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval (Student's t); None for the half of a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, error * reach(len(values) - 1)


def reach(freedom: int) -> float:
    """How many standard errors a two-sided 95 % interval goes to either side, with these degrees of freedom."""
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
