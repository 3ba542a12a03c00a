"""Power laws y = a · x^b: how a figure grows with what it depends on, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.evaluation.over_seeds import reach

LEAST_DISTINCT = 3
# Of the natural logarithm of a scale that float64 holds.
_LARGEST_LOG = 700.0


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = scale · x^exponent, the line of least squares through the logarithms of n points.

    Attributes:
        scale, exponent: a and b.
        interval: ends of the 95 % interval of the exponent, Student's t on the regression.
        r_squared: share of the variance of log y that the line explains; 1 where y is constant.
        points: n.
        centre: mean of log x.
        spread: sum of the squared deviations of log x from it.
        deviation: standard deviation of the residuals, n − 2 degrees of freedom.
    """

    scale: float
    exponent: float
    interval: tuple[float, float]
    r_squared: float
    points: int
    centre: float
    spread: float
    deviation: float

    def at(self, x: np.ndarray) -> np.ndarray:
        """The law at x. (n,) float64"""
        y: np.ndarray = self.scale * np.asarray(x, np.float64) ** self.exponent
        return y

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the 95 % interval of the law at each x, (n,) each."""
        away = np.log(np.asarray(x, np.float64)) - self.centre
        error = self.deviation * np.sqrt(1 / self.points + away**2 / self.spread)
        factor = np.exp(reach(self.points - 2) * error)
        return self.at(x) / factor, self.at(x) * factor


@dataclass(frozen=True)
class NoFit:
    """Why points have no power law."""

    reason: str


def fit_power_law(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> PowerLaw | NoFit:
    """Fit a power law to points, each counting once: repeated x, such as several seeds, need no averaging before.

    Args:
        x, y: (n,) each.

    Returns:
        The law, or why there is none: a value that is not finite and above 0, or fewer than three different x.
    """
    points = np.array([x, y], np.float64)
    if not (np.isfinite(points) & (points > 0)).all():
        return NoFit("a value is not above 0 and finite")
    log_x, log_y = np.log(points)
    if len(np.unique(log_x)) < LEAST_DISTINCT:
        return NoFit(f"fewer than {LEAST_DISTINCT} different x")
    return _line(log_x, log_y)


def _line(log_x: np.ndarray, log_y: np.ndarray) -> PowerLaw | NoFit:
    count, centre = len(log_x), float(log_x.mean())
    away_x, away_y = log_x - centre, log_y - log_y.mean()
    spread = float(away_x @ away_x)
    slope = float(away_x @ away_y) / spread
    level = float(log_y.mean()) - slope * centre
    if abs(level) > _LARGEST_LOG:
        return NoFit("the x lie too close together for their size")
    residuals = away_y - slope * away_x
    unexplained = float(residuals @ residuals)
    deviation = float(np.sqrt(unexplained / (count - 2)))
    half = reach(count - 2) * deviation / float(np.sqrt(spread))
    return PowerLaw(
        scale=float(np.exp(level)),
        exponent=slope,
        interval=(slope - half, slope + half),
        r_squared=1 - unexplained / float(away_y @ away_y) if np.ptp(log_y) > 0 else 1.0,
        points=count,
        centre=centre,
        spread=spread,
        deviation=deviation,
    )
