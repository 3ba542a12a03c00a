"""Balanced assignment against the exact solution (linear_sum_assignment), and the balanced fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from semid.errors import InputError
from semid.tokenizers.clustering import balanced
from semid.tokenizers.clustering.balanced import assign_balanced, capacity_of, fit_balanced
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import assign


def _mixture(num_vectors, seed=0, width=8):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(8, width)) * 2
    return (middles[rng.integers(8, size=num_vectors)] + rng.normal(size=(num_vectors, width))).astype(np.float32)


def _cost(vectors, centroids, codes):
    return float(((vectors.astype(np.float64) - centroids[codes]) ** 2).sum())


def _least_cost(vectors, centroids, capacity):
    squared = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1)
    places = np.repeat(squared, capacity, axis=1)
    rows, columns = linear_sum_assignment(places)
    return places[rows, columns].sum()


@pytest.mark.parametrize("slack", [1.0, 1.2])
@pytest.mark.parametrize(
    ("num_vectors", "num_codes", "like"),
    [(800, 10, 0), (800, 40, 0), (790, 100, 0), (800, 20, 300), (800, 20, -300)],
    ids=["large cells", "cells", "small cells", "one vector 300 times", "300 vectors in a spot"],
)
def test_nearly_the_least_cost_and_never_above_capacity(num_vectors, num_codes, like, slack):
    vectors = _mixture(num_vectors)
    rng = np.random.default_rng(1)
    vectors[: abs(like)] = vectors[0] + (0.01 * rng.normal(size=(abs(like), 8)) if like < 0 else 0)
    centroids = fit_kmeans(vectors, KMeansConfig(num_codes=num_codes, iterations=5))
    capacity = capacity_of(num_vectors, num_codes, slack)
    codes = assign_balanced(vectors, centroids, slack)
    assert codes.dtype == np.int32
    assert np.bincount(codes).max() <= capacity
    least = _least_cost(vectors, centroids, capacity)
    assert least * (1 - 1e-6) <= _cost(vectors, centroids, codes) <= 1.01 * least


def test_a_finer_step_is_exact():
    vectors = _mixture(300)
    centroids = vectors[:15]
    codes = balanced._solve(vectors, centroids, 20, 1e-3)
    assert _cost(vectors, centroids, codes) == pytest.approx(_least_cost(vectors, centroids, 20), rel=1e-6)


def test_worked_by_hand():
    # Three vectors are nearest to 0, two have room: the one that loses least by moving to 10 does.
    vectors = np.array([[0], [1], [2], [9]], np.float32)
    assert assign_balanced(vectors, np.array([[0], [10]], np.float32)).tolist() == [0, 0, 1, 1]


def test_short_lists_change_nothing(monkeypatch):
    vectors, rng = _mixture(1500), np.random.default_rng(0)
    centroids = vectors[rng.choice(1500, 60, replace=False)]
    results = []
    for length in (2, 7, 60):
        monkeypatch.setattr(balanced, "_LIST", length)
        results.append(assign_balanced(vectors, centroids))
    assert np.bincount(assign(vectors, centroids)[0]).max() > 50  # far from balanced at first
    assert np.array_equal(results[0], results[2])
    assert np.array_equal(results[1], results[2])


def test_enough_slack_is_the_nearest_centroid():
    vectors = _mixture(500)
    centroids = vectors[:20]
    assert np.array_equal(assign_balanced(vectors, centroids, slack=20), assign(vectors, centroids)[0])


def test_repeats():
    vectors = _mixture(700)
    first, second = (assign_balanced(vectors, vectors[:30]) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("centroids", [np.zeros((7, 3)), np.arange(21).reshape(7, 3)], ids=["equal", "distinct"])
def test_constant_vectors_are_spread(centroids):
    codes = assign_balanced(np.zeros((30, 3), np.float32), centroids.astype(np.float32))
    assert np.bincount(codes, minlength=7).max() == 5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 12), st.floats(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 1000])
)
def test_capacity_holds_whatever_the_data(num_vectors, num_codes, slack, seed, distinct):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_vectors, 3)).astype(np.float32)[
        rng.integers(min(distinct, num_vectors), size=num_vectors)
    ]
    centroids = rng.normal(size=(num_codes, 3)).astype(np.float32)
    codes = assign_balanced(vectors, centroids, slack)
    assert codes.shape == (num_vectors,)
    assert np.bincount(codes, minlength=num_codes).max() <= capacity_of(num_vectors, num_codes, slack)


def test_capacity():
    assert capacity_of(10, 4, 1.0) == 3
    assert capacity_of(100, 10, 1.15) == 11
    assert capacity_of(1000, 10, 1.15) == 115  # 100 * 1.15 is 114.99999999999999
    assert capacity_of(5, 1, 50) == 5
    with pytest.raises(InputError, match=r"0\.9 but must be at least 1"):
        capacity_of(10, 4, 0.9)
    with pytest.raises(InputError, match="must be at least 1"):
        capacity_of(10, 4, float("nan"))


@pytest.mark.parametrize("sample", [None, 900])
def test_fit_is_balanced_and_encodes_by_its_centroids(sample):
    vectors = _mixture(1200)
    config = KMeansConfig(num_codes=24, iterations=15, sample=sample)
    seen = []
    centroids, codes = fit_balanced(vectors, config, progress=lambda number, error: seen.append((number, error)))
    assert np.bincount(codes, minlength=24).tolist() == [50] * 24
    assert np.array_equal(codes, assign_balanced(vectors, centroids))
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1] < 0.98 * seen[0][1]
    plain = fit_kmeans(vectors, config)
    error = _cost(vectors, centroids, codes)
    assert error < _cost(vectors, plain, assign_balanced(vectors, plain))
    assert error < 1.25 * _cost(vectors, plain, assign(vectors, plain)[0])
    # New vectors go to the nearest centroid; most fitted ones have that code anyway.
    assert (assign(vectors, centroids)[0] == codes).mean() > 0.8


def test_fit_of_balanced_clusters_finds_them():
    middles = np.eye(6, dtype=np.float32) * 50
    vectors = (np.repeat(middles, 30, axis=0) + np.random.default_rng(0).normal(size=(180, 6))).astype(np.float32)
    centroids, codes = fit_balanced(vectors, KMeansConfig(num_codes=6))
    assert all(len(set(codes[rows])) == 1 for rows in np.arange(180).reshape(6, 30))
    assert np.allclose(centroids[codes[::30]], vectors.reshape(6, 30, 6).mean(1), atol=1e-4)


def test_fit_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match="slack"):
        fit_balanced(_mixture(10), KMeansConfig(num_codes=2), slack=0.5)
    with pytest.raises(InputError, match="Cannot make 20 codes from 10 vectors"):
        fit_balanced(_mixture(10), KMeansConfig(num_codes=20))
