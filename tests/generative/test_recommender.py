"""Every answer against its definition, and every way to ask wrongly."""

import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.data.plain_queries import queries_from_histories, seen_items
from semid.errors import InputError
from semid.generative import history_encoder as module
from semid.generative import model as model_module
from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeTree
from semid.generative.config import ActionConfig
from semid.generative.histories import BatchBuilder, query_segments
from semid.generative.history_encoder import QueryStates
from semid.generative.model import Model
from semid.generative.moe import MoEConfig
from semid.generative.recommender import GenerativeRecommender
from semid.ranking import Ranking

HISTORIES = [[3, 7], [1], [4, 4, 9, 2, 11, 13, 20, 21, 6, 5], [22, 23, 0]]
ALL_ITEMS = np.arange(24)


@pytest.fixture
def queries(rich: Dataset) -> Queries:
    return rich.split("test")


@pytest.fixture
def states(recommender: GenerativeRecommender, queries: Queries) -> QueryStates:
    return recommender.encode(queries)


def recommend(
    recommender: GenerativeRecommender,
    histories: list[Any] | Queries,
    *,
    beam: int = 50,
    k: int = 10,
    filter_seen: bool = False,
    action: str | None = None,
) -> Ranking:
    """By the codes alone."""
    queries = histories if isinstance(histories, Queries) else queries_from_histories(histories, 24)
    states = recommender.encode(queries, action or recommender.usual_action)
    return recommender.generate(states, beam=beam, k=k, seen=seen_items(queries) if filter_seen else None)


def everyone(states: QueryStates) -> np.ndarray:
    return np.tile(ALL_ITEMS, (len(states), 1))


@torch.no_grad()
@pytest.mark.parametrize(("action", "code"), [("any", 0), ("show", 1), ("buy", 3)])
def test_states_are_the_conditioned_last_tokens(
    recommender: GenerativeRecommender, queries: Queries, action: str, code: int
) -> None:
    model, builder = recommender.model, BatchBuilder(query_segments(queries, 8), profile=True)
    states = recommender.encode(queries, action).states
    assert states.shape == (len(queries), 16)
    for query in range(len(queries)):
        length = int(builder.lengths[query])
        assert length == min(queries.end[query] - queries.start[query], 8) + 1
        last = model.states(builder.build([[query]], length), recommender.catalogue)[:, -1]
        expected = model.conditioned(last, torch.tensor([code]))[0]
        torch.testing.assert_close(states[query], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("moe", [None, MoEConfig(num_experts=4, experts_per_token=2, hidden=8, shared_hidden=8)])
def test_company_in_a_batch_changes_nothing(
    build: Any, rich: Dataset, catalogue: Catalogue, queries: Queries, monkeypatch: pytest.MonkeyPatch, moe: Any
) -> None:
    made = GenerativeRecommender(build.model(catalogue, moe=moe), catalogue, rich.candidates, rich.action_names)
    together = made.encode(queries).states
    for query in range(len(queries)):
        alone = made.encode(queries.select(np.array([query]))).states
        torch.testing.assert_close(alone[0], together[query], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "_BATCH_QUERIES", 3)
    torch.testing.assert_close(made.encode(queries).states, together, rtol=1e-4, atol=1e-5)


def test_item_vectors_do_not_depend_on_blocks(
    recommender: GenerativeRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, catalogue = recommender.model, recommender.catalogue
    with torch.no_grad():
        expected = model.item_vectors(model.items(catalogue, torch.arange(24))).numpy()
    monkeypatch.setattr(model_module, "_ENCODE_ROWS", 5)
    again = GenerativeRecommender(model, catalogue, recommender.candidates, recommender.action_names)
    np.testing.assert_allclose(again.item_vectors, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(again.item_vectors, axis=1), 1, rtol=1e-5)


def test_vectors_follow_the_weights_when_told(build: Any, rich: Dataset, catalogue: Catalogue) -> None:
    made = GenerativeRecommender(build.model(catalogue), catalogue, rich.candidates, rich.action_names)
    states = made.encode(rich.split("test"))
    before = made.item_vectors
    made.code_scores(states, everyone(states))
    build.randomise(made.model)
    made.weights_changed()
    states = made.encode(rich.split("test"))
    assert not np.allclose(made.item_vectors, before)
    afresh = GenerativeRecommender(made.model, catalogue, rich.candidates, rich.action_names)
    items = everyone(states)
    np.testing.assert_array_equal(made.code_scores(states, items), afresh.code_scores(states, items))
    expected = made.query_vectors(states) @ made.item_vectors.T * made.model.scale.item()
    np.testing.assert_allclose(made.dense_scores(states, everyone(states)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dense_scores_are_scaled_cosines(recommender: GenerativeRecommender, states: QueryStates) -> None:
    model, catalogue = recommender.model, recommender.catalogue
    vectors = F.normalize(states.states, dim=1).double()
    items = model.item_vectors(model.items(catalogue, torch.arange(24))).double()
    expected = (vectors @ items.T * float(model.scale)).numpy()
    scores = recommender.dense_scores(states, everyone(states))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    from_vectors = recommender.query_vectors(states) @ recommender.item_vectors.T * float(model.scale)
    np.testing.assert_allclose(from_vectors, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("node_vector_items", [24, 0])
def test_code_scores_are_log_probabilities_of_the_codes(
    build: Any, rich: Dataset, catalogue: Catalogue, states: QueryStates, node_vector_items: int
) -> None:
    model, codes = build.model(catalogue, node_vector_items=node_vector_items), catalogue.codes
    made = GenerativeRecommender(model, catalogue, rich.candidates, rich.action_names)
    scores = made.code_scores(states, everyone(states))
    np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1, rtol=1e-4)
    means = catalogue.trie.mean_vectors(torch.from_numpy(made.item_vectors))
    tree = CodeTree(catalogue.trie, means if node_vector_items else None)
    for query in range(len(states)):
        for item in (0, 5, 17, 23):
            logits = build.code_logits(
                model.code_decoder, states.states[query : query + 1], codes[item : item + 1], tree
            )
            levels = zip(logits, codes[item].tolist(), strict=True)
            total = sum(float(F.log_softmax(part.double(), dim=-1)[0, code]) for part, code in levels)
            assert scores[query, item] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("layout", ["item", "code"])
def test_level_scores_are_the_probabilities_of_prefixes(
    build: Any, rich: Dataset, states: QueryStates, layout: str
) -> None:
    """All items under a prefix are together as probable as the codes of the prefix, one after the other."""
    catalogue = build.catalogue(rich)
    made = GenerativeRecommender(build.model(catalogue, layout=layout), catalogue, rich.candidates, rich.action_names)
    states = made.encode(states.queries)
    codes, scores = catalogue.codes.numpy(), made.code_scores(states, everyone(states)).astype(np.float64)
    levels = made.level_scores(states, everyone(states))
    assert levels.shape == (len(states), 24, 3)
    np.testing.assert_allclose(levels.sum(-1), scores, rtol=1e-5, atol=1e-5)
    for item in range(24):
        for depth in (1, 2, 3):
            under = (codes[:, :depth] == codes[item, :depth]).all(1)
            together = np.log(np.exp(scores[:, under]).sum(1))
            np.testing.assert_allclose(levels[:, item, :depth].sum(-1), together, rtol=1e-4, atol=1e-4)


def test_no_action_is_likelier_than_its_bound(recommender: GenerativeRecommender, rich: Dataset) -> None:
    everything = np.tile(np.arange(24), (len(rich.split("test")), 1))
    for action in ("show", "click", "buy"):
        states = recommender.encode(rich.split("test"), action)
        highest, bound = recommender.action_scores(states, everything).max(1), recommender.action_bound(states)
        assert (bound >= highest - 1e-5).all()
        assert (bound < -1e-3).any()
    assert not recommender.action_bound(recommender.encode(rich.split("test"), "any")).any()


def test_padding_scores_nothing(recommender: GenerativeRecommender, states: QueryStates) -> None:
    items = np.array([[3, -1, 4], [-1, -1, -1], [1, 2, -1]])
    few = QueryStates(states.states[:3], states.queries.select(np.arange(3)))
    for score in (recommender.code_scores, recommender.dense_scores, recommender.level_scores):
        scores, full = score(few, items), score(few, np.maximum(items, 0))
        assert (scores[items < 0] == -np.inf).all()
        np.testing.assert_allclose(scores[items >= 0], full[items >= 0], rtol=1e-5)


def test_generated_lists_are_the_best_candidates_by_code_score(
    recommender: GenerativeRecommender, states: QueryStates
) -> None:
    """With a beam as wide as the catalogue; items 0 and 5 are no candidates."""
    found = recommender.generate(states, beam=22, k=22)
    scores = recommender.code_scores(states, everyone(states))
    scores[:, [0, 5]] = -np.inf
    assert np.array_equal(found.items, np.argsort(-scores, axis=1, kind="stable")[:, :22])
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.items, axis=1), rtol=1e-4, atol=1e-4)
    assert found.exact is not None
    assert found.exact.all()
    asked_for_more = recommender.generate(states, beam=30, k=30)
    assert (asked_for_more.items[:, 22:] == -1).all()
    assert (asked_for_more.scores[:, 22:] == -np.inf).all()


@pytest.mark.parametrize("beam", [3, 6])
def test_narrow_beams_give_real_candidates_with_their_scores(
    recommender: GenerativeRecommender, states: QueryStates, beam: int
) -> None:
    found = recommender.generate(states, beam=beam, k=3)
    assert np.isin(found.items, recommender.candidates).all()
    assert all(len(set(row)) == 3 for row in found.items.tolist())
    expected = recommender.code_scores(states, found.items)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-4)


def test_seen_items_are_left_out(recommender: GenerativeRecommender, queries: Queries) -> None:
    free = recommend(recommender, queries, beam=24, k=22)
    filtered = recommend(recommender, queries, beam=24, k=22, filter_seen=True)
    for query in range(len(queries)):
        history = set(queries.log.items[queries.start[query] : queries.end[query]].tolist())
        kept = [item for item in free.items[query].tolist() if item not in history]
        assert filtered.items[query].tolist() == kept + [-1] * (22 - len(kept))


def test_seen_items_are_those_of_the_whole_history(queries: Queries) -> None:
    seen = seen_items(queries)
    for query in range(len(queries)):
        history = queries.log.items[queries.start[query] : queries.end[query]].tolist()
        assert seen[query].tolist() == history + [-1] * (seen.shape[1] - len(history))
    assert seen.shape[1] > 8  # longer than the context of the model


def test_plain_lists(recommender: GenerativeRecommender, rich: Dataset) -> None:
    """As queries of somebody unknown without times or actions; only the last 8 items count."""
    found = recommend(recommender, HISTORIES, beam=24, k=5)
    assert found.items.shape == found.scores.shape == (4, 5)
    for query, history in enumerate(HISTORIES):
        alone = recommend(recommender, [history], beam=24, k=5)
        assert np.array_equal(alone.items[0], found.items[query])
        np.testing.assert_allclose(alone.scores[0], found.scores[query], rtol=1e-4, atol=1e-4)
    shortened = recommend(recommender, [HISTORIES[2][-8:]], beam=24, k=5)
    np.testing.assert_allclose(shortened.scores[0], found.scores[2], rtol=1e-4, atol=1e-4)
    array = recommend(recommender, [np.array(history) for history in HISTORIES], beam=24, k=5)
    assert np.array_equal(array.items, found.items)


def test_the_wanted_action_changes_the_answer(recommender: GenerativeRecommender, queries: Queries) -> None:
    scores = [recommend(recommender, queries, beam=24, k=22, action=a).scores for a in ("any", "show", "buy")]
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])


def test_no_queries_no_answers(recommender: GenerativeRecommender) -> None:
    found = recommend(recommender, [], beam=5, k=3)
    assert found.items.shape == found.scores.shape == (0, 3)
    assert recommend(recommender, [], beam=5, k=3, filter_seen=True).items.shape == (0, 3)
    states = recommender.encode(queries_from_histories([], 24))
    assert recommender.query_vectors(states).shape == (0, 16)
    assert recommender.dense_scores(states, np.empty((0, 4), np.int64)).shape == (0, 4)
    assert recommender.code_scores(states, np.empty((0, 4), np.int64)).shape == (0, 4)


@pytest.mark.parametrize("profile", [True, False])
def test_an_empty_history_is_refused(build: Any, rich: Dataset, catalogue: Catalogue, profile: bool) -> None:
    features = ("id", "codes", "profile") if profile else ("id", "codes")
    made = GenerativeRecommender(
        build.model(catalogue, features=features), catalogue, rich.candidates, rich.action_names
    )
    with pytest.raises(InputError, match=r"Query 1 has an empty history \(2 such\): give each at least one item"):
        recommend(made, [[3], [], [4], []])
    with pytest.raises(InputError, match="Query 0 has an empty history"):
        recommend(made, [[]])


@pytest.mark.parametrize("item", [-1, 24, 2**31, 2**40, -(2**33)])
def test_items_outside_the_catalogue_are_refused(recommender: GenerativeRecommender, item: int) -> None:
    with pytest.raises(InputError, match=r"item rows outside 0\.\.23: map raw ids to rows first"):
        recommend(recommender, [[3], [4, item]])


def test_an_unknown_action_is_refused(recommender: GenerativeRecommender) -> None:
    with pytest.raises(InputError, match="Unknown action 'sell'; known: any, show, click, buy"):
        recommend(recommender, HISTORIES, action="sell")


def test_an_action_that_training_never_saw_is_refused(build: Any, rich: Dataset, catalogue: Catalogue) -> None:
    assert catalogue.trained_actions == (0, 1, 2)
    unsold = replace(catalogue, trained_actions=(0, 1))
    made = GenerativeRecommender(build.model(unsold), unsold, rich.candidates, rich.action_names)
    with pytest.raises(InputError, match=r"No training event had action 'buy'.*: ask for any, show, click"):
        recommend(made, HISTORIES, action="buy")
    recommend(made, HISTORIES, action="click")


def test_an_action_that_cannot_matter_is_warned_of(
    build: Any, rich: Dataset, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    model = build.model(catalogue, action=ActionConfig(condition=()))
    made = GenerativeRecommender(model, catalogue, rich.candidates, rich.action_names)
    with caplog.at_level(logging.WARNING):
        told = recommend(made, HISTORIES, action="buy")
    assert "'buy' changes nothing" in caplog.text
    assert np.array_equal(told.scores, recommend(made, HISTORIES).scores)


def saved(recommender: GenerativeRecommender, path: Path, **changes: Any) -> Path:
    recommender.save(path, **changes)
    return path


@pytest.mark.parametrize("moe", [None, MoEConfig(num_experts=4, experts_per_token=2, hidden=8, shared_hidden=8)])
def test_a_loaded_recommender_answers_the_same(
    build: Any, rich: Dataset, catalogue: Catalogue, queries: Queries, tmp_path: Path, moe: Any
) -> None:
    model = build.model(catalogue, moe=moe)
    for layer in model.experts():
        layer.bias += torch.tensor([0.5, 0.0, -0.5, 0.25])
    made = GenerativeRecommender(model, catalogue, np.arange(2, 20), rich.action_names)
    log = [{"epoch": 1, "loss_total": 2.5}, {"epoch": 2, "loss_total": 1.5}]
    made.weights, made.usual_action = {"ann": {"dense": 0.25, "repeat": -1.0}}, "click"
    path = saved(made, tmp_path / "model", settings={"seed": 3}, history=log)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = GenerativeRecommender.load(path)
    finally:
        torch.set_warn_always(False)
    for action in ("any", "buy"):
        before, after = (recommend(r, queries, beam=8, k=5, filter_seen=True, action=action) for r in (made, loaded))
        assert np.array_equal(before.items, after.items)
        assert np.array_equal(before.scores, after.scores)
    assert np.array_equal(loaded.item_vectors, made.item_vectors)
    assert loaded.candidates.tolist() == list(range(2, 20))
    assert loaded.action_names == rich.action_names
    assert loaded.artifact is not None
    assert loaded.artifact.settings == {"seed": 3}
    assert (loaded.weights, loaded.usual_action, loaded.transitions) == (made.weights, "click", None)
    assert not loaded.model.training
    lines = (path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == log


def test_loading_what_is_not_there_or_not_a_model(recommender: GenerativeRecommender, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No model at .*: make one with `semid train`"):
        GenerativeRecommender.load(tmp_path)
    path = saved(recommender, tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    for change, message in (
        ({"kind": "tokenizer"}, "is a tokenizer, not a model: make one with `semid train`"),
        ({"format_version": 99}, "has format version 99 but this semid reads version 1"),
    ):
        (path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=message):
            GenerativeRecommender.load(path)


@pytest.mark.parametrize("name", ["model.safetensors", "catalogue.safetensors"])
def test_loading_a_damaged_model(recommender: GenerativeRecommender, tmp_path: Path, name: str) -> None:
    path = saved(recommender, tmp_path / "model")
    contents = bytearray((path / name).read_bytes())
    contents[len(contents) // 2] ^= 255
    (path / name).write_bytes(contents)
    with pytest.raises(InputError, match=f"{name} does not match its checksum"):
        GenerativeRecommender.load(path)
    (path / name).write_bytes(contents[:-9])
    with pytest.raises(InputError, match=f"{name} is missing or truncated"):
        GenerativeRecommender.load(path)
    (path / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing or truncated"):
        GenerativeRecommender.load(path)


def test_loading_a_model_of_before_its_evidence_was_weighed(
    recommender: GenerativeRecommender, tmp_path: Path
) -> None:
    path = saved(recommender, tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    del config["details"]["fusions"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="trained by an earlier semid: train the model again"):
        GenerativeRecommender.load(path)


def test_loading_weights_of_another_shape(recommender: GenerativeRecommender, tmp_path: Path) -> None:
    path = saved(recommender, tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    config["details"]["model"]["hidden"] = 32
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="do not fit its configuration: train the model again"):
        GenerativeRecommender.load(path)


def test_items_that_share_their_codes_are_all_found(build: Any, rich: Dataset, catalogue: Catalogue) -> None:
    shared = replace(catalogue, codes=catalogue.codes[torch.arange(24) // 2 * 2])
    made = GenerativeRecommender(build.model(shared), shared, ALL_ITEMS, rich.action_names)
    assert not SemanticIds(shared.codes.int().numpy(), shared.num_codes).is_unique
    found = recommend(made, HISTORIES, beam=24, k=24)
    assert np.array_equal(np.sort(found.items, axis=1), np.tile(ALL_ITEMS, (4, 1)))
    assert np.array_equal(found.items[:, ::2] + 1, found.items[:, 1::2])


def test_the_model_is_put_into_evaluation_mode(build: Any, rich: Dataset, catalogue: Catalogue) -> None:
    model: Model = build.model(catalogue).train()
    GenerativeRecommender(model, catalogue, rich.candidates, rich.action_names)
    assert not model.training


@pytest.mark.parametrize("layout", ["item", "code"])
def test_products_in_bf16_change_scores_by_their_rounding(
    build: Any, rich: Dataset, catalogue: Catalogue, queries: Queries, layout: str
) -> None:
    """All log-probabilities, told an action and not, are near those of float32, and sums stay float32."""
    model = build.model(catalogue, layout=layout)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        made = GenerativeRecommender(model, catalogue, ALL_ITEMS, rich.action_names, dtype)
        states = made.encode(queries, "buy")
        assert states.states.dtype == torch.float32
        by_search = made.generate(states, beam=24, k=24)
        assert by_search.scores.dtype == np.float32
        every = made.code_scores(states, everyone(states))
        tolerance = 1e-4 if dtype == torch.float32 else 0.05
        np.testing.assert_allclose(by_search.scores, -np.sort(-every), rtol=0, atol=tolerance)
        found.append(np.stack([every, made.action_scores(states, everyone(states))]))
    error = np.abs(found[0] - found[1])
    assert 1e-4 < error.max() < 0.15
