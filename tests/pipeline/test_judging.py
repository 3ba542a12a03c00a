"""Asking by need against asking for everything."""

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import evidence
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.evidence import GENERATIVE, NEW, NEW_GENERATIVE, Past
from semid.pipeline.judging import best_by_need
from semid.retrieval.combining import Candidates, rank
from semid.retrieval.fusing import fuse

QUERIES, ITEMS = 60, 40


@pytest.mark.parametrize(
    ("codes", "of_new"), [(1.0, 0.0), (0.3, 0.5), (0.4, -0.4), (0.2, -0.5), (0.0, 0.0), (0.0, 1.0), (3.0, 0.1)]
)
@pytest.mark.parametrize("k", [1, 5, 39, 50])
def test_lists_are_those_of_asking_for_all(codes: float, of_new: float, k: int) -> None:
    """Bounds of any tightness, impossible items, items that are new, lists longer than there are candidates."""
    rng = np.random.default_rng(int(10 * codes + 100 * abs(of_new) + k))
    items = np.tile(np.arange(ITEMS), (QUERIES, 1))
    for row, there in enumerate(rng.integers(1, ITEMS + 1, QUERIES)):
        items[row, there:] = -1
    truth, new = rng.normal(-5, 2, items.shape), (rng.random(items.shape) < 0.3) * 1.0
    truth[rng.random(items.shape) < 0.05] = -np.inf
    other = rng.normal(0, 2, items.shape)
    known = rng.random(items.shape) < 0.3
    bound = truth + rng.exponential(rng.choice([0.01, 1.0, 10.0], (QUERIES, 1)), items.shape)
    weights = {"other": 1.0, NEW: 0.5, GENERATIVE: codes, NEW_GENERATIVE: of_new}

    def told(values: np.ndarray) -> Candidates:
        kinds = {"other": other, NEW: new, GENERATIVE: values, NEW_GENERATIVE: np.where(new > 0, values, 0)}
        return Candidates(items=items, evidence=kinds)

    asked = []

    def ask(wanted: np.ndarray) -> np.ndarray:
        asked.append(wanted)
        return np.where(wanted < 0, -np.inf, np.take_along_axis(truth, np.maximum(wanted, 0), axis=1))

    found = best_by_need(told(np.where(known, truth, np.maximum(bound, truth))), known, weights, ask, k)
    expected = rank(told(truth), weights, k)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    for wanted in asked:
        assert all(not known[row, item] for row, items_of in enumerate(wanted) for item in items_of if item >= 0)
    if codes == of_new == 0:
        assert not asked


def test_few_are_asked_for_where_bounds_tell() -> None:
    """Of a thousand items only those are asked for that could still be among the three best."""
    items = np.arange(1000)[None]
    other, known = -0.01 * np.arange(1000.0)[None], np.zeros((1, 1000), bool)
    known[0, :3] = True
    codes = np.full((1, 1000), -1.0)  # the most it may be
    codes[0, :3] = -2.0
    asked = []

    def ask(wanted: np.ndarray) -> np.ndarray:
        asked.extend(wanted[wanted >= 0].tolist())
        return np.full(wanted.shape, -9.0)

    zeros = np.zeros((1, 1000))
    candidates = Candidates(
        items=items, evidence={"other": other, GENERATIVE: codes, NEW: zeros, NEW_GENERATIVE: zeros}
    )
    found = best_by_need(candidates, known, {"other": 1.0, GENERATIVE: 1.0}, ask, 3)
    assert found.items.tolist() == [[0, 1, 2]]
    # The third scores -2.02, which no item from the 103rd on can reach: -1 - 1.03.
    assert sorted(asked) == list(range(3, 103))


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("fusion", ["learned", "linear"])
def test_the_hybrid_lists_what_judging_all_would(road, dataset, fusion, filter_seen) -> None:
    recommender = GenerativeRecommender.load(road.folder / "runs/model")
    queries = dataset.split("test").select(np.arange(60))
    answerer = Answerer(recommender, AnswerConfig(k=10, beam=15, fusion=fusion, filter_seen=filter_seen))
    found = answerer.answer(queries, "hybrid").ranking
    states = answerer.encode(queries)
    past = Past.of(queries, recommender.candidates, evidence.JUDGED_AGAIN, filter_seen=filter_seen)
    lists = [
        recommender.generate(states, beam=15, k=15, seen=past.items),
        answerer.index.search(recommender.query_vectors(states), 15, past.items),
        *answerer.like_history(queries, past),
    ]
    union = evidence.of_union(recommender, queries, states, lists, 15, past, answerer.content)
    expected = fuse(union, fusion, answerer.weights("hybrid"), 10)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    apart = np.abs(np.diff(expected.scores, axis=1)).min(axis=1) > 1e-3  # beams and head differ in the last digits
    assert apart.sum() > 30
    np.testing.assert_array_equal(found.items[apart, :9], expected.items[apart, :9])
