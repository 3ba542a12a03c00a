"""How several vectors become one: their sum, or a network over all of them side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.layers import Dropout, SwiGLU

_MLP_DROPOUT = 0.1


class Join(nn.Module):
    """Parts (..., W_i) to one vector (..., D).

    Args:
        widths: W of each part.
        width: D.
        kind: ``sum``: parts that are not D wide go through a linear map first; ``linear``: ReLU(W [parts]), as in the
            official baseline of the Tencent challenge 2025; ``mlp``: W₂ ReLU(W₁ [parts]), twice as wide inside, as in
            a public finalist's system; ``gated``: W [parts], then gated MLPs x + W₃(SiLU(W₁ x) ⊙ W₂ x), as second.
        layers: gated MLPs.
    """

    def __init__(self, widths: Sequence[int], width: int, kind: str, layers: int = 2) -> None:
        super().__init__()
        self.kind, total = kind, sum(widths)
        if kind == "sum":
            self.maps = nn.ModuleList(nn.Identity() if part == width else _map(part, width) for part in widths)
        elif kind == "mlp":
            hidden = 2 * width
            parts = (nn.Linear(total, hidden), nn.ReLU(), Dropout(_MLP_DROPOUT), nn.Linear(hidden, width))
            self.network: nn.Module = nn.Sequential(*parts)
        else:
            self.network = nn.Linear(total, width)
        self.gated = nn.ModuleList(SwiGLU(width, width) for _ in range(layers if kind == "gated" else 0))

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        if self.kind == "sum":
            mapped = (change(part).float() for change, part in zip(self.maps, parts, strict=True))
            return torch.stack(list(mapped)).sum(0)
        x: Tensor = self.network(torch.cat([part.float() for part in parts], dim=-1))
        if self.kind == "linear":
            return F.relu(x)
        for layer in self.gated:
            x = x + layer(x)
        return x


def _map(part: int, width: int) -> nn.Linear:
    """A linear map after which a part begins as large as before, and one that says nothing is still zeros."""
    made = nn.Linear(part, width, bias=False)
    nn.init.normal_(made.weight, std=part**-0.5)
    return made
