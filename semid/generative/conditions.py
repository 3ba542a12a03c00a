"""How a position is told which action comes next. Action 0 is *any*.

Shapes: R rows, S tokens, P positions, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.config import ActionConfig


class NextActionInput(nn.Module):
    """The next action in the tokens of the trunk: added, by gated fusion, by FiLM, or several of these in turn.

    With a the embedding of the action: x + a; x + σ(W [x; a]) ⊙ W_a a; x ⊙ (1 + tanh γ(a)) + β(a). The gated form and
    FiLM start as the identity.
    """

    def __init__(self, num_actions: int, width: int, config: ActionConfig) -> None:
        super().__init__()
        self.kinds = config.in_trunk
        self.action = nn.Embedding(num_actions + 1, width)
        nn.init.normal_(self.action.weight, std=0.02)
        self.gate = nn.Linear(2 * width, width) if "gate" in self.kinds else None
        self.value = nn.Linear(width, width, bias=False) if "gate" in self.kinds else None
        self.film = nn.Linear(width, 2 * width) if "film" in self.kinds else None
        for layer in (self.value, self.film):
            if layer is not None:
                nn.init.zeros_(layer.weight)
        if self.film is not None:
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, actions: Tensor) -> Tensor:
        """Tokens (R, S, D) that know the next action (R, S). (R, S, D)"""
        told = self.action(actions)
        if "add" in self.kinds:
            x = x + told
        if self.gate is not None and self.value is not None:
            x = x + torch.sigmoid(self.gate(torch.cat([x, told], dim=-1))) * self.value(told)
        if self.film is not None:
            scale, shift = self.film(told).chunk(2, dim=-1)
            x = x * (1 + torch.tanh(scale)) + shift
        return x


class NextActionCondition(nn.Module):
    """Tell a state which action is wanted next: FiLM (arXiv 1709.07871), starting as the identity.

    It enters after the trunk, so one pass over the history serves every action.
    """

    def __init__(self, num_actions: int, width: int) -> None:
        super().__init__()
        self.action = nn.Embedding(num_actions + 1, width)
        self.film = nn.Linear(width, 2 * width)
        nn.init.normal_(self.action.weight, std=0.02)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """States (P, D) conditioned on actions (P,). (P, D)"""
        scale, shift = self.film(F.silu(self.action(action))).chunk(2, dim=-1)
        result: Tensor = state * (1 + scale) + shift
        return result
