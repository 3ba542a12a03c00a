"""Confidence intervals for comparing two samples: the ratio of two means, a share, the difference of two shares."""

import math

import numpy as np
import scipy.stats


def ratio_of_means(numerator: np.ndarray, denominator: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Ratio of the means of two independent samples of non-negative numbers, with its interval.

    The logarithm of the ratio is taken as normal with the variances of both logarithms of means added (delta method)
    and Welch and Satterthwaite's degrees of freedom, so that small samples give wide intervals.

    Args:
        numerator, denominator: (n,) and (m,), both with a positive mean and at least 2 values.
        confidence: of the two-sided interval, such as 0.95.

    Returns:
        The ratio, its lower and its upper end.
    """
    means, parts = [], []
    for sample in (numerator, denominator):
        values = np.asarray(sample, np.float64)
        means.append(float(values.mean()))
        parts.append(float(values.var(ddof=1)) / (len(values) * means[-1] ** 2))
    ratio, variance = means[0] / means[1], sum(parts)
    if variance == 0:
        return ratio, ratio, ratio
    freedom = variance**2 / (parts[0] ** 2 / (len(numerator) - 1) + parts[1] ** 2 / (len(denominator) - 1))
    reach = float(scipy.stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)
    return ratio, ratio * math.exp(-reach), ratio * math.exp(reach)


def share_interval(hits: int, count: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share: ``hits`` of ``count`` > 0 (Wilson 1927)."""
    quantile = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    share, spread = hits / count, quantile**2 / count
    centre = (share + spread / 2) / (1 + spread)
    reach = quantile / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(centre - reach, 0.0), min(centre + reach, 1.0)


def share_difference(
    hits: int, count: int, other_hits: int, other_count: int, confidence: float
) -> tuple[float, float]:
    """Interval of the difference of two shares, first minus other, from their Wilson intervals (Newcombe 1998)."""
    share, other = hits / count, other_hits / other_count
    low, high = share_interval(hits, count, confidence)
    other_low, other_high = share_interval(other_hits, other_count, confidence)
    return (
        share - other - math.hypot(share - low, other_high - other),
        share - other + math.hypot(high - share, other - other_low),
    )
