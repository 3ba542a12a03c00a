"""The multi-layer perceptrons between vectors and latents, with and without a way around them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear layers with ReLU between them, on what is left of the input after ``shift``.

    Args:
        sizes: widths from input to output.
        generator: of the weights.
        zero: start with an output of zero everywhere.
    """

    shift: Tensor

    def __init__(self, sizes: Sequence[int], generator: torch.Generator, *, zero: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_linear(width, following, generator) for width, following in pairwise(sizes))
        self.register_buffer("shift", torch.zeros(sizes[0]))
        if zero:
            nn.init.zeros_(self.last.weight)

    @property
    def last(self) -> nn.Linear:
        """The layer whose output is the network's."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, first size) to (B, last size)."""
        hidden = inputs - self.shift
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        output: Tensor = self.last(hidden)
        return output


class Around(nn.Module):
    """x W + MLP(x): what the network adds to a linear map; without ``matrix``, x + MLP(x).

    The MLP starts at zero, so that training starts from the map alone.
    """

    def __init__(self, mlp: Mlp, matrix: Tensor | None = None) -> None:
        super().__init__()
        self.mlp = mlp
        self.matrix = None if matrix is None else nn.Parameter(matrix)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, first size) to (B, last size)."""
        straight = inputs if self.matrix is None else (inputs - self.mlp.shift) @ self.matrix
        added: Tensor = self.mlp(inputs)
        return straight + added


def _linear(width: int, following: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, following, device="meta").to_empty(device="cpu")
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
