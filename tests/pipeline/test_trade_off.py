import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.conditions import conditions
from semid.pipeline.trade_off import TradeOff, _dominates, trade_off_rows, trade_offs


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def answerer(road, dataset) -> Answerer:
    return Answerer(GenerativeRecommender.load(road.folder / "runs/model"), AnswerConfig(k=10, beam=20))


def test_quality_is_that_of_the_answers_at_each_setting(dataset, answerer) -> None:
    queries = dataset.queries["test"]
    points = trade_offs(answerer, queries, k=5, beams=(3, 5, 40, 10**6))
    assert [(p.mode, p.setting) for p in points[:4]] == [
        ("generative", "beam 5"),
        ("generative", "beam 40"),
        ("hybrid", "beam 5"),
        ("hybrid", "beam 40"),
    ]
    assert all(p.mode == "ann" for p in points[4:])
    for point, beam in zip(points[:4], (5, 40, 5, 40), strict=True):
        config = AnswerConfig(k=5, beam=beam, fallback=())
        ranking = Answerer(answerer.recommender, config).answer(queries, point.mode).ranking
        metrics = query_metrics(ranking, Targets.of(queries), 5)
        assert point.ndcg == pytest.approx(metrics.ndcg.mean())
        assert point.hit_rate == pytest.approx(metrics.hit_rate.mean())
    assert all(p.milliseconds > 0 for p in points)
    assert any(p.best for p in points)
    fastest = min(points, key=lambda p: p.milliseconds)
    assert fastest.best
    table = trade_off_rows(points, 5)
    assert table[0][2] == "NDCG@5"
    assert [row[-1] == "*" for row in table[1:]] == [p.best for p in points]


def test_one_dominates_another_that_is_neither_better_nor_faster() -> None:
    def point(ndcg: float, ms: float) -> TradeOff:
        return TradeOff(mode="ann", setting="", queries=1, ndcg=ndcg, hit_rate=0, milliseconds=ms)

    assert _dominates(point(0.2, 1), point(0.1, 1))
    assert _dominates(point(0.2, 1), point(0.2, 2))
    assert not _dominates(point(0.2, 1), point(0.2, 1))
    assert not _dominates(point(0.2, 2), point(0.1, 1))


def test_conditions_name_data_split_pool_and_seeds(dataset, answerer) -> None:
    found = conditions(answerer, dataset, "test")
    assert found["data"]["checksum"] == dataset.artifact.checksum
    assert found["split"]["name"] == "test"
    assert found["split"]["protocol"] == "leave-last-out"
    assert found["candidates"] == len(dataset.candidates)
    assert found["model"]["settings"]["seed"] == 0
    assert found["answers"]["beam"] == 20
    assert found["fusion"]["rule"] == next(iter(answerer.recommender.fusions))
    assert {"semid", "torch", "numpy"} <= set(found["versions"])
    assert np.all(np.array(list(found["fusion"]["validation_NDCG@10"].values())) > 0)
