from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.errors import InputError
from semid.retrieval.exact import exact_search

SMALL = st.integers(-2, 2).map(float)  # integer scores: ties are common and exact


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_equals_sorting_all_scores(data: st.DataObject) -> None:
    num_queries, num_items, k = (data.draw(st.integers(1, top)) for top in (4, 12, 15))
    queries = data.draw(npst.arrays(np.float32, (num_queries, 2), elements=SMALL))
    items = data.draw(npst.arrays(np.float32, (num_items, 2), elements=SMALL))
    rows = np.array(data.draw(st.permutations(range(20))))[:num_items]
    seen = data.draw(npst.arrays(np.int64, (num_queries, 6), elements=st.integers(-1, 19)))

    ranking = exact_search(queries, items, k, item_rows=rows, seen=seen, block=data.draw(st.integers(1, 13)))

    for query in range(num_queries):
        scored = [(-float(queries[query] @ items[i]), int(rows[i])) for i in range(num_items)]
        expected = sorted(pair for pair in scored if pair[1] not in seen[query])[:k]
        padding = k - len(expected)
        assert ranking.items[query].tolist() == [row for _, row in expected] + [-1] * padding
        assert ranking.scores[query].tolist() == [-s for s, _ in expected] + [-np.inf] * padding


def test_queries_span_several_blocks() -> None:
    generator = np.random.default_rng(0)
    queries, items = generator.normal(size=(600, 8)), generator.normal(size=(900, 8))
    seen = generator.integers(-1, 900, (600, 30))
    scores = queries @ items.T
    np.put_along_axis(scores, np.maximum(seen, 0), -np.inf, axis=1)
    untouched = ~(seen == 0).any(axis=1)  # row 0 was hidden by padding above
    scores[untouched, 0] = queries[untouched] @ items[0]
    ranking = exact_search(queries, items, 10, seen=seen, block=256)
    np.testing.assert_array_equal(ranking.items, np.argsort(-scores, axis=1, kind="stable")[:, :10])
    assert ranking.exact is not None
    assert ranking.exact.all()


def test_half_precision_items_are_scored_in_single() -> None:
    generator = np.random.default_rng(1)
    queries = generator.normal(size=(3, 16)).astype(np.float32)
    items = generator.normal(size=(50, 16)).astype(np.float16)
    ranking = exact_search(torch.from_numpy(queries), torch.from_numpy(items), 5)
    expected = np.sort(queries @ items.astype(np.float32).T, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(ranking.scores, expected, rtol=1e-5)


def test_no_queries() -> None:
    assert exact_search(np.zeros((0, 2)), np.ones((3, 2)), 2).items.shape == (0, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queries": np.ones((2, 3))}, "same width"),
        ({"queries": np.ones(2)}, "same width"),
        ({"items": np.ones((0, 2))}, "no items"),
        ({"item_rows": np.array([1, 2])}, "3 item vectors but 2 item rows"),
        ({"item_rows": np.array([1, 2, 1])}, "repeat"),
        ({"k": 0}, "at least 1"),
        ({"seen": np.zeros((1, 1), np.int64)}, "Seen items"),
        ({"queries": np.array([[np.nan, 0], [0, 0]])}, "query vector holds NaN"),
        ({"items": np.array([[np.inf, 0], [0, 0], [1, 1]])}, "item vector holds NaN"),
    ],
)
def test_bad_input(changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"queries": np.ones((2, 2)), "items": np.ones((3, 2)), "k": 1}
    with pytest.raises(InputError, match=words):
        exact_search(**{**arguments, **changes})
