"""Layout ``code``: the trunk itself goes on from the histories, code by code.

Shapes: R rows, S tokens, L levels, D width, B users, W beams each, C items each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from semid.generative.code_decoder import CodeHeads
from semid.generative.histories import TokenBatch
from semid.generative.layers import KeyValues, SharedPast
from semid.generative.model import Model
from semid.generative.trunk import Places, code_places


@dataclass(frozen=True, eq=False)
class TrunkDecoder:
    """The trunk in place of a code decoder, the histories of B users read once and shared by their beams.

    Attributes:
        model: of layout ``code``.
        history: keys and values of each block.
        places: of the history, and of the L codes to come.
        told: (B,) wanted action.
    """

    model: Model
    history: list[KeyValues]
    places: Places
    told: Tensor

    @staticmethod
    def of(model: Model, batch: TokenBatch, past: list[KeyValues], told: Tensor) -> "TrunkDecoder":
        """Go on from histories that the trunk has read.

        Args:
            batch: one history a row.
            past: keys and values of each block over :func:`code_places`.
            told: (R, S), the wanted action at each row's last event.
        """
        assert model.code_heads is not None
        levels = len(model.code_heads.num_codes)
        places = code_places(batch, told, levels)
        rows, last = torch.arange(len(told), device=told.device), batch.last_tokens()
        wanted = told[rows, last]
        slot = torch.arange(levels, device=told.device)

        def extended(values: Tensor, added: Tensor) -> Tensor:
            return torch.cat([values, added.expand(-1, levels)], dim=1)

        places = Places(
            segments=extended(places.segments, batch.segments[:, :1]),
            positions=extended(places.positions, (batch.positions[rows, last] + 1)[:, None] * (levels + 1) + slot),
            times=extended(places.times, batch.times[rows, last, None]),
            actions=extended(places.actions, torch.zeros_like(wanted)[:, None]),
            next_actions=extended(places.next_actions, wanted[:, None]),
        )
        return TrunkDecoder(model, past, places, wanted)

    def select(self, rows: Tensor) -> "TrunkDecoder":
        """Of some of the users, (B',) places."""
        history = [layer.select(rows) for layer in self.history]
        places = Places(*(values[rows] for values in vars(self.places).values()))
        return TrunkDecoder(self.model, history, places, self.told[rows])

    def tensors(self) -> list[Tensor]:
        """All that was read, in one order."""
        layers = [part for layer in self.history for part in (layer.keys, layer.values)]
        return [*layers, *vars(self.places).values(), self.told]

    def holding(self, tensors: list[Tensor]) -> "TrunkDecoder":
        """The same with other :meth:`tensors` of these shapes."""
        count = 2 * len(self.history)
        history = [KeyValues(*pair) for pair in zip(tensors[:count:2], tensors[1:count:2], strict=True)]
        return TrunkDecoder(self.model, history, Places(*tensors[count:-1]), tensors[-1])

    @property
    def heads(self) -> CodeHeads:
        """Of the model."""
        assert self.model.code_heads is not None
        return self.model.code_heads

    def first(self, state: Tensor) -> tuple[Tensor, list[SharedPast]]:
        """What is known before the first code: the states (B, D), told the wanted action already."""
        return state, [SharedPast(layer) for layer in self.history]

    def next(self, past: list[SharedPast], rows: Tensor, codes: Tensor) -> tuple[Tensor, list[SharedPast]]:
        """What is known (B · W, D), told the wanted action, after one more code each; as CodeReader says."""
        own = past[0].own
        depth = 0 if own is None else own.keys.shape[2]
        states, past = self._extend([layer.select(rows) for layer in past], depth, codes)
        return self.model.conditioned(states, self.told.repeat_interleave(len(codes) // len(self.told))), past

    def after(self, codes: Tensor) -> Tensor:
        """States (B, C, D) after all codes of C given items each, (B, C, L), for the action head."""
        batch, count, levels = codes.shape
        past = [SharedPast(layer) for layer in self.history]
        states = codes.new_empty(0, dtype=torch.float32)
        for depth in range(levels):
            states, past = self._extend(past, depth, codes[:, :, depth].flatten())
        return states.view(batch, count, -1)

    def _extend(self, past: list[SharedPast], depth: int, codes: Tensor) -> tuple[Tensor, list[SharedPast]]:
        """States (B · W, D) after one more code each."""
        beams = len(codes) // len(self.told)
        tokens = self.history[0].keys.shape[2]
        seen = _columns(self.places, slice(0, tokens + depth + 1))
        new = _columns(self.places, slice(tokens + depth, tokens + depth + 1))
        told = self.told.repeat_interleave(beams)[:, None]
        assert self.model.code_tokens is not None
        x = self.model.code_tokens.column(depth, codes)[:, None]
        states, extended = self.model.trunk.extend(self.model.prepared(x, told), new, seen, list(past), beams)
        kept = [layer for layer in extended if isinstance(layer, SharedPast)]
        return states[:, 0], kept


def _columns(places: Places, part: slice) -> Places:
    return Places(*(values[:, part] for values in vars(places).values()))
