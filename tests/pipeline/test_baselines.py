from dataclasses import replace

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.plain_queries import seen_items
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline.baselines import BASELINES, baselines, check_baselines, recent_counts


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def recommender(road) -> GenerativeRecommender:
    return GenerativeRecommender.load(road.folder / "runs/model")


def test_every_baseline_recommends_candidates_alone(dataset, recommender) -> None:
    few = recommender.candidates[::3]
    queries = dataset.queries["test"]
    for hide in (False, True):
        made = baselines(BASELINES, dataset, recommender.catalogue, few, 7, filter_seen=hide)
        assert tuple(made) == BASELINES
        for rank in made.values():
            items = rank(queries).items
            assert items.shape == (len(queries), 7)
            assert set(np.unique(items)) <= {-1, *few}
            assert not hide or not [
                set(a) & set(b) - {-1}
                for a, b in zip(items, seen_items(queries), strict=True)
                if set(a) & set(b) - {-1}
            ]


def test_recent_counts_are_of_the_latest_tenth(dataset) -> None:
    rows = np.concatenate(list(dataset.training_rows()))
    times, items = dataset.events.times[rows], dataset.events.items[rows]
    counts = recent_counts(dataset)
    since = times[counts[items] > 0].min()
    late = times >= np.sort(times)[int(0.9 * len(times))]
    np.testing.assert_array_equal(counts, np.bincount(items[late], minlength=dataset.num_items))
    assert since <= times[late].min()
    assert 0.05 < late.mean() < 0.2


def test_without_times_there_is_no_recent_popularity(dataset, recommender) -> None:
    events = replace(dataset.events, times=np.full(dataset.events.num_events, TIME_MISSING))
    timeless = replace(dataset, events=events)
    assert recent_counts(timeless) is None
    made = baselines(BASELINES, timeless, recommender.catalogue, recommender.candidates, 5, filter_seen=False)
    assert "recent" not in made
    blank = replace(recommender.catalogue, known=recommender.catalogue.known & False)
    assert "content-knn" not in baselines(BASELINES, dataset, blank, recommender.candidates, 5, filter_seen=False)


def test_an_unknown_baseline() -> None:
    with pytest.raises(InputError, match="Unknown baseline 'best': use any of popularity, recent, item-knn"):
        check_baselines(("popularity", "best"))
