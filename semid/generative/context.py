"""What an event adds to its item: the action taken, and when it happened.

Shapes: R rows, S tokens, D width, C clock columns.
"""

import torch
from torch import Tensor, nn

from semid.data.events import TIME_MISSING
from semid.generative.catalogue import Catalogue
from semid.generative.clock import SIZES, columns_of
from semid.generative.config import ModelConfig
from semid.generative.fields import dropped
from semid.generative.histories import TokenBatch
from semid.generative.layers import EmbeddingTables

_HOUR, _DAY = 3600.0, 86_400.0
_SPAN = 56 * _DAY
_NUM_PERIODS = 16


class Fourier(nn.Module):
    """[sin, cos](2π t / P) of the time since some moment, with learnable periods P, through a linear map.

    Periods start in equal ratios from an hour to eight weeks, a day and a week among them. What is learned is by how
    many turns in eight weeks each changes: the gradient of a period itself would grow with the age of the data.
    """

    turns: Tensor

    def __init__(self, width: int, origin: int) -> None:
        super().__init__()
        ratios = torch.linspace(0, 1, _NUM_PERIODS - 2, dtype=torch.float64)
        periods = torch.cat([_HOUR * (_SPAN / _HOUR) ** ratios, torch.tensor([_DAY, 7 * _DAY])])
        self.register_buffer("turns", _SPAN / periods, persistent=False)  # in eight weeks
        self.change = nn.Parameter(torch.zeros(_NUM_PERIODS))
        self.out = nn.Linear(2 * _NUM_PERIODS, width, bias=False)
        nn.init.normal_(self.out.weight, std=0.02 / _NUM_PERIODS**0.5)  # as large as an embedding: sin² + cos² = 1
        self.origin = origin

    def forward(self, times: Tensor) -> Tensor:
        """(R, S) Unix seconds to (R, S, D); the zero vector where there is none."""
        known = times != TIME_MISSING
        seconds = torch.where(known, times - self.origin, 0)
        turns = seconds[..., None].double() / _SPAN * (self.turns + self.change.double())
        angle = (2 * torch.pi * (turns - turns.detach().floor())).float()
        encoded: Tensor = self.out(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return encoded * known[..., None]


class ContextEncoder(nn.Module):
    """The parts of an event beside its item, (R, S, D) each.

    Args:
        config: ``action``, the groups of clock columns, and ``fourier`` are features of it.
    """

    def __init__(self, catalogue: Catalogue, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.clock_dropout = config.inputs.clock_dropout
        self.action = EmbeddingTables((catalogue.num_actions + 1,), width) if "action" in config.features else None
        sizes = [size for group in config.clock for size in SIZES[group]]
        self.columns = [column for group in config.clock for column in columns_of(group)]
        self.clock = EmbeddingTables(sizes, width) if sizes else None
        self.fourier = Fourier(width, catalogue.time_origin) if "fourier" in config.features else None

    def __len__(self) -> int:
        return sum(part is not None for part in (self.action, self.clock, self.fourier))

    def forward(self, batch: TokenBatch) -> list[Tensor]:
        parts: list[Tensor] = []
        if self.action is not None:
            parts.append(self.action([batch.actions]))
        if self.clock is not None:
            parts.append(self._dropped(self.clock(batch.clock[..., self.columns].unbind(-1))))
        if self.fourier is not None:
            parts.append(self._dropped(self.fourier(batch.times)))
        return parts

    def _dropped(self, part: Tensor) -> Tensor:
        if not (self.training and self.clock_dropout):
            return part
        gone = dropped(part[..., 0].numel(), self.clock_dropout, part.device).view(*part.shape[:-1], 1)
        return part.masked_fill(gone, 0.0)
