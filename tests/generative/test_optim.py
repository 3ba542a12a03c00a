import math

import pytest
import torch
from torch import nn

from semid.generative.catalogue import Catalogue
from semid.generative.moe import MoEConfig
from semid.generative.optim import Optimizers, clip_gradients, learning_rate_factor


def test_schedule_by_hand() -> None:
    """100 steps, ten of them warm-up; then half a cosine from 1 to 0.01."""
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.505)  # half way: the mean of both ends
    assert factors[40] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 3)) / 2)  # a third of the way: 0.7525
    assert factors[100] == pytest.approx(0.01)
    assert learning_rate_factor(250, 100, 0.1) == pytest.approx(0.01)


def test_schedule_of_very_short_trainings() -> None:
    assert learning_rate_factor(0, 1, 0.05) == 1.0
    assert [learning_rate_factor(step, 3, 0.0) for step in range(4)] == pytest.approx([1.0, 1.0, 0.505, 0.01])


def settings(optimizers: Optimizers) -> dict[str, tuple[str, float]]:
    """Optimiser and decay of each weight, by name."""
    return {
        optimizers.names[id(weight)]: (type(part).__name__, group.get("weight_decay", 0.0))
        for part in optimizers.parts
        for group in part.param_groups
        for weight in group["params"]
    }


def test_every_weight_has_the_optimiser_that_suits_it(build: type, catalogue: Catalogue) -> None:
    moe = MoEConfig(num_experts=4, experts_per_token=2, hidden=8, shared_hidden=8)
    model = build.model(catalogue, full_softmax_items=0, moe=moe)
    found = settings(Optimizers(model, 1e-3, 0.25))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    assert len(tables) > 10
    for name, weight in model.named_parameters():
        if name.startswith("items.ids"):
            expected = ("SparseAdam", 0.0)
        elif name in tables or weight.ndim < 2:
            expected = ("AdamW", 0.0)
        else:
            expected = ("AdamW", 0.25)
        assert found[name] == expected, name
    assert found["trunk.blocks.0.feed_forward.experts.gate_up"] == ("AdamW", 0.25)  # a matrix of each expert
    dense = settings(Optimizers(build.model(catalogue), 1e-3, 0.25))
    assert dense["items.ids.tables.tables.0.weight"] == ("AdamW", 0.0)


def test_decay_shrinks_a_matrix_and_leaves_a_table() -> None:
    model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Embedding(2, 2)])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers = Optimizers(model, 0.2, 0.5)
    assert optimizers.set_rate(0.5) == 0.1
    optimizers.step()
    after = list(model.parameters())
    torch.testing.assert_close(after[0].data, before[0] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(after[1].data, before[1])


def test_only_touched_rows_of_a_sparse_table_change_and_as_adam_would() -> None:
    model = nn.Embedding(6, 3, sparse=True)
    dense = nn.Embedding(6, 3)
    dense.load_state_dict(model.state_dict())
    before = model.weight.detach().clone()
    optimizers, adam = Optimizers(model, 0.1, 0.5), torch.optim.Adam(dense.parameters(), 0.1, betas=(0.9, 0.98))
    rows = torch.tensor([4, 1, 4])
    for _ in range(3):
        for table in (model, dense):
            table.zero_grad()
            (table(rows) ** 2).sum().backward()
        optimizers.step()
        adam.step()
    torch.testing.assert_close(model.weight, dense.weight)
    untouched = [0, 2, 3, 5]
    assert torch.equal(model.weight[untouched], before[untouched])


def test_clipping_counts_sparse_gradients_too() -> None:
    """Row 1 is looked up twice with gradient 3 each, a weight has gradient 8: the norm is √(6² + 8²) = 10."""
    table, weight = nn.Embedding(3, 1, sparse=True), nn.Parameter(torch.zeros(1))
    (3 * table(torch.tensor([1, 1])).sum() + 8 * weight.sum()).backward()
    unused = nn.Parameter(torch.zeros(1))
    assert float(clip_gradients([table.weight, weight, unused], 5.0)) == pytest.approx(10.0)
    assert table.weight.grad.to_dense().flatten().tolist() == pytest.approx([0.0, 3.0, 0.0], abs=1e-5)
    assert float(weight.grad) == pytest.approx(4.0, abs=1e-5)
    assert float(clip_gradients([table.weight, weight], 100.0)) == pytest.approx(5.0, abs=1e-4)
    assert float(weight.grad) == pytest.approx(4.0, abs=1e-5)
