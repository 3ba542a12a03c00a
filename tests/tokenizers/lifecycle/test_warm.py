import numpy as np

from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.lifecycle.warm import relocate, spread_out
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

CENTRES = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])


def inertia(vectors: np.ndarray, centroids: np.ndarray) -> float:
    return float(((vectors[:, None] - centroids) ** 2).sum(-1).min(1).sum())


def clusters(centres: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.repeat(centres, size, axis=0) + 0.1 * rng.standard_normal((len(centres) * size, 2))).astype(np.float32)


def test_idle_centroids_go_where_they_are_missed() -> None:
    """Two of four centroids share a cluster, two clusters share one centroid: Lloyd cannot mend that."""
    vectors = clusters(CENTRES, 50)
    start = np.array([[0, 0.02], [0, -0.02], [10, 0], [5, 10]], np.float32)
    stuck = fit_kmeans(vectors, KMeansConfig(num_codes=4), start=start)
    moved = relocate(vectors, start)
    found = fit_kmeans(vectors, KMeansConfig(num_codes=4), start=moved)
    best = sum(inertia(part, part.mean(0)[None]) for part in np.split(vectors, 4))
    assert inertia(vectors, stuck) > 100 * best
    np.testing.assert_allclose(inertia(vectors, found), best, rtol=1e-4)
    np.testing.assert_array_equal(moved[2], start[2])  # the one that served stays where it was


def test_a_pair_is_made_of_the_cheapest_removal_and_the_best_split() -> None:
    """On a line: ±1 around 0 and 20 have a centroid each and lose little; 100 and 106 share one and gain most."""
    line = np.array([-1, 1, 19, 21, 100, 106, 100, 106], np.float32)[:, None]
    moved = relocate(line, np.array([[-1], [1], [20], [103]], np.float32))
    np.testing.assert_allclose(np.sort(moved[:, 0]), [1, 20, 100, 106])
    assert moved[1, 0] == 1
    assert moved[2, 0] == 20


def test_centroids_that_serve_are_not_moved() -> None:
    vectors = clusters(CENTRES, 50)
    served = CENTRES[[1, 2, 0, 3]].astype(np.float32)
    assert relocate(vectors, served) is served


def test_few_centroids_and_equal_vectors() -> None:
    vectors = np.ones((20, 2), np.float32)
    one = np.ones((1, 2), np.float32)
    assert relocate(vectors, one) is one
    same = np.ones((3, 2), np.float32)
    assert relocate(vectors, same) is same


def test_spreading_out_over_levels_never_raises_the_error() -> None:
    rng = np.random.default_rng(3)
    for trial in range(5):
        vectors = np.concatenate([rng.standard_normal((200, 4)), 6 + rng.standard_normal((40, 4))]).astype(np.float32)
        quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=8, seed=trial, rounds=0)).fit(vectors[:200])
        before = quantiser.codebooks_
        error = ((vectors - quantiser.decode(quantiser.encode(vectors))) ** 2).sum()
        books = spread_out(vectors, before, quantiser)
        after = ((vectors - quantiser.decode(quantiser.encode(vectors))) ** 2).sum()
        assert after < 0.7 * error
        assert [book.shape for book in books] == [(8, 4), (8, 4)]
