import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.tokenizers.clustering import nearest as module
from semid.tokenizers.clustering.nearest import assign, distance_tiles
from semid.tokenizers.clustering.prepared import PreparedVectors
from semid.tokenizers.clustering.projection import project_all
from semid.tokenizers.clustering.scan import _scan_narrow, _scan_wide
from semid.tokenizers.clustering.screening import (
    make_columns,
    make_frame,
    make_rows,
    project,
    thresholds,
    upper_bounds,
)

Pair = tuple[np.ndarray, np.ndarray]


def exact_squares(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            ((vectors[first : first + 64, None].astype(np.float64) - centroids[None]) ** 2).sum(2)
            for first in range(0, len(vectors), 64)
        ]
    )


def check(vectors: np.ndarray, centroids: np.ndarray) -> None:
    """Codes of every road equal the float64 search, the lowest index where two are equally near."""
    squares = exact_squares(vectors, centroids)
    expected = squares.argmin(1)
    codes, distances = assign(vectors, centroids)
    np.testing.assert_array_equal(codes, expected)
    assert codes.dtype == np.int32
    np.testing.assert_allclose(distances, squares.min(1), rtol=1e-5, atol=1e-37)
    for half in (True, False):
        prepared = PreparedVectors(vectors, centroids, project_all(vectors, centroids, None, half))
        np.testing.assert_array_equal(prepared.assign(centroids), expected)


def random_pair(seed: int, num_rows: int, num_codes: int, dim: int) -> Pair:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> np.ndarray:
        return rng.standard_normal((count, dim)).astype(np.float32)

    return draw(num_rows), draw(num_codes)


@pytest.mark.parametrize("num_rows", [1, 300])
@pytest.mark.parametrize("num_codes", [1, 2, 40, 600])
@pytest.mark.parametrize("dim", [1, 2, 33])
def test_shapes(num_rows: int, num_codes: int, dim: int) -> None:
    check(*random_pair(0, num_rows, num_codes, dim))


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-3, 1e6, 1e18])
@pytest.mark.parametrize("far", [0.0, 1.0, 1e4])
def test_scales_and_places(scale: float, far: float) -> None:
    vectors, centroids = random_pair(1, 200, 50, 9)
    check((vectors + np.float32(far)) * np.float32(scale), (centroids + np.float32(far)) * np.float32(scale))


def test_ties_go_to_the_lowest_index() -> None:
    grid = np.array(list(itertools.product([0, 1, 2], repeat=4)), np.float32)
    check(grid, grid[::-1].copy())
    check(grid + np.float32(0.5), grid[::2].copy())  # equally far from many
    check(grid, np.concatenate([grid, grid, grid[:5]]))
    check(np.zeros((70, 5), np.float32), np.ones((600, 5), np.float32))
    check(np.zeros((70, 5), np.float32), np.zeros((30, 5), np.float32))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 80), st.integers(1, 40), st.sampled_from([0, 1e-7, 1e-6, 1e-4, 1e-3]))
def test_near_ties(seed: int, num_codes: int, dim: int, gap: float) -> None:
    """Centroids about the same point, so near each other that half precision cannot tell them apart."""
    rng = np.random.default_rng(seed)
    vectors, centroids = random_pair(seed, 90, num_codes, dim)
    centroids = (centroids[:1] + np.float32(gap) * centroids).astype(np.float32)
    check(vectors, centroids)
    check(np.concatenate([centroids, vectors]), centroids[rng.permutation(num_codes)])


def test_outliers_and_clusters_of_many_scales() -> None:
    vectors, centroids = random_pair(3, 400, 120, 20)
    stretch = (10.0 ** np.random.default_rng(0).uniform(-6, 6, (400, 1))).astype(np.float32)
    check(vectors * stretch, np.concatenate([centroids, (vectors * stretch)[:60]]))
    centroids[7] *= np.float32(1e25)
    check(vectors, centroids)


def test_rows_that_are_not_finite_harm_no_others() -> None:
    vectors, centroids = random_pair(4, 300, 40, 6)
    expected = exact_squares(vectors, centroids).argmin(1)
    vectors[5], vectors[6, 2], vectors[7] = np.nan, np.inf, 3e38
    good = np.setdiff1d(np.arange(300), [5, 6, 7])
    np.testing.assert_array_equal(assign(vectors, centroids)[0][good], expected[good])


def low_rank(seed: int, num_rows: int, num_codes: int, dim: int, rank: int, tail: float) -> tuple[Pair, np.ndarray]:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    energy = np.where(np.arange(dim) < rank, 1.0, tail)

    def draw(n: int) -> np.ndarray:
        return ((rng.standard_normal((n, dim)) * energy) @ basis.T).astype(np.float32)

    vectors = draw(num_rows)
    centroids = np.concatenate([draw(num_codes - num_codes // 3), vectors[: num_codes // 3]])
    return (vectors, centroids), basis[:, :rank]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("tail", [0.0, 0.01, 0.3, 3.0])
@pytest.mark.parametrize("num_codes", [90, 700])
def test_a_screen_on_leading_axes_is_exact(half: bool, tail: float, num_codes: int) -> None:
    (vectors, centroids), basis = low_rank(0, 500, num_codes, 48, 12, tail)
    prepared = PreparedVectors(vectors, centroids, project_all(vectors, centroids, basis, half))
    np.testing.assert_array_equal(prepared.assign(centroids), exact_squares(vectors, centroids).argmin(1))


@pytest.mark.parametrize("half", [True, False])
def test_repeated_assignment_with_anchors_follows_moving_centroids(half: bool) -> None:
    rng = np.random.default_rng(5)
    means = 4 * rng.standard_normal((12, 10))

    def draw(n: int) -> np.ndarray:
        return (means[rng.integers(12, size=n)] + 0.3 * rng.standard_normal((n, 10))).astype(np.float32)

    vectors, centroids = draw(3000), draw(2100)
    prepared = PreparedVectors(vectors, centroids, project_all(vectors, centroids, None, half))
    assert len(prepared._groups) > 1
    for step in (0.0, 1e-4, 0.05, 0.05, 2.0):
        centroids = (centroids + step * rng.standard_normal(centroids.shape)).astype(np.float32)
        centroids[100:110] = centroids[5]
        np.testing.assert_array_equal(prepared.assign(centroids), exact_squares(vectors, centroids).argmin(1))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("theta", [2.0**-10, 2.0**-5, 0.4])
@pytest.mark.parametrize("tail", [None, 0.0, 0.2])
def test_the_bounds_of_the_proof_hold(half: bool, theta: float, tail: float | None) -> None:
    """Lower bounds of all pairs and upper bounds of any one hold in float64, and are not far off."""
    (vectors, centroids), basis = low_rank(1, 200, 60, 40, 10, tail or 0.0)
    centroids[3] *= 50
    frame = make_frame(vectors, centroids, basis if tail is not None else None, half)
    points, others = project(frame, vectors), project(frame, centroids)
    rows = make_rows(frame, points, points.head[0])
    columns = make_columns(frame, others, points.head[0], theta)
    values = torch.mm(rows.matrix, columns.matrix.T).float().numpy()
    squares = exact_squares(vectors, centroids) * frame.scale**2 / 2
    for column in (0, 3, 39, 59):
        upper = upper_bounds(rows, frame, columns, values[:, column], np.full(len(vectors), column))
        assert (upper >= squares[:, column]).all()
        if not tail and column != 59:  # which is one of the vectors
            assert np.median(upper / squares[:, column]) < 1 + 4 * theta + 1e-4 / theta * half + 1e-3
    limit = thresholds(rows, frame, columns, np.partition(squares, 4, axis=1)[:, 4].astype(np.float32))
    nearest_five = squares <= np.partition(squares, 4, axis=1)[:, 4:5]
    assert (values[nearest_five] <= np.broadcast_to(limit[:, None], values.shape)[nearest_five]).all()


@pytest.mark.parametrize("half", [True, False])
def test_narrow_and_wide_tiles_lose_no_nearest_centroid(half: bool) -> None:
    (vectors, centroids), basis = low_rank(2, 300, 130, 30, 12, 0.1)
    centroids[60:70] = centroids[50:60] * np.float32(1 + 1e-4)
    frame = make_frame(vectors, centroids, basis, half)
    points, others = project(frame, vectors), project(frame, centroids)
    rows, columns = make_rows(frame, points, points.head[0]), make_columns(frame, others, points.head[0], 0.01)
    narrow, wide = _scan_narrow(frame, rows, columns), _scan_wide(frame, rows, columns)
    assert len(np.unique(wide.rows)) > 20
    assert len(narrow.rows) == pytest.approx(len(wide.rows), rel=0.1)
    for found in (narrow, wide):
        chosen = np.zeros((300, 130), bool)
        chosen[np.arange(300), found.codes] = True
        chosen[found.rows, found.candidates] = True
        assert chosen[np.arange(300), exact_squares(vectors, centroids).argmin(1)].all()


def test_tiles_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, centroids = random_pair(6, 1000, 50, 12)
    codes, distances = assign(vectors, centroids)
    monkeypatch.setattr(module, "_TILE_ELEMENTS", 50 * 33)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 12 * 301)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        tiled, tiled_distances = assign(vectors, centroids)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(tiled, codes)
    np.testing.assert_array_equal(tiled_distances, distances)


def test_a_careless_product_precision_of_the_caller_does_no_harm() -> None:
    vectors, centroids = random_pair(7, 400, 60, 30)
    expected = assign(vectors, centroids)[0]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        np.testing.assert_array_equal(assign(vectors, centroids)[0], expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_arrays_only_to_be_read_and_empty_ones(recwarn: pytest.WarningsRecorder) -> None:
    vectors, centroids = random_pair(8, 30, 5, 4)
    expected = assign(vectors, centroids)[0]
    vectors.flags.writeable = centroids.flags.writeable = False
    np.testing.assert_array_equal(assign(vectors, centroids)[0], expected)
    assert assign(vectors[:0], centroids)[0].shape == (0,)
    assert not recwarn.list


def test_distance_tiles_lack_the_length_of_the_vector_alone() -> None:
    vectors, centroids = random_pair(9, 100, 30, 7)
    values = np.concatenate([tile.copy() for _, tile in distance_tiles(vectors, centroids)])
    missing = exact_squares(vectors, centroids) - values
    np.testing.assert_allclose(missing, np.broadcast_to(missing[:, :1], missing.shape), atol=1e-4)
