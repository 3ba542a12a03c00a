"""Exact indexes against brute force in float64, with ties, in blocks, grown and shrunk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.errors import InputError
from semid.retrieval import exact_index
from semid.retrieval.exact_index import ExactIndex

SMALL = st.integers(-2, 2).map(float)  # integer scores: ties are common and exact


def brute_force(
    queries: np.ndarray, items: np.ndarray, rows: np.ndarray, k: int, seen: np.ndarray
) -> tuple[list[list[int]], list[list[float]]]:
    lists, scores = [], []
    for query, hidden in zip(queries.astype(np.float64), seen.tolist(), strict=True):
        scored = [(-float(query @ item), int(row)) for item, row in zip(items.astype(np.float64), rows, strict=True)]
        best = sorted(pair for pair in scored if pair[1] not in hidden)[:k]
        lists.append([row for _, row in best] + [-1] * (k - len(best)))
        scores.append([-score for score, _ in best] + [-np.inf] * (k - len(best)))
    return lists, scores


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_brute_force_in_blocks_of_any_size(data: st.DataObject) -> None:
    num_queries, num_items, k = (data.draw(st.integers(1, top)) for top in (4, 12, 15))
    queries = data.draw(npst.arrays(np.float32, (num_queries, 2), elements=SMALL))
    items = data.draw(npst.arrays(np.float32, (num_items, 2), elements=SMALL))
    rows = np.array(data.draw(st.permutations(range(20))))[:num_items]
    seen = data.draw(npst.arrays(np.int64, (num_queries, 6), elements=st.integers(-1, 19)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_index, "_SCORES_AT_ONCE", {"cpu": data.draw(st.integers(4, 60))})
        found = ExactIndex.build(items, rows).search(queries, k, seen)
    lists, scores = brute_force(queries, items, rows, k, seen)
    assert found.items.tolist() == lists
    assert found.scores.tolist() == scores
    assert found.exact is not None
    assert found.exact.all()


@pytest.mark.parametrize("num_queries", [1, 300])
def test_real_scores_in_several_blocks(num_queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(num_queries)
    items, queries = (
        rng.normal(size=(900, 8)).astype(np.float32),
        rng.normal(size=(num_queries, 8)).astype(np.float32),
    )
    monkeypatch.setattr(exact_index, "_SCORES_AT_ONCE", {"cpu": 25_000})
    found = ExactIndex.build(items).search(queries, 10)
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    np.testing.assert_array_equal(found.items, np.argsort(-scores, axis=1, kind="stable")[:, :10])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_grown_and_shrunk_equals_built_anew(data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(15))))
    first, last = data.draw(st.integers(1, 8)), data.draw(st.integers(9, 15))
    vectors = data.draw(npst.arrays(np.float32, (15, 3), elements=SMALL))
    gone = order[: data.draw(st.integers(0, last - 1))]
    index = ExactIndex.build(vectors[order[:first]], order[:first])
    index = index.with_items(vectors[order[first:last]], order[first:last]).without_items(gone)
    left = order[len(gone) : last]
    anew = ExactIndex.build(vectors[left], left)
    np.testing.assert_array_equal(index.rows, np.sort(left))
    np.testing.assert_array_equal(index.rows, anew.rows)
    assert index.nbytes == anew.nbytes == len(left) * (3 * 4 + 8)
    queries = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(index.search(queries, 16).items, anew.search(queries, 16).items)


def test_the_index_that_grew_or_shrank_is_another() -> None:
    index = ExactIndex.build(np.eye(3), np.array([4, 2, 9]))
    index.with_items(np.ones((1, 3)), np.array([7]))
    index.without_items(np.array([2]))
    assert index.rows.tolist() == [2, 4, 9]
    assert len(index) == index.dim == 3
    assert index.factory == "exact"
    assert index.search(np.array([[0.0, 1, 0]]), 1).items.tolist() == [[2]]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no items"):
        ExactIndex.build(np.zeros((0, 4)))
    with pytest.raises(InputError, match="repeat"):
        ExactIndex.build(np.ones((2, 4)), np.array([3, 3]))
    with pytest.raises(InputError, match="Item vectors hold NaN"):
        ExactIndex.build(np.full((2, 4), np.nan))
    index = ExactIndex.build(np.eye(3))
    with pytest.raises(InputError, match="same width"):
        index.search(np.ones((1, 2)), 1)
    with pytest.raises(InputError, match="Queries hold NaN"):
        index.search(np.full((1, 3), np.inf), 1)
    with pytest.raises(InputError, match="at least 1"):
        index.search(np.ones((1, 3)), 0)
