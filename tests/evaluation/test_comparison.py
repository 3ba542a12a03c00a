import json
import time

import numpy as np
import pytest

from semid.data.events import EventLog, Queries
from semid.errors import InputError
from semid.evaluation.comparison import ModeResult, compare, median_latency_ms
from semid.ranking import Ranking

NOTHING = np.zeros(0, np.int64)
# Query 0 clicks item 1, query 1 converts on item 3 (cold), query 2 clicks item 9 (no candidate), query 3 sees item 0.
QUERIES = Queries(
    log=EventLog(NOTHING, NOTHING, NOTHING, np.zeros(1, np.int64)),
    users=np.arange(4, dtype=np.int32),
    start=np.zeros(4, np.int64),
    end=np.zeros(4, np.int64),
    target_items=np.array([1, 3, 9, 0], np.int32),
    target_actions=np.array([1, 2, 1, 0], np.int8),
    target_offsets=np.arange(5),
)
CANDIDATES = np.array([0, 1, 2, 3])
COUNTS = np.array([5, 4, 3, 0, 0, 0, 0, 0, 0, 2])


def ranking(items: list[list[int]], exact: list[bool] | None = None) -> Ranking:
    rows = np.array(items)
    scores = -np.arange(rows.shape[1]) + np.zeros(rows.shape, np.float32)
    return Ranking(rows, scores, exact and np.where(exact, scores[:, -1], np.inf))


GENERATIVE = ModeResult(
    ranking=ranking([[1, 2], [3, 2], [0, 1], [2, 0]], [True, True, False, False]),
    fallback=np.array([False, True, False, False]),
    latency_ms=3.5,
    seconds=0.5,
)
FLOOR = ModeResult(ranking=ranking([[0, 1]] * 4))


def test_comparison_by_hand() -> None:
    found = compare(
        QUERIES,
        {"generative": GENERATIVE, "popularity": FLOOR},
        ks=(2,),
        candidates=CANDIDATES,
        train_counts=COUNTS,
        action_weights=(0.0, 1.0, 2.5),
    )
    half = 1 / np.log2(3)
    generative, floor = found.modes["generative"], found.modes["popularity"]
    assert generative == pytest.approx(
        {
            "HitRate@2": 0.75,
            "NDCG@2": (1 + 1 + 0 + half) / 4,
            "MRR@2": 2.5 / 4,
            "Recall@2": 0.75,
            "Score@2": 2 / 3,
            "ScoreWeighted@2": 3.5 / 4.5,
            "Coverage@2": 1.0,
            "ColdHitRate@2": 1.0,
            "Validity": 1.0,
            "ProvablyExact": 0.5,
            "FallbackShare": 0.25,
            "LatencyMs": 3.5,
            "QueriesPerSecond": 8.0,
        }
    )
    assert floor["HitRate@2"] == 0.5
    assert floor["Score@2"] == pytest.approx((0.31 + 0.69 * half) / 3)
    assert floor["Coverage@2"] == 0.5
    assert floor["ColdHitRate@2"] == 0.0
    assert not {"ProvablyExact", "FallbackShare", "LatencyMs", "QueriesPerSecond"} & set(floor)
    assert (found.targets.outside_candidates, found.targets.cold, found.targets.queries_without_weight) == (1, 1, 1)
    assert found.notes() == [
        "1 of 4 targets are no candidates: always misses.",
        "1 of 4 targets never occur in training.",
        "1 of 4 queries have only targets of weight 0: not in the Scores.",
    ]


def test_json_has_the_agreed_form() -> None:
    modes = {"generative": GENERATIVE, "popularity": FLOOR}
    found = compare(QUERIES, modes, ks=(1, 2), candidates=CANDIDATES, train_counts=COUNTS)
    written = json.loads(json.dumps(found.to_dict(data="synthetic", split="test"), allow_nan=False))
    assert list(written) == ["data", "split", "queries", "modes"]
    assert (written["data"], written["split"], written["queries"]) == ("synthetic", "test", 4)
    assert list(written["modes"]) == ["generative", "popularity"]
    assert written["modes"] == found.modes


def test_names_are_those_of_every_metric_of_any_mode() -> None:
    modes = {"popularity": FLOOR, "generative": GENERATIVE}
    found = compare(QUERIES, modes, ks=(2,), candidates=CANDIDATES, train_counts=COUNTS)
    assert "LatencyMs" not in found.modes["popularity"]
    assert found.modes["generative"]["LatencyMs"] == 3.5
    assert set(found.metric_names()) == {*found.modes["popularity"], *found.modes["generative"]}


def test_nothing_to_note_where_all_is_plain() -> None:
    known = QUERIES.select(np.array([0]))
    assert (
        compare(
            known, {"x": ModeResult(ranking=ranking([[1]]))}, ks=(1,), candidates=CANDIDATES, train_counts=COUNTS
        ).notes()
        == []
    )


def test_latency_is_the_median_after_warm_up() -> None:
    asked: list[int] = []

    def answer(query: int) -> None:
        asked.append(query)
        time.sleep(0.25 if len(asked) == 3 else 0.005)

    assert 5 <= median_latency_ms(answer, [4, 5, 6], warm_up=2) < 250
    assert asked == [4, 5, 4, 5, 6]
    with pytest.raises(InputError, match="no queries"):
        median_latency_ms(answer, [])


def test_bad_input() -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        compare(QUERIES, {}, candidates=CANDIDATES, train_counts=COUNTS)
    with pytest.raises(InputError, match="no candidate"):
        compare(QUERIES, {"x": FLOOR}, candidates=CANDIDATES[:0], train_counts=COUNTS)
    with pytest.raises(InputError, match="Mode 'x': Lists of 2 items"):
        compare(QUERIES, {"x": FLOOR}, candidates=CANDIDATES, train_counts=COUNTS)
