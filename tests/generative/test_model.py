"""What a state may depend on, what the losses are made of, and how a configuration goes wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.errors import InputError
from semid.generative.catalogue import Catalogue
from semid.generative.clock import SIZES, columns_of
from semid.generative.config import (
    FEATURES,
    MAX_SCALE,
    ActionConfig,
    InputConfig,
    ModelConfig,
    TrunkConfig,
)
from semid.generative.histories import BatchBuilder, TokenBatch
from semid.generative.model import Model
from semid.generative.moe import MoE, MoEConfig
from semid.generative.presets import PRESETS

MOE = MoEConfig(num_experts=4, experts_per_token=2, hidden=8, shared_hidden=8)
CONDITIONS = ("add", "gate", "film", "bias", "late")
# Of each kind of trunk and input at least one: what must hold for any model is checked on all of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "experts": {"moe": MOE},
    "hstu": {"trunk": TrunkConfig(block="hstu", norm="none", positions="learned", time_bias=True)},
    "hstu, rotary": {"trunk": TrunkConfig(block="hstu", norm="post", head_width=6)},
    "post-norm": {"trunk": TrunkConfig(norm="post", feed_forward="relu", positions="learned")},
    "window, qk-norm": {"trunk": TrunkConfig(qk_norm=True, window=3), "layers": 1},
    "real time": {"trunk": TrunkConfig(positions="time", time_bias=True)},
    "both positions": {"trunk": TrunkConfig(positions="both", norm="none")},
    "told in the trunk": {"action": ActionConfig(condition=CONDITIONS)},
    "all features": {"features": FEATURES, "inputs": InputConfig(user_film=True)},
    "gated": {"features": FEATURES, "inputs": InputConfig(join="gated", part_width=6, id_width=5, user_film=True)},
    "layout code": {"layout": "code", "trunk": TrunkConfig(time_bias=True, window=3), "layers": 1},
    "mlp": {"inputs": InputConfig(join="mlp", part_width=12)},
    "linear": {"inputs": InputConfig(join="linear"), "similarity": "dot"},
}
COLUMN_SIZES = [size for group in SIZES.values() for size in group]
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


def changed(batch: TokenBatch, where: Tensor) -> TokenBatch:
    """Other items, actions, times and users at some tokens."""
    generator = torch.Generator().manual_seed(9)

    def other(values: Tensor, size: int) -> Tensor:
        moved = (values + torch.randint(1, size, values.shape, generator=generator)) % size
        return torch.where(where, moved, values)

    return replace(
        batch,
        items=other(batch.items, 24),
        actions=other(batch.actions, 4),
        clock=torch.stack(
            [other(column, size) for column, size in zip(batch.clock.unbind(-1), COLUMN_SIZES, strict=True)], dim=-1
        ),
        times=torch.where(where & (batch.times != TIME_MISSING), batch.times + 4321, batch.times),
        target_actions=other(batch.target_actions, 4),
        users=other(batch.users, 12),
    )


@torch.no_grad()
@every_variant
def test_states_see_neither_the_future_nor_other_segments(
    build: Any, catalogue: Catalogue, packed: TokenBatch, changes: dict[str, Any]
) -> None:
    model = build.model(catalogue, **changes)
    before = model.states(packed, catalogue)
    tokens = packed.segments.shape[1]
    for row in range(2):
        for place in range(0, int(packed.last_tokens()[row]) + 1, 3):
            visible = (packed.segments == packed.segments[row, place]) & (torch.arange(tokens) <= place)
            visible[1 - row] = False
            after = model.states(changed(packed, ~visible), catalogue)
            torch.testing.assert_close(after[row, place], before[row, place])
    last = packed.last_tokens()[0]
    here = (torch.arange(2)[:, None] == 0) & (torch.arange(tokens) == last)
    assert not torch.allclose(model.states(changed(packed, here), catalogue)[0, last], before[0, last])


@torch.no_grad()
@every_variant
def test_a_packed_row_equals_each_segment_alone(
    build: Any, catalogue: Catalogue, builder: BatchBuilder, packed: TokenBatch, changes: dict[str, Any]
) -> None:
    model = build.model(catalogue, **changes)
    states = model.states(packed, catalogue)
    for row, members in enumerate([[3, 0, 5, 1], [4, 2, 6]]):
        at = 0
        for member in members:
            length = int(builder.lengths[member])
            alone = model.states(builder.build([[member]], length), catalogue)
            torch.testing.assert_close(states[row, at : at + length], alone[0], rtol=1e-4, atol=1e-5)
            at += length


@torch.no_grad()
def test_items_encoded_before_give_the_same_states(build: Any, catalogue: Catalogue, packed: TokenBatch) -> None:
    model = build.model(catalogue)
    encoded = model.items(catalogue, torch.arange(catalogue.num_items))
    torch.testing.assert_close(model.states(packed, catalogue, encoded), model.states(packed, catalogue))


# Features that look at the same values are not told apart by changing these.
READING_THE_SAME = {
    name: pair for pair in (("codes", "prefixes"), ("profile", "user"), ("fourier", "graph")) for name in pair
}


def with_columns(batch: TokenBatch, columns: range) -> TokenBatch:
    """Other values in some columns of the clock."""
    clock = batch.clock.clone()
    clock[..., list(columns)] = clock[..., list(columns)].flip(0)
    return replace(batch, clock=clock)


@torch.no_grad()
@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_reaches_the_states(build: Any, catalogue: Catalogue, packed: TokenBatch, name: str) -> None:
    """Changing what a feature reads changes the states when it is on, and nothing when it is off."""
    lists = catalogue.item_lists[0]
    other_catalogue = {
        **dict.fromkeys(("codes", "prefixes"), replace(catalogue, codes=catalogue.codes.flip(0))),
        "content": replace(catalogue, content=catalogue.content.flip(0)),
        "fields": replace(catalogue, item_lists=(replace(lists, values=lists.values.flip(0)),)),
        "id": replace(catalogue, trained=~catalogue.trained),
        "graph": replace(catalogue, graph=replace(catalogue.graph, items=catalogue.graph.items.flip(0))),
    }
    other_batch = {
        "action": replace(packed, actions=packed.actions.flip(0)),
        "time": with_columns(packed, columns_of("time")),
        "session": with_columns(packed, columns_of("session")),
        "popularity": with_columns(packed, columns_of("popularity")),
        "fourier": replace(packed, times=packed.times.flip(0)),
        "profile": replace(packed, users=packed.users.flip(0)),
        "user": replace(packed, users=packed.users.flip(0)),
    }
    others = [feature for feature in FEATURES if feature not in READING_THE_SAME.get(name, (name,))]
    for switched_on in (True, False):
        model = build.model(catalogue, features=(*others, name) if switched_on else tuple(others))
        before = model.states(packed, catalogue)
        after = model.states(other_batch.get(name, packed), other_catalogue.get(name, catalogue))
        assert torch.allclose(before, after) != switched_on


@torch.no_grad()
def test_an_unknown_user_is_the_last_row(build: Any, catalogue: Catalogue, packed: TokenBatch) -> None:
    model = build.model(catalogue)
    nobody = model.states(replace(packed, users=torch.full_like(packed.users, -1)), catalogue)
    last = model.states(replace(packed, users=torch.full_like(packed.users, 12)), catalogue)
    assert torch.equal(nobody, last)


@torch.no_grad()
def test_vectors_have_unit_length_and_scale_is_bounded(build: Any, catalogue: Catalogue) -> None:
    model = build.model(catalogue)
    encoded = model.items(catalogue, torch.arange(24))
    inner = encoded / encoded.square().mean(1, keepdim=True).sqrt()
    expected = F.normalize(encoded + model.tower(inner), dim=-1)
    torch.testing.assert_close(model.item_vectors(encoded), expected)
    torch.testing.assert_close(model.query_vectors(3 * encoded).norm(dim=1), torch.ones(24))
    model.log_scale.fill_(2.0)
    assert float(model.scale) == pytest.approx(np.exp(2.0))
    model.log_scale.fill_(50.0)
    assert float(model.scale) == MAX_SCALE


def test_item_vectors_help_the_code_decoder_where_they_train_and_are_not_too_many(
    build: Any, catalogue: Catalogue
) -> None:
    vectors = torch.randn(24, 16, requires_grad=True)
    tree = build.model(catalogue).code_tree(catalogue, vectors)
    assert tree.trie is catalogue.trie
    assert tree.vectors is not None
    assert not any(level.requires_grad for level in tree.vectors)
    torch.testing.assert_close(tree.vectors[2], vectors[catalogue.trie.items.long()].detach())
    assert build.model(catalogue).code_tree(catalogue, None).vectors is None
    for changes in ({"node_vector_items": 23}, {"contrastive_weight": 0.0}):
        assert build.model(catalogue, **changes).code_tree(catalogue, vectors).vectors is None


def test_without_actions_there_is_no_condition(build: Any) -> None:
    bare = build.catalogue(build.dataset(build.log([[0, 1, 2], [2, 3]]), 4))
    model = build.model(bare)
    assert (model.condition, model.told, model.action_head, model.user) == (None, None, None, None)
    assert model.config.features == ("id", "codes", "content")
    states = torch.randn(2, 16)
    assert model.conditioned(states, torch.tensor([0, 1])) is states


def test_experts_stand_in_every_trunk_layer(build: Any, catalogue: Catalogue) -> None:
    model = build.model(catalogue, moe=MOE, layers=3)
    assert len(list(model.experts())) == 3
    assert all(isinstance(block.feed_forward, MoE) for block in model.trunk.blocks)
    assert not list(build.model(catalogue).experts())


def test_inner_width_and_presets() -> None:
    assert ModelConfig(width=128).inner == 352  # 128 · 8 / 3 = 341.3, up to a multiple of 32
    assert ModelConfig(width=128, hidden=100).inner == 100
    sizes = {name: PRESETS[name].model for name in ("tiny", "small", "base", "large", "sasrec")}
    assert {name: (c.width, c.layers, c.heads, c.kv_heads) for name, c in sizes.items()} == {
        "tiny": (64, 2, 4, 2),
        "small": (128, 2, 4, 2),
        "base": (256, 4, 4, 2),
        "large": (512, 8, 8, 4),
        "sasrec": (256, 2, 4, 2),
    }


def test_the_baseline_knows_ids_and_order_alone(build: Any, rich: Dataset, packed: TokenBatch) -> None:
    catalogue = build.catalogue(rich)
    model = Model(PRESETS["sasrec"].model.restricted_to(catalogue.available()), catalogue).eval()
    gone = replace(packed, actions=packed.actions * 0, clock=packed.clock * 0, times=packed.times * 0)
    other = build.catalogue(rich, (24,))
    assert torch.equal(model.states(gone, other), model.states(packed, catalogue))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(width=36, heads=4), "width=36 must be an even multiple of heads=4"),
        (lambda: ModelConfig(code_weight=-1.0), "code_weight=-1.0 must be at least 0 and finite"),
        (lambda: ModelConfig(contrastive_weight=float("nan")), "contrastive_weight=nan must be at least 0"),
        (lambda: ModelConfig(negatives=(("uniform", 9), ("uniform", 0))), "name a kind twice"),
        (lambda: ModelConfig(heads=4, kv_heads=3), "heads a multiple of kv_heads=3"),
        (lambda: ModelConfig(features=("id", "colour")), r"Unknown features \['colour'\]; known: id, codes"),
        (lambda: ModelConfig(features=("time", "action")), "needs at least one of the features id, codes"),
        (lambda: ModelConfig(contrastive_weight=0, code_weight=0), "nothing would be learned"),
        (lambda: ModelConfig(context=0), "context=0 must be at least 1"),
        (lambda: ModelConfig(decoder_layers=0), "decoder_layers=0 must be at least 1"),
        (lambda: ModelConfig(heads=0), "heads=0 must be at least 1"),
        (lambda: ModelConfig(dropout=1.0), r"dropout=1\.0 must be at least 0 and at most 0\.95"),
        (lambda: ModelConfig(negatives=(("easy", 5),)), "Negatives easy:5: kinds are uniform, popular, recent, hard"),
        (lambda: ModelConfig(negatives=(("hard", -1),)), "Negatives hard:-1: .* counts at least 0"),
        (lambda: ModelConfig(scale=0.0), r"scale=0\.0 must be above 0 and at most 100"),
    ],
)
def test_configurations_that_cannot_work(make: Callable[[], ModelConfig], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_restricting_to_what_no_item_has(build: Any) -> None:
    with pytest.raises(InputError, match="needs at least one of the features"):
        ModelConfig(features=("fields", "time")).restricted_to(("id", "codes", "time"))
