import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.hybrid import union


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


def test_rankings_of_other_queries_or_none() -> None:
    with pytest.raises(InputError, match="their lengths are: 1, 2"):
        union([ranking([[1]]), ranking([[1], [2]])])
    with pytest.raises(InputError, match="their lengths are: none"):
        union([])
