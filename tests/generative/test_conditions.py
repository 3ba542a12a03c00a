"""Oracle: the formulas written out for one position."""

import pytest
import torch
from torch.nn import functional as F

from semid.generative.conditions import NextActionCondition, NextActionInput
from semid.generative.config import ActionConfig

WIDTH = 8


def test_next_action_is_film_and_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    made, states, actions = NextActionCondition(2, WIDTH), torch.randn(5, WIDTH), torch.tensor([0, 1, 2, 1, 0])
    assert torch.equal(made(states, actions), states)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    for row, action in enumerate(actions.tolist()):
        hidden = F.silu(made.action.weight[action])
        out = made.film.factors.weight @ hidden + made.film.factors.bias
        torch.testing.assert_close(made(states, actions)[row], states[row] * (1 + out[:WIDTH]) + out[WIDTH:])


def randomised(kinds: tuple[str, ...]) -> NextActionInput:
    torch.manual_seed(0)
    made = NextActionInput(2, WIDTH, ActionConfig(condition=kinds))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def by_hand(made: NextActionInput, x: torch.Tensor, action: int) -> torch.Tensor:
    """One token, in the order add, gate, FiLM."""
    told = made.action.weight[action]
    if "add" in made.kinds:
        x = x + told
    if "gate" in made.kinds:
        gate = 1 / (1 + torch.exp(-(made.gate.weight @ torch.cat([x, told]) + made.gate.bias)))
        x = x + gate * (made.value.weight @ told)
    if "film" in made.kinds:
        out = made.film.factors.weight @ told + made.film.factors.bias
        x = x * (1 + torch.tanh(out[:WIDTH])) + out[WIDTH:]
    return x


@pytest.mark.parametrize(
    "kinds", [("add",), ("gate",), ("film",), ("add", "gate"), ("gate", "film"), ("add", "gate", "film", "bias")]
)
def test_the_next_action_enters_the_tokens(kinds: tuple[str, ...]) -> None:
    made, x, actions = randomised(kinds), torch.randn(2, 3, WIDTH), torch.tensor([[0, 1, 2], [2, 2, 0]])
    result = made(x, actions)
    for row in range(2):
        for place in range(3):
            torch.testing.assert_close(result[row, place], by_hand(made, x[row, place], int(actions[row, place])))


def test_an_added_action_starts_as_large_as_a_normalised_token() -> None:
    torch.manual_seed(0)
    made = NextActionInput(3, 512, ActionConfig(condition=("add",)))
    sizes = made.action.weight.square().mean(dim=1).sqrt()
    assert ((sizes > 0.8) & (sizes < 1.2)).all()


def test_gate_and_film_start_as_the_identity() -> None:
    torch.manual_seed(0)
    made, x = NextActionInput(2, WIDTH, ActionConfig(condition=("gate", "film"))), torch.randn(2, 3, WIDTH)
    assert torch.equal(made(x, torch.tensor([[0, 1, 2], [2, 2, 0]])), x)
