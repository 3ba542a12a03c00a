import itertools

import numpy as np
import pytest

from semid.tokenizers.clustering import hartigan as module
from semid.tokenizers.clustering.hartigan import hartigan
from semid.tokenizers.clustering.nearest import assign


def vectors_of(seed: int, num_rows: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32) + 3


def inertia(vectors: np.ndarray, codes: np.ndarray) -> float:
    """Sum of squared distances to the means, in float64, from the definition."""
    total = 0.0
    for code in np.unique(codes):
        members = vectors[codes == code].astype(np.float64)
        total += ((members - members.mean(0)) ** 2).sum()
    return total


def best_single_move(vectors: np.ndarray, codes: np.ndarray, num_codes: int) -> float:
    """The least inertia that moving any one vector to any cluster, without emptying its own, leads to."""
    found = [inertia(vectors, codes)]
    for row, code in itertools.product(range(len(vectors)), range(num_codes)):
        if (codes == codes[row]).sum() > 1:
            moved = codes.copy()
            moved[row] = code
            found.append(inertia(vectors, moved))
    return min(found)


@pytest.mark.parametrize("batch", [1, 7, 1024])
def test_ends_where_no_single_move_lowers_the_error(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", batch)
    vectors = vectors_of(0, 40, 5)
    rng = np.random.default_rng(0)
    means, codes = hartigan(vectors, rng.integers(6, size=40), 6, rng, passes=100, tolerance=0)
    assert best_single_move(vectors, codes, 6) >= inertia(vectors, codes) * (1 - 1e-4)
    expected = np.stack([vectors[codes == code].mean(0) for code in range(6)])
    np.testing.assert_allclose(means, expected, atol=1e-5)


def test_error_falls_with_every_pass_and_is_the_one_told() -> None:
    vectors = vectors_of(1, 3000, 12)
    rng = np.random.default_rng(1)
    start = rng.integers(50, size=3000)
    told: list[float] = []
    _, codes = hartigan(vectors, start, 50, rng, progress=lambda _, error: told.append(error))
    errors = [inertia(vectors, start) / 3000, *told]
    assert all(later <= earlier for earlier, later in itertools.pairwise(errors))
    assert told[-1] == pytest.approx(inertia(vectors, codes) / 3000, rel=1e-6)


def test_goes_on_where_lloyd_stops() -> None:
    """Two vectors a cluster in many dimensions: nobody is nearer to another mean, but better pairs exist."""
    vectors = vectors_of(2, 60, 100)
    codes = np.repeat(np.arange(30), 2)
    means = np.stack([vectors[codes == code].mean(0) for code in range(30)])
    np.testing.assert_array_equal(assign(vectors, means)[0], codes)
    _, moved = hartigan(vectors, codes, 30, np.random.default_rng(0))
    assert inertia(vectors, moved) < 0.97 * inertia(vectors, codes)


def test_moves_that_share_clusters_and_would_raise_the_error_together_are_held_back() -> None:
    """Every vector alone would best leave for the other cluster; all at once would only swap the names."""
    vectors = np.array([[0.0], [10], [0], [10]], np.float32)
    codes = np.array([0, 0, 1, 1])
    _, moved = hartigan(vectors, codes, 2, np.random.default_rng(0), passes=20, tolerance=0)
    assert inertia(vectors, moved) == 0


def test_empty_clusters_are_put_to_use() -> None:
    vectors = vectors_of(3, 200, 3)
    means, codes = hartigan(vectors, np.zeros(200, int), 8, np.random.default_rng(0), passes=50)
    assert len(np.unique(codes)) == 8
    assert inertia(vectors, codes) < 0.6 * inertia(vectors, np.zeros(200, int))
    assert np.isfinite(means).all()


def test_equal_vectors_stay() -> None:
    vectors = np.ones((10, 2), np.float32)
    means, codes = hartigan(vectors, np.zeros(10, int), 3, np.random.default_rng(0))
    np.testing.assert_array_equal(codes, 0)
    np.testing.assert_array_equal(means, [[1, 1], [0, 0], [0, 0]])


def test_a_seed_repeats() -> None:
    vectors = vectors_of(4, 500, 4)
    start = np.arange(500) % 20
    first, second = (hartigan(vectors, start, 20, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(start, np.arange(500) % 20)
