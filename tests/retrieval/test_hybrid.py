import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.hybrid import fill, union


def ranking(items: list[list[int]], scores: list[list[float]] | None = None) -> Ranking:
    rows = np.array(items, np.int64).reshape(len(items), -1)
    values = (
        -np.arange(rows.shape[1], dtype=np.float32) + np.zeros(rows.shape) if scores is None else np.array(scores)
    )
    return Ranking(rows, np.where(rows < 0, -np.inf, values).astype(np.float32))


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


def test_fallback_by_hand() -> None:
    generated = Ranking(
        np.array([[7, 8, 9], [5, -1, -1], [-1, -1, -1], [1, 2, -1]]),
        np.array([[-1, -2, -3], [-4, -np.inf, -np.inf], [-np.inf] * 3, [-1, -2, -np.inf]], np.float32),
        np.array([-3, -np.inf, -np.inf, -1.5], np.float32),
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
