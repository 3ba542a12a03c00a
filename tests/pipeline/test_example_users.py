"""The lists shown are those that are answered, and the choice shows every kind of outcome."""

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.example_users import example_users


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def answerer(road) -> Answerer:
    return Answerer(GenerativeRecommender.load(road.folder / "runs/model"), AnswerConfig(k=5, beam=10))


def test_lists_histories_and_targets_are_those_of_the_query(dataset, answerer) -> None:
    examples = example_users(answerer, dataset, "test")
    queries, ids = dataset.split("test"), dataset.item_ids
    assert len(examples) == 12
    assert len({example.user for example in examples}) == 12
    for example in examples:
        [row] = np.flatnonzero(dataset.user_ids[queries.users] == example.user)
        query = queries.select(np.array([row]))
        history = ids[query.log.items[query.start[0] : query.end[0]]].tolist()
        assert [item.id for item in example.history] == history[-8:]
        assert example.events == len(history)
        assert {item.id for item in example.targets} == set(ids[query.target_items].tolist())
        for mode, items in example.lists.items():
            expected = answerer.answer(query, mode).ranking.items[0]
            assert [item.id for item in items] == ids[expected].tolist()
            assert example.hits(mode) == tuple(item in query.target_items for item in expected)


def test_every_outcome_is_shown_that_there_is(dataset, answerer) -> None:
    outcomes = {
        tuple(any(example.hits(mode)) for mode in example.lists)
        for example in example_users(answerer, dataset, "test", count=40)
    }
    queries = dataset.split("test")
    hits = np.stack(
        [
            (answerer.answer(queries, mode).ranking.items[:, :, None] == queries.target_items[:, None, None]).any(
                (1, 2)
            )
            for mode in answerer.modes
        ]
    )
    there = {tuple(outcome) for outcome in hits.T.tolist() if sum(outcome) in (0, 1, 3)}
    assert there <= outcomes
    assert len(there) > 2


def test_fewer_queries_than_wanted(dataset, answerer) -> None:
    assert len(example_users(answerer, dataset, "test", count=10_000)) <= len(dataset.split("test"))
