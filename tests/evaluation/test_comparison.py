import json
from dataclasses import replace
from math import log2
from typing import Any

import numpy as np
import pytest

from semid.data.events import EventLog, Queries
from semid.errors import InputError
from semid.evaluation.bootstrap import BootstrapConfig
from semid.evaluation.comparison import Comparison, ModeResult, compare
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
            "Gini@2": (-3 * 1 - 1 * 2 + 1 * 2 + 3 * 3) / (4 * 8),  # shown 2, 2, 3 and 1 times
            "Novelty@2": (2 * log2(24 / 6) + 2 * log2(24 / 5) + 3 * log2(24 / 4) + log2(24 / 1)) / 8,
            "ColdHitRate@2": 1.0,
            "TailHitRate@2": 0.0,
            "HeadHitRate@2": 1.0,
            "Validity": 1.0,
            "ProvablyExact": 0.5,
            "FallbackShare": 0.25,
        }
    )
    assert floor["HitRate@2"] == 0.5
    assert floor["Score@2"] == pytest.approx((0.31 + 0.69 * half) / 3)
    assert floor["Coverage@2"] == 0.5
    assert floor["ColdHitRate@2"] == 0.0
    assert not {"ProvablyExact", "FallbackShare"} & set(floor)
    assert (found.targets.outside_candidates, found.targets.cold, found.targets.queries_without_weight) == (1, 1, 1)
    assert found.notes() == [
        "1 of 4 targets are no candidates: always misses.",
        "1 of 4 targets never occur in training.",
        "1 of 4 queries have only targets of weight 0: not in the Scores.",
        "Too few queries to tell apart: generative and popularity (HitRate@2 p = 1.00, NDCG@2 p = 0.75, "
        "Score@2 p = 0.50).",
    ]


def test_json_has_the_agreed_form() -> None:
    modes = {"generative": GENERATIVE, "popularity": FLOOR}
    found = compare(QUERIES, modes, ks=(1, 2), candidates=CANDIDATES, train_counts=COUNTS)
    written = json.loads(json.dumps(found.to_dict(data="synthetic", split="test"), allow_nan=False))
    assert list(written) == ["data", "split", "queries", "modes", "intervals", "differences"]
    assert (written["data"], written["split"], written["queries"]) == ("synthetic", "test", 4)
    assert list(written["modes"]) == ["generative", "popularity"]
    assert written["modes"] == found.modes
    assert written["intervals"]["generative"]["NDCG@1"] == list(found.intervals["generative"]["NDCG@1"])
    assert [list(difference.values()) for difference in written["differences"]] == [
        [d.mode, d.other, d.metric, d.mean, d.low, d.high, d.p_value] for d in found.differences
    ]


def asked(users: np.ndarray, wanted: np.ndarray) -> Queries:
    """A query for one item each."""
    return replace(
        QUERIES,
        users=users.astype(np.int32),
        start=np.zeros(len(users), np.int64),
        end=np.zeros(len(users), np.int64),
        target_items=wanted.astype(np.int32),
        target_actions=np.ones(len(users), np.int8),
        target_offsets=np.arange(len(users) + 1),
    )


def shuffled(rng: np.random.Generator, wanted: np.ndarray, hits: float) -> ModeResult:
    """Lists of two items, the wanted one among them in a share of the queries."""
    first = np.where(rng.random(len(wanted)) < hits, wanted, 30)
    items = np.stack([first, np.full(len(wanted), 31)], axis=1)
    return ModeResult(ranking=ranking(rng.permuted(items, axis=1).tolist()))


def compared(users: np.ndarray, *hits: float, **settings: Any) -> Comparison:
    """Modes ``a``, ``b``, … that find the wanted item in such a share of the queries."""
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 30, len(users))
    modes = {name: shuffled(rng, wanted, share) for name, share in zip("abcd", hits, strict=False)}
    known = {"candidates": np.arange(32), "train_counts": np.arange(32)}
    return compare(asked(users, wanted), modes, ks=(1, 2), **known, **settings)


def test_intervals_are_those_of_the_normal_formula() -> None:
    found = compared(np.arange(3000), 0.4, 0.42)
    assert set(found.modes["a"]) - set(found.intervals["a"]) == {
        "Coverage@1",
        "Gini@1",
        "Coverage@2",
        "Gini@2",
        "Validity",
    }
    share = found.modes["a"]["HitRate@2"]
    low, high = found.intervals["a"]["HitRate@2"]
    assert low < share < high
    assert high - low == pytest.approx(2 * 1.96 * (share * (1 - share) / 3000) ** 0.5, rel=0.06)


def test_differences_are_paired_and_of_the_later_mode_over_the_earlier() -> None:
    found = compared(np.arange(3000), 0.4, 0.6, 0.41)
    assert [(d.mode, d.other, d.metric) for d in found.differences[:3]] == [
        ("b", "a", "HitRate@2"),
        ("c", "a", "HitRate@2"),
        ("c", "b", "HitRate@2"),
    ]
    assert {d.metric for d in found.differences} == {"HitRate@2", "NDCG@2", "Score@2"}
    better, alike, worse = found.differences[:3]
    for difference in found.differences:
        expected = found.modes[difference.mode][difference.metric] - found.modes[difference.other][difference.metric]
        assert difference.mean == expected
        assert difference.low < expected < difference.high
    assert better.low > 0 > worse.high
    # The least p-value of 10,000 random flips, times the three pairs for the smallest, two for the next.
    assert better.p_value == worse.p_value == pytest.approx(3 / 10_001)
    assert alike.p_value > 0.1
    assert any("a and c (HitRate@2" in note for note in found.notes())
    assert not any("a and b (" in note for note in found.notes())


def test_pairing_makes_differences_surer_than_both_modes() -> None:
    """Two modes with the same lists but for one query in fifty."""
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 30, 2000)
    one = shuffled(rng, wanted, 0.5)
    changed = one.ranking.items.copy()
    changed[::50] = [30, 31]
    modes = {"one": one, "worse": ModeResult(ranking=ranking(changed.tolist()))}
    found = compare(
        asked(np.arange(2000), wanted), modes, ks=(2,), candidates=np.arange(32), train_counts=np.ones(32)
    )
    [difference] = [d for d in found.differences if d.metric == "HitRate@2"]
    low, high = found.intervals["one"]["HitRate@2"]
    assert difference.high - difference.low < (high - low) / 3
    assert difference.high < 0
    assert difference.p_value < 0.001


def test_users_with_several_queries_are_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    wanted = np.repeat(rng.integers(0, 30, 400), 5)
    same = shuffled(rng, wanted[::5], 0.4).ranking.items.repeat(5, axis=0)
    modes = {"x": ModeResult(ranking=ranking(same.tolist()))}
    known = {"ks": (2,), "candidates": np.arange(32), "train_counts": np.ones(32)}
    widths = []
    for users in (np.arange(2000), np.repeat(np.arange(400), 5), np.full(2000, -1)):
        low, high = compare(asked(users, wanted), modes, **known).intervals["x"]["HitRate@2"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(5**0.5 * widths[0], rel=0.1)
    assert widths[2] == pytest.approx(widths[0], rel=0.1)


def test_the_same_seed_gives_the_same_intervals_and_another_one_others() -> None:
    once, again, other = (
        compared(np.arange(300), 0.4, 0.5, bootstrap=BootstrapConfig(seed=seed, most_groups=50)) for seed in (0, 0, 1)
    )
    assert once.intervals == again.intervals
    assert once.differences == again.differences
    assert once.intervals != other.intervals


def test_equal_modes_are_not_told_apart() -> None:
    modes = {"x": GENERATIVE, "y": GENERATIVE}
    found = compare(QUERIES, modes, ks=(2,), candidates=CANDIDATES, train_counts=COUNTS)
    assert {(d.mean, d.low, d.high, d.p_value) for d in found.differences} == {(0.0, 0.0, 0.0, 1.0)}


def test_one_user_says_nothing_of_others() -> None:
    one = replace(QUERIES, users=np.zeros(4, np.int32))
    found = compare(one, {"x": GENERATIVE, "y": FLOOR}, ks=(2,), candidates=CANDIDATES, train_counts=COUNTS)
    assert found.intervals == {"x": {}, "y": {}}
    assert found.differences == []
    two = compare(QUERIES, {"x": GENERATIVE}, ks=(2,), candidates=CANDIDATES, train_counts=COUNTS)
    assert "HitRate@2" in two.intervals["x"]
    assert "ColdHitRate@2" not in two.intervals["x"]  # one query asks for a cold item


def test_codes_add_figures_by_code() -> None:
    codes = np.stack([np.arange(10) // 5, np.arange(10)], axis=1)
    known = {"ks": (2,), "candidates": CANDIDATES, "train_counts": COUNTS}
    found = compare(QUERIES, {"x": GENERATIVE}, codes=codes, **known)
    assert found.modes["x"]["CodePrefix1HitRate@2"] == 0.75  # all but item 9 are below 5, as all that is listed
    assert "CodePrefix1HitRate@2" in found.intervals["x"]
    assert "CodePrefix1HitRate@2" not in compare(QUERIES, {"x": GENERATIVE}, **known).modes["x"]


def test_names_are_those_of_every_metric_of_any_mode() -> None:
    modes = {"popularity": FLOOR, "generative": GENERATIVE}
    found = compare(QUERIES, modes, ks=(2,), candidates=CANDIDATES, train_counts=COUNTS)
    assert "FallbackShare" not in found.modes["popularity"]
    assert "FallbackShare" in found.modes["generative"]
    assert set(found.metric_names()) == {*found.modes["popularity"], *found.modes["generative"]}


def test_main_metrics_are_those_at_the_largest_k_that_have_an_interval() -> None:
    found = compare(QUERIES, {"x": GENERATIVE}, ks=(2, 1), candidates=CANDIDATES, train_counts=COUNTS)
    assert found.main_metrics() == ["HitRate@2", "NDCG@2", "Score@2"]
    assert replace(found, intervals={}).main_metrics() == []


def test_nothing_to_note_where_all_is_plain() -> None:
    known = QUERIES.select(np.array([0]))
    assert (
        compare(
            known, {"x": ModeResult(ranking=ranking([[1]]))}, ks=(1,), candidates=CANDIDATES, train_counts=COUNTS
        ).notes()
        == []
    )


def test_lists_as_long_as_the_pool_are_told_of() -> None:
    everything = ModeResult(ranking=ranking([CANDIDATES.tolist()] * len(QUERIES)))
    for k, told in ((len(CANDIDATES), True), (len(CANDIDATES) - 1, False)):
        notes = compare(QUERIES, {"x": everything}, ks=(1, k), candidates=CANDIDATES, train_counts=COUNTS).notes()
        assert any(f"Lists of {k} hold all {k} candidates" in note for note in notes) == told


def test_bad_input() -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        compare(QUERIES, {}, candidates=CANDIDATES, train_counts=COUNTS)
    with pytest.raises(InputError, match="no queries"):
        compare(QUERIES.select(NOTHING), {"x": FLOOR}, candidates=CANDIDATES, train_counts=COUNTS)
    with pytest.raises(InputError, match="no candidate"):
        compare(QUERIES, {"x": FLOOR}, candidates=CANDIDATES[:0], train_counts=COUNTS)
    with pytest.raises(InputError, match="Mode 'x': Lists of 2 items"):
        compare(QUERIES, {"x": FLOOR}, candidates=CANDIDATES, train_counts=COUNTS)
