"""How a position is told which action comes next. Action 0 is *any*.

Shapes: R rows, S tokens, P positions, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.config import ActionConfig
from semid.generative.layers import FiLM


class NextActionInput(nn.Module):
    """The next action in the tokens of the trunk: added, by gated fusion, by FiLM, or several of these in turn.

    With a the embedding of the action: x + a; x + σ(W [x; a]) ⊙ W_a a; x ⊙ (1 + tanh γ(a)) + β(a). The gated form and
    FiLM start as the identity.
    """

    def __init__(self, num_actions: int, width: int, config: ActionConfig) -> None:
        super().__init__()
        self.kinds = config.in_trunk
        # As large as the normalised tokens that it meets: a smaller one is not heard for thousands of steps.
        self.action = nn.Embedding(num_actions + 1, width)
        self.gate = nn.Linear(2 * width, width) if "gate" in self.kinds else None
        self.value = nn.Linear(width, width, bias=False) if "gate" in self.kinds else None
        self.film = FiLM(width, bounded=True) if "film" in self.kinds else None
        if self.value is not None:
            nn.init.zeros_(self.value.weight)

    def forward(self, x: Tensor, actions: Tensor) -> Tensor:
        """Tokens (R, S, D) that know the next action (R, S). (R, S, D)"""
        told = self.action(actions)
        if "add" in self.kinds:
            x = x + told
        if self.gate is not None and self.value is not None:
            x = x + torch.sigmoid(self.gate(torch.cat([x, told], dim=-1))) * self.value(told)
        if self.film is not None:
            x = self.film(x, told)
        return x


class NextActionCondition(nn.Module):
    """Tell a state which action is wanted next, by FiLM.

    It enters after the trunk, so one pass over the history serves every action.
    """

    def __init__(self, num_actions: int, width: int) -> None:
        super().__init__()
        self.action = nn.Embedding(num_actions + 1, width)
        self.film = FiLM(width)
        nn.init.normal_(self.action.weight, std=0.02)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """States (P, D) conditioned on actions (P,). (P, D)"""
        result: Tensor = self.film(state, F.silu(self.action(action)))
        return result
