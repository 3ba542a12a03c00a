"""Every mode against brute force over all candidates."""

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline.answering import AnswerConfig, Answerer


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def recommender(road) -> GenerativeRecommender:
    return GenerativeRecommender.load(road.folder / "runs/model")


@pytest.fixture(scope="module")
def queries(dataset):
    return dataset.queries["test"].select(np.arange(20))


def everything(recommender: GenerativeRecommender, queries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All candidates (Q, C) with the scores of both heads, float64."""
    states = recommender.encode(queries, recommender.usual_action)
    items = np.tile(recommender.candidates, (len(queries), 1))
    codes, dense = recommender.code_scores(states, items), recommender.dense_scores(states, items)
    return items, codes.astype(np.float64), dense.astype(np.float64)


def best(items: np.ndarray, scores: np.ndarray, k: int) -> list[set[int]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [set(row) for row in np.take_along_axis(items, order, axis=1).tolist()]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))


def test_modes_equal_brute_force_when_the_beam_holds_all(recommender, queries):
    items, codes, dense = everything(recommender, queries)
    answerer = Answerer(recommender, AnswerConfig(k=5, beam=items.shape[1]))
    weight = recommender.fusion_weight
    fused = (1 - weight) * log_softmax(dense) + weight * log_softmax(codes)
    for mode, scores in (("generative", codes), ("ann", dense), ("hybrid", fused)):
        ranking = answerer.answer(queries, mode).ranking
        gaps = np.diff(-np.sort(-scores, axis=1)[:, 4:6])[:, 0] < -1e-4  # the fifth is clearly above the sixth
        found = [set(row) for row in ranking.items.tolist()]
        assert gaps.sum() > 10
        assert [f for f, g in zip(found, gaps, strict=True) if g] == [
            b for b, g in zip(best(items, scores, 5), gaps, strict=True) if g
        ]


def test_seen_items_are_left_out_in_every_mode(recommender, queries):
    answerer = Answerer(recommender, AnswerConfig(k=5, beam=10, filter_seen=True, fallback=True))
    for mode in ("generative", "ann", "hybrid"):
        items = answerer.answer(queries, mode).ranking.items
        assert (items >= 0).all()
        for row, start, end in zip(items, queries.start, queries.end, strict=True):
            assert not set(row.tolist()) & set(queries.log.items[start:end].tolist())


def test_what_the_beams_leave_short_is_filled_and_told(recommender, queries, monkeypatch):
    plain = Answerer(recommender, AnswerConfig(k=5, beam=5)).answer(queries, "generative")
    retrieved = Answerer(recommender, AnswerConfig(k=10, beam=10)).answer(queries, "ann").ranking.items
    whole = recommender.generate

    def cut_short(*arguments, **options):
        ranking = whole(*arguments, **options)
        ranking.items[3:5, 2:], ranking.scores[3:5, 2:] = -1, -np.inf
        return ranking

    monkeypatch.setattr(recommender, "generate", cut_short)
    answer = Answerer(recommender, AnswerConfig(k=5, beam=5, fallback=True)).answer(queries, "generative")
    assert answer.fallback.tolist() == [row in (3, 4) for row in range(20)]
    untouched = [row for row in range(20) if row not in (3, 4)]
    np.testing.assert_array_equal(answer.ranking.items[untouched], plain.ranking.items[untouched])
    for row in (3, 4):
        own = plain.ranking.items[row, :2].tolist()
        assert answer.ranking.items[row].tolist() == own + [i for i in retrieved[row].tolist() if i not in own][:3]
    unfilled = Answerer(recommender, AnswerConfig(k=5, beam=5, fallback=False)).answer(queries, "generative")
    assert unfilled.fallback is None
    assert (unfilled.ranking.items[3:5, 2:] == -1).all()


def test_the_wanted_action_changes_the_answer(recommender, queries):
    rankings = {
        action: Answerer(recommender, AnswerConfig(k=5, beam=5, action=action)).answer(queries, "ann").ranking.scores
        for action in ("usual", "any", "click", "conversion")
    }
    np.testing.assert_array_equal(rankings["usual"], rankings[recommender.usual_action])
    assert recommender.usual_action == "click"
    assert not np.array_equal(rankings["click"], rankings["conversion"])
    assert not np.array_equal(rankings["click"], rankings["any"])


def test_wrong_settings():
    with pytest.raises(InputError, match="beam=4 must be at least k=5"):
        AnswerConfig(k=5, beam=4)
    with pytest.raises(InputError, match="k at least 1"):
        AnswerConfig(k=0)


def test_unknown_mode(recommender, queries):
    with pytest.raises(InputError, match="Unknown mode 'best': use one or more of generative, ann, hybrid"):
        Answerer(recommender, AnswerConfig()).answer(queries, "best")
