"""Oracles: every expert computed for every token with plain autograd, and finite differences."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative import experts
from semid.generative.experts import ExpertRows, Experts, count_choices, grouped_experts, sorted_experts

TOKENS, WIDTH, HIDDEN = 23, 8, 16
ROUTINGS = ["spread", "one expert has no token", "one expert has all tokens"]


def chosen(routing: str, num_experts: int, k: int) -> Tensor:
    """k different experts of each token, (T, k)."""
    score = torch.rand(TOKENS, num_experts)
    if routing == "one expert has no token":
        score[:, num_experts // 2] = -1
    if routing == "one expert has all tokens":
        score[:, num_experts // 2] = 2
    return score.topk(k).indices


def random_arguments(num_experts: int, k: int, dtype: torch.dtype) -> list[Tensor]:
    shapes = ((TOKENS, WIDTH), (TOKENS, k), (num_experts, 2 * HIDDEN, WIDTH), (num_experts, WIDTH, HIDDEN))
    return [torch.randn(*shape, dtype=dtype).mul_(0.5).requires_grad_() for shape in shapes]


def dense(tokens: Tensor, weight_Tk: Tensor, gate_up: Tensor, down: Tensor, expert_Tk: Tensor) -> Tensor:
    """Every expert for every token; those that were not chosen weigh nothing."""
    weight_TE = torch.zeros(len(tokens), len(down), dtype=tokens.dtype).scatter(1, expert_Tk, weight_Tk)
    gate, up = torch.einsum("td,efd->etf", tokens, gate_up).chunk(2, dim=-1)
    outputs = torch.einsum("etf,edf->etd", F.silu(gate) * up, down)
    return torch.einsum("te,etd->td", weight_TE, outputs)


def gradients(result: Tensor, arguments: list[Tensor]) -> list[Tensor]:
    upstream = torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)
    return list(torch.autograd.grad(result, arguments, upstream))


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(("num_experts", "k"), [(5, 1), (4, 2), (7, 3), (3, 3), (1, 1)])
def test_equals_every_expert_for_every_token(num_experts: int, k: int, routing: str) -> None:
    torch.manual_seed(num_experts)
    arguments, expert_Tk = random_arguments(num_experts, k, torch.float64), chosen(routing, num_experts, k)
    actual = sorted_experts(*arguments, ExpertRows.of(expert_Tk, num_experts))
    expected = dense(*arguments, expert_Tk)
    torch.testing.assert_close(actual, expected)
    for mine, other in zip(gradients(actual, arguments), gradients(expected, arguments), strict=True):
        torch.testing.assert_close(mine, other)


def test_gradients_are_those_of_finite_differences() -> None:
    arguments = random_arguments(3, 2, torch.float64)
    rows = ExpertRows.of(chosen("spread", 3, 2), 3)
    assert torch.autograd.gradcheck(lambda *values: sorted_experts(*values, rows), arguments)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped product")
def test_one_kernel_for_all_experts_gives_the_same(routing: str, dtype: torch.dtype) -> None:
    """On a CPU the grouped product is a loop inside of torch; shapes, order and gradients are those of a GPU."""
    torch.manual_seed(1)
    arguments = random_arguments(4, 2, dtype)
    rows = ExpertRows.of(chosen(routing, 4, 2), 4)
    actual, expected = grouped_experts(*arguments, rows), sorted_experts(*arguments, rows)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    for mine, other in zip(gradients(actual, arguments), gradients(expected, arguments), strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=4 * tolerance)


def test_bfloat16_is_as_near_as_its_digits() -> None:
    arguments = random_arguments(4, 2, torch.float64)
    expert_Tk = chosen("spread", 4, 2)
    exact = dense(*arguments, expert_Tk)
    rounded = [value.detach().bfloat16().requires_grad_() for value in arguments]
    close = sorted_experts(*rounded, ExpertRows.of(expert_Tk, 4))
    pairs = [(exact, close), *zip(gradients(exact, arguments), gradients(close, rounded), strict=True)]
    for expected, actual in pairs:
        assert float((actual.double() - expected).detach().norm() / expected.detach().norm()) < 0.02


def test_rows_are_sorted_by_expert_and_found_again() -> None:
    rows = ExpertRows.of(torch.tensor([[2, 0], [0, 1], [2, 1]]), 4)
    assert rows.source.tolist() == [0, 1, 1, 2, 0, 2]
    assert rows.place.tolist() == [[4, 0], [1, 2], [5, 3]]
    assert rows.counts.tolist() == [2, 2, 2, 0]


def test_choices_count_by_weight() -> None:
    choices = torch.tensor([0, 2, 2, 2])
    assert count_choices(choices, 4).tolist() == [1, 0, 3, 0]
    assert count_choices(choices, 4, torch.tensor([True, True, False, True])).tolist() == [1, 0, 2, 0]


def test_tokens_decide_the_dtype_and_weights_keep_theirs() -> None:
    module, tokens = Experts(WIDTH, HIDDEN, 3), torch.randn(TOKENS, WIDTH, requires_grad=True)
    arguments = (chosen("spread", 3, 2), torch.rand(TOKENS, 2))
    assert module(tokens, *arguments).dtype == torch.float32
    result = module(tokens.bfloat16(), *arguments)
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert module.gate_up.grad is not None
    assert module.gate_up.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "sizes", "fits"),
    [
        ("cuda", torch.bfloat16, (9, 0), (64, 32), True),
        ("cuda", torch.bfloat16, (9, 0), (64, 36), False),
        ("cuda", torch.bfloat16, (8, 0), (64, 32), False),
        ("cuda", torch.bfloat16, (10, 0), (64, 32), False),
        ("cuda", torch.float32, (9, 0), (64, 32), False),
        ("cpu", torch.bfloat16, (9, 0), (64, 32), False),
    ],
)
def test_which_devices_have_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    capability: tuple[int, int],
    sizes: tuple,
    fits: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(F, "grouped_mm", None, raising=False)
    assert experts._groups_fit(torch.device(device), dtype, sizes) is fits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_gpu_gives_the_same(routing: str) -> None:
    arguments = random_arguments(4, 2, torch.float32)
    expert_Tk = chosen(routing, 4, 2)
    there = [value.detach().cuda().requires_grad_() for value in arguments]
    expected = dense(*arguments, expert_Tk)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.03)):
        values = [value.to(dtype) for value in there]
        form = grouped_experts if experts._groups_fit(there[0].device, dtype, (WIDTH, HIDDEN)) else sorted_experts
        actual = form(*values, ExpertRows.of(expert_Tk.cuda(), 4)).float().cpu()
        pairs = [(expected, actual), *zip(gradients(expected, arguments), gradients(actual, there), strict=True)]
        for exact, close in pairs:
            assert float((close.cpu() - exact).detach().norm() / exact.detach().norm()) < tolerance
