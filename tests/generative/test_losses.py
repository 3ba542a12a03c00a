"""Oracles: the formulas in float64, written out position by position."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from semid.generative import losses
from semid.generative.losses import action_loss, equal_pairs, pair_loss, softmax_loss

POSITIONS, ITEMS, WIDTH = 37, 50, 8


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64), dim=-1)


class Case:
    """Random states, items and targets, some of these repeated."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.states, self.items = unit(POSITIONS, 0), unit(ITEMS, 1)
        self.scale = torch.tensor(12.5, dtype=torch.float64)
        self.targets = torch.randint(ITEMS // 2, (POSITIONS,), generator=generator)

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(  # type: ignore[return-value]
            value.to(dtype).clone().requires_grad_() for value in (self.states, self.items, self.scale)
        )

    def reference(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Mean loss and gradients by autograd on log Σ exp(s h·e) − s h·e_target."""
        states, items, scale = inputs = self.inputs(torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for place in range(POSITIONS):
            logits = scale * (items @ states[place])
            total = total + logits.exp().sum().log() - logits[self.targets[place]]
        loss = total / POSITIONS
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
    monkeypatch.setattr(losses, "_LEAST_ROWS", 1)
    expected, expected_gradients = case.reference()
    inputs = case.inputs(dtype)
    loss = softmax_loss(*inputs, case.targets)
    gradients = torch.autograd.grad(3.0 * loss, inputs)
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.shape == wanted.shape
        torch.testing.assert_close(gradient.double(), 3.0 * wanted, rtol=10 * tolerance, atol=tolerance)


def test_full_softmax_by_hand() -> None:
    """One state, two items at cosines 1 and 0, scale ln 3: probabilities 3/4 and 1/4."""
    states, items = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    for target, expected in ((0, math.log(4 / 3)), (1, math.log(4))):
        loss = softmax_loss(states, items, torch.tensor(3.0).log(), torch.tensor([target]))
        assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_full_softmax_passes_gradcheck(case: Case) -> None:
    def loss(*inputs: Tensor) -> Tensor:
        return softmax_loss(*inputs, case.targets[:5])

    states, items, scale = case.inputs(torch.float64)
    assert torch.autograd.gradcheck(loss, (states[:5].detach().requires_grad_(), items, scale))


def test_full_softmax_in_bfloat16_is_close(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", 10 * ITEMS)
    monkeypatch.setattr(losses, "_LEAST_ROWS", 1)
    expected, expected_gradients = case.reference()
    inputs = case.inputs(torch.float32)
    loss = softmax_loss(*inputs, case.targets, dtype=torch.bfloat16)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.02)
    for gradient, wanted in zip(torch.autograd.grad(loss, inputs), expected_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - wanted).norm() / wanted.norm()) < 0.03


def test_full_softmax_stays_finite_at_large_scales(case: Case) -> None:
    states, items, _ = case.inputs(torch.float32)
    loss = softmax_loss(states, items, torch.tensor(1e4), case.targets)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (states, items)))


class Sampled:
    """A bank whose first entries are the positives, with corrections and histories."""

    POSITIVES, NEGATIVES = 9, 20

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        size = self.POSITIVES + self.NEGATIVES
        self.states, self.bank = unit(self.POSITIVES, 3), unit(size, 4)
        self.targets = torch.tensor([0, 1, 2, 3, 0, 5, 6, 1, 8])  # items 0 and 1 are positives twice
        self.rows = torch.cat([self.targets, torch.randint(12, (self.NEGATIVES,), generator=generator)])
        self.log_expected = torch.randn(size, generator=generator, dtype=torch.float64)
        self.histories = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4])

    def loss(self, states: Tensor, bank: Tensor, scale: Tensor, **changes: Any) -> Tensor:
        same = (self.targets[:, None] == self.rows) | (self.histories[:, None] == self.histories_of_entries())
        pairs = same.nonzero(as_tuple=True)
        arguments = {"log_expected": self.log_expected.to(states.dtype), "excluded": pairs, **changes}
        own = torch.arange(self.POSITIVES)
        return softmax_loss(states, bank, scale, own, **arguments)

    def histories_of_entries(self) -> Tensor:
        """Of the positives; negatives have none."""
        return F.pad(self.histories, (0, self.NEGATIVES), value=-1)

    def reference(self, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Loops in double precision: the positive, and every entry of another item and another history, corrected."""
        states, bank, scale = inputs
        total = torch.zeros((), dtype=torch.float64)
        for p in range(self.POSITIVES):
            own = scale * (states[p] @ bank[p])
            mass = own.exp()
            for m in range(len(bank)):
                same_history = m < self.POSITIVES and self.histories[m] == self.histories[p]
                if self.rows[m] != self.targets[p] and not same_history:
                    mass = mass + (scale * (states[p] @ bank[m]) - self.log_expected[m]).exp()
            total = total + mass.log() - own
        return total / self.POSITIVES

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        scale = torch.tensor(9.0, dtype=dtype, requires_grad=True)
        return self.states.to(dtype).requires_grad_(), self.bank.to(dtype).requires_grad_(), scale


@pytest.mark.parametrize("elements", [1 << 22, 4 * 29, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_a_bank_equals_the_formula(
    elements: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(losses, "_LEAST_ROWS", 1)
    case = Sampled()
    exact = case.inputs(torch.float64)
    expected = case.reference(exact)
    expected_gradients = torch.autograd.grad(expected, exact)
    inputs = Sampled().inputs(dtype)
    loss = case.loss(*inputs)
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    for gradient, wanted in zip(torch.autograd.grad(loss, inputs), expected_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=10 * tolerance, atol=tolerance)


def test_a_bank_passes_gradcheck() -> None:
    case = Sampled()
    assert torch.autograd.gradcheck(case.loss, case.inputs(torch.float64))


@given(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6)))
def test_equal_pairs_are_all_of_them(keys: list[int], entries: list[int]) -> None:
    positions, columns = equal_pairs(torch.tensor(keys, dtype=torch.long), torch.tensor(entries, dtype=torch.long))
    assert positions.tolist() == sorted(positions.tolist())
    expected = sorted((p, m) for p, key in enumerate(keys) for m, entry in enumerate(entries) if key == entry)
    assert sorted(zip(positions.tolist(), columns.tolist(), strict=True)) == expected


def test_a_bank_with_the_expected_counts_is_the_full_softmax(case: Case) -> None:
    """Popular items, as positives or as negatives, are neither favoured nor held back."""
    copies = torch.randint(0, 9, (ITEMS,), generator=torch.Generator().manual_seed(1))
    copies[POSITIONS:] += 1  # items that are no positive have to come in somehow
    targets = torch.arange(POSITIONS)
    rows = torch.cat([targets, torch.arange(ITEMS).repeat_interleave(copies)])
    counts = rows.bincount(minlength=ITEMS)
    assert counts.min() == 1
    assert counts.max() > 5
    inputs, others = case.inputs(torch.float64), case.inputs(torch.float64)
    states, items, scale = inputs
    log_expected = counts[rows].double().log()
    sampled = softmax_loss(
        states,
        items[rows],
        scale,
        targets,
        log_expected=log_expected,
        excluded=equal_pairs(targets, rows),
    )
    full = softmax_loss(*others, targets)
    torch.testing.assert_close(sampled, full)
    pairs = zip(torch.autograd.grad(sampled, inputs), torch.autograd.grad(full, others), strict=True)
    for gradient, wanted in pairs:
        torch.testing.assert_close(gradient, wanted)


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


@pytest.mark.parametrize("elements", [1 << 22, 5 * ITEMS, 1])
def test_positions_count_by_their_weights(case: Case, monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """Values and gradients; a weight of 0 leaves a position out."""
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(losses, "_LEAST_ROWS", 1)
    weights = torch.arange(POSITIONS, dtype=torch.float64) % 4
    states, items, scale = inputs = case.inputs(torch.float64)
    logits = scale * states @ items.T
    expected = (F.cross_entropy(logits, case.targets, reduction="none") * weights).sum() / weights.sum()
    wanted = torch.autograd.grad(expected, inputs)
    actual = softmax_loss(*inputs, case.targets, weights=weights)
    torch.testing.assert_close(actual, expected)
    for gradient, other in zip(torch.autograd.grad(actual, inputs), wanted, strict=True):
        torch.testing.assert_close(gradient, other)
    assert softmax_loss(*inputs, case.targets, weights=weights * 0).item() == 0


@pytest.mark.parametrize("binary", [False, True])
def test_pairs_follow_the_formula(binary: bool) -> None:
    """Position by position, weighted, in double precision."""
    states, positives = unit(5, 0), unit(5, 1)
    negatives, weights = unit(15, 2).view(5, 3, WIDTH), torch.tensor([1.0, 0.0, 2.5, 1.0, 1.0], dtype=torch.float64)
    total = 0.0
    for place in range(5):
        positive = 12.5 * float(states[place] @ positives[place])
        others = [12.5 * float(states[place] @ other) for other in negatives[place]]
        if binary:
            loss = math.log1p(math.exp(-positive)) + sum(math.log1p(math.exp(other)) for other in others) / 3
        else:
            loss = math.log(sum(math.exp(value) for value in (positive, *others))) - positive
        total += float(weights[place]) * loss
    scale = torch.tensor(12.5, dtype=torch.float64)
    actual = pair_loss(states, positives, negatives, scale, weights=weights, binary=binary)
    assert actual.item() == pytest.approx(total / 5.5)
    plain = pair_loss(states, positives, negatives, scale, weights=torch.ones(5, dtype=torch.float64), binary=binary)
    assert pair_loss(states, positives, negatives, scale, binary=binary).item() == pytest.approx(plain.item())
