from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from semid.errors import InputError
from semid.tokenizers.collisions.resolution import bucket_sizes, check_capacity, resolve
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig, decode


def quantised(
    seed: int, num_items: int, sizes: tuple[int, ...], copies: bool = False
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Codes, vectors and codebooks with many collisions; with copies, some items are identical."""
    rng = np.random.default_rng(seed)
    codebooks = [rng.standard_normal((size, 3)).astype(np.float32) / (1 + level) for level, size in enumerate(sizes)]
    vectors = rng.standard_normal((num_items, 3)).astype(np.float32)
    if copies:
        vectors = vectors[rng.integers(max(1, num_items // 3), size=num_items)]
    quantiser = RQKMeans(RQKMeansConfig(levels=len(sizes), codes=sizes))
    quantiser.codebooks_ = codebooks
    return quantiser.encode(vectors), vectors, codebooks


def squared_error(vector: np.ndarray, path: tuple[int, ...], codebooks: list[np.ndarray]) -> float:
    rest = vector.astype(np.float64) - sum(
        book[code].astype(np.float64) for book, code in zip(codebooks, path, strict=True)
    )
    return float(rest @ rest)


def greedy_in_plain_python(
    codes: np.ndarray, vectors: np.ndarray, codebooks: list[np.ndarray], level: int
) -> dict[int, tuple[int, ...]]:
    """Item to codes, for the items that found a free code: holders first, then the others by rising distance."""
    paths = [tuple(row) for row in codes.tolist()]
    distance = [squared_error(vectors[i], path, codebooks) for i, path in enumerate(paths)]
    order = sorted(range(len(paths)), key=lambda i: (distance[i], i))
    taken: dict[tuple[int, ...], int] = {}
    losers = []
    for item in order:
        if paths[item] in taken:
            losers.append(item)
        else:
            taken[paths[item]] = item
    for item in losers:
        path = paths[item]
        options = [(*path[:level], code, *path[level + 1 :]) for code in range(len(codebooks[level]))]
        free = [option for option in options if option not in taken]
        if free:
            taken[min(free, key=lambda option: squared_error(vectors[item], option, codebooks))] = item
    return {item: path for path, item in taken.items()}


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 100_000),
    st.integers(2, 40),
    st.sampled_from([(4, 8), (3, 3, 6), (2, 2, 2, 5), (64,)]),
    st.integers(0, 3),
)
def test_nearest_agrees_with_plain_python(seed: int, num_items: int, sizes: tuple[int, ...], back: int) -> None:
    level = max(len(sizes) - 1 - back, 0)
    assume(num_items <= np.prod(sizes))
    codes, vectors, codebooks = quantised(seed, num_items, sizes)
    resolution = resolve(codes, vectors, codebooks, level=level)
    expected = greedy_in_plain_python(codes, vectors, codebooks, level)
    assert (bucket_sizes(resolution.codes) == 1).all()
    for item, path in expected.items():
        assert tuple(resolution.codes[item].tolist()) == path
    assert resolution.report.overflowed == pytest.approx(1 - len(expected) / num_items)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 100_000),
    st.sampled_from([(3, 4), (2, 3, 4), (2, 2, 2, 3), (16,), (5, 1, 2)]),
    st.floats(0.3, 1.0),
    st.booleans(),
    st.sampled_from([("nearest", "spill"), ("nearest", "random"), ("random-k", "spill")]),
)
def test_always_unique_while_the_codes_suffice(
    seed: int, sizes: tuple[int, ...], filled: float, copies: bool, how: tuple[str, str]
) -> None:
    num_items = max(1, int(np.prod(sizes) * filled))
    codes, vectors, codebooks = quantised(seed, num_items, sizes, copies)
    resolution = resolve(codes, vectors, codebooks, policy=how[0], overflow=how[1], seed=seed)
    assert resolution.num_codes == sizes
    assert (bucket_sizes(resolution.codes) == 1).all()
    assert (resolution.codes >= 0).all()
    assert (resolution.codes < sizes).all()
    prefixes = Counter(map(tuple, codes[:, :-1].tolist()))
    for before, after in zip(codes.tolist(), resolution.codes.tolist(), strict=True):
        if prefixes[tuple(before[:-1])] <= sizes[-1]:
            assert before[:-1] == after[:-1]


def test_extra_counts_items_with_equal_codes_by_distance() -> None:
    codes, vectors, codebooks = quantised(1, 200, (4, 4))
    resolution = resolve(codes, vectors, codebooks, policy="extra")
    assert resolution.codes.shape == (200, 3)
    assert resolution.num_codes == (4, 4, int(bucket_sizes(codes).max()))
    np.testing.assert_array_equal(resolution.codes[:, :2], codes)
    buckets = defaultdict(list)
    for item, path in enumerate(map(tuple, codes.tolist())):
        buckets[path].append((squared_error(vectors[item], path, codebooks), resolution.codes[item, 2]))
    for members in buckets.values():
        assert [digit for _, digit in sorted(members)] == list(range(len(members)))
    assert resolution.report.added_distortion == 0
    assert resolution.report.moved == 0


def test_extra_level_appears_only_on_overflow() -> None:
    codes, vectors, codebooks = quantised(2, 60, (3, 4))
    resolution = resolve(codes, vectors, codebooks, overflow="extra")
    assert resolution.codes.shape == (60, 3)
    assert (bucket_sizes(resolution.codes) == 1).all()
    np.testing.assert_array_equal(resolution.codes[:, 0], codes[:, 0])
    codes, vectors, codebooks = quantised(2, 4, (3, 32))
    assert resolve(codes, vectors, codebooks, overflow="extra").codes.shape == (4, 2)


def test_none_changes_nothing() -> None:
    codes, vectors, codebooks = quantised(3, 50, (3, 3))
    resolution = resolve(codes, vectors, codebooks, policy="none")
    np.testing.assert_array_equal(resolution.codes, codes)
    assert resolution.report.colliding_after == resolution.report.colliding_before > 0


def test_overflow_can_be_an_error() -> None:
    codes, vectors, codebooks = quantised(4, 12, (4, 4))
    codes[:7, 0], codes[7:, 0] = 2, 1
    with pytest.raises(InputError, match=r"prefix \(2,\) has 7 items but level 2 has only 4 codes.*at least 7"):
        resolve(codes, vectors, codebooks, overflow="error")


def test_report_by_hand() -> None:
    codebooks = [np.array([[0.0], [10.0]], np.float32), np.array([[0.0], [1.0], [3.0]], np.float32)]
    vectors = np.array([[0.1], [0.2], [10.0], [0.2]], np.float32)
    codes = np.array([[0, 0], [0, 0], [1, 0], [0, 0]], np.int32)
    resolution = resolve(codes, vectors, codebooks)
    np.testing.assert_array_equal(resolution.codes, [[0, 0], [0, 1], [1, 0], [0, 2]])
    report = resolution.report
    assert (report.colliding_before, report.colliding_after) == (0.75, 0)
    assert (report.largest_before, report.largest_after) == (3, 1)
    assert (report.moved, report.prefix_changed, report.overflowed) == (0.5, 0, 0)
    assert report.identical == 0.5
    before, after = 0.01 + 0.04 + 0.04, 0.01 + 0.64 + 7.84
    assert report.added_distortion == pytest.approx(after / before - 1, rel=1e-4)


def test_random_overflow_follows_its_seed() -> None:
    codes, vectors, codebooks = quantised(5, 60, (8, 16))
    codes[:, 0] = 0
    one = resolve(codes, vectors, codebooks, overflow="random", seed=1).codes
    np.testing.assert_array_equal(resolve(codes, vectors, codebooks, overflow="random", seed=1).codes, one)
    assert not np.array_equal(resolve(codes, vectors, codebooks, overflow="random", seed=2).codes, one)


def test_blocks_of_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, vectors, codebooks = quantised(6, 400, (16, 64))
    whole = resolve(codes, vectors, codebooks).codes
    monkeypatch.setattr("semid.tokenizers.collisions.nearest_free._MARKS", 64 * 3)
    np.testing.assert_array_equal(resolve(codes, vectors, codebooks).codes, whole)


def test_random_k_draws_among_the_nearest_free() -> None:
    books = [np.zeros((1, 1), np.float32), np.arange(8, dtype=np.float32)[:, None]]
    codes, vectors = np.zeros((2, 2), np.int32), np.array([[0.1], [0.2]], np.float32)
    drawn = [
        resolve(codes, vectors, books, policy="random-k", choices=3, seed=seed).codes[:, 1].tolist()
        for seed in range(40)
    ]
    assert {first for first, _ in drawn} == {0}  # the closest one keeps its code
    assert {second for _, second in drawn} == {1, 2, 3}
    again = resolve(codes, vectors, books, policy="random-k", choices=3, seed=7).codes
    assert again[:, 1].tolist() == drawn[7]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 40), st.sampled_from([(4, 16), (3, 3, 12), (64,)]), st.integers(1, 6))
def test_random_k_agrees_with_plain_python(seed: int, num_items: int, sizes: tuple[int, ...], choices: int) -> None:
    """In turn, each loser takes one of the free codes that are nearest when it is served."""
    codes, vectors, codebooks = quantised(seed, num_items, sizes)
    resolution = resolve(codes, vectors, codebooks, policy="random-k", choices=choices, seed=seed)
    assume(resolution.report.overflowed == 0)
    before, after = ([tuple(row) for row in array.tolist()] for array in (codes, resolution.codes))
    distance = [squared_error(vectors[i], path, codebooks) for i, path in enumerate(before)]
    holders: dict[tuple[int, ...], int] = {}
    order = sorted(range(num_items), key=lambda i: (distance[i], i))
    losers = [item for item in order if holders.setdefault(before[item], item) != item]
    assert all(after[item] == path for path, item in holders.items())
    taken = set(holders)
    for item in losers:
        free = [path for code in range(sizes[-1]) if (path := (*before[item][:-1], code)) not in taken]
        nearest = sorted(free, key=lambda path: squared_error(vectors[item], path, codebooks))
        assert after[item] in nearest[:choices]
        taken.add(after[item])


def test_random_k_draws_evenly_where_fewer_codes_are_free() -> None:
    books = [np.zeros((1, 1), np.float32), np.arange(4, dtype=np.float32)[:, None]]
    codes, vectors = np.zeros((2, 2), np.int32), np.array([[0.1], [0.2]], np.float32)
    found = [resolve(codes, vectors, books, policy="random-k", choices=4, seed=seed).codes for seed in range(300)]
    drawn = Counter(int(pair[1, 1]) for pair in found)
    assert set(drawn) == {1, 2, 3}
    assert min(drawn.values()) > 75


@pytest.mark.parametrize("choices", [2, 8, 30])
def test_random_k_costs_more_than_nearest(choices: int) -> None:
    codes, vectors, codebooks = quantised(8, 1500, (8, 16, 16))
    nearest = resolve(codes, vectors, codebooks).report
    drawn = [resolve(codes, vectors, codebooks, policy="random-k", choices=choices, seed=seed) for seed in range(3)]
    for one in drawn:
        assert one.report.added_distortion is not None
        assert nearest.added_distortion is not None
        assert one.report.added_distortion > nearest.added_distortion
        assert one.report.colliding_before == nearest.colliding_before
        assert one.report.colliding_after == 0
    assert not np.array_equal(drawn[0].codes, drawn[1].codes)


def test_random_k_with_one_choice_is_nearest() -> None:
    codes, vectors, codebooks = quantised(8, 300, (8, 16, 16))
    one = resolve(codes, vectors, codebooks, policy="random-k", choices=1).codes
    np.testing.assert_array_equal(one, resolve(codes, vectors, codebooks).codes)


@pytest.mark.parametrize("policy", ["nearest", "optimal"])
@pytest.mark.parametrize("copies", [False, True])
def test_many_items(copies: bool, policy: str) -> None:
    """20 000 items, many colliding; or half of them one and the same item."""
    codes, vectors, codebooks = quantised(0, 20_000, (64, 64, 64))
    if copies:
        vectors[:10_000], codes[:10_000] = vectors[0], codes[0]
    resolution = resolve(codes, vectors, codebooks, policy=policy)
    assert (bucket_sizes(resolution.codes) == 1).all()
    assert resolution.report.colliding_before > 0.1
    assert resolution.report.identical == 0.5 * copies


def test_distortion_stays_near_the_best_within_a_prefix() -> None:
    """The optimum for one prefix is an assignment problem; the greedy rule costs little more."""
    codes, vectors, codebooks = quantised(9, 30, (1, 48))
    found = resolve(codes, vectors, codebooks).codes
    cost = ((vectors[:, None] - codebooks[0][0] - codebooks[1][None]) ** 2).sum(2)
    best = cost[linear_sum_assignment(cost)].sum()
    ours = ((vectors - decode(found, codebooks)) ** 2).sum()
    assert best * (1 - 1e-5) <= ours < 1.25 * best


def test_capacity() -> None:
    check_capacity(8, (2, 2, 2))
    with pytest.raises(InputError, match=r"9 items do not fit into the 8 .* use at least 4 levels or 3 codes"):
        check_capacity(9, (2, 2, 2))
    with pytest.raises(InputError, match="levels of 2, 3 codes: use at least 3 levels or 5 codes"):
        check_capacity(17, (2, 3))
    with pytest.raises(InputError, match="use at least 5 codes"):
        check_capacity(5, (1,))


def test_mistakes_are_named() -> None:
    codes, vectors, codebooks = quantised(0, 10, (3, 3))
    for wrong, words in (
        ({"policy": "best"}, "collision policy 'best'"),
        ({"overflow": "drop"}, "overflow policy 'drop'"),
        ({"level": 2}, "no level 2"),
        ({"choices": 0}, "one of 0 free codes"),
    ):
        with pytest.raises(InputError, match=words):
            resolve(codes, vectors, codebooks, **wrong)
    with pytest.raises(InputError, match="do not fit"):
        resolve(*quantised(0, 10, (3, 3)))
