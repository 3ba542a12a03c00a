"""Oracles: the formulas in float64, written out position by position."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative import losses
from semid.generative.losses import action_loss, full_softmax_loss, sampled_softmax_loss

POSITIONS, ITEMS, WIDTH = 37, 50, 8


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64), dim=-1)


class Case:
    """Random states, items, targets and weights, some targets repeated and some weights zero."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.states, self.items = unit(POSITIONS, 0), unit(ITEMS, 1)
        self.scale = torch.tensor(12.5, dtype=torch.float64)
        self.targets = torch.randint(ITEMS // 2, (POSITIONS,), generator=generator)
        self.weights = torch.rand(POSITIONS, generator=generator, dtype=torch.float64)
        self.weights[3] = 0.0

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(  # type: ignore[return-value]
            value.to(dtype).clone().requires_grad_() for value in (self.states, self.items, self.scale)
        )

    def reference(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss and gradients by autograd on Σ w · (log Σ exp(s h·e) − s h·e_target) / Σ w."""
        states, items, scale = inputs = self.inputs(torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for place in range(POSITIONS):
            logits = scale * (items @ states[place])
            total = total + self.weights[place] * (logits.exp().sum().log() - logits[self.targets[place]])
        loss = total / self.weights.sum()
        return loss, torch.autograd.grad(loss, inputs)


@pytest.fixture
def case() -> Case:
    return Case()


# One chunk; several with a shorter one at the end; one position each.
@pytest.mark.parametrize("elements", [1 << 22, 5 * ITEMS, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_full_softmax_equals_the_formula(
    case: Case, monkeypatch: pytest.MonkeyPatch, elements: int, dtype: torch.dtype, tolerance: float
) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", elements)
    expected, expected_gradients = case.reference()
    inputs = case.inputs(dtype)
    loss = full_softmax_loss(*inputs, case.targets, case.weights.to(dtype))
    gradients = torch.autograd.grad(3.0 * loss, inputs)
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.shape == wanted.shape
        torch.testing.assert_close(gradient.double(), 3.0 * wanted, rtol=10 * tolerance, atol=tolerance)


def test_full_softmax_by_hand() -> None:
    """One state, two items at cosines 1 and 0, scale ln 3: probabilities 3/4 and 1/4."""
    states, items = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    for target, expected in ((0, math.log(4 / 3)), (1, math.log(4))):
        loss = full_softmax_loss(states, items, torch.tensor(3.0).log(), torch.tensor([target]), torch.ones(1))
        assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_full_softmax_passes_gradcheck(case: Case) -> None:
    def loss(*inputs: Tensor) -> Tensor:
        return full_softmax_loss(*inputs, case.targets[:5], case.weights[:5])

    states, items, scale = case.inputs(torch.float64)
    assert torch.autograd.gradcheck(loss, (states[:5].detach().requires_grad_(), items, scale))


def test_full_softmax_in_bfloat16_is_close(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", 10 * ITEMS)
    expected, expected_gradients = case.reference()
    inputs = case.inputs(torch.float32)
    loss = full_softmax_loss(*inputs, case.targets, case.weights.float(), torch.bfloat16)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.02)
    for gradient, wanted in zip(torch.autograd.grad(loss, inputs), expected_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - wanted).norm() / wanted.norm()) < 0.03


def test_full_softmax_stays_finite_at_large_scales(case: Case) -> None:
    states, items, _ = case.inputs(torch.float32)
    loss = full_softmax_loss(states, items, torch.tensor(1e4), case.targets, case.weights.float())
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (states, items)))


def sampled_reference(
    states: Tensor,
    targets: Tensor,
    bank: Tensor,
    rows: Tensor,
    log_expected: Tensor,
    scale: float,
    weights: Tensor,
    histories: list[int],
    bank_histories: list[int],
) -> float:
    """Loops in double precision: the positive, and every entry of another item and another history, corrected."""
    total = 0.0
    for p in range(len(states)):
        own = scale * float(states[p] @ bank[p])
        mass = math.exp(own)
        for m in range(len(bank)):
            if int(rows[m]) != int(targets[p]) and bank_histories[m] != histories[p]:
                mass += math.exp(scale * float(states[p] @ bank[m])) / math.exp(float(log_expected[m]))
        total += float(weights[p]) * (math.log(mass) - own)
    return total / float(weights.sum())


@pytest.mark.parametrize("elements", [1 << 22, 4 * 29, 1])
@pytest.mark.parametrize("with_histories", [False, True])
def test_sampled_softmax_equals_the_formula(
    with_histories: bool, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    count, extra = 9, 20
    states, bank = unit(count, 3), unit(count + extra, 4)
    targets = torch.tensor([0, 1, 2, 3, 0, 5, 6, 1, 8])  # items 0 and 1 are positives twice
    rows = torch.cat([targets, torch.randint(12, (extra,), generator=generator)])
    log_expected = torch.randn(count + extra, generator=generator, dtype=torch.float64)
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    histories = [0, 0, 1, 1, 1, 2, 3, 3, 4]
    bank_histories = histories + [-1] * extra
    masks: dict[str, Any] = {}
    if with_histories:
        masks = {"histories": torch.tensor(histories), "bank_histories": torch.tensor(bank_histories)}
    loss = sampled_softmax_loss(
        states.float(), targets, bank.float(), rows, log_expected.float(), torch.tensor(9.0), weights.float(), **masks
    )
    if not with_histories:  # everybody has one of their own
        histories, bank_histories = list(range(count)), [-1] * (count + extra)
    arguments = (states, targets, bank, rows, log_expected, 9.0, weights, histories, bank_histories)
    expected = sampled_reference(*arguments)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_sampled_softmax_has_the_same_gradient_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients(elements: int) -> tuple[Tensor, ...]:
        monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", elements)
        states, bank = unit(9, 3).requires_grad_(), unit(29, 4).requires_grad_()
        scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
        rows = torch.arange(29) % 12
        loss = sampled_softmax_loss(
            states, rows[:9], bank, rows, torch.zeros(29, dtype=torch.float64), scale, torch.ones(9).double()
        )
        return torch.autograd.grad(loss, (states, bank, scale))

    torch.testing.assert_close(gradients(2 * 29), gradients(1 << 22))


def test_sampled_softmax_over_the_whole_catalogue_is_the_full_softmax(case: Case) -> None:
    """With every item in the bank once and nothing to correct, nothing is left of the sampling."""
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    targets = order[:POSITIONS]
    inputs, others = case.inputs(torch.float32), case.inputs(torch.float32)
    sampled = sampled_softmax_loss(
        inputs[0], targets, inputs[1][order], order, torch.zeros(ITEMS), inputs[2], case.weights.float()
    )
    full = full_softmax_loss(*others, targets, case.weights.float())
    torch.testing.assert_close(sampled, full)
    pairs = zip(torch.autograd.grad(sampled, inputs), torch.autograd.grad(full, others), strict=True)
    for gradient, wanted in pairs:
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_a_bank_with_the_expected_counts_is_the_full_softmax(case: Case) -> None:
    """Popular items, as positives or as negatives, are neither favoured nor held back."""
    copies = torch.randint(0, 9, (ITEMS,), generator=torch.Generator().manual_seed(1))
    copies[POSITIONS:] += 1  # items that are no positive have to come in somehow
    targets = torch.arange(POSITIONS)
    rows = torch.cat([targets, torch.arange(ITEMS).repeat_interleave(copies)])
    counts = rows.bincount(minlength=ITEMS)
    assert counts.min() == 1
    assert counts.max() > 5
    states, items, scale = case.inputs(torch.float32)
    sampled = sampled_softmax_loss(
        states, targets, items[rows], rows, counts[rows].float().log(), scale, case.weights.float()
    )
    full = full_softmax_loss(states, items, scale, targets, case.weights.float())
    torch.testing.assert_close(sampled, full)


def test_action_loss_is_the_mean_over_known_actions() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actions = torch.tensor([0, 1, 3, 0, 2])
    total = 0.0
    for place in (1, 2, 4):
        mass = sum(math.exp(float(value)) for value in logits[place])
        total -= math.log(math.exp(float(logits[place, actions[place] - 1])) / mass)
    assert float(action_loss(logits.float(), actions)) == pytest.approx(total / 3, rel=1e-5)
    nothing = action_loss(logits.float(), torch.zeros(5, dtype=torch.long))
    assert float(nothing) == 0.0
