"""Starts of k-means: the odds of every draw against exact enumeration, and data with few distinct vectors."""

import itertools

import numpy as np
import pytest
from scipy.stats import chi2

from semid.tokenizers.clustering.starts import _run_chain, afkmc2, plus_plus, shrunk, spherical

_TINY = np.array([[0, 0], [1, 0], [0, 2], [3, 3], [3, 4]], np.float32)
_RUNS = 6000


def _squared(vectors):
    difference = vectors[:, None].astype(np.float64) - vectors[None]
    return (difference**2).sum(-1)


def _plus_plus_odds(distances, num_codes):
    """The chance of every ordered draw, by its definition."""
    odds = {}
    for draw in itertools.permutations(range(len(distances)), num_codes):
        chance = 1 / len(distances)
        for size in range(1, num_codes):
            nearest = distances[:, draw[:size]].min(1)
            chance *= nearest[draw[size]] / nearest.sum()
        odds[draw] = chance
    return odds


def _chain_odds(distances, first, chain):
    """The chance that a chain ends at each vector, by powers of its transition matrix."""
    target = distances[first]
    proposal = target / target.sum() / 2 + 1 / (2 * len(target))
    ratio = target / proposal
    with np.errstate(divide="ignore", invalid="ignore"):
        accept = np.where(ratio[:, None] > 0, np.minimum(1, ratio[None] / ratio[:, None]), 1)
    transition = proposal[None] * accept
    np.fill_diagonal(transition, 0)
    np.fill_diagonal(transition, 1 - transition.sum(1))
    return proposal @ np.linalg.matrix_power(transition, chain - 1)


def _assert_odds(counts, odds):
    """Chi-square test at 1e-4; impossible outcomes must not occur."""
    keys = [key for key, chance in odds.items() if chance > 0]
    assert set(counts) <= set(keys)
    seen = np.array([counts.get(key, 0) for key in keys])
    expected = np.array([odds[key] for key in keys]) * sum(counts.values())
    assert np.isclose(sum(odds.values()), 1)
    assert ((seen - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, len(keys) - 1)


def _draws(start, vectors, num_codes, runs, **options):
    rng, counts = np.random.default_rng(3), {}
    for _ in range(runs):
        drawn = start(vectors, num_codes, rng, **options)
        draw = tuple(int(_squared(np.vstack([row, vectors]))[0, 1:].argmin()) for row in drawn)
        counts[draw] = counts.get(draw, 0) + 1
    return counts


def test_rounds_have_the_odds_of_kmeans_plus_plus():
    # four draws: the third and the fourth come from one round, by rejection
    _assert_odds(_draws(plus_plus, _TINY, 4, _RUNS), _plus_plus_odds(_squared(_TINY), 4))


def test_chain_has_the_odds_of_its_transition_matrix():
    distances = _squared(_TINY)
    odds = {
        (first, second): _chain_odds(distances, first, 2)[second] / len(_TINY)
        for first, second in itertools.product(range(len(_TINY)), repeat=2)
    }
    counts = _draws(afkmc2, _TINY, 2, _RUNS, chain=2)
    # A chain that ends on the first vector is replaced by a draw of k-means++.
    plus = _plus_plus_odds(distances, 2)
    again = {first: odds[first, first] * len(_TINY) for first in range(len(_TINY))}
    odds = {
        pair: (odds[pair] + again[pair[0]] * plus[pair] if pair[0] != pair[1] else 0) for pair in odds if pair in plus
    }
    _assert_odds(counts, odds)


def test_a_long_chain_is_kmeans_plus_plus():
    _assert_odds(_draws(afkmc2, _TINY, 3, 2000, chain=60), _plus_plus_odds(_squared(_TINY), 3))


def test_chain_takes_by_ratio():
    # values 1, 4 (taken: larger), 1 (u = .2 < 1/4: taken), .5 (u = .6 > 1/2: refused)
    assert _run_chain(np.array([1.0, 4, 1, 0.5]), np.ones(4), np.array([0, 0.9, 0.2, 0.6])) == 2


@pytest.mark.parametrize("start", [plus_plus, afkmc2])
def test_every_distinct_vector_is_drawn_before_any_twice(start):
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(40, 6)).astype(np.float32) + 100
    vectors = distinct[rng.permutation(np.repeat(np.arange(40), rng.integers(1, 30, 40)))]
    drawn = start(vectors, 40, rng)
    assert len(np.unique(drawn, axis=0)) == 40
    drawn = start(vectors, 60, rng)
    assert drawn.shape == (60, 6)
    assert len(np.unique(drawn, axis=0)) == 40


@pytest.mark.parametrize("start", [plus_plus, afkmc2, spherical])
def test_constant_vectors_give_equal_centroids(start):
    vectors = np.full((50, 3), 7, np.float32)
    assert np.array_equal(start(vectors, 5, np.random.default_rng(0)), np.full((5, 3), 7, np.float32))


@pytest.mark.parametrize("start", [plus_plus, afkmc2, spherical])
def test_a_seed_repeats(start):
    vectors = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    first, second = (start(vectors, 37, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, start(vectors, 37, np.random.default_rng(5)))


@pytest.mark.parametrize("start", [plus_plus, afkmc2])
def test_draws_find_far_clusters_that_uniform_ones_miss(start):
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(30, 4)) * 1000
    sizes = np.r_[5000, np.full(29, 5)]
    clusters = np.repeat(np.arange(30), sizes)
    vectors = (centres[clusters] + rng.normal(size=(len(clusters), 4))).astype(np.float32)
    drawn = start(vectors, 30, rng)
    found = ((drawn[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    assert len(set(found)) == 30


def test_spherical_clusters_by_direction():
    rng = np.random.default_rng(6)
    axes = np.eye(4)[np.repeat(np.arange(4), 200)]
    lengths = np.exp(rng.normal(size=(800, 1)))
    vectors = (axes * lengths + 0.01 * rng.normal(size=(800, 4))).astype(np.float32)
    vectors = np.vstack([vectors, -vectors])  # mean zero: eight directions
    centroids = spherical(vectors, 8, np.random.default_rng(1))
    expected = np.array([vectors[rows].mean(0) for rows in np.arange(1600).reshape(8, 200)])
    nearest = ((centroids[:, None] - expected[None]) ** 2).sum(-1)
    assert sorted(nearest.argmin(1)) == list(range(8))
    assert np.allclose(nearest.min(1), 0, atol=1e-6)


def test_shrunk_moves_towards_the_mean():
    vectors = np.array([[0, 0], [4, 0]], np.float32)
    assert np.array_equal(shrunk(vectors, vectors, 0.25), np.array([[1.5, 0], [2.5, 0]], np.float32))
    assert np.array_equal(shrunk(vectors, vectors, 1), vectors)
