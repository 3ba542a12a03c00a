import numpy as np
import pytest

from semid.tokenizers.clustering.lloyd import ClusterSums, fill_empty, lloyd


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_sums_follow_vectors_that_move(far: float) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((5000, 7)) + far).astype(np.float32)
    exact = vectors.astype(np.float64)
    centroids = (rng.standard_normal((40, 7)) + far).astype(np.float32)
    codes = rng.integers(39, size=5000).astype(np.int32)  # the last one stays empty
    sums = ClusterSums(vectors, 40)
    for share in (1.0, 0.02, 0.3, 0.9, 0.0):
        moving = rng.random(5000) < share
        codes = np.where(moving, rng.integers(39, size=5000), codes).astype(np.int32)
        sums.update(codes)
        np.testing.assert_array_equal(sums.counts, np.bincount(codes, minlength=40))
        means = sums.means(centroids)
        expected = np.stack([exact[codes == code].mean(0) for code in range(39)])
        np.testing.assert_allclose(means[:39], expected, atol=1e-5, rtol=1e-7)
        np.testing.assert_array_equal(means[39], centroids[39])
        distances = ((exact - centroids[codes]) ** 2).sum()
        assert sums.inertia(centroids) == pytest.approx(distances, rel=1e-5)
    assert sums.update(codes) == 0


def test_an_empty_centroid_moves_towards_a_member_of_the_costliest_cluster() -> None:
    vectors = np.array([[0, 0], [0, 1], [10, 0], [10, 6]], np.float32)
    codes = np.array([0, 0, 2, 2], np.int32)
    means = np.array([[0, 0.5], [99, 99], [10, 3]], np.float32)
    filled = fill_empty(vectors, codes, means, np.random.default_rng(0), np.bincount(codes, minlength=3))
    np.testing.assert_array_equal(filled[[0, 2]], means[[0, 2]])
    assert filled[1].tolist() in ([10.0, 1.5], [10.0, 4.5])


def test_two_pairs_by_hand() -> None:
    vectors = np.array([[0], [2], [10], [14]], np.float32)
    start = np.array([[0], [2]], np.float32)
    seen: list[float] = []
    centroids, _, inertia = lloyd(
        vectors,
        start,
        iterations=10,
        tolerance=0.0,
        rng=np.random.default_rng(0),
        progress=lambda _, error: seen.append(error),
    )
    # {0} and {2, 10, 14}: means 0 and 26/3; then {0, 2} and {10, 14}: means 1 and 12.
    np.testing.assert_allclose(centroids, [[1], [12]])
    assert inertia == pytest.approx(10)
    np.testing.assert_allclose(
        seen, [(64 + 144) / 4, (4 + (10 - 26 / 3) ** 2 + (14 - 26 / 3) ** 2) / 4, 10 / 4], rtol=1e-6
    )


def test_sums_of_blocks_agree_with_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors, codes = rng.standard_normal((1000, 3)).astype(np.float32), rng.integers(5, size=1000)
    whole = ClusterSums(vectors, 5)
    whole.update(codes)
    monkeypatch.setattr("semid.tokenizers.clustering.lloyd._BLOCK_ROWS", 17)
    parts = ClusterSums(vectors, 5)
    parts.update(codes)
    np.testing.assert_allclose(parts.means(np.zeros((5, 3))), whole.means(np.zeros((5, 3))), atol=1e-6)
