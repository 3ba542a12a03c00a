"""Layout ``code``. Oracle: the whole history with the next event behind it, read anew by the trunk."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING, EventLog, Queries
from semid.generative import history_encoder as module
from semid.generative.catalogue import Catalogue
from semid.generative.config import ActionConfig, ModelConfig, TrunkConfig
from semid.generative.histories import BatchBuilder, TokenBatch, query_segments, training_segments
from semid.generative.losses import action_loss
from semid.generative.model import Model
from semid.generative.negatives import NegativeSampler
from semid.generative.objective import Objective
from semid.generative.recommender import GenerativeRecommender
from semid.generative.trunk import code_places

TOLD = ActionConfig(condition=("add", "gate", "film", "bias", "late"))
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "hstu": {"trunk": TrunkConfig(block="hstu", norm="none", positions="learned", time_bias=True)},
    "real time": {"trunk": TrunkConfig(positions="both", time_bias=True, qk_norm=True)},
    "window": {"trunk": TrunkConfig(window=2, norm="post"), "layers": 1},
    "told in the trunk": {"action": TOLD},
    "one key a head": {"kv_heads": 4},
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


@pytest.fixture
def queries(rich: Dataset) -> Queries:
    """Histories of different lengths, one longer than the context."""
    split = rich.split("test")
    assert (split.end - split.start).max() > 8
    return split


def recommender_of(build: Any, rich: Dataset, catalogue: Catalogue, **changes: Any) -> GenerativeRecommender:
    model = build.model(catalogue, layout="code", **changes)
    return GenerativeRecommender(model, catalogue, np.arange(24), rich.action_names)


def continued(queries: Queries, query: int, items: Sequence[int]) -> Queries:
    """The history of one query with each of the items as a further event, which has no time and no action yet."""
    history = slice(int(queries.start[query]), int(queries.end[query]))
    columns = [queries.log.items[history], queries.log.actions[history], queries.log.times[history]]
    added = [np.array(items, np.int32), np.full(len(items), -1, np.int8), np.full(len(items), TIME_MISSING)]
    rows = [
        np.concatenate([np.append(column, value) for value in new])
        for column, new in zip(columns, added, strict=True)
    ]
    offsets = np.arange(len(items) + 1) * (len(columns[0]) + 1)
    return Queries.after(EventLog(*rows, offsets), np.full(len(items), queries.users[query]))


def read_anew(
    recommender: GenerativeRecommender, queries: Queries, query: int, items: np.ndarray, action: int
) -> tuple[BatchBuilder, TokenBatch, Tensor, Tensor]:
    """States (C, S, L + 1, D) of the history and each item, and the place of the last event of the history."""
    model = recommender.model
    longer = continued(queries, query, items.tolist())
    segments = query_segments(longer, model.config.context + 1)
    builder = BatchBuilder(segments, profile=model.config.profile_token, timeline=recommender.catalogue.timeline)
    batch = builder.build([[row] for row in range(len(items))], int(builder.lengths.max()))
    last = batch.last_tokens() - 1
    told = batch.target_actions.index_put((torch.arange(len(items)), last), torch.tensor(action))
    states, _ = model.token_states(batch, recommender.catalogue, None, told)
    return builder, batch, states, last


@torch.no_grad()
@every_variant
@pytest.mark.parametrize("action", ["any", "buy"])
def test_scores_equal_reading_everything_anew(
    build: Any, rich: Dataset, catalogue: Catalogue, queries: Queries, changes: dict[str, Any], action: str
) -> None:
    recommender = recommender_of(build, rich, catalogue, **changes)
    wanted = 0 if action == "any" else rich.action_names.index(action) + 1
    items = np.array([4, 0, 22, 7, 13])
    scores = recommender.code_scores(recommender.encode(queries, action), np.tile(items, (len(queries), 1)))
    model, trie = recommender.model, catalogue.trie
    for query in range(len(queries)):
        _, _, states, last = read_anew(recommender, queries, query, items, wanted)
        rows, told = torch.arange(5), torch.full((5,), wanted)
        known = [states[rows, last, -1], *states[rows, last + 1, :-2].unbind(1)]
        known = [model.conditioned(level, told) for level in known]
        query_vectors, tree = F.normalize(known[0], dim=-1), recommender._tree
        nodes, total = torch.zeros(5, dtype=torch.long), torch.zeros(5)
        for level, codes in enumerate(catalogue.codes[items].unbind(1)):
            logits = model.code_heads.logits(level, known[level], query_vectors, nodes, tree)
            total += logits.log_softmax(-1)[rows, codes]
            nodes = trie.step(level, nodes, codes)
        torch.testing.assert_close(torch.from_numpy(scores[query]), total, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@every_variant
def test_actions_are_judged_where_the_whole_item_is_known(
    build: Any, rich: Dataset, catalogue: Catalogue, queries: Queries, changes: dict[str, Any]
) -> None:
    recommender = recommender_of(build, rich, catalogue, **changes)
    items = np.array([4, 0, 22])
    judged = recommender.action_scores(recommender.encode(queries, "buy"), np.tile(items, (len(queries), 1)))
    for query in range(len(queries)):
        _, _, states, last = read_anew(recommender, queries, query, items, 0)
        after = states[torch.arange(3), last + 1, -2]
        logits = recommender.model.action_logits(after, recommender._item_vectors[items])
        expected = logits.log_softmax(-1)[:, rich.action_names.index("buy")]
        torch.testing.assert_close(torch.from_numpy(judged[query]), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_generated_lists_are_the_best_items_by_their_scores(
    build: Any, rich: Dataset, catalogue: Catalogue, queries: Queries
) -> None:
    recommender = recommender_of(build, rich, catalogue)
    states = recommender.encode(queries, "click")
    scores = recommender.code_scores(states, np.tile(np.arange(24), (len(queries), 1)))
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-4)
    found = recommender.generate(states, beam=24, k=5)
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :5], rtol=1e-4, atol=1e-4)
    assert (found.items == np.argsort(-scores, axis=1, kind="stable")[:, :5]).mean() > 0.95


def test_places_of_codes_are_those_of_the_event_before(build: Any) -> None:
    log = build.log([[3, 1], [2]], [[100, 200], [300]], [[0, 1], [1]])
    segments = query_segments(Queries.after(log, np.array([0, 1])), 5)
    batch = BatchBuilder(segments, profile=True).build([[0, 1]], 6)
    told = torch.tensor([[1, 2, 3, 2, 3, 0]])
    places = code_places(batch, told, 2)
    none = TIME_MISSING
    assert places.segments.tolist() == [[-1, -1, 0, 0, 0, 0, 0, 0, 0, -1, -1, 1, 1, 1, 1, -1, -1, -1]]
    assert places.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 0, 1, 2]]
    assert places.times.tolist()[0][2:9] == [none, none, none, 100, 100, 100, 200]
    assert places.times.tolist()[0][11:15] == [none, none, none, 300]
    assert places.actions.tolist()[0][2:9] == [0, 0, 0, 1, 0, 0, 2]
    assert places.next_actions.tolist()[0][2:9] == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("condition", [("late",), ("add", "late")])
def test_losses_are_those_of_every_event_read_alone(
    build: Any, rich: Dataset, catalogue: Catalogue, condition: tuple[str, ...]
) -> None:
    """Each target once, its codes from the states before them, its action where its last code is known."""
    model: Model = build.model(catalogue, layout="code", action=ActionConfig(condition=condition))
    segments = training_segments(rich, 8, profile=True, targets=True)
    batch = BatchBuilder(segments, profile=True, timeline=catalogue.timeline).build([[3, 5], [6], [0, 4]], 20)
    wanted = (batch.targets >= 0).nonzero()
    states, _ = model.token_states(batch, catalogue, None, batch.target_actions)
    targets, actions = batch.targets[batch.targets >= 0], batch.target_actions[batch.targets >= 0]
    assert torch.equal(batch.items[wanted[:, 0], wanted[:, 1] + 1], targets)
    vectors = model.item_vectors(model.items(catalogue, torch.arange(24)))
    tree = model.code_tree(catalogue, vectors)
    total, after = torch.zeros(()), []
    for (row, place), target, action in zip(wanted.tolist(), targets.tolist(), actions, strict=True):
        hidden = [states[row, place, -1], states[row, place + 1, 0], states[row, place + 1, 1]]
        hidden = [model.conditioned(level[None], action[None]) for level in hidden]
        query, node = F.normalize(hidden[0], dim=-1), torch.zeros(1, dtype=torch.long)
        for level, code in enumerate(catalogue.codes[target]):
            logits = model.code_heads.logits(level, hidden[level], query, node, tree)
            total = total + F.cross_entropy(logits, code[None]) / len(targets)
            node = catalogue.trie.step(level, node, code[None])
        after.append(states[row, place + 1, 2])
    sampler = NegativeSampler.of(rich, catalogue.codes[:, 0], {})
    losses = Objective(model, catalogue, sampler, torch.float32).losses(batch)
    torch.testing.assert_close(losses["codes"], total, rtol=1e-4, atol=1e-5)
    known = actions if condition == ("late",) else actions * 0
    expected = action_loss(model.action_logits(torch.stack(after), vectors[targets]), known)
    torch.testing.assert_close(losses["action"], expected, rtol=1e-4, atol=1e-5)


def test_every_training_event_is_a_target_once_in_both_layouts(rich: Dataset) -> None:
    def targets(by_codes: bool) -> list[int]:
        segments = training_segments(replace(rich), 3, profile=True, targets=by_codes)
        builder = BatchBuilder(segments, profile=True)
        batch = builder.build([[row] for row in range(len(segments))], int(builder.lengths.max()))
        return sorted(batch.targets[batch.targets >= 0].tolist())

    assert targets(True) == targets(False)


def test_a_code_layout_has_no_code_decoder(build: Any, catalogue: Catalogue) -> None:
    model = build.model(catalogue, layout="code")
    assert model.code_decoder is None
    assert ModelConfig(layout="code").layout == "code"


@torch.no_grad()
def test_histories_are_read_a_few_at_a_time(
    build: Any, rich: Dataset, catalogue: Catalogue, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as their attention may take memory; and none is padded to the length of those read at another time."""
    recommender = recommender_of(build, rich, catalogue)
    items = np.tile(np.arange(5), (len(queries), 1))
    states = recommender.encode(queries)
    whole, lists = recommender.code_scores(states, items), recommender.generate(states, beam=5, k=5)
    most = 3 * 4 * (4 * 4) ** 2  # three times four heads, four events of four tokens
    monkeypatch.setattr(module, "_CACHED_SCORES", most)
    parts = recommender.encoder._parts(np.array([1, 2, 4, 4, 4, 4, 4, 9, 2]))
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 6), (6, 7), (7, 8), (8, 9)]
    read, last_states = [], recommender.model.last_states

    def spy(batch: TokenBatch, *arguments: Any) -> Any:
        read.append((batch.items.shape, int(batch.last_tokens().max()) + 1))
        return last_states(batch, *arguments)

    monkeypatch.setattr(recommender.model, "last_states", spy)
    states = recommender.encode(queries)
    np.testing.assert_allclose(recommender.code_scores(states, items), whole, rtol=1e-4, atol=1e-4)
    again = recommender.generate(states, beam=5, k=5)
    np.testing.assert_array_equal(again.items, lists.items)
    np.testing.assert_allclose(again.scores, lists.scores, rtol=1e-4, atol=1e-4)
    assert len({tokens for (_, tokens), _ in read}) > 1
    assert all(tokens == longest for (_, tokens), longest in read)
    assert all(queries == 1 or queries * 4 * (4 * tokens) ** 2 <= most for (queries, tokens), _ in read)


@pytest.mark.parametrize("condition", [("late",), ("add", "late")])
def test_what_was_read_once_serves_all_questions(
    build: Any,
    rich: Dataset,
    catalogue: Catalogue,
    queries: Queries,
    monkeypatch: pytest.MonkeyPatch,
    condition: tuple[str, ...],
) -> None:
    """As the states of all queries together, which are too many to be kept and are read again for each."""
    recommender = recommender_of(build, rich, catalogue, action=ActionConfig(condition=condition))
    read, last_states = [], recommender.model.last_states

    def spy(batch: TokenBatch, *arguments: Any) -> Any:
        read.append(len(batch.items))
        return last_states(batch, *arguments)

    monkeypatch.setattr(recommender.model, "last_states", spy)

    def asked() -> tuple[Any, ...]:
        found: list[Any] = [[], [], [], [], []]
        order = np.concatenate(recommender.encoder.blocks(queries))
        for rows in recommender.encoder.blocks(queries):
            states, items = recommender.encode(queries.select(rows), "buy"), np.tile(np.arange(7), (len(rows), 1))
            ranking = recommender.generate(states, beam=5, k=5)
            parts = (ranking.items, ranking.scores, recommender.query_vectors(states))
            parts = (*parts, recommender.code_scores(states, items), recommender.action_scores(states, items))
            for into, part in zip(found, parts, strict=True):
                into.append(part)
        return tuple(np.concatenate(parts)[np.argsort(order)] for parts in found)

    once = asked()
    assert sum(read) == len(queries) * (1 if condition == ("late",) else 2)
    read.clear()
    monkeypatch.setattr(module, "_KEPT_NUMBERS", 0)
    assert len(recommender.encoder.blocks(queries)) == len(queries)
    monkeypatch.setattr(type(recommender.encoder), "blocks", lambda self, queries: [np.arange(len(queries))])
    again = asked()
    assert sum(read) > 3 * len(queries)
    np.testing.assert_array_equal(once[0], again[0])
    for mine, other in zip(once[1:], again[1:], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)
