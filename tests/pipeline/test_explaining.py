"""What is said of a list against the list itself, the heads asked directly, and loops over the history."""

import json
from dataclasses import replace

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import evidence
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.explaining import explain_query, query_of
from semid.pipeline.explanation import QueryExplanation
from semid.pipeline.histories import queries_of_split
from semid.pipeline.recommending import recommend

MODES = ("generative", "ann", "hybrid")
CONFIGS = {
    "as generate": {},
    "short lists, narrow beam": {"k": 4, "beam": 6},
    "without what was seen": {"filter_seen": True},
    "exact": {"k": 5, "beam": 5, "exact": True},
    "another action": {"action": "conversion", "eta": 0.7},
    "answered by the hybrid": {"fallback": ("unsure",), "sure": 0.9, "beam": 13},
    "the heads alone": {"fusion": "linear"},
    "reciprocal ranks": {"fusion": "rrf"},
}


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def recommender(road) -> GenerativeRecommender:
    return GenerativeRecommender.load(road.folder / "runs/model")


@pytest.fixture(scope="module")
def users(dataset: Dataset) -> list[int]:
    """With histories of different lengths."""
    queries = dataset.queries["test"]
    order = np.argsort(queries.end - queries.start, kind="stable")
    return queries.users[order[:: len(order) // 5]].tolist()


def explained(
    recommender: GenerativeRecommender, dataset: Dataset, user: int, split: str = "test", **config: object
) -> tuple[Answerer, Queries, QueryExplanation]:
    answerer, query = Answerer(recommender, AnswerConfig(**config)), query_of(dataset, user, split)
    return answerer, query, explain_query(answerer, dataset, query)


@pytest.mark.parametrize("name", CONFIGS)
def test_lists_are_those_of_generate(recommender, dataset, users, name) -> None:
    """Places, ids, scores, proofs and fallbacks, from the rows of ``semid generate`` for the whole split."""
    answerer = Answerer(recommender, AnswerConfig(**CONFIGS[name]))
    rows = [
        row
        for batch in recommend(answerer, dataset, queries_of_split(dataset, "test"), MODES)
        for row in batch.to_pylist()
    ]
    asked = {(row["user_id"], row["mode"]): row for row in rows}
    for user in users:
        *_, found = explained(recommender, dataset, user, **CONFIGS[name])
        assert found.modes == MODES
        for mode in MODES:
            row, listed = asked[found.user, mode], found.listed(mode)
            assert [item.item.id for item in listed] == row["items"]
            assert [item.ranks[mode] for item in listed] == list(range(1, len(listed) + 1))
            np.testing.assert_allclose([item.score(mode) for item in listed], row["scores"], rtol=1e-4, atol=1e-4)
            assert (found.exact[mode], found.fallback[mode]) == (row["exact"], row["fallback"])
        assert found.to_dict()["lists"] == {mode: asked[found.user, mode]["items"] for mode in MODES}
    fell = {row["fallback"] for row in asked.values()}
    assert fell == ({None, "unsure"} if name == "answered by the hybrid" else {None})


@pytest.mark.parametrize("name", CONFIGS)
def test_items_are_what_the_heads_say(recommender, dataset, users, name) -> None:
    codes, ids = recommender.catalogue.codes.numpy(), dataset.item_ids.tolist()
    for user in users:
        answerer, query, found = explained(recommender, dataset, user, **CONFIGS[name])
        states = answerer.encode(query)
        rows = np.array([ids.index(item.item.id) for item in found.items])
        log_probs = recommender.code_scores(states, rows[None])[0]
        cosines = recommender.item_vectors[rows] @ recommender.query_vectors(states)[0]
        for item, row, log_prob, cosine in zip(found.items, rows, log_probs, cosines, strict=True):
            assert item.codes == tuple(codes[row].tolist())
            assert len(item.log_probs) == len(item.codes)
            assert max(item.log_probs) <= 1e-5
            assert item.log_prob == pytest.approx(log_prob, abs=1e-4)
            assert item.cosine == pytest.approx(cosine, abs=1e-5)
            assert item.new == (dataset.train_counts[row] == 0)
            weights = found.weights["generative"]
            assert item.evidence["generative"].get("generative", 0) == pytest.approx(
                weights["generative"] * log_prob, abs=1e-4
            )
            scale = float(recommender.model.scale.detach())
            assert item.evidence["ann"]["dense"] == pytest.approx(
                found.weights["ann"]["dense"] * scale * cosine, abs=1e-3
            )


def test_evidence_is_weighed_as_the_mode_weighs(recommender, dataset, users) -> None:
    *_, found = explained(recommender, dataset, users[2])
    for mode in MODES:
        named = {name for name, weight in recommender.weights[mode].items() if weight}
        assert all(set(item.evidence[mode]) == named for item in found.items)
        assert found.weights[mode] == recommender.weights[mode]
    *_, told = explained(recommender, dataset, users[2], eta=0.25, action="conversion")
    assert all(weights["action"] == 0.25 for weights in told.weights.values())
    assert (found.action, told.action) == (recommender.usual_action, "conversion")


def test_targets_are_there_and_marked(recommender, dataset) -> None:
    """A target that nobody lists is explained too."""
    answerer, hits, missed = Answerer(recommender), 0, 0
    for user in dataset.queries["test"].users[:20].tolist():
        query = query_of(dataset, user, "test")
        found = explain_query(answerer, dataset, query)
        targets = dataset.item_ids[query.target_items].tolist()
        assert {item.item.id for item in found.items if item.target} == set(targets)
        for item in found.items:
            listed = any(item.ranks.values())
            assert listed or item.target
            hits, missed = hits + (item.target and listed), missed + (item.target and not listed)
        summary = dict(found.summary_rows())
        assert summary["came next"] == ", ".join(map(str, dict.fromkeys(targets)))
        assert ("hits" in summary) == any(item.target and any(item.ranks.values()) for item in found.items)
    assert hits
    assert missed


def test_where_they_come_from(recommender, dataset, users) -> None:
    """Beams, nearest vectors, followers and history, each asked by itself."""
    codes, ids, seen = recommender.catalogue.codes.tolist(), dataset.item_ids.tolist(), set()
    strengths = recommender.transitions.strengths.toarray()
    for user in users:
        answerer, query, found = explained(recommender, dataset, user, k=10, beam=20)
        states = answerer.encode(query)
        history = query.log.items[query.start[0] : query.end[0]].tolist()
        past = np.array([history])
        beams = recommender.generate(states, beam=20, k=20, seen=past).items[0].tolist()
        vectors = answerer.index.search(recommender.query_vectors(states), 20, past).items[0].tolist()
        followers = recommender.transitions.after(query).best(20, recommender.candidates).items[0].tolist()
        content = evidence.content_of(recommender)
        alike = content.ranking(query, recommender.candidates, 20, past).items[0].tolist()
        again = [row for row in dict.fromkeys(history[::-1]) if row in recommender.candidates]
        for item in found.items:
            row = ids.index(item.item.id)
            expected = {"history": again, "beams": beams, "vectors": vectors}
            if row not in history:
                expected["followers"], expected["content"] = followers, alike
            assert item.found_by == {name: rows.index(row) + 1 for name, rows in expected.items() if row in rows}
            assert item.found_by or item.target
            seen |= set(item.found_by)

            shared = [sum(np.logical_and.accumulate(np.equal(codes[row], codes[event]))) for event in history[::-1]]
            assert item.shared == max(shared)
            if max(shared):
                back = shared.index(max(shared))
                assert (item.like.item.id, item.like.back) == (ids[history[::-1][back]], back)
            else:
                assert item.like is None
            parts = [0.7**back * strengths[event, row] for back, event in enumerate(history[::-1][:20])]
            assert (item.follows is None) == (max(parts) == 0)
            if item.follows is not None:
                assert item.follows.back == int(np.argmax(parts))
                assert item.follows.item.id == ids[history[::-1][item.follows.back]]
    assert seen == {"beams", "vectors", "followers", "content", "history"}


def test_the_last_events(recommender, dataset, users) -> None:
    answerer, query, whole = explained(recommender, dataset, users[-1])
    log, span = query.log, range(int(query.start[0]), int(query.end[0]))
    found = explain_query(answerer, dataset, query, events=3)
    assert found.num_events == len(span) > 3
    for event, at in zip(found.events, span[-3:], strict=True):
        assert event.item.id == dataset.item_ids[log.items[at]]
        assert event.action == (dataset.action_names[log.actions[at]] if log.actions[at] >= 0 else None)
        assert event.time == log.times[at]
    assert [row[0] for row in found.event_rows()] == ["event", "0", "1", "2"]
    assert found.event_rows()[1][1] == str(found.events[-1].item.id)
    assert len(whole.events) == min(10, len(span))
    assert explain_query(answerer, dataset, query, events=0).events == ()


def test_tables_and_json_hold_the_same(recommender, dataset, users) -> None:
    *_, found = explained(recommender, dataset, users[1], k=5)
    plain = json.loads(json.dumps(found.to_dict()))
    assert [item["item"]["id"] for item in plain["items"]] == [item.item.id for item in found.items]
    assert plain["items"][0]["log_prob"] == found.items[0].log_prob
    assert plain["items"][0]["scores"] == {mode: found.items[0].score(mode) for mode in MODES}
    header, *rows = found.list_rows()
    assert header == ("place", *MODES)
    assert [row[1].removesuffix(" *") for row in rows] == list(map(str, plain["lists"]["generative"]))
    assert len(found.item_rows()) == 1 + len(found.items)
    _, *rows = found.evidence_rows("hybrid")
    scores = [float(row[2]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert float(row[2]) == pytest.approx(sum(map(float, row[3:])), abs=0.05)


@pytest.mark.parametrize("weight", ["code_weight", "contrastive_weight"])
def test_a_model_of_one_head(recommender, dataset, users, weight, monkeypatch) -> None:
    monkeypatch.setattr(recommender.model, "config", replace(recommender.model.config, **{weight: 0.0}))
    *_, found = explained(recommender, dataset, users[0])
    [mode] = found.modes
    assert mode == ("ann" if weight == "code_weight" else "generative")
    assert all((item.log_prob is None) == (mode == "ann") for item in found.items)
    assert all((item.cosine is None) == (mode == "generative") for item in found.items)
    assert len(found.evidence_rows(mode)) == 1 + len(found.items)
    assert ("cosine" in found.item_rows()[0]) == (mode == "ann")
    assert "followers" not in {name for item in found.items for name in item.found_by}


def with_queries(dataset: Dataset, users: list[int]) -> Dataset:
    """One test query for each of these users, after as many events as it stands in the list."""
    ends = dataset.events.offsets[users] + np.arange(1, len(users) + 1)
    targets = np.arange(len(users) + 1)
    queries = Queries(
        dataset.events, np.array(users), dataset.events.offsets[users], ends, targets[:-1], targets[:-1], targets
    )
    return replace(dataset, queries={"valid": dataset.queries["valid"], "test": queries})


def test_which_query(dataset: Dataset) -> None:
    user, other = (int(user) for user in np.flatnonzero(np.diff(dataset.events.offsets) > 5)[:2])
    several = with_queries(dataset, [user, other, user])
    start = dataset.events.offsets[user]
    assert [int(query_of(several, user, "test", number).end[0] - start) for number in (None, 1, 2)] == [3, 1, 3]
    assert query_of(several, user, "test").target_items.tolist() == [2]
    after = query_of(several, user, "next")
    assert (after.start[0], after.end[0]) == tuple(dataset.events.offsets[[user, user + 1]])
    assert len(after.target_items) == 0
    name = repr(dataset.user_ids[user])
    with pytest.raises(InputError, match=rf"User {name} has queries 1..2 in split 'test', so there is no query 3\."):
        query_of(several, user, "test", 3)
    with pytest.raises(InputError, match="there is no query 0"):
        query_of(several, user, "test", 0)


def test_a_user_without_a_query(dataset: Dataset) -> None:
    valid = dataset.queries["valid"]
    user = int(valid.users[0])
    other = int(valid.users[1])
    with pytest.raises(
        InputError,
        match=rf"User {dataset.user_ids[user]!r} has no query in split 'test': use valid, next, or another user\.",
    ):
        query_of(with_queries(dataset, [other]), user, "test")
    log = dataset.events
    empty = replace(dataset, events=replace(log, offsets=np.zeros_like(log.offsets)))
    with pytest.raises(InputError, match="has no events that anything could come after"):
        query_of(empty, user, "next")
    with pytest.raises(InputError, match="no queries in split 'dev'; splits with queries: valid, test"):
        query_of(dataset, user, "dev")


def test_what_is_not_known_comes_next(recommender, dataset, users) -> None:
    *_, found = explained(recommender, dataset, users[3], split="next")
    assert dict(found.summary_rows())["came next"] == "not known"
    assert not any(item.target for item in found.items)


def test_what_cannot_be(recommender, dataset, users) -> None:
    query = query_of(dataset, users[0], "test")
    with pytest.raises(InputError, match="-1 events cannot be named"):
        explain_query(Answerer(recommender), dataset, query, events=-1)
    budget = Answerer(recommender, AnswerConfig(k=3, budget=(("click", 2), ("conversion", 1))))
    with pytest.raises(InputError, match="ask for one action"):
        explain_query(budget, dataset, query)
    other = replace(dataset, artifact=replace(dataset.artifact_or_raise, checksum="0"))
    with pytest.raises(InputError, match="was made from another dataset"):
        explain_query(Answerer(recommender), other, query)
