import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from semid.errors import InputError
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import assign


def mixture(rng: np.random.Generator, num_rows: int = 2000, dim: int = 12, centres: int = 20) -> np.ndarray:
    means = 3 * rng.standard_normal((centres, dim))
    return (means[rng.integers(centres, size=num_rows)] + rng.standard_normal((num_rows, dim))).astype(np.float32)


def inertia(vectors: np.ndarray, centroids: np.ndarray) -> float:
    distances = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2)
    return float(distances.min(1).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lloyd_agrees_with_sklearn_from_the_same_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = mixture(rng)
    start = vectors[rng.choice(len(vectors), 30, replace=False)]
    ours = fit_kmeans(vectors, KMeansConfig(num_codes=30, iterations=300, tolerance=0.0), start=start)
    theirs = KMeans(30, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(vectors)
    np.testing.assert_allclose(ours, theirs.cluster_centers_, rtol=1e-4, atol=1e-4)
    assert inertia(vectors, ours) == pytest.approx(theirs.inertia_, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 30), st.integers(1, 9), st.sampled_from([0.0, 1e3]))
def test_assignment_is_the_nearest(seed: int, num_rows: int, num_codes: int, dim: int, far: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((num_rows, dim)) + far).astype(np.float32)
    centroids = (rng.standard_normal((num_codes, dim)) + far).astype(np.float32)
    codes, distances = assign(vectors, centroids)
    exact = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2)
    np.testing.assert_allclose(exact[np.arange(num_rows), codes], exact.min(1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(distances, exact[np.arange(num_rows), codes], rtol=1e-3, atol=1e-5)
    assert codes.dtype == np.int32


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, centroids = mixture(rng, 1000), mixture(rng, 50)
    whole, distances = assign(vectors, centroids)
    monkeypatch.setattr("semid.tokenizers.clustering.nearest._TILE_ELEMENTS", 50 * 33)
    codes, tiled = assign(vectors, centroids)
    np.testing.assert_array_equal(codes, whole)
    np.testing.assert_array_equal(tiled, distances)


def test_same_centroids_for_any_number_of_threads() -> None:
    vectors = mixture(np.random.default_rng(0), 6000, dim=33)
    before = torch.get_num_threads()
    try:
        fits = []
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            fits.append(fit_kmeans(vectors, KMeansConfig(num_codes=64, iterations=8, seed=5)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(fits[0], fits[1])
    np.testing.assert_array_equal(fits[0], fits[2])


def test_planted_centres_are_found() -> None:
    rng = np.random.default_rng(1)
    centres = 100 * rng.standard_normal((16, 5))
    vectors = (np.repeat(centres, 50, axis=0) + rng.standard_normal((800, 5))).astype(np.float32)
    found = fit_kmeans(vectors, KMeansConfig(num_codes=16, seed=0))
    nearest = ((found[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    assert set(nearest.tolist()) == set(range(16))


def test_start_does_not_strand_on_noisy_vectors() -> None:
    """Most of each vector is noise of a length of its own: from far-out starts, most centroids keep single points."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3000, 64)) * rng.gamma(2, 1, (3000, 1))
    vectors = noise.astype(np.float32)
    ours = fit_kmeans(vectors, KMeansConfig(num_codes=64, seed=0))
    random_start = KMeans(64, init="random", n_init=1, random_state=0, algorithm="lloyd").fit(vectors)
    assert inertia(vectors, ours) < random_start.inertia_


def test_no_centroid_stays_empty() -> None:
    rng = np.random.default_rng(0)
    vectors = mixture(rng, 500, dim=4)
    far = np.full((10, 4), 1e4, np.float32)
    start = np.concatenate([vectors[:6], far])
    centroids = fit_kmeans(vectors, KMeansConfig(num_codes=16, iterations=50), start=start)
    codes, _ = assign(vectors, centroids)
    assert len(np.unique(codes)) == 16


def test_fewer_distinct_vectors_than_centroids() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    centroids = fit_kmeans(vectors, KMeansConfig(num_codes=8))
    assert np.isfinite(centroids).all()
    assert inertia(vectors, centroids) == pytest.approx(0, abs=1e-6)


def test_sample_and_seed() -> None:
    vectors = mixture(np.random.default_rng(0), 3000)
    config = KMeansConfig(num_codes=20, sample=500, seed=3)
    one, two = fit_kmeans(vectors, config), fit_kmeans(vectors, config)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, fit_kmeans(vectors, KMeansConfig(num_codes=20, seed=3)))
    assert inertia(vectors, one) < 1.5 * inertia(vectors, fit_kmeans(vectors, KMeansConfig(num_codes=20, seed=3)))


def test_many_centroids_are_drawn_several_at_a_time() -> None:
    vectors = mixture(np.random.default_rng(0), 1500, dim=3, centres=300)
    centroids = fit_kmeans(vectors, KMeansConfig(num_codes=600, iterations=3))
    assert centroids.shape == (600, 3)
    assert len(np.unique(assign(vectors, centroids)[0])) > 500


def test_progress_reports_a_falling_error() -> None:
    seen: list[tuple[int, float]] = []
    vectors = mixture(np.random.default_rng(0))
    fit_kmeans(vectors, KMeansConfig(num_codes=10), progress=lambda *step: seen.append(step))
    assert [step for step, _ in seen] == list(range(1, len(seen) + 1))
    errors = [error for _, error in seen]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(errors))


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="Cannot make 4 codes from 3 vectors"):
        fit_kmeans(np.zeros((3, 2), np.float32), KMeansConfig(num_codes=4))
    with pytest.raises(InputError, match="number of codes is 0"):
        KMeansConfig(num_codes=0)
    with pytest.raises(InputError, match="iterations is 0"):
        KMeansConfig(num_codes=1, iterations=0)
    with pytest.raises(InputError, match="sample of 3"):
        KMeansConfig(num_codes=4, sample=3)
