"""The rival of the quality tables, against its definition."""

import numpy as np
import pytest

from semid.data.dataset import Dataset


@pytest.fixture
def quality(modules):
    pytest.importorskip("implicit", reason="item-kNN needs implicit, which the benchmarks install")
    return modules("quality")


def test_item_knn_is_the_sum_of_cosines_with_the_history(quality, road):
    dataset = Dataset.open(road.folder / "data")
    taken = np.zeros((dataset.num_users, dataset.num_items))
    for user, (start, end) in enumerate(zip(dataset.events.offsets[:-1], dataset.train_end, strict=True)):
        taken[user, dataset.events.items[start:end]] = 1
    together, times = taken.T @ taken, np.maximum(taken.sum(axis=0), 1)
    cosines = together / np.sqrt(np.outer(times, times))
    np.fill_diagonal(cosines, 0)
    queries = dataset.split("test").select(np.arange(40))
    ranking = quality.item_knn(dataset, queries, 5, decay=0.5)
    for query in range(len(queries)):
        history = queries.log.items[queries.start[query] : queries.end[query]][::-1]
        scores = (0.5 ** np.arange(len(history))) @ cosines[history]
        best = np.sort(scores[dataset.candidates])[::-1][:5]
        found = ranking.items[query]
        assert len(set(found.tolist())) == 5
        assert np.isin(found, dataset.candidates).all()
        np.testing.assert_allclose(scores[found], best, rtol=1e-5)
