"""The losses of the model: equal to their parts by hand, and told only what they may know."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.data.dataset import Dataset
from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeTree
from semid.generative.histories import TokenBatch
from semid.generative.losses import action_loss
from semid.generative.model import Model
from semid.generative.negatives import NegativeSampler
from semid.generative.objective import Objective
from semid.generative.presets import PRESETS


def by_hand(
    model: Model, batch: TokenBatch, catalogue: Catalogue, *, histories_count: bool = True
) -> dict[str, Tensor]:
    """The three losses from the public parts of the model, with or without the other targets of a history."""
    wanted = batch.targets >= 0
    targets, actions = batch.targets[wanted], batch.target_actions[wanted]
    raw = model.states(batch, catalogue)[wanted]
    states = model.conditioned(raw, actions)
    vectors = model.item_vectors(model.items(catalogue, torch.arange(catalogue.num_items)))
    logits = model.query_vectors(states) @ vectors.T * model.scale
    if not histories_count:
        for place, history in enumerate(batch.segments[wanted].tolist()):
            others = targets[batch.segments[wanted] == history]
            logits[place, others[others != targets[place]]] = -torch.inf
    codes = catalogue.codes[targets]
    tree = CodeTree(catalogue.trie, catalogue.trie.mean_vectors(vectors.detach()))
    return {
        "contrastive": F.cross_entropy(logits, targets),
        "codes": model.code_decoder(states, codes, tree),
        "action": action_loss(model.action_logits(raw, vectors[targets]), actions),
    }


def objective_of(
    model: Model, rich: Dataset, catalogue: Catalogue, dtype: torch.dtype = torch.float32, **counts: int
) -> Objective:
    return Objective(model, catalogue, NegativeSampler.of(rich, catalogue.codes[:, 0], counts), dtype)


def test_losses_are_those_of_the_parts(build: Any, rich: Dataset, catalogue: Catalogue, packed: TokenBatch) -> None:
    model = build.model(catalogue)
    expected = by_hand(model, packed, catalogue)
    objective = objective_of(model, rich, catalogue)
    losses = objective.losses(packed)
    assert list(losses) == ["contrastive", "codes", "action"]
    torch.testing.assert_close(losses, expected)
    total = 1.0 * expected["contrastive"] + 0.5 * expected["codes"] + 0.1 * expected["action"]
    torch.testing.assert_close(objective.total(losses), total)

    gradient = torch.autograd.grad(objective.total(losses), list(model.parameters()), allow_unused=True)
    wanted = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    for (name, _), mine, other in zip(model.named_parameters(), gradient, wanted, strict=True):
        assert mine is not None, name
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_bfloat16_losses_are_close(build: Any, rich: Dataset, catalogue: Catalogue, packed: TokenBatch) -> None:
    model = build.model(catalogue)
    exact = objective_of(model, rich, catalogue).losses(packed)
    rounded = objective_of(model, rich, catalogue, torch.bfloat16).losses(packed)
    for name, loss in exact.items():
        assert rounded[name].dtype == torch.float32
        assert rounded[name].item() == pytest.approx(loss.item(), rel=0.05)
        assert rounded[name].item() != loss.item()


@pytest.mark.parametrize(
    "counts",
    [{"uniform": 20_000}, {"uniform": 10_000, "popular": 5_000, "recent": 5_000, "hard": 5_000}],
    ids=["uniform", "all kinds"],
)
def test_sampled_losses_come_near_the_full_ones(
    build: Any, rich: Dataset, catalogue: Catalogue, packed: TokenBatch, counts: dict[str, int]
) -> None:
    """The full ones without the other targets of the same history, which count nowhere in a bank."""
    full = build.model(catalogue, scale=3.0)
    sampled = build.model(catalogue, scale=3.0, full_softmax_items=0)
    torch.manual_seed(0)
    expected = by_hand(full, packed, catalogue, histories_count=False)
    losses = objective_of(sampled, rich, catalogue, **counts).losses(packed)
    assert losses["contrastive"].item() == pytest.approx(expected["contrastive"].item(), rel=0.02)
    assert losses["contrastive"].item() < 0.95 * by_hand(full, packed, catalogue)["contrastive"].item()
    torch.testing.assert_close(losses["action"], expected["action"])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"contrastive_weight": 0.0}, ["codes", "action"]),
        ({"code_weight": 0.0}, ["contrastive", "action"]),
        ({"action_weight": 0.0}, ["contrastive", "codes"]),
    ],
)
def test_weights_of_zero_leave_losses_out(
    build: Any, rich: Dataset, catalogue: Catalogue, packed: TokenBatch, changes: dict[str, float], names: list[str]
) -> None:
    losses = objective_of(build.model(catalogue, **changes), rich, catalogue).losses(packed)
    assert list(losses) == names


def test_the_next_action_is_told_to_the_item_heads_and_never_to_the_action_head(
    build: Any, rich: Dataset, catalogue: Catalogue, packed: TokenBatch
) -> None:
    """Otherwise the action head would only have to read its answer."""
    model = build.model(catalogue)
    torch.nn.init.zeros_(model.condition.film.factors.weight)
    told = objective_of(model, rich, catalogue).losses(packed)
    torch.nn.init.normal_(model.condition.film.factors.weight)
    told_louder = objective_of(model, rich, catalogue).losses(packed)
    assert told["action"].item() == pytest.approx(told_louder["action"].item(), abs=1e-6)
    assert abs(told["contrastive"].item() - told_louder["contrastive"].item()) > 1e-3
    assert abs(told["codes"].item() - told_louder["codes"].item()) > 1e-3


def test_the_baseline_has_one_loss(build: Any, rich: Dataset, packed: TokenBatch) -> None:
    catalogue = build.catalogue(rich)
    model = Model(PRESETS["sasrec"].model.restricted_to(catalogue.available()), catalogue).eval()
    assert list(objective_of(model, rich, catalogue).losses(packed)) == ["contrastive"]
