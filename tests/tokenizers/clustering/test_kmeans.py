import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from semid.errors import InputError
from semid.tokenizers.clustering import kmeans, nearest, prepared
from semid.tokenizers.clustering.kmeans import KMeansConfig, Start, fit_kmeans
from semid.tokenizers.clustering.nearest import assign


def mixture(rng: np.random.Generator, num_rows: int = 2000, dim: int = 12, centres: int = 20) -> np.ndarray:
    means = 3 * rng.standard_normal((centres, dim))
    return (means[rng.integers(centres, size=num_rows)] + rng.standard_normal((num_rows, dim))).astype(np.float32)


def inertia(vectors: np.ndarray, centroids: np.ndarray) -> float:
    lengths = np.square(centroids, dtype=np.float64).sum(1)
    values = lengths - 2 * vectors.astype(np.float64) @ centroids.T
    return float(values.min(1).sum() + np.square(vectors, dtype=np.float64).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lloyd_agrees_with_sklearn_from_the_same_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = mixture(rng)
    start = vectors[rng.choice(len(vectors), 30, replace=False)]
    ours = fit_kmeans(vectors, KMeansConfig(num_codes=30, iterations=300, tolerance=0.0, relaxation=1.0), start=start)
    theirs = KMeans(30, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(vectors)
    np.testing.assert_allclose(ours, theirs.cluster_centers_, rtol=1e-4, atol=1e-4)
    assert inertia(vectors, ours) == pytest.approx(theirs.inertia_, rel=1e-4)


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


@pytest.mark.parametrize("start", ["plus-plus", "afkmc2", "random", "hierarchical"])
def test_starts_work_in_leading_axes_and_do_not_depend_on_threads_or_on_the_processor(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    vectors = (mixture(rng, 5000, dim=20) @ rng.standard_normal((20, 110))).astype(np.float32)
    vectors += 0.1 * rng.standard_normal(vectors.shape, dtype=np.float32)
    config = KMeansConfig(num_codes=70, iterations=4, seed=1, start=start)
    before = torch.get_num_threads()
    fits = []
    try:
        for num_threads, half in ((1, False), (3, False), (2, True)):
            torch.set_num_threads(num_threads)
            monkeypatch.setattr(kmeans, "has_half_precision", lambda half=half: half)
            for module in (nearest, prepared):
                monkeypatch.setattr(module, "has_half_precision", lambda half=half: half)
            fits.append(fit_kmeans(vectors, config))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(fits[0], fits[1])
    np.testing.assert_array_equal(fits[0], fits[2])
    theirs = KMeans(70, n_init=1, random_state=0, max_iter=4, init="random").fit(vectors)
    assert inertia(vectors, fits[0]) < 1.02 * theirs.inertia_


def shapes() -> dict[str, tuple[np.ndarray, int]]:
    """Vectors of many kinds and a number of centroids for each."""
    rng = np.random.default_rng(0)
    ball = rng.standard_normal((3000, 24))
    outliers = ball.copy()
    outliers[:15] *= 100
    uneven = np.arange(1, 31) / 465
    lumps = 5 * rng.standard_normal((30, 12))[rng.choice(30, 4000, p=uneven)] + rng.standard_normal((4000, 12))
    return {
        "ball": (ball, 64),
        "many": (ball, 600),
        "heavy": (ball * rng.gamma(1, 1, (3000, 1)), 100),
        "plane": (rng.standard_normal((4000, 2)), 90),
        "line": (rng.standard_normal((3000, 1)), 40),
        "decay": (rng.standard_normal((3000, 110)) * np.arange(1, 111) ** -0.7, 64),
        "lumps": (lumps, 30),
        "more than lumps": (lumps, 300),
        "outliers": (outliers, 40),
    }


@pytest.mark.parametrize("name", list(shapes()))
@pytest.mark.parametrize("start", ["auto", "hierarchical"])
def test_never_worse_than_lloyd_from_a_random_start(name: str, start: Start) -> None:
    data, num_codes = shapes()[name]
    vectors = data.astype(np.float32)
    ours, theirs = [], []
    for seed in range(2):
        ours.append(inertia(vectors, fit_kmeans(vectors, KMeansConfig(num_codes=num_codes, seed=seed, start=start))))
        peer = KMeans(num_codes, init="random", n_init=1, max_iter=25, tol=0, random_state=seed, algorithm="lloyd")
        theirs.append(float(peer.fit(vectors).inertia_))
    assert np.mean(ours) < 1.002 * np.mean(theirs)


@pytest.mark.skipif("SEMID_DATA" not in os.environ, reason="SEMID_DATA, the folder of real data, is not set")
def test_never_worse_than_lloyd_on_real_embeddings_and_their_residuals() -> None:
    path = Path(os.environ["SEMID_DATA"]) / "amazon18_industrial_minionerec" / "emb_minilm_384.f16.npy"
    vectors = np.load(path).astype(np.float32)
    for _ in range(2):
        ours = fit_kmeans(vectors, KMeansConfig(num_codes=128))
        theirs = KMeans(128, init="random", n_init=1, max_iter=25, random_state=0, algorithm="lloyd").fit(vectors)
        codes, distances = assign(vectors, ours)
        assert distances.sum(dtype=np.float64) < theirs.inertia_
        vectors -= ours[codes]


def test_relaxed_steps_reach_a_lower_error_where_plain_ones_are_slow() -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    start = vectors[:200]

    def fit(relaxation: float) -> float:
        config = KMeansConfig(num_codes=200, iterations=12, tolerance=0.0, relaxation=relaxation)
        return inertia(vectors, fit_kmeans(vectors, config, start=start))

    assert fit(1.7) < 0.998 * fit(1.0)


def test_the_result_are_means() -> None:
    vectors = mixture(np.random.default_rng(0), 1500)
    centroids = fit_kmeans(vectors, KMeansConfig(num_codes=25, iterations=200, tolerance=0.0))
    codes, _ = assign(vectors, centroids)
    means = np.stack([vectors[codes == code].mean(0, dtype=np.float64) for code in range(25)])
    np.testing.assert_allclose(centroids, means, rtol=1e-4, atol=1e-4)


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
    with pytest.raises(InputError, match="relaxation is 2"):
        KMeansConfig(num_codes=4, relaxation=2.0)
    with pytest.raises(InputError, match="start of k-means is 'best'"):
        KMeansConfig(num_codes=4, start="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sample of 3"):
        KMeansConfig(num_codes=4, sample=3)
