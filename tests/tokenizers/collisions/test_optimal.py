import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from semid.tokenizers.collisions import optimal
from semid.tokenizers.collisions.packing import bucket_sizes
from semid.tokenizers.collisions.placement import squared_errors
from semid.tokenizers.collisions.resolution import resolve
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig


def quantised(
    seed: int, num_items: int, sizes: tuple[int, ...], copies: bool = False, width: int = 3
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    codebooks = [rng.standard_normal((k, width)).astype(np.float32) / (1 + level) for level, k in enumerate(sizes)]
    vectors = rng.standard_normal((num_items, width)).astype(np.float32)
    if copies:
        vectors = vectors[rng.integers(max(1, num_items // 3), size=num_items)]
    quantiser = RQKMeans(RQKMeansConfig(levels=len(sizes), codes=sizes))
    quantiser.codebooks_ = codebooks
    return quantiser.encode(vectors), vectors, codebooks


def all_costs(vectors: np.ndarray, codebooks: list[np.ndarray]) -> np.ndarray:
    """(N, leaves) float64 squared errors, leaves in the order of their codes."""
    points = codebooks[0].astype(np.float64)
    for book in codebooks[1:]:
        points = (points[:, None] + book[None].astype(np.float64)).reshape(-1, points.shape[1])
    costs: np.ndarray = ((vectors[:, None].astype(np.float64) - points) ** 2).sum(2)
    return costs


def leaf(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    found: np.ndarray = np.ravel_multi_index(tuple(codes.T), sizes)
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 100_000),
    st.sampled_from([(4, 8), (16,), (1, 20), (7, 3), (5, 1)]),
    st.floats(0.3, 1.0),
    st.booleans(),
)
@example(1323, (4, 8), 1.0, False)  # a full cell, where an auction alone ended beyond the bound
def test_as_good_as_the_assignment_problem(seed: int, sizes: tuple[int, ...], filled: float, copies: bool) -> None:
    num_items = max(2, int(np.prod(sizes) * filled))
    codes, vectors, codebooks = quantised(seed, num_items, sizes, copies)
    resolution = resolve(codes, vectors, codebooks, policy="optimal")
    assert (bucket_sizes(resolution.codes) == 1).all()
    contested = bucket_sizes(codes) > 1
    np.testing.assert_array_equal(resolution.codes[~contested], codes[~contested])
    costs = all_costs(vectors, codebooks)
    ours = costs[np.arange(num_items), leaf(resolution.codes, sizes)][contested].sum()
    costs[:, leaf(codes[~contested], sizes)] = np.inf
    costs = np.where(np.isfinite(costs), costs, 1e9)[contested]
    best = costs[linear_sum_assignment(costs)].sum()
    first_choices = costs.min(1, initial=1e9).sum()
    assert best - 1e-4 <= ours <= best + 0.05 * (best - first_choices) + 0.002 * best + 1e-4


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 100_000),
    st.sampled_from([(3, 4, 2), (2, 3, 4), (2, 2, 2, 3), (16,), (5, 1, 2), (1, 1, 9), (6, 2)]),
    st.floats(0.3, 1.0),
    st.booleans(),
)
def test_always_unique_while_the_codes_suffice(
    seed: int, sizes: tuple[int, ...], filled: float, copies: bool
) -> None:
    num_items = int(np.prod(sizes) * filled) if filled < 0.99 else int(np.prod(sizes))
    codes, vectors, codebooks = quantised(seed, max(1, num_items), sizes, copies)
    resolution = resolve(codes, vectors, codebooks, policy="optimal")
    assert resolution.num_codes == sizes
    assert (bucket_sizes(resolution.codes) == 1).all()
    assert (resolution.codes >= 0).all()
    assert (resolution.codes < sizes).all()


def test_some_cells_at_a_time_do_as_well_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, vectors, codebooks = quantised(3, 4000, (16, 32, 32), width=6)
    at_once = resolve(codes, vectors, codebooks, policy="optimal")
    monkeypatch.setattr(optimal, "_TOGETHER", 100)  # a few cells hold more: each of those is alone
    apart = resolve(codes, vectors, codebooks, policy="optimal")
    assert (bucket_sizes(apart.codes) == 1).all()
    assert at_once.report.added_distortion is not None
    assert apart.report.added_distortion == pytest.approx(at_once.report.added_distortion, rel=0.02)


def test_the_one_with_less_to_lose_gives_way() -> None:
    """Both want 0; the closer one has a second choice that is as good, so it is the one to move."""
    books = [np.zeros((1, 2), np.float32), np.array([[0, 0], [0, 1], [9, 0]], np.float32)]
    vectors = np.array([[0, 0.45], [3.0, 0]], np.float32)
    codes = np.zeros((2, 2), np.int32)
    np.testing.assert_array_equal(resolve(codes, vectors, books).codes[:, 1], [0, 1])
    np.testing.assert_array_equal(resolve(codes, vectors, books, policy="optimal").codes[:, 1], [1, 0])


def test_over_full_prefixes_and_identical_vectors() -> None:
    """30 copies of one vector under a prefix of 8: they take the 30 cheapest free paths."""
    codes, vectors, codebooks = quantised(1, 40, (1, 16, 8))
    vectors[:30], codes[:30] = vectors[0], codes[0]
    resolution = resolve(codes, vectors, codebooks, policy="optimal")
    assert (bucket_sizes(resolution.codes) == 1).all()
    assert resolution.report.identical == 30 / 40
    costs = all_costs(vectors, codebooks)[0]
    contested = bucket_sizes(codes) > 1
    costs[leaf(codes[~contested], (1, 16, 8))] = np.inf
    ours = costs[leaf(resolution.codes[:30], (1, 16, 8))].sum()
    assert ours <= np.sort(costs)[: contested.sum()].sum() * 1.01


def test_a_full_subtree_sends_the_farthest_to_the_nearest_sibling() -> None:
    codes, vectors, codebooks = quantised(0, 20, (3, 2, 4))
    vectors[:] = vectors[0]
    codes[:] = codes[0]
    found = resolve(codes, vectors, codebooks, policy="optimal").codes
    assert (found[:, 0] == codes[0, 0]).sum() == 8
    order = np.argsort(((codebooks[0] - vectors[0]) ** 2).sum(1))
    others = order[order != codes[0, 0]]
    assert (found[:, 0] == others[0]).sum() == 8
    assert (found[:, 0] == others[1]).sum() == 4


def test_long_parallel_codes() -> None:
    """64 levels of 256 on parts of their own: 2^512 paths, and only the last two levels change."""
    rng = np.random.default_rng(0)
    codebooks = []
    for level in range(64):
        book = np.zeros((256, 128), np.float32)
        book[:, 2 * level : 2 * level + 2] = rng.standard_normal((256, 2))
        codebooks.append(book)
    vectors = rng.standard_normal((300, 128)).astype(np.float32)
    vectors[:100] = vectors[100:200]
    codes = np.stack([((vectors[:, None] - book) ** 2).sum(2).argmin(1) for book in codebooks], 1).astype(np.int32)
    for policy in ("optimal", "nearest"):
        resolution = resolve(codes, vectors, codebooks, policy=policy)
        assert (bucket_sizes(resolution.codes) == 1).all()
        np.testing.assert_array_equal(resolution.codes[:, :-2], codes[:, :-2])
        assert resolution.report.moved == pytest.approx(1 / 3)


def test_less_distortion_than_the_greedy_rule() -> None:
    codes, vectors, codebooks = quantised(3, 4000, (16, 32, 32), width=6)
    greedy = resolve(codes, vectors, codebooks).report.added_distortion
    best = resolve(codes, vectors, codebooks, policy="optimal").report.added_distortion
    assert best is not None
    assert greedy is not None
    assert best < 0.6 * greedy


def test_what_the_auction_leaves_is_matched_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, vectors, codebooks = quantised(4, 300, (2, 16, 24))
    whole = resolve(codes, vectors, codebooks, policy="optimal").codes
    monkeypatch.setattr(optimal, "_PILE", 1)
    monkeypatch.setattr(optimal, "_CHUNK", 40)
    chunked = resolve(codes, vectors, codebooks, policy="optimal").codes
    assert (bucket_sizes(chunked) == 1).all()
    errors = [squared_errors(found, vectors, codebooks).sum() for found in (whole, chunked)]
    assert errors[0] < errors[1] < 1.3 * errors[0]


def test_the_same_again_and_with_other_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, vectors, codebooks = quantised(5, 2000, (4, 32, 32))
    whole = resolve(codes, vectors, codebooks, policy="optimal").codes
    np.testing.assert_array_equal(resolve(codes, vectors, codebooks, policy="optimal").codes, whole)
    monkeypatch.setattr("semid.tokenizers.collisions.paths._PATHS", 1 << 12)
    np.testing.assert_array_equal(resolve(codes, vectors, codebooks, policy="optimal").codes, whole)
    monkeypatch.setattr("semid.tokenizers.collisions.paths._KEPT_PRODUCTS", 0)
    other = resolve(codes, vectors, codebooks, policy="optimal").codes
    first, second = (squared_errors(found, vectors, codebooks).sum() for found in (whole, other))
    assert first == pytest.approx(second, rel=1e-4)


def test_vectors_far_from_the_origin() -> None:
    codes, vectors, codebooks = quantised(6, 300, (16, 24))
    near = resolve(codes, vectors, codebooks, policy="optimal").report.added_distortion
    codebooks[0] += 1000
    far = resolve(codes, vectors + 1000, codebooks, policy="optimal").report.added_distortion
    assert far == pytest.approx(near, rel=0.02)
