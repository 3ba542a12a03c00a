import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.hybrid import Candidates, fill, fit_fusion_weight, fuse, score_union, union


def ranking(items: list[list[int]], scores: list[list[float]] | None = None) -> Ranking:
    rows = np.array(items, np.int64).reshape(len(items), -1)
    values = (
        -np.arange(rows.shape[1], dtype=np.float32) + np.zeros(rows.shape) if scores is None else np.array(scores)
    )
    return Ranking(rows, np.where(rows < 0, -np.inf, values).astype(np.float32))


def candidates(items: list[list[int]], generative: list[list[float]], dense: list[list[float]]) -> Candidates:
    return score_union(np.array(items), np.array(generative), np.array(dense))


def test_union_by_hand() -> None:
    items = union([ranking([[5, 2, -1], [-1, -1, -1]]), ranking([[2, 9], [4, -1]])])
    assert items.tolist() == [[2, 5, 9], [4, -1, -1]]


@settings(max_examples=50, deadline=None)
@given(
    first=npst.arrays(np.int64, (3, 4), elements=st.integers(-1, 6)),
    second=npst.arrays(np.int64, (3, 2), elements=st.integers(-1, 6)),
)
def test_union_equals_sets(first: np.ndarray, second: np.ndarray) -> None:
    items = union([Ranking(first, first * 0.0), Ranking(second, second * 0.0)])
    for row, a, b in zip(items.tolist(), first.tolist(), second.tolist(), strict=True):
        expected = sorted({i for i in a + b if i >= 0})
        assert row == expected + [-1] * (items.shape[1] - len(expected))


def test_every_item_of_the_union_gets_both_scores() -> None:
    items = np.array([[2, 5, -1], [1, 3, 4]])
    scored = score_union(items, lambda rows: -rows.astype(float), lambda rows: rows * 2.0)
    assert scored.generative.tolist() == [[-2, -5, -np.inf], [-1, -3, -4]]
    assert scored.dense.tolist() == [[4, 10, -np.inf], [2, 6, 8]]


def test_fusion_by_hand() -> None:
    """Probabilities over the union: generative 1/2, 1/4, 1/4 and dense 1/8, 1/8, 3/4."""
    log = np.log
    both = candidates([[3, 4, 8]], [[log(0.2), log(0.1), log(0.1)]], [[7.0, 7.0, 7.0 + log(6)]])
    fused = fuse(both, 0.5, 4)
    assert fused.items.tolist() == [[8, 3, 4, -1]]
    expected = [log(0.25 * 0.75) / 2, log(0.5 * 0.125) / 2, log(0.25 * 0.125) / 2, -np.inf]
    np.testing.assert_allclose(fused.scores[0], expected, rtol=1e-6)
    assert fuse(both, 1, 3).items.tolist() == [[3, 4, 8]]
    assert fuse(both, 0, 3).items.tolist() == [[8, 3, 4]]
    np.testing.assert_allclose(np.exp(fuse(both, 1, 3).scores[0]), [0.5, 0.25, 0.25], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_extreme_weights_give_the_order_of_one_head(data: st.DataObject) -> None:
    finite = st.floats(-50, 0).map(lambda x: round(x, 2))
    items = np.sort(np.array([data.draw(st.permutations(range(12)))[:7] for _ in range(3)]), axis=1)
    generative = data.draw(npst.arrays(np.float64, (3, 7), elements=finite))
    dense = data.draw(npst.arrays(np.float64, (3, 7), elements=finite))
    k = data.draw(st.integers(1, 9))
    both = score_union(items, generative, dense)
    for weight, scores in [(1.0, generative), (0.0, dense)]:
        found = fuse(both, weight, k).items
        for row, item_row, score_row in zip(found.tolist(), items, scores, strict=True):
            expected = [int(i) for _, i in sorted(zip(-score_row, item_row, strict=True))][:k]
            assert row == expected + [-1] * (k - len(expected))


def test_items_the_decoder_holds_impossible_go_last_but_stay() -> None:
    both = candidates([[1, 2, 3]], [[-np.inf, -9.0, -np.inf]], [[1.0, 0.0, 2.0]])
    assert fuse(both, 0.5, 3).items.tolist() == [[2, 3, 1]]
    assert np.isfinite(fuse(both, 0.5, 3).scores).all()
    assert fuse(both, 0.0, 3).items.tolist() == [[3, 1, 2]]


def test_queries_without_candidates() -> None:
    assert fuse(candidates([[-1], [4]], [[0.0], [-1.0]], [[0.0], [1.0]]), 0.3, 2).items.tolist() == [
        [-1, -1],
        [4, -1],
    ]
    empty = np.zeros((2, 0))
    assert fuse(score_union(empty.astype(np.int64), empty, empty), 0.3, 1).items.tolist() == [[-1], [-1]]


def test_fitted_weight_is_the_best_of_the_grid() -> None:
    """Target 0 in both queries. Dense alone puts item 1 first in query 0, generative alone in query 1."""
    both = candidates([[0, 1], [0, 1]], [[-1.0, -3.0], [-2.5, -2.0]], [[0.0, 1.0], [3.0, 0.0]])

    def first_is_target(found: Ranking) -> float:
        return float((found.items[:, 0] == 0).mean())

    fit = fit_fusion_weight(both, first_is_target, weights=(0.0, 0.25, 0.4, 0.6, 0.8, 1.0))
    # Query 0 needs 2w > 1 - w, query 1 needs 3(1 - w) > w/2: both hold for w between 1/3 and 6/7.
    assert fit.tried == ((0.0, 0.5), (0.25, 0.5), (0.4, 1.0), (0.6, 1.0), (0.8, 1.0), (1.0, 0.5))
    assert (fit.weight, fit.metric) == (0.4, 1.0)


def test_fallback_by_hand() -> None:
    generated = Ranking(
        np.array([[7, 8, 9], [5, -1, -1], [-1, -1, -1], [1, 2, -1]]),
        np.array([[-1, -2, -3], [-4, -np.inf, -np.inf], [-np.inf] * 3, [-1, -2, -np.inf]], np.float32),
        np.array([True, True, True, False]),
    )
    retrieved = ranking(
        [[1, 2, 3, 4], [5, 6, 7, 8], [3, 2, 1, 0], [2, 1, -1, -1]],
        [[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0, 0]],
    )
    result = fill(generated, retrieved, 3)
    assert result.ranking.items.tolist() == [[7, 8, 9], [5, 6, 7], [3, 2, 1], [1, 2, -1]]
    assert result.filled.tolist() == [0, 2, 3, 0]
    assert result.ranking.exact is not None
    assert result.ranking.exact.tolist() == [True, False, False, False]
    np.testing.assert_allclose(result.ranking.scores[1], [-4, -5.1, -5.2], rtol=1e-6)
    np.testing.assert_allclose(result.ranking.scores[2], [-1, -1.1, -1.2], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_filled_lists_are_the_generated_ones_followed_by_fresh_retrieved_ones(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 6))
    lists = st.lists(st.integers(0, 9), max_size=5, unique=True)
    own, other = (data.draw(st.lists(lists, min_size=3, max_size=3)) for _ in range(2))
    padded = [[row + [-1] * (5 - len(row)) for row in rows] for rows in (own, other)]
    result = fill(ranking(padded[0]), ranking(padded[1]), k)
    for row, scores, a, b in zip(result.ranking.items.tolist(), result.ranking.scores, own, other, strict=True):
        expected = (a[:k] + [i for i in b if i not in a[:k]])[:k]
        assert row == expected + [-1] * (k - len(expected))
        assert (np.isfinite(scores) == (np.array(row) >= 0)).all()
        assert (np.diff(scores[: len(expected)]) <= 0).all()


def test_bad_input() -> None:
    one, two = ranking([[1]]), ranking([[1], [2]])
    with pytest.raises(InputError, match="lengths are: 1, 2"):
        union([one, two])
    with pytest.raises(InputError, match="lengths are: none"):
        union([])
    with pytest.raises(InputError, match="1 generated but 2 retrieved"):
        fill(one, two, 1)
    with pytest.raises(InputError, match="at least 1"):
        fill(one, one, 0)
    both = candidates([[1, 2]], [[0.0, 0.0]], [[0.0, 0.0]])
    with pytest.raises(InputError, match="between 0"):
        fuse(both, 1.5, 1)
    with pytest.raises(InputError, match="at least 1"):
        fuse(both, 1, 0)
    with pytest.raises(InputError, match="no fusion weights"):
        fit_fusion_weight(both, lambda _: 0.0, weights=())
    with pytest.raises(InputError, match="Dense scores have shape"):
        score_union(np.array([[1]]), np.zeros((1, 1)), np.zeros((1, 2)))
    with pytest.raises(InputError, match="Generative score of item 2 for query 0 is nan"):
        candidates([[1, 2, -1]], [[0.0, np.nan, np.nan]], [[0.0, 0.0, np.nan]])
