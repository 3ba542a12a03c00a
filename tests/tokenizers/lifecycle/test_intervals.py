import numpy as np
import pytest
import scipy.stats

from semid.tokenizers.lifecycle.intervals import ratio_of_means, share_difference, share_interval


def test_ratio_of_means_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.gamma(2.0, 1.2, 400), rng.gamma(2.0, 1.0, 900)
    ratio, low, high = ratio_of_means(one, other, 0.95)
    found = scipy.stats.bootstrap(
        (one, other), lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis), method="percentile", rng=0
    ).confidence_interval
    assert ratio == pytest.approx(one.mean() / other.mean())
    assert (low, high) == (pytest.approx(found.low, abs=0.01), pytest.approx(found.high, abs=0.01))


def test_ratio_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        _, low, high = ratio_of_means(rng.exponential(3.0, 30), rng.exponential(2.0, 200), 0.9)
        hits += low <= 1.5 <= high
    assert hits / 2000 == pytest.approx(0.9, abs=0.035)


def test_ratio_of_constants_is_certain() -> None:
    assert ratio_of_means(np.full(5, 3.0), np.full(4, 2.0), 0.95) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (81, 263)])
def test_share_interval_is_wilsons(hits: int, count: int) -> None:
    found = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert share_interval(hits, count, 0.95) == (pytest.approx(found.low), pytest.approx(found.high))


def test_share_difference_of_newcombes_paper() -> None:
    """Newcombe (1998), Statistics in Medicine 17, table II, method 10: 56/70 − 48/80 and 9/10 − 3/10."""
    for given, low, high in (((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090)):
        assert share_difference(*given, 0.95) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
