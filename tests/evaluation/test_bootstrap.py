from itertools import product

import numpy as np
import pytest
import scipy.stats

from semid.errors import InputError
from semid.evaluation.bootstrap import (
    BootstrapConfig,
    Groups,
    holm,
    percentile_intervals,
    resampled,
    sign_flip_p_values,
)

MANY = BootstrapConfig(resamples=20_000)


def means(values: np.ndarray, users: np.ndarray, config: BootstrapConfig) -> np.ndarray:
    """The mean over queries in each resample. (R,)"""
    return resampled(Groups.of(users, config).sums(values, None)[None], config)[:, 0]


def test_few_users_are_a_group_each() -> None:
    groups = Groups.of(np.array([7, 2, 7, -1, -1, 2]), BootstrapConfig())
    assert groups.count == 4
    assert groups.of_query[0] == groups.of_query[2] != groups.of_query[1] == groups.of_query[5]
    assert len(set(groups.of_query.tolist())) == 4  # the two unknown are somebody else each


@pytest.mark.parametrize(("num_users", "most"), [(1000, 400), (1001, 500), (1000, 1000), (999, 7)])
def test_groups_hold_whole_users_and_like_many(num_users: int, most: int) -> None:
    users = np.repeat(np.arange(num_users), np.arange(num_users) % 3 + 1)
    groups = Groups.of(users, BootstrapConfig(most_groups=most))
    group_of_user = np.array([groups.of_query[users == user] for user in range(num_users)], object)
    assert all(len(set(found.tolist())) == 1 for found in group_of_user)
    sizes = np.bincount([found[0] for found in group_of_user], minlength=groups.count)
    assert groups.count == len(sizes) <= most
    assert 1 <= sizes.min() >= sizes.max() - 1
    assert groups.count > most / 2


def test_sums_by_group() -> None:
    groups = Groups(np.array([1, 0, 1, 1]), 2)
    values, weights = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 1.0, 0.0, 3.0])
    assert groups.sums(values, None).tolist() == [[2, 9], [1, 3]]
    assert groups.sums(values, weights).tolist() == [[2, 17], [1, 5]]
    assert groups.sums(values > 1, weights > 0).tolist() == [[1, 1], [1, 2]]
    assert Groups.one(4).sums(values, weights).tolist() == [[19], [6]]


def test_all_resamples_of_three_groups_come_up_as_often_as_they_should() -> None:
    sums = np.array([[[1.0, 4.0, 0.0], [1.0, 2.0, 3.0]]])
    found = resampled(sums, MANY)[:, 0]
    expected: dict[float, int] = {}
    for drawn in product(range(3), repeat=3):
        ratio = round(sums[0, 0, list(drawn)].sum() / sums[0, 1, list(drawn)].sum(), 9)
        expected[ratio] = expected.get(ratio, 0) + 1
    for ratio, ways in expected.items():
        share = ways / 27
        assert (np.round(found, 9) == ratio).mean() == pytest.approx(share, abs=4 * (share / len(found)) ** 0.5)
    assert set(np.round(found, 9)) == set(expected)


def test_resamples_are_the_same_for_all_metrics_and_for_a_seed() -> None:
    values = np.random.default_rng(0).random(50)
    sums = Groups.of(np.arange(50), MANY).sums(values, None)
    found = resampled(np.stack([sums, sums, sums * [[2], [1]]]), BootstrapConfig())
    assert (found[:, 0] == found[:, 1]).all()
    np.testing.assert_allclose(found[:, 2], 2 * found[:, 0])
    assert (found[:, :1] == resampled(sums[None], BootstrapConfig())).all()
    assert (found[:, :1] != resampled(sums[None], BootstrapConfig(seed=1))).any()


def test_a_resample_without_weight_has_no_value_and_is_left_out() -> None:
    found = resampled(np.array([[[1.0, 0.0], [1.0, 0.0]]]), MANY)
    assert np.isnan(found).mean() == pytest.approx(0.25, abs=0.02)
    assert percentile_intervals(found).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_are_those_of_scipy(skewed: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.exponential(size=60) ** 2 if skewed else rng.random(60)
    low, high = percentile_intervals(means(values, np.arange(60), MANY)[:, None])[:, 0]
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=rng)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.03 * width)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.03 * width)


def test_intervals_of_groups_are_those_of_the_normal_formula() -> None:
    values = (np.random.default_rng(0).random(100_000) < 0.1).astype(float)
    config = BootstrapConfig(resamples=10_000)
    low, high = percentile_intervals(means(values, np.arange(len(values)), config)[:, None])[:, 0]
    error = values.std() / len(values) ** 0.5
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.1 * error)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


@pytest.mark.parametrize("per_user", [1, 4])
def test_groups_leave_the_variance_as_it_is(per_user: int) -> None:
    """Over many groupings; values rise with the user, so that users who are neighbours must not be put together."""
    users = np.repeat(np.arange(1000), per_user)
    values = np.repeat(np.arange(1000) ** 2 / 1e6, per_user)
    true = values[::per_user].var() / 1000
    variances = [
        means(values, users, BootstrapConfig(resamples=400, most_groups=200, seed=seed)).var() for seed in range(100)
    ]
    assert np.mean(variances) * 200 / 199 == pytest.approx(true, rel=0.04)
    plain = means(values, users, BootstrapConfig(resamples=5000)).var()
    assert plain == pytest.approx(true, rel=0.08)


def test_users_of_unlike_many_queries_are_drawn_whole() -> None:
    """Against a plain cluster bootstrap, one user after the other."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40), rng.integers(1, 9, 40))
    values = (rng.random(40)[users] + 0.2 * rng.random(len(users))) * rng.permutation(1 + users % 5)
    of_user = [values[users == user] for user in range(40)]
    plain = [np.concatenate([of_user[user] for user in rng.integers(0, 40, 40)]).mean() for _ in range(5000)]
    found = means(values, users, BootstrapConfig(resamples=5000))
    assert found.std() == pytest.approx(np.std(plain), rel=0.05)
    np.testing.assert_allclose(np.quantile(found, [0.025, 0.975]), np.quantile(plain, [0.025, 0.975]), rtol=0.02)


def test_intervals_hold_the_truth_as_often_as_those_of_the_normal_formula() -> None:
    rng = np.random.default_rng(0)
    held, held_by_formula = np.zeros(400, bool), np.zeros(400, bool)
    for seed in range(400):
        values = (rng.random(300) < 0.3).astype(float)
        config = BootstrapConfig(resamples=400, most_groups=150, seed=seed)
        low, high = percentile_intervals(means(values, np.arange(300), config)[:, None])[:, 0]
        held[seed] = low <= 0.3 <= high
        held_by_formula[seed] = abs(values.mean() - 0.3) <= 1.96 * values.std() / 300**0.5
    assert held.mean() == pytest.approx(held_by_formula.mean(), abs=0.02)
    assert held.mean() == pytest.approx(0.95, abs=0.045)


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # only +++ and --- are as far from 0 as 6
        ([1.0, 1.0, -1.0], 1.0),  # every sum of signs is at least 1 from 0
        ([3.0, -1.0, 1.0], 6 / 8),  # all but 3 - 1 - 1 and its opposite
        ([0.0, 0.0], 1.0),
        ([0.1, 0.2, 0.3, 0.6], 2 / 16),
    ],
)
def test_all_signs_by_hand(differences: list[float], p_value: float) -> None:
    assert sign_flip_p_values(np.array([differences]), BootstrapConfig()).tolist() == [p_value]


@pytest.mark.parametrize("seed", range(5))
def test_all_signs_as_in_scipy(seed: int) -> None:
    differences = np.random.default_rng(seed).choice([-1.0, 0.0, 0.5, 1.0, 2.0], 9)
    expected = scipy.stats.permutation_test(
        (differences, np.zeros(9)), lambda x, y: np.sum(x - y), permutation_type="samples", n_resamples=np.inf
    )
    found = sign_flip_p_values(differences[None], BootstrapConfig())
    assert found[0] == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2])
def test_random_signs_as_in_a_t_test(shift: float) -> None:
    rng = np.random.default_rng(1)
    ours, other = rng.normal(shift, 1, 300), rng.normal(0, 1, 300)
    expected = scipy.stats.ttest_rel(ours, other).pvalue
    found = sign_flip_p_values((ours - other)[None], BootstrapConfig(flips=40_000))[0]
    assert found == pytest.approx(expected, abs=0.01)


def test_random_signs_never_give_zero_and_are_those_of_a_seed() -> None:
    differences = np.ones((1, 40))
    assert sign_flip_p_values(differences, BootstrapConfig(flips=999)).tolist() == [1 / 1000]
    rough = np.random.default_rng(0).normal(0.1, 1, (2, 40))
    first, again, other = (sign_flip_p_values(rough, BootstrapConfig(seed=seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_chance_is_found_significant_as_often_as_it_should() -> None:
    """Users of several queries in random groups: flips of whole groups keep the test's level."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 3)
    found = 0
    for seed in range(400):
        config = BootstrapConfig(flips=300, most_groups=70, seed=seed)
        values = rng.normal(size=200)[users] + 0.3 * rng.normal(size=600)
        found += sign_flip_p_values(Groups.of(users, config).sums(values, None)[:1], config)[0] < 0.05
    assert 0.025 <= found / 400 <= 0.08


def test_holm_by_hand() -> None:
    # Sorted .01, .03, .04 times 3, 2, 1; no later one may be less than one before it.
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([0.02])).tolist() == [0.02]


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="resamples=10 and flips=10000"):
        BootstrapConfig(resamples=10)
    with pytest.raises(InputError, match="flips=0"):
        BootstrapConfig(flips=0)
    with pytest.raises(InputError, match="most_groups=1"):
        BootstrapConfig(most_groups=1)
