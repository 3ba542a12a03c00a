from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.errors import InputError
from semid.retrieval.popularity import popularity_ranking


def test_by_hand() -> None:
    counts = np.array([5, 9, 0, 5, 7])
    ranking = popularity_ranking(counts, np.array([4, 3, 2, 0]), 2, 3, seen=np.array([[-1, -1], [4, 1]]))
    assert ranking.items.tolist() == [[4, 0, 3], [0, 3, 2]]
    assert ranking.scores.tolist() == [[7, 5, 5], [5, 5, 0]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_sorting_each_users_unseen_candidates(data: st.DataObject) -> None:
    counts = data.draw(npst.arrays(np.int64, 10, elements=st.integers(0, 3)))
    candidates = sorted(data.draw(st.sets(st.integers(0, 9), min_size=1)))
    seen = data.draw(npst.arrays(np.int64, (3, 5), elements=st.integers(-1, 9)))
    k = data.draw(st.integers(1, 12))
    ranking = popularity_ranking(counts, np.array(candidates), 3, k, seen=seen)
    for query in range(3):
        expected = sorted((c for c in candidates if c not in seen[query]), key=lambda c: (-counts[c], c))[:k]
        padding = k - len(expected)
        assert ranking.items[query].tolist() == expected + [-1] * padding
        assert ranking.scores[query].tolist() == [counts[c] for c in expected] + [-np.inf] * padding


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidates": np.zeros(0, np.int64)}, "no candidate"),
        ({"candidates": np.array([3])}, "item rows 0..2"),
        ({"candidates": np.array([-1, 1])}, "item rows 0..2"),
        ({"k": 0}, "at least 1"),
        ({"seen": np.zeros((1, 2), np.int64)}, "Seen items have shape"),
        ({"seen": np.array([[3], [0]])}, "item rows 0..2"),
    ],
)
def test_bad_input(changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"candidates": np.arange(3), "k": 1, "seen": None}
    with pytest.raises(InputError, match=words):
        popularity_ranking(np.ones(3), num_queries=2, **{**arguments, **changes})


def test_without_filter_everyone_gets_the_same() -> None:
    ranking = popularity_ranking(np.array([1, 3, 2]), np.arange(3), 2, 2)
    assert ranking.items.tolist() == [[1, 2], [1, 2]]
    assert popularity_ranking(np.array([1, 3, 2]), np.arange(3), 0, 2).items.shape == (0, 2)
