import math

import pytest
import torch
from torch import nn

from semid.generative import optim
from semid.generative.features import Catalogue
from semid.generative.optim import build_optimizer, learning_rate_factor, matrix_dtype


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


def test_only_matrices_decay(build: type, catalogue: Catalogue) -> None:
    model = build.model(catalogue)
    optimizer = build_optimizer(model, 1e-3, 0.25)
    decayed, kept = optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.25, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_decayed = {names[id(parameter)] for parameter in decayed["params"]}
    in_kept = {names[id(parameter)] for parameter in kept["params"]}
    assert in_decayed | in_kept == set(names.values())
    assert not in_decayed & in_kept
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    assert len(tables) > 10
    assert tables <= in_kept
    assert {"log_scale", "norm.weight", "items.unknown", "items.content.bias"} <= in_kept
    assert {"items.content.weight", "blocks.0.attention.query.weight", "code_decoder.heads.0.weight"} <= in_decayed


def test_decay_shrinks_a_matrix_and_leaves_a_table() -> None:
    model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Embedding(2, 2)])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, 0.1, 0.5).step()
    after = list(model.parameters())
    torch.testing.assert_close(after[0].data, before[0] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(after[1].data, before[1])


@pytest.mark.parametrize("fast", [False, True])
def test_precision(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(optim.torch.cpu, probe, lambda: fast, raising=False)
    assert matrix_dtype("auto", cpu) == (torch.bfloat16 if fast else torch.float32)
    assert matrix_dtype("auto", gpu) == torch.bfloat16
    assert matrix_dtype("float32", gpu) == torch.float32
    assert matrix_dtype("bfloat16", cpu) == torch.bfloat16
