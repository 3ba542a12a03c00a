"""Every mode against brute force over all candidates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.data.dataset import Dataset
from semid.data.plain_queries import seen_items
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def recommender(road) -> GenerativeRecommender:
    return GenerativeRecommender.load(road.folder / "runs/model")


@pytest.fixture(scope="module")
def queries(dataset):
    return dataset.queries["test"].select(np.arange(20))


def best(items: np.ndarray, scores: np.ndarray, k: int) -> list[set[int]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [set(row) for row in np.take_along_axis(items, order, axis=1).tolist()]


def all_evidence(recommender: GenerativeRecommender, queries) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All candidates (Q, C) and each kind of evidence on them, the history's by a loop."""
    states = recommender.encode(queries, recommender.usual_action)
    items = np.tile(recommender.candidates, (len(queries), 1))
    strengths = recommender.transitions.strengths.toarray().astype(np.float64)
    transition, repeat, recency = np.zeros((3, *items.shape))
    for query in range(len(queries)):
        history = queries.log.items[queries.start[query] : queries.end[query]][::-1].tolist()
        after = sum(0.7**age * strengths[item] for age, item in enumerate(history[:20]))
        transition[query] = np.log1p(20 * after[items[query]])
        for column, item in enumerate(items[query].tolist()):
            if item in history:
                repeat[query, column], recency[query, column] = 1, 1 / (1 + history.index(item))
    taken = recommender.train_counts[items]
    codes, dense = (
        scores(states, items).astype(np.float64) for scores in (recommender.code_scores, recommender.dense_scores)
    )
    return items, {
        "generative": codes,
        "dense": dense,
        "count": np.log(1.0 + taken),
        "new": (taken == 0) * 1.0,
        "new_generative": np.where(taken == 0, codes, 0),
        "new_dense": np.where(taken == 0, dense, 0),
        "transition": transition,
        "content": content_evidence(recommender, queries),
        "action": action_evidence(recommender, queries),
        "repeat": repeat,
        "recency": recency,
        **dict.fromkeys(("day", "week", "freshness"), np.zeros(items.shape)),
    }


def content_evidence(recommender: GenerativeRecommender, queries) -> np.ndarray:
    """Ten times the cosine of an item with the sum of the history, the last event weighing 1, the others .7 of the
    next one. (Q, C)"""
    content = recommender.catalogue.content.double().numpy() * recommender.catalogue.known.numpy()[:, None]
    content /= np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-30)
    rows = []
    for start, end in zip(queries.start, queries.end, strict=True):
        history = queries.log.items[start:end][::-1]
        profile = sum(0.7**age * content[item] for age, item in enumerate(history))
        rows.append(10 * content[recommender.candidates] @ profile / max(np.linalg.norm(profile), 1e-30))
    return np.stack(rows)


@torch.no_grad()
def action_evidence(recommender: GenerativeRecommender, queries) -> np.ndarray:
    """log p(usual action | item) of all candidates (Q, C), item by item from a state that is told nothing."""
    states = recommender.encode(queries, "any").states
    action = recommender.action_names.index(recommender.usual_action)
    vectors = torch.from_numpy(recommender.item_vectors)
    columns = []
    for item in recommender.candidates.tolist():
        logits = recommender.model.action_logits(untold(recommender, states), vectors[item].expand(len(queries), -1))
        columns.append(logits.log_softmax(-1)[:, action])
    return torch.stack(columns, dim=1).double().numpy()


def untold(recommender: GenerativeRecommender, states: torch.Tensor) -> torch.Tensor:
    """States told of *any* action, with that undone: FiLM is affine."""
    condition = recommender.model.condition
    scale, shift = condition.film.factors(torch.nn.functional.silu(condition.action.weight[0])).chunk(2)
    return (states - shift) / (1 + scale)


OF_NEW = {"new": 2.0, "new_generative": 0.3, "new_dense": -0.2}


@pytest.mark.parametrize(
    ("again", "eta", "new"),
    [(None, None, {}), (2.0, None, {}), (-3.0, None, {}), (None, 1.5, {}), (None, None, OF_NEW)],
)
def test_modes_equal_brute_force_when_the_beam_holds_all(recommender, queries, again, eta, new, monkeypatch):
    """With the weights as fitted, with items of the history raised or lowered, with a weight of the action, and with
    items that are new judged by weights of their own."""
    items, evidence = all_evidence(recommender, queries)
    assert evidence["action"].max() < 0
    weights = {mode: dict(recommender.weights[mode]) for mode in ("generative", "ann", "hybrid")}
    weights["hybrid"] |= new
    if again is not None:
        weights = {mode: {**values, "repeat": again, "recency": again / 2} for mode, values in weights.items()}
    monkeypatch.setattr(recommender, "weights", weights)
    answerer = Answerer(recommender, AnswerConfig(k=5, beam=items.shape[1], eta=eta, fusion="learned"))
    for mode, fitted in weights.items():
        named = fitted if eta is None else {**fitted, "action": eta}
        scores = sum(weight * evidence[name] for name, weight in named.items())
        ranking = answerer.answer(queries, mode).ranking
        gaps = np.diff(-np.sort(-scores, axis=1)[:, 4:6])[:, 0] < -1e-4  # the fifth is clearly above the sixth
        found = [set(row) for row in ranking.items.tolist()]
        assert gaps.sum() > 10
        assert [f for f, g in zip(found, gaps, strict=True) if g] == [
            b for b, g in zip(best(items, scores, 5), gaps, strict=True) if g
        ]


@pytest.mark.parametrize("again", [1.0, -3.0])
@pytest.mark.parametrize(("mode", "name"), [("generative", "generative"), ("ann", "dense")])
def test_exactness_is_claimed_of_the_scores_that_rank(recommender, queries, mode, name, again, monkeypatch):
    _, evidence = all_evidence(recommender, queries)
    weights = {name: 0.8, "repeat": again, "recency": 0.5}
    monkeypatch.setattr(recommender, "weights", {mode: weights})
    scores = sum(weight * evidence[name] for name, weight in weights.items())
    claimed = 0
    for beam in (5, 10, 20, 60):
        ranking = Answerer(recommender, AnswerConfig(k=5, beam=beam, fallback=())).answer(queries, mode).ranking
        for query in np.flatnonzero(ranking.exact):
            claimed += 1
            np.testing.assert_allclose(ranking.scores[query], -np.sort(-scores[query])[:5], rtol=1e-4, atol=1e-4)
    assert claimed > 10


@pytest.mark.parametrize("mode", ["generative", "ann"])
def test_beams_widen_until_lists_are_proven(recommender, queries, mode, monkeypatch):
    """Each query's list is that of the narrowest beam, of 5, 10, 20 and so on, that proves it."""
    expected, widths = {}, []
    for beam in (5, 10, 20, 40, 80, 160):
        ranking = Answerer(recommender, AnswerConfig(k=5, beam=beam)).answer(queries, mode).ranking
        for query in np.flatnonzero(ranking.exact):
            expected.setdefault(query, (ranking.items[query].tolist(), beam))
    searched = Answerer._generated if mode == "generative" else Answerer._retrieved

    def spy(self, states, past, *rest):
        widths.append((self.config.beam, len(states)))
        return searched(self, states, past, *rest)

    monkeypatch.setattr(Answerer, searched.__name__, spy)
    ranking = Answerer(recommender, AnswerConfig(k=5, beam=5, exact=True)).answer(queries, mode).ranking
    assert ranking.exact.all()
    assert len(expected) == len(queries)
    for query, (items, _) in expected.items():
        assert ranking.items[query].tolist() == items
    wider = [sum(beam > width for _, beam in expected.values()) for width in (0, 5, 10, 20, 40, 80)]
    assert [count for _, count in widths] == [count for count in wider if count]


@pytest.mark.parametrize("mode", ["generative", "ann"])
def test_lists_of_all_that_is_left_are_exact(recommender, queries, mode):
    """However many are asked for, and with items of the history judged or left out."""
    everything = len(recommender.candidates)
    for filter_seen in (False, True):
        config = AnswerConfig(k=everything + 5, beam=everything + 5, filter_seen=filter_seen, fallback=())
        ranking = Answerer(recommender, config).answer(queries, mode).ranking
        assert (ranking.items[:, -5:] == -1).all()
        assert ranking.exact.all()


def test_what_strongly_follows_is_found_though_no_head_finds_it(recommender, queries, monkeypatch):
    monkeypatch.setattr(recommender, "weights", {"hybrid": {**recommender.weights["hybrid"], "transition": 1e4}})
    items, evidence = all_evidence(recommender, queries)
    answerer = Answerer(recommender, AnswerConfig(k=1, beam=1, fusion="learned"))
    heads = [answerer.answer(queries, mode).ranking.items[:, 0] for mode in ("generative", "ann")]
    strongest = items[0, evidence["transition"].argmax(axis=1)]
    unseen = evidence["repeat"][np.arange(20), evidence["transition"].argmax(axis=1)] == 0
    unseen &= (strongest != heads[0]) & (strongest != heads[1]) & (evidence["transition"].max(axis=1) > 0)
    assert unseen.sum() > 3
    np.testing.assert_array_equal(answerer.answer(queries, "hybrid").ranking.items[unseen, 0], strongest[unseen])


def test_no_beam_is_wider_than_the_catalogue(recommender, queries):
    everything = len(recommender.candidates)
    wide = Answerer(recommender, AnswerConfig(k=5, beam=10**9))
    assert wide.config.beam == everything
    assert Answerer(recommender, AnswerConfig(k=everything + 1, beam=10**9)).config.beam == everything + 1
    for mode in ("generative", "ann", "hybrid"):
        expected = Answerer(recommender, AnswerConfig(k=5, beam=everything)).answer(queries, mode).ranking.items
        np.testing.assert_array_equal(wide.answer(queries, mode).ranking.items, expected)


def test_plain_lists_are_answered_as_queries_are(recommender, dataset):
    histories = [[3, 1, 4], [1]]
    answerer = Answerer(recommender)
    for mode in ("generative", "ann", "hybrid"):
        ranking = answerer.recommend(histories, mode)
        assert ranking.items.shape == (2, 10)
        alone = answerer.recommend(histories[1:], mode)
        np.testing.assert_array_equal(alone.items[0], ranking.items[1])
    with pytest.raises(InputError, match=f"item rows outside 0..{dataset.num_items - 1}: map raw ids to rows"):
        answerer.recommend([[dataset.num_items]])
    with pytest.raises(InputError, match="Query 1 has an empty history"):
        answerer.recommend([[1], []])


def test_seen_items_are_left_out_in_every_mode(recommender, queries):
    answerer = Answerer(recommender, AnswerConfig(k=5, beam=10, filter_seen=True))
    for mode in ("generative", "ann", "hybrid"):
        items = answerer.answer(queries, mode).ranking.items
        assert (items >= 0).all()
        for row, start, end in zip(items, queries.start, queries.end, strict=True):
            assert not set(row.tolist()) & set(queries.log.items[start:end].tolist())


def test_where_beams_are_short_the_hybrid_answers(recommender, queries, monkeypatch):
    config = AnswerConfig(k=5, beam=5)
    plain = Answerer(recommender, config).answer(queries, "generative")
    assert not plain.fallback.any()
    assert plain.alone is None
    whole = recommender.generate

    def cut_short(*arguments, **options):
        ranking = whole(*arguments, **options)
        ranking.items[..., 2:], ranking.scores[..., 2:] = -1, -np.inf
        return ranking

    monkeypatch.setattr(recommender, "generate", cut_short)
    answer = Answerer(recommender, config).answer(queries, "generative")
    assert (answer.fallback == 1).all()
    np.testing.assert_array_equal(
        answer.ranking.items, Answerer(recommender, config).answer(queries, "hybrid").ranking.items
    )
    assert not answer.ranking.exact.any()
    alone = Answerer(recommender, AnswerConfig(k=5, beam=5, fallback=())).answer(queries, "generative")
    assert alone.fallback is None
    np.testing.assert_array_equal(alone.ranking.items, answer.alone.items)
    generated = whole(recommender.encode(queries, recommender.usual_action), beam=5, k=5, seen=seen_items(queries))
    for row in range(20):
        history = queries.log.items[queries.start[row] : queries.end[row]]
        assert set(alone.ranking.items[row]) <= {-1, *history, *generated.items[row, :2]}


def test_where_all_that_is_left_was_found_nobody_falls_back(recommender, queries):
    few = recommender.among(recommender.candidates[:3])
    answer = Answerer(few, AnswerConfig(k=5, beam=5)).answer(queries, "generative")
    assert (answer.ranking.items[:, 3:] == -1).all()
    assert not answer.fallback.any()
    assert answer.ranking.exact.all()


def test_unsure_lists_are_neither_proven_nor_probable(recommender, queries):
    """Lists of 5 from beams of 5: the probability of what was generated, by brute force, against the threshold."""
    alone = Answerer(recommender, AnswerConfig(k=5, beam=5, fallback=())).answer(queries, "generative").ranking
    found = recommender.generate(
        recommender.encode(queries, recommender.usual_action), beam=5, k=5, seen=seen_items(queries)
    )
    mass = np.exp(found.scores.astype(np.float64)).sum(1)
    sure = float(np.median(mass))
    config = AnswerConfig(k=5, beam=5, fallback=("unsure",), sure=sure)
    answer = Answerer(recommender, config).answer(queries, "generative")
    expected = ~found.exact & (mass < sure)
    assert 0 < expected.sum() < 20
    np.testing.assert_array_equal(answer.fallback, np.where(expected, 2, 0))
    np.testing.assert_array_equal(answer.ranking.items[~expected], alone.items[~expected])
    hybrid = Answerer(recommender, config).answer(queries, "hybrid").ranking.items
    np.testing.assert_array_equal(answer.ranking.items[expected], hybrid[expected])
    exact = Answerer(recommender, replace(config, exact=True)).answer(queries, "generative")
    assert not exact.fallback.any()
    assert exact.ranking.exact.all()


def test_new_items_that_are_near_make_the_hybrid_answer(recommender, queries, monkeypatch):
    states = recommender.encode(queries, recommender.usual_action)
    config = AnswerConfig(k=5, beam=20, fallback=("new",))
    nearest = Answerer(recommender, config).index.search(recommender.query_vectors(states), 5, seen_items(queries))
    counts = np.ones_like(recommender.train_counts)
    counts[nearest.items[3, 4]] = 0
    monkeypatch.setattr(recommender, "train_counts", counts)
    answer = Answerer(recommender, config).answer(queries, "generative")
    np.testing.assert_array_equal(answer.fallback == 3, (counts[nearest.items] == 0).any(1))
    assert answer.fallback[3] == 3


@pytest.mark.parametrize("mode", ["generative", "ann", "hybrid"])
def test_lists_of_distinct_values_are_filled_from_below(recommender, dataset, queries, mode):
    """Against a walk down the list of all items; the beam widens where a list would be short."""
    fields = replace(dataset.item_fields, names=("maker",), values=(2 + np.arange(dataset.num_items) % 7)[:, None])
    everything = Answerer(recommender, AnswerConfig(k=len(recommender.candidates), beam=10**9))
    whole = everything.answer(queries, mode).ranking
    config = AnswerConfig(k=6, beam=6, distinct="maker", fallback=())
    ranking = Answerer(recommender, config, fields).answer(queries, mode).ranking
    for row in range(20):
        makers = set()
        walked = [item for item in whole.items[row] if not (item % 7 in makers or makers.add(item % 7))]
        assert len({item % 7 for item in ranking.items[row]}) == 6
        if ranking.exact is not None and ranking.exact[row]:
            assert ranking.items[row].tolist() == walked[:6]
    with pytest.raises(InputError, match="no single-value column 'brand'; there are: maker"):
        Answerer(recommender, AnswerConfig(distinct="brand"), fields)
    with pytest.raises(InputError, match="need the columns of the items"):
        Answerer(recommender, config)


def test_the_rule_of_fusion_is_the_best_on_validation_unless_named(recommender, queries, monkeypatch):
    best, _, worst = recommender.fusions
    assert list(recommender.fusions.values()) == sorted(recommender.fusions.values(), reverse=True)
    ways = {
        rule: Answerer(recommender, AnswerConfig(k=5, fusion=rule)).answer(queries, "hybrid").ranking.items
        for rule in ("auto", "learned", "linear", "rrf")
    }
    np.testing.assert_array_equal(ways["auto"], ways[best])
    assert not np.array_equal(ways["auto"], ways[worst])
    assert not np.array_equal(ways["linear"], ways["rrf"])
    monkeypatch.setattr(recommender, "fusions", {"rrf": 0.2, "learned": 0.1})
    np.testing.assert_array_equal(
        Answerer(recommender, AnswerConfig(k=5)).answer(queries, "hybrid").ranking.items, ways["rrf"]
    )


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
    with pytest.raises(InputError, match="k=0 must be at least 1"):
        AnswerConfig(k=0)


def test_unknown_mode(recommender, queries):
    with pytest.raises(InputError, match="Unknown mode 'best': use one or more of generative, ann, hybrid"):
        Answerer(recommender, AnswerConfig()).answer(queries, "best")


@pytest.mark.parametrize(
    ("off", "trained", "refused"),
    [("code_weight", ("ann",), "hybrid"), ("contrastive_weight", ("generative",), "ann")],
)
def test_a_mode_without_its_head_is_refused(recommender, queries, monkeypatch, off, trained, refused):
    monkeypatch.setattr(recommender.model, "config", replace(recommender.model.config, **{off: 0.0}))
    answerer = Answerer(recommender, AnswerConfig(k=5, beam=5))
    assert answerer.modes == trained
    with pytest.raises(InputError, match=f"not trained for mode '{refused}': use {trained[0]}, or train"):
        answerer.answer(queries, refused)
    assert (answerer.answer(queries, trained[0]).ranking.items >= 0).all()


def test_a_budget_gives_every_action_its_places(recommender, queries):
    answerer = Answerer(recommender, AnswerConfig(k=10, beam=40, budget=(("click", 7), ("conversion", 3))))
    for mode in ("generative", "ann", "hybrid"):
        joined = answerer.answer(queries, mode).ranking.items
        by_action = [
            Answerer(recommender, AnswerConfig(k=10, beam=40, action=name)).answer(queries, mode).ranking.items
            for name in ("click", "conversion")
        ]
        assert joined.shape == (20, 10)
        for row, clicks, conversions in zip(joined, *by_action, strict=True):
            assert len(set(row)) == 10
            assert set(clicks[:7]) | set(conversions[:3]) <= set(row) | set(clicks[:7]) & set(conversions)
            assert set(row) <= set(clicks) | set(conversions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": -1.0}, r"eta=-1\.0 must be at least 0 and finite"),
        ({"eta": float("nan")}, "eta=nan must be"),
        ({"budget": (("click", 0),)}, "must name each action once, with at least one place"),
        ({"budget": (("click", 5), ("click", 5))}, "must name each action once"),
        ({"budget": (("click", 7),)}, "The budget has 7 places, but k=10"),
        ({"fallback": ("long",)}, "Unknown reason to fall back 'long': use any of short, unsure, new"),
        ({"sure": 1.5}, r"sure=1\.5 must be a probability"),
        ({"fusion": "sum"}, "Unknown rule of fusion 'sum': use one of learned, linear, rrf"),
    ],
)
def test_budgets_and_weights_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        AnswerConfig(**settings)


def test_a_budget_of_an_unknown_action(recommender, queries):
    with pytest.raises(InputError, match="Unknown action 'sale'; known: any, exposure, click, conversion"):
        Answerer(recommender, AnswerConfig(k=2, budget=(("sale", 2),))).answer(queries, "ann")
