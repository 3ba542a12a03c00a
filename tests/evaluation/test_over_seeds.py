import pytest
from scipy import stats

from semid.evaluation.over_seeds import mean_over_seeds


def test_the_interval_is_that_of_students_t():
    values = [0.31, 0.35, 0.30, 0.36]
    mean, half = mean_over_seeds(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    assert mean == pytest.approx(0.33)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert mean_over_seeds([0.5]) == (0.5, None)


def test_seeds_that_agree_have_none_to_speak_of():
    assert mean_over_seeds([0.25, 0.25, 0.25]) == (0.25, 0.0)
