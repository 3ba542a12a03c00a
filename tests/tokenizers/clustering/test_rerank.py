import numpy as np

from semid.tokenizers.clustering.rerank import nearest_pairs, squared_distances


def test_the_nearest_candidate_wins_and_the_lowest_of_equals() -> None:
    vectors = np.array([[0, 0], [5, 5]], np.float32)
    centroids = np.array([[1, 0], [0, 1], [4, 5], [5, 7]], np.float32)
    rows, codes = nearest_pairs(vectors, centroids, np.array([1, 0, 0, 1, 0]), np.array([3, 2, 1, 2, 0]))
    assert dict(zip(rows.tolist(), codes.tolist(), strict=True)) == {0: 0, 1: 2}


def test_what_float32_cannot_tell_apart_float64_can() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 30)).astype(np.float32)
    middle = vectors[0] + 1
    centroids = np.stack([np.nextafter(middle, np.float32(2 * sign)) for sign in rng.choice([-1, 1], (20, 30))])
    centroids = centroids.astype(np.float32)
    rows, codes = (index.ravel() for index in np.indices((50, 20)))
    found = nearest_pairs(vectors, centroids, rows, codes)
    exact = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2)
    single = squared_distances(vectors, centroids, rows, codes).reshape(50, 20)
    assert (single.argmin(1) != exact.argmin(1)).any()
    np.testing.assert_array_equal(found[1][np.argsort(found[0])], exact.argmin(1))


def test_squares_beyond_float32_are_still_compared() -> None:
    vectors = np.array([[3e25], [1e-30]], np.float32)
    centroids = np.array([[-2e25], [1e25], [2e-30]], np.float32)
    rows, codes = nearest_pairs(vectors, centroids, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]))
    assert dict(zip(rows.tolist(), codes.tolist(), strict=True)) == {0: 1, 1: 2}
