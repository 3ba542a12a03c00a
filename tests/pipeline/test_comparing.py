import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.evaluation.metrics import evaluate
from semid.evaluation.targets import Targets
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import comparing
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import MODES, Answerer
from semid.pipeline.baselines import BASELINES
from semid.pipeline.comparing import Rivals, compare_modes


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def answerer(road) -> Answerer:
    return Answerer(GenerativeRecommender.load(road.folder / "runs/model"), AnswerConfig(k=10, beam=20))


untimed = partial(compare_modes, rivals=Rivals(baselines=("popularity",)), timed=False)


def test_figures_are_those_of_the_answers(dataset, answerer):
    comparison = untimed(answerer, dataset, "test", ks=(5, 10))
    queries = dataset.queries["test"]
    for mode in MODES:
        expected = evaluate(
            answerer.answer(queries, mode).ranking,
            Targets.of(queries, dataset.action_weights),
            ks=(5, 10),
            candidates=dataset.candidates,
            train_counts=dataset.train_counts,
        )
        found = comparison.modes[mode]
        assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_popularity_is_the_share_of_targets_among_the_most_taken(dataset, answerer):
    queries = dataset.queries["test"]
    counts = dataset.train_counts[dataset.candidates]
    top = dataset.candidates[np.argsort(-counts, kind="stable")[:10]]
    hits = np.isin(queries.target_items, top).mean()
    comparison = untimed(answerer, dataset, "test")
    assert comparison.modes["popularity"]["HitRate@10"] == pytest.approx(hits)


def test_targets_count_the_same_where_none_has_a_weight(dataset, answerer):
    unweighted = replace(dataset, action_weights=(0.0, 0.0, 0.0), artifact=None)
    modes = untimed(answerer, unweighted, "test").modes
    for metrics in modes.values():
        hit_rate, ndcg = metrics["HitRate@10"], metrics["NDCG@10"]
        assert metrics["Score@10"] == pytest.approx(0.31 * hit_rate + 0.69 * ndcg)


def test_a_sample_is_fixed_and_of_the_wanted_size(dataset, answerer):
    once, twice = (untimed(answerer, dataset, "test", max_queries=40) for _ in range(2))
    assert once.targets.queries == 40
    assert once.modes["ann"]["NDCG@10"] == twice.modes["ann"]["NDCG@10"]


def test_longer_lists_than_answered(dataset, answerer):
    with pytest.raises(InputError, match="Lists of 10 items cannot be judged at k=20"):
        untimed(answerer, dataset, "test", ks=(20,))


def test_the_index_tells_its_recall_of_exact_search(dataset, answerer):
    modes = untimed(answerer, dataset, "test").modes
    assert modes["ann"]["RecallOfExact@10"] == 1.0  # a small catalogue is searched flat
    assert "RecallOfExact@10" not in modes["generative"]
    rough = Answerer(answerer.recommender, AnswerConfig(k=10, beam=20, factory="IVF16,PQ2x4"))
    assert untimed(rough, dataset, "test").modes["ann"]["RecallOfExact@10"] < 1.0


def test_heads_that_were_not_trained_are_not_judged(dataset, answerer, monkeypatch):
    config = answerer.recommender.model.config
    monkeypatch.setattr(answerer.recommender.model, "config", replace(config, contrastive_weight=0.0))
    assert list(untimed(answerer, dataset, "test").modes) == ["popularity", "generative"]


def test_batches_change_nothing(dataset, answerer, monkeypatch):
    whole = untimed(answerer, dataset, "test").modes
    monkeypatch.setattr(comparing, "_BATCH_QUERIES", 7)
    told = []
    parts = untimed(answerer, dataset, "test", progress=lambda *facts: told.append(facts)).modes
    count = len(dataset.queries["test"])
    for mode in MODES:
        assert parts[mode]["NDCG@10"] == pytest.approx(whole[mode]["NDCG@10"])
        assert (mode, count, count) in told


def test_other_models_and_given_lists_are_judged_too(dataset, answerer, road, tmp_path):
    """The same model under another name has the same figures; so have its lists, read from a file, of a sample."""
    other = GenerativeRecommender.load(road.folder / "runs/model")
    lists = tmp_path / "mine.jsonl"
    answer = answerer.answer(dataset.queries["test"], "ann").ranking
    with lists.open("w") as file:
        for query, items in enumerate(answer.items):
            file.write(json.dumps({"query": query, "items": dataset.item_ids[items[items >= 0]].tolist()}) + "\n")
    rivals = Rivals(models={"other": other}, lists={"mine": lists})
    modes = compare_modes(answerer, dataset, "test", max_queries=50, rivals=rivals).modes
    assert list(modes) == [*BASELINES, *MODES, *(f"other {mode}" for mode in MODES), "mine"]
    for mode in MODES:
        assert modes[f"other {mode}"]["NDCG@10"] == pytest.approx(modes[mode]["NDCG@10"])
        costs = {"LatencyMs", "LatencyP99Ms", "Batch64Ms", "Batch64P99Ms", "QueriesPerSecond"}
        assert costs | {"IndexMB", "BuildSeconds"} <= set(modes[mode])
        assert modes[mode]["LatencyP99Ms"] >= modes[mode]["LatencyMs"] > 0
    assert modes["mine"]["NDCG@10"] == pytest.approx(modes["ann"]["NDCG@10"])
    parts = modes["generative"]["IndexMB"] + modes["ann"]["IndexMB"] + answerer.content_index.nbytes / 1e6
    assert modes["hybrid"]["IndexMB"] == pytest.approx(parts)
    trie = other.catalogue.trie
    bytes_of_trie = sum(a.nbytes for level in trie.levels for a in (level.codes, level.children)) + trie.items.nbytes
    assert modes["generative"]["IndexMB"] == pytest.approx(bytes_of_trie / 1e6)
    for names in ({"lists": {"ann": lists}}, {"models": {"ann": other}, "lists": {"ann ann": lists}}):
        with pytest.raises(InputError, match="Two ways to recommend are named"):
            untimed(answerer, dataset, "test", rivals=Rivals(**names))


def test_fallbacks_tell_their_share_and_what_they_changed(dataset, answerer):
    queries = dataset.queries["test"]
    config = AnswerConfig(k=10, beam=10, fallback=("unsure",), sure=0.5)
    falling = Answerer(answerer.recommender, config)
    modes = untimed(falling, dataset, "test").modes
    answer = falling.answer(queries, "generative")
    fell = answer.fallback == 2
    assert 0 < fell.mean() < 1
    hits = [(ranking.items == queries.target_items[:, None]).any(1) for ranking in (answer.ranking, answer.alone)]
    told = modes["generative"]
    assert told["FallbackShare"] == told["FallbackShare:unsure"] == pytest.approx(fell.mean())
    assert told["FallbackGain:unsure@10"] == pytest.approx(hits[0][fell].mean() - hits[1][fell].mean())
    assert "FallbackShare:short" not in told
    assert "FallbackShare" not in modes["hybrid"]
