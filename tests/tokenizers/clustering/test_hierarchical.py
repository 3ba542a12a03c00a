import numpy as np
import pytest

from semid.tokenizers.clustering.hierarchical import _apportion, hierarchical_start


def test_shares_by_hand() -> None:
    assert _apportion(np.array([3.0, 1.0]), np.array([100, 100]), 10).tolist() == [7, 3]  # 1 + 6, 1 + 2
    assert _apportion(np.array([9.0, 1.0, 0.0]), np.array([4, 50, 0]), 12).tolist() == [4, 8, 0]  # room for 4 only
    assert _apportion(np.array([0.0, 0.0]), np.array([5, 5]), 6).tolist() == [3, 3]
    assert _apportion(np.array([1.0, 1.0, 1.0]), np.array([9, 9, 9]), 4).sum() == 4


@pytest.mark.parametrize("num_codes", [1, 5, 64, 400])
def test_as_many_finite_centroids_as_asked_for(num_codes: int) -> None:
    rng = np.random.default_rng(0)
    for vectors in (rng.standard_normal((400, 6)), np.zeros((400, 6)), np.repeat(np.eye(6), 70, axis=0)[:400]):
        start = hierarchical_start(vectors.astype(np.float32), num_codes, np.random.default_rng(1))
        assert start.shape == (num_codes, 6)
        assert np.isfinite(start).all()


def test_lumps_far_apart_get_centroids_by_their_size() -> None:
    rng = np.random.default_rng(0)
    places = 1000 * rng.standard_normal((10, 8))
    sizes = np.arange(1, 11) * 50
    vectors = (np.repeat(places, sizes, axis=0) + rng.standard_normal((sizes.sum(), 8))).astype(np.float32)
    vectors -= vectors.mean(0)
    start = hierarchical_start(vectors, 110, np.random.default_rng(0))
    places -= np.repeat(places, sizes, axis=0).mean(0)
    lump = ((start[:, None] - places[None]) ** 2).sum(2).argmin(1)
    counts = np.bincount(lump, minlength=10)
    assert counts.min() >= 1
    np.testing.assert_allclose(counts, 110 * sizes / sizes.sum(), atol=8)
