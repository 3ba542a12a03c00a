"""Oracles: laws that are known, scipy's regression on logarithms, and simulations whose exponent is known."""

import numpy as np
import pytest
from scipy import stats

from semid.evaluation.power_law import NoFit, PowerLaw, fit_power_law

X = np.array([64, 64, 128, 128, 256, 512], float)


def noisy(x: np.ndarray, scale: float, exponent: float, noise: float, seed: int) -> np.ndarray:
    return scale * x**exponent * np.exp(noise * np.random.default_rng(seed).normal(size=x.shape))


@pytest.mark.parametrize(("scale", "exponent"), [(0.02, 0.17), (3.5, -0.8), (1e-4, 2.0), (0.4, 0.0)])
def test_an_exact_law_is_recovered(scale, exponent):
    law = fit_power_law(X, scale * X**exponent)
    assert law.scale == pytest.approx(scale, rel=1e-9)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.interval == pytest.approx((exponent, exponent), abs=1e-9)
    assert law.r_squared == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(law.at(X), scale * X**exponent)
    assert law.points == 6


def test_it_is_the_regression_of_scipy():
    y = noisy(X, 0.05, 0.3, 0.1, seed=1)
    law, line = fit_power_law(X, y), stats.linregress(np.log(X), np.log(y))
    reach = stats.t.ppf(0.975, len(X) - 2) * line.stderr
    assert law.exponent == pytest.approx(line.slope)
    assert law.scale == pytest.approx(np.exp(line.intercept))
    assert law.interval == pytest.approx((line.slope - reach, line.slope + reach))
    assert law.r_squared == pytest.approx(line.rvalue**2)


def test_the_band_is_that_of_a_line_in_the_logarithms():
    """At x = 1 the logarithm of the law is the intercept, whose standard error scipy tells."""
    y = noisy(X, 0.05, 0.3, 0.1, seed=2)
    law, line = fit_power_law(X, y), stats.linregress(np.log(X), np.log(y))
    reach = stats.t.ppf(0.975, len(X) - 2) * line.intercept_stderr
    low, high = law.band(np.array([1.0]))
    assert np.log([low[0], high[0]]) == pytest.approx([line.intercept - reach, line.intercept + reach])


@pytest.mark.parametrize("x", [X, np.array([256.0, 1024.0, 4096.0]), np.array([0.25, 0.5, 1.0, 1.0])])
def test_the_intervals_hold_the_truth_as_often_as_they_say(x):
    exponents, middles = [], []
    truth, middle = 0.2, np.array([np.exp(np.log(x).mean()) * 1.3])
    for seed in range(2000):
        law = fit_power_law(x, noisy(x, 0.05, truth, 0.07, seed))
        exponents.append(law.interval[0] <= truth <= law.interval[1])
        low, high = law.band(middle)
        middles.append(bool(low[0] <= 0.05 * middle[0] ** truth <= high[0]))
    assert 0.93 <= np.mean(exponents) <= 0.97
    assert 0.93 <= np.mean(middles) <= 0.97


def test_one_seed_at_each_of_three_x_is_enough():
    assert isinstance(fit_power_law([1, 2, 4], [1.0, 1.9, 4.2]), PowerLaw)


def test_a_constant_is_a_law_of_exponent_zero():
    law = fit_power_law(X, np.full(6, 0.1))
    assert (law.exponent, law.r_squared) == (pytest.approx(0.0, abs=1e-12), 1.0)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "fewer than 3 different x"),
        ([5, 5, 5, 5], [1, 2, 3, 4], "fewer than 3 different x"),
        ([1, 1, 2, 2], [1, 2, 3, 4], "fewer than 3 different x"),
        ([1, 2, 3], [0.0, 0.1, 0.2], "a value is not above 0"),
        ([1, 2, 3], [-0.1, 0.1, 0.2], "a value is not above 0"),
        ([0, 2, 3], [0.3, 0.1, 0.2], "a value is not above 0"),
        ([1, 2, 3], [0.3, np.nan, 0.2], "a value is not above 0 and finite"),
        ([1, 2, np.inf], [0.3, 0.2, 0.2], "a value is not above 0 and finite"),
        (np.array([1e300, 1e300 * (1 + 1e-15), 1e300 * (1 - 1e-15)]), [1, 2, 3], "fewer than 3 different x"),
        (1e9 * np.array([1, 1 + 1e-12, 1 + 2e-12]), [1, 2, 3], "the x lie too close together"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_points_without_a_law(x, y, reason):
    law = fit_power_law(x, y)
    assert isinstance(law, NoFit)
    assert reason in law.reason
