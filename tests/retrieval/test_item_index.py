"""What every index refuses, and how it measures itself."""

import numpy as np
import pytest

from semid.errors import InputError
from semid.retrieval.choice import build_index

KINDS = ("exact", "Flat", "IVF2,Flat", "HNSW4")
EYE = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize("factory", KINDS)
@pytest.mark.parametrize(
    ("vectors", "rows", "words"),
    [
        (np.ones((1, 3)), np.array([9]), "width 3, but the index has 4"),
        (np.ones((1, 4)), np.array([6]), "Item row 6 .* is in the index already"),
        (np.ones((2, 4)), np.array([9, 9]), "repeat"),
        (np.ones((2, 4)), np.array([9]), "2 item vectors but 1 item rows"),
        (np.full((1, 4), np.nan), np.array([9]), "New item vectors hold NaN"),
        (np.ones(4), np.array([9]), "give a matrix"),
    ],
)
def test_items_that_cannot_come(factory: str, vectors: np.ndarray, rows: np.ndarray, words: str) -> None:
    index = build_index(EYE, np.array([5, 6, 7, 8]), factory)
    with pytest.raises(InputError, match=words):
        index.with_items(vectors, rows)


@pytest.mark.parametrize("factory", KINDS)
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.array([5, 3]), "Item row 3 .* is not in the index"),
        (np.array([5, 5]), "repeat"),
        (np.array([5, 6, 7, 8]), "No item would be left"),
    ],
)
def test_items_that_cannot_go(factory: str, rows: np.ndarray, words: str) -> None:
    index = build_index(EYE, np.array([5, 6, 7, 8]), factory)
    with pytest.raises(InputError, match=words):
        index.without_items(rows)


@pytest.mark.parametrize("factory", KINDS)
def test_no_items_change_nothing(factory: str) -> None:
    index = build_index(EYE, np.array([5, 6, 7, 8]), factory)
    none = np.zeros(0, np.int64)
    for same in (index.with_items(np.zeros((0, 4)), none), index.without_items(none)):
        assert same.rows.tolist() == [5, 6, 7, 8]
        assert same.search(EYE[1:2], 1).items.tolist() == [[6]]


def test_recall_is_the_share_of_the_exact_list() -> None:
    index = build_index(np.array([[4.0], [3.0], [2.0], [1.0]]), factory="Flat")
    shuffled = np.array([[4.0], [1.0], [2.0], [3.0]])  # another truth: items 0 and 3 lead it, the index says 0 and 1
    assert index.recall_against_exact(np.array([[1.0]]), shuffled, 2) == 0.5
