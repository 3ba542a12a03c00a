import re
from collections.abc import Sequence
from itertools import pairwise
from math import log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.data.events import EventLog, Queries
from semid.errors import InputError
from semid.evaluation.bootstrap import Groups
from semid.evaluation.metrics import QueryMetrics, evaluate, judge, query_metrics
from semid.evaluation.pool import Pool
from semid.evaluation.targets import Targets
from semid.ranking import Ranking

EXPOSURE, CLICK, CONVERSION = 0, 1, 2
CHALLENGE_WEIGHTS = (0.0, 1.0, 2.5)


def queries(targets: Sequence[Sequence[tuple[int, int]]]) -> Queries:
    """Queries with the given (item, action) targets."""
    flat = [pair for row in targets for pair in row]
    nothing = np.zeros(0, np.int64)
    return Queries(
        log=EventLog(nothing, nothing, nothing, np.zeros(1, np.int64)),
        users=np.arange(len(targets), dtype=np.int32),
        start=np.zeros(len(targets), np.int64),
        end=np.zeros(len(targets), np.int64),
        target_items=np.array([item for item, _ in flat], np.int32),
        target_actions=np.array([action for _, action in flat], np.int8),
        target_offsets=np.cumsum([0, *(len(row) for row in targets)]),
    )


def lists(*rows: Sequence[int], k: int = 10) -> Ranking:
    items = np.array([[*row, *[-1] * (k - len(row))] for row in rows], np.int64).reshape(len(rows), k)
    return Ranking(items, np.where(items < 0, -np.inf, -np.arange(k)).astype(np.float32))


def by_query(ranking: Ranking, targets: Sequence[Sequence[tuple[int, int]]], k: int = 10) -> QueryMetrics:
    return query_metrics(ranking, Targets.of(queries(targets), CHALLENGE_WEIGHTS), k)


def test_one_click_at_rank_three() -> None:
    found = by_query(lists([7, 8, 4, 9]), [[(4, CLICK)]])
    assert found.hit_rate.tolist() == [1.0]
    assert found.ndcg.tolist() == [0.5]
    assert found.mrr.tolist() == [pytest.approx(1 / 3)]
    assert found.score.tolist() == [pytest.approx(0.655)]
    assert found.means()["Score"] == pytest.approx(0.655)
    assert found.means()["ScoreWeighted"] == pytest.approx(0.655)


def test_click_and_conversion_with_a_stranger_between() -> None:
    found = by_query(lists([1, 99, 2, 98]), [[(1, CLICK), (2, CONVERSION)]])
    assert found.weighted_hit_rate.tolist() == [1.0]
    assert 2.25 / (2.5 + 1 / log2(3)) == pytest.approx(0.7186, abs=5e-5)
    assert found.weighted_ndcg.tolist() == [pytest.approx(2.25 / (2.5 + 1 / log2(3)))]
    assert found.weight.tolist() == [3.5]


def test_score_of_the_published_hit_rate_and_ndcg_over_a_million_users() -> None:
    """HR 0.186332 and NDCG 0.104463 give 0.12984; here from hits at ranks 1 and 10 in that proportion."""
    users, hits, at_the_top = 1_000_000, 186_332, 71_175
    items = np.arange(users * 10).reshape(users, 10)
    wanted = np.full(users, users * 10)
    wanted[:at_the_top] = items[:at_the_top, 0]
    wanted[at_the_top:hits] = items[at_the_top:hits, 9]
    targets = Targets(items=wanted, weights=np.ones(users), offsets=np.arange(users + 1))
    means = query_metrics(Ranking(items, np.zeros((users, 10), np.float32)), targets, 10).means()
    assert means["HitRate"] == pytest.approx(0.186332, abs=1e-9)
    assert means["NDCG"] == pytest.approx(0.104463, abs=1e-6)
    assert means["Score"] == pytest.approx(0.12984, abs=5e-6)
    assert means["ScoreWeighted"] == pytest.approx(means["Score"])


def test_action_weight_cancels_with_one_target_but_not_between_users() -> None:
    """A conversion found first and a click missed: each user is a ratio, only the weighted mean knows alpha."""
    means = by_query(lists([1], [5]), [[(1, CONVERSION)], [(2, CLICK)]]).means()
    assert means["HitRate"] == means["NDCG"] == means["Score"] == 0.5
    assert means["ScoreWeighted"] == pytest.approx(2.5 / 3.5)


def test_empty_list_scores_zero_and_counts() -> None:
    means = by_query(lists([], [3]), [[(3, CLICK)], [(3, CLICK)]]).means()
    assert means["HitRate"] == means["Score"] == means["MRR"] == 0.5


def test_rank_beyond_k_does_not_count() -> None:
    ranking = lists([9, 8, 4], k=3)
    assert by_query(ranking, [[(4, CLICK)]], k=2).hit_rate.tolist() == [0.0]
    assert by_query(ranking, [[(4, CLICK)]], k=3).hit_rate.tolist() == [1.0]


def test_exposure_only_queries_are_left_out_of_the_scores() -> None:
    means = by_query(lists([1], [2], [9]), [[(1, 0)], [(2, CLICK)], [(3, CLICK)]]).means()
    assert means["HitRate"] == pytest.approx(2 / 3)
    assert means["Score"] == means["ScoreWeighted"] == 0.5


def reference(ranked: list[int], target: list[tuple[int, int]], weights: Sequence[float], k: int) -> dict[str, float]:
    """One user at a time, straight from the formulas."""
    wanted: dict[int, float] = {}
    for item, action in target:
        wanted[item] = max(wanted.get(item, 0.0), weights[action])
    top = ranked[:k]
    ranks = [rank for rank, item in enumerate(top, 1) if item in wanted]
    best = sorted(wanted.values(), reverse=True)[:k]
    ideal = sum(w / log2(rank + 1) for rank, w in enumerate(best, 1))
    total = sum(wanted.values())
    weighted_hit_rate = sum(wanted[top[r - 1]] for r in ranks) / total if total else 0.0
    weighted_ndcg = sum(wanted[top[r - 1]] / log2(r + 1) for r in ranks) / ideal if ideal else 0.0
    return {
        "hit_rate": float(bool(ranks)),
        "ndcg": sum(1 / log2(r + 1) for r in ranks) / sum(1 / log2(r + 1) for r in range(1, len(best) + 1)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "recall": len(ranks) / len(wanted),
        "weighted_hit_rate": weighted_hit_rate,
        "weighted_ndcg": weighted_ndcg,
        "score": 0.31 * weighted_hit_rate + 0.69 * weighted_ndcg,
        "weight": total,
    }


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_equals_a_naive_loop_over_users(data: st.DataObject) -> None:
    users, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    pair = st.tuples(st.integers(0, 8), st.integers(0, 2))
    target = [data.draw(st.lists(pair, min_size=1, max_size=6)) for _ in range(users)]
    ranked = [data.draw(st.lists(st.integers(0, 11), max_size=6, unique=True)) for _ in range(users)]
    weights = data.draw(st.sampled_from([CHALLENGE_WEIGHTS, (0.5, 1.0, 1.0), (0.0, 0.0, 3.0)]))

    found = query_metrics(lists(*ranked, k=6), Targets.of(queries(target), weights), k)

    expected = [reference(r, t, weights, k) for r, t in zip(ranked, target, strict=True)]
    for name in expected[0]:
        np.testing.assert_allclose(getattr(found, name), [e[name] for e in expected], rtol=1e-12, atol=1e-15)
    counted = [e for e in expected if e["weight"] > 0]
    if counted:
        means = found.means()
        assert means["HitRate"] == pytest.approx(np.mean([e["hit_rate"] for e in expected]))
        assert means["NDCG"] == pytest.approx(np.mean([e["ndcg"] for e in expected]))
        assert means["Recall"] == pytest.approx(np.mean([e["recall"] for e in expected]))
        assert means["MRR"] == pytest.approx(np.mean([e["mrr"] for e in expected]))
        assert means["Score"] == pytest.approx(np.mean([e["score"] for e in counted]))
        weighted = sum(e["weight"] * e["score"] for e in counted) / sum(e["weight"] for e in counted)
        assert means["ScoreWeighted"] == pytest.approx(weighted)


def test_agrees_with_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    relevance = generator.choice(CHALLENGE_WEIGHTS, (30, 12))
    relevance[:, 0] = 1.0
    scores = generator.permuted(np.tile(np.arange(12.0), (30, 1)), axis=1)
    order = np.argsort(-scores, axis=1)
    target = [[(i, CHALLENGE_WEIGHTS.index(w)) for i, w in enumerate(row) if w > 0] for row in relevance]
    found = by_query(Ranking(order, -np.sort(-scores, axis=1)), target, k=5)
    expected = [sklearn_metrics.ndcg_score(r[None], s[None], k=5) for r, s in zip(relevance, scores, strict=True)]
    np.testing.assert_allclose(found.weighted_ndcg, expected, rtol=1e-12)


def test_everything_at_several_k_by_hand() -> None:
    ranking = lists([4, 6], [5, 4], [], k=2)
    targets = Targets.of(queries([[(6, CLICK)], [(7, CLICK), (4, CLICK)], [(7, CLICK)]]))
    counts = np.array([3, 3, 3, 3, 0, 1, 2, 0, 1])
    found = evaluate(ranking, targets, ks=(1, 2), candidates=np.array([4, 6, 7, 8]), train_counts=counts)
    assert found["HitRate@1"] == 0.0
    assert found["HitRate@2"] == pytest.approx(2 / 3)
    assert found["Recall@2"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["MRR@2"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert found["Coverage@1"] == 0.25  # item 4; item 5 is no candidate
    assert found["Coverage@2"] == 0.5
    # Targets 7 and 4 are cold; they are asked for by the last two queries, and 4 is found by the first of them.
    assert found["ColdHitRate@1"] == 0.0
    assert found["ColdHitRate@2"] == 0.5
    assert found["Validity"] == pytest.approx(3 / 6)


def test_optional_metrics_are_absent_without_their_input() -> None:
    targets = Targets.of(queries([[(1, CLICK)]]))
    found = evaluate(lists([1, 2, 3], k=4), targets, ks=(2,))
    assert list(found) == [f"{n}@2" for n in ("HitRate", "NDCG", "MRR", "Recall", "Score", "ScoreWeighted")] + [
        "Validity"
    ]
    assert found["Validity"] == 1.0
    assert "ColdHitRate@2" not in evaluate(lists([1, 2], k=2), targets, ks=(2,), train_counts=np.ones(3))


def test_validity_is_measured_against_what_is_possible() -> None:
    targets = Targets.of(queries([[(1, CLICK)]]))
    assert evaluate(lists([1, 2]), targets, candidates=np.array([1, 2]))["Validity"] == 1.0
    assert evaluate(lists([1]), targets, candidates=np.array([1, 2]))["Validity"] == 0.5


def test_a_better_list_never_scores_less() -> None:
    target = [[(3, CLICK), (5, CONVERSION)]]
    worst_first = [[9, 8, 7], [9, 8, 3], [9, 3, 8], [3, 9, 8], [5, 9, 8], [3, 5, 8], [5, 3, 8]]
    scores = [float(by_query(lists(row), target).score[0]) for row in worst_first]
    assert all(a < b for a, b in pairwise(scores))
    assert scores[-1] == pytest.approx(1.0)


def test_bad_rankings_are_refused() -> None:
    with pytest.raises(InputError, match="query 0 names item 1 twice"):
        by_query(lists([1, 2, 1]), [[(1, CLICK)]])
    with pytest.raises(InputError, match="Lists of 5 items cannot be judged at k = 10"):
        evaluate(lists([1], k=5), Targets.of(queries([[(1, CLICK)]])), ks=(5, 10))


def test_nothing_to_evaluate() -> None:
    with pytest.raises(InputError, match="no queries"):
        evaluate(lists(), Targets.of(queries([])))
    with pytest.raises(InputError, match="No list length"):
        evaluate(lists([1]), Targets.of(queries([[(1, CLICK)]])), ks=())
    with pytest.raises(InputError, match="weight above 0"):
        by_query(lists([1]), [[(1, 0)]]).means()


# The example of docs/evaluation.md.
EXAMPLE = {
    "ranking": lists([1, 4, 0], [0, 1, 2], [5, 0], [0, 1, 2], [2, 0, 1], k=3),
    "targets": Targets.of(
        queries([[(3, CLICK)], [(2, CLICK), (5, CONVERSION)], [(5, CLICK)], [(6, CLICK)], [(0, EXPOSURE)]]),
        CHALLENGE_WEIGHTS,
    ),
    "candidates": np.arange(6),
    "train_counts": np.array([15, 7, 1, 1, 1, 0, 0]),
    "codes": np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 1, 1]]),
}


def test_the_documents_example() -> None:
    ndcg = (0.5 / (1 + 1 / log2(3)) + 1 + 1 / log2(3)) / 5
    score = 0.31 / 3.5 + 0.69 * 0.5 / (2.5 + 1 / log2(3))
    expected = {
        "HitRate@3": 3 / 5,
        "NDCG@3": ndcg,
        "MRR@3": (1 / 3 + 1 + 1 / 2) / 5,
        "Recall@3": (1 / 2 + 1 + 1) / 5,
        "Score@3": (score + 1) / 4,
        "ScoreWeighted@3": (3.5 * score + 1) / 6.5,
        "Coverage@3": 5 / 6,
        "Gini@3": 36 / 84,
        "Novelty@3": (4 * 7 / 3 + 3) / 5,
        "ColdHitRate@3": 1 / 3,
        "TailHitRate@3": 1 / 2,
        "HeadHitRate@3": 1.0,
        "CodePrefix1HitRate@3": 1.0,
        "CodePrefix2HitRate@3": 4 / 5,
        "Validity": 14 / 15,
    }
    found = evaluate(**EXAMPLE, ks=(3,))
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    written = re.findall(r"^\| `(\S+)` \|.*\| (\S+) \|$", page, re.MULTILINE)
    assert {name: float(value) for name, value in written} == pytest.approx(expected, abs=5e-5)


def naive(items: np.ndarray, targets: Targets, pool: Pool, k: int) -> dict[str, float]:
    """The metrics that need to know of items, one query at a time."""
    assert pool.train_counts is not None
    assert pool.candidates is not None
    assert pool.codes is not None
    counts, codes = pool.train_counts, pool.codes
    shares = (counts + 1) / (counts.sum() + len(counts))
    novelty, hits = [], {name: [] for name in ("Cold", "Tail", "Head", "CodePrefix1", "CodePrefix2")}
    for query, row in enumerate(items):
        listed = [item for item in row[:k] if item >= 0]
        asked = targets.items[targets.offsets[query] : targets.offsets[query + 1]]
        if listed:
            novelty.append(np.mean([-log2(shares[item]) for item in listed]))
        for name, members in pool.slices.items():
            inside = [item for item in asked if members[item]]
            if inside:
                hits[name].append(bool(set(inside) & set(listed)))
        for level in (1, 2):
            known = {tuple(codes[item, :level]) for item in listed}
            hits[f"CodePrefix{level}"].append(any(tuple(codes[item, :level]) in known for item in asked))
    shown = [sum(item in row[:k] for row in items) for item in pool.candidates]
    found = {f"{name}HitRate@{k}": np.mean(values) for name, values in hits.items() if values}
    return found | {f"Novelty@{k}": np.mean(novelty), f"Coverage@{k}": np.mean(np.array(shown) > 0)}


@pytest.mark.parametrize("seed", range(6))
def test_figures_that_know_of_items_equal_a_naive_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((40, 15)), axis=1)[:, :6]
    ranked[np.arange(6) >= rng.integers(0, 7, 40)[:, None]] = -1
    asked = [[(int(item), CLICK) for item in rng.choice(15, rng.integers(1, 4))] for _ in range(40)]
    counts = rng.geometric(0.2, 15) * (rng.random(15) < 0.8)
    candidates, codes = np.flatnonzero(rng.random(15) < 0.7), rng.integers(0, 3, (15, 3))
    pool = Pool(candidates=candidates, train_counts=counts, codes=codes)
    targets, ranking = Targets.of(queries(asked)), Ranking(ranked, np.zeros(ranked.shape, np.float32))
    found = evaluate(ranking, targets, ks=(2, 6), candidates=candidates, train_counts=counts, codes=codes)
    for k in (2, 6):
        expected = naive(ranked, targets, pool, k)
        assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert not {name for name in found if "CodePrefix3" in name}


def test_sums_by_group_make_the_values() -> None:
    pool = Pool(**{name: EXAMPLE[name] for name in ("candidates", "train_counts", "codes")})
    groups = Groups(np.array([0, 2, 1, 0, 2]), 3)
    found = judge(EXAMPLE["ranking"], EXAMPLE["targets"], pool, ks=(1, 3), groups=groups)
    assert found.values == pytest.approx(evaluate(**EXAMPLE, ks=(1, 3)))
    assert {"Coverage@1", "Gini@1", "Coverage@3", "Gini@3", "Validity"} == set(found.values) - set(found.sums)
    for name, sums in found.sums.items():
        assert sums.shape == (2, 3)
        assert found.values[name] == sums[0].sum() / sums[1].sum()
    assert found.sums["HitRate@3"].tolist() == [[0, 1, 2], [2, 1, 2]]
    assert found.sums["ScoreWeighted@3"][1].tolist() == [2, 1, 3.5]
    assert found.sums["Score@3"][1].tolist() == [2, 1, 1]
    assert found.sums["ColdHitRate@3"].tolist() == [[0, 1, 0], [1, 1, 1]]


def test_empty_lists_show_nothing() -> None:
    found = evaluate(
        lists([], []), Targets.of(queries([[(0, CLICK)]] * 2)), candidates=np.array([0]), train_counts=np.ones(1)
    )
    assert found["Coverage@10"] == found["HitRate@10"] == found["Validity"] == 0
    assert not {"Gini@10", "Novelty@10"} & set(found)


def test_bad_items() -> None:
    asked = Targets.of(queries([[(1, CLICK)]]))
    with pytest.raises(InputError, match="A list names item 9 but there are 4 items"):
        evaluate(lists([9]), asked, train_counts=np.ones(4))
    with pytest.raises(InputError, match="A target is item 1 but there are 1 items"):
        evaluate(lists([0]), asked, codes=np.zeros((1, 2), int))
    with pytest.raises(InputError, match="no candidate items"):
        evaluate(lists([0]), asked, candidates=np.zeros(0, np.int64))
    with pytest.raises(InputError, match="is not a number"):
        evaluate(Ranking(np.array([[1]]), np.array([[np.nan]], np.float32)), asked, ks=(1,))
    with pytest.raises(InputError, match="Codes lie outside"):
        evaluate(lists([0]), asked, codes=np.array([[0, -1], [0, 0]]))
