"""Against loops over users and items."""

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.data.plain_queries import queries_from_histories, seen_items
from semid.retrieval import neighbours
from semid.retrieval.neighbours import followers_ranking, item_knn

HISTORIES = [[1, 2], [5, 5, 3], [0]]


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


def cosines(dataset: Dataset) -> np.ndarray:
    """(N, N) of the sets of users who took each item in training."""
    taken = np.zeros((dataset.num_users, dataset.num_items))
    for user in range(dataset.num_users):
        taken[user, dataset.events.items[dataset.events.offsets[user] : dataset.train_end[user]]] = 1
    lengths = np.maximum(np.linalg.norm(taken, axis=0), 1)
    return taken.T @ taken / lengths / lengths[:, None]


@pytest.mark.parametrize("block", [1 << 13, 37])
def test_similarities_are_cosines_of_the_sets_of_users(dataset: Dataset, monkeypatch, block: int) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_ITEMS", block)
    expected = cosines(dataset)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(item_knn(dataset).strengths.toarray(), expected, atol=1e-6)


def test_only_the_nearest_are_kept(dataset: Dataset, monkeypatch) -> None:
    monkeypatch.setattr(neighbours, "_NEIGHBOURS", 3)
    expected = cosines(dataset)
    np.fill_diagonal(expected, 0)
    found = item_knn(dataset).strengths.toarray()
    assert (found > 0).sum(1).max() == 3
    np.testing.assert_allclose(np.sort(found, 1)[:, -3:], np.sort(expected, 1)[:, -3:], atol=1e-6)


@pytest.mark.parametrize("hide", [False, True])
def test_ranked_by_the_sum_over_the_history(dataset: Dataset, hide: bool) -> None:
    similar = cosines(dataset)
    np.fill_diagonal(similar, 0)
    queries = queries_from_histories(HISTORIES, dataset.num_items)
    candidates = np.arange(0, dataset.num_items, 2)
    seen = seen_items(queries) if hide else None
    found = followers_ranking(item_knn(dataset), queries, candidates, 8, seen)
    for row, history in enumerate(HISTORIES):
        scores = sum(0.7**age * similar[item] for age, item in enumerate(history[::-1]))
        scores = np.where(np.isin(np.arange(dataset.num_items), candidates), scores, 0)
        scores[history] *= not hide
        best = np.sort(scores)[::-1][:8]
        np.testing.assert_allclose(np.where(found.items[row] < 0, 0, found.scores[row]), best, atol=1e-6)
        there = found.items[row][found.items[row] >= 0]
        np.testing.assert_allclose(scores[there], best[: len(there)], atol=1e-6)
