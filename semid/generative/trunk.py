"""The causal trunk: blocks over packed histories, and what each token sees of the others.

Shapes: R rows, T new tokens, S tokens with the earlier ones, D width, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semid.data.events import TIME_MISSING
from semid.generative.blocks import Block, HSTUBlock, ReluMLP
from semid.generative.config import ModelConfig
from semid.generative.histories import TokenBatch
from semid.generative.layers import Attention, Past, RMSNorm, SwiGLU, View, rotary_table
from semid.generative.moe import MoE

_TIME_BUCKETS = 32
# Rotary periods by real time, in seconds.
_SHORTEST_PERIOD, _LONGEST_PERIOD = 60.0, 60.0 * 86_400


@dataclass(frozen=True, eq=False)
class Places:
    """Where tokens stand, (R, T) each.

    Attributes:
        segments: equal within a history, -1 on padding.
        positions: place within the history.
        times: Unix seconds, TIME_MISSING where not given.
        actions: of the event, 0 unknown, otherwise action + 1.
        next_actions: that the position is told to come next, in the same way.
    """

    segments: Tensor
    positions: Tensor
    times: Tensor
    actions: Tensor
    next_actions: Tensor


def code_places(batch: TokenBatch, told: Tensor, levels: int) -> Places:
    """Where the tokens of layout ``code`` stand: of each event its L codes, then the event. (R, S · (L + 1)) each

    The state after an event predicts the first code of the next one, the state after a code the next code, and the
    state after the last code, which knows the whole item, the action. Codes are read before their event happens, so
    they stand at the time of the event before it, and are told what that is told.
    """
    slots = levels + 1
    first = batch.positions == 0
    before = torch.where(first, TIME_MISSING, batch.times.roll(1, dims=1))
    told_before = torch.where(first, 0, told.roll(1, dims=1))
    no_code = torch.where(batch.profile, -1, batch.segments)

    def laid(of_codes: Tensor, of_event: Tensor) -> Tensor:
        return torch.cat([of_codes[..., None].expand(-1, -1, levels), of_event[..., None]], dim=-1).flatten(1)

    slot = torch.arange(slots, device=told.device)
    return Places(
        segments=laid(no_code, batch.segments),
        positions=(batch.positions[..., None] * slots + slot).flatten(1),
        times=laid(before, batch.times),
        actions=laid(torch.zeros_like(batch.actions), batch.actions),
        next_actions=laid(told_before, told),
    )


class Trunk(nn.Module):
    """From tokens to states."""

    def __init__(self, config: ModelConfig, num_actions: int, tokens_per_event: int = 1) -> None:
        super().__init__()
        trunk, heads = config.trunk, config.heads
        self.window = trunk.window * tokens_per_event
        self.positions, self.head_width = trunk.positions, config.head_width
        tokens = (config.context + 2) * tokens_per_event  # with a profile, and an event that is only generated
        self.places = nn.Embedding(tokens, config.width) if trunk.positions == "learned" else None
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=0.02)
        self.time_bias = nn.Embedding(_TIME_BUCKETS + 1, heads) if trunk.time_bias else None
        told = "bias" in config.action.condition
        self.action_bias = nn.Embedding((num_actions + 1) ** 2, heads) if told else None
        for table in (self.time_bias, self.action_bias):
            if table is not None:
                nn.init.zeros_(table.weight)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width) if trunk.norm == "post" else RMSNorm(config.width)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """States (R, T, D) after each of the tokens (R, T, D)."""
        return self.extend(x, places, places)[0]

    def extend(
        self,
        x: Tensor,
        new: Places,
        seen: Places,
        past: list[Past] | None = None,
        beams: int = 1,
        only: Tensor | None = None,
    ) -> tuple[Tensor, list[Past]]:
        """States after new tokens that go on from earlier ones, and the keys and values of each block.

        Args:
            x: (R · beams, T, D) tokens; the beams of a row stand at the same places.
            new: (R, T) where they stand.
            seen: (R, S) the same of all tokens, the new ones at the end.
            past: of each block; None if there are no earlier tokens.
            beams: W rows of ``x`` for each row of places.
            only: (R,) the one token of each row whose state is wanted; the last block spares itself the others.
        """
        if self.places is not None:
            at = self.places(new.positions.clamp(max=self.places.num_embeddings - 1))
            x = x + at.repeat_interleave(beams, dim=0)
        view = self.view(new, seen, beams)
        cache = []
        for layer, block in enumerate(self.blocks):
            last = layer + 1 == len(self.blocks)
            x, keys_values = block(x, view, past[layer] if past else None, only if last else None)
            cache.append(keys_values)
        return self.norm(x), cache

    def view(self, new: Places, seen: Places, beams: int = 1) -> View:
        """What new tokens see of the tokens ``seen``, which end with them; all beams have one mask and bias."""
        back = new.positions[:, :, None] - seen.positions[:, None, :]
        mask = (new.segments[:, :, None] == seen.segments[:, None, :]) & (back >= 0)
        if self.window:
            mask &= back < self.window
        table = self._table(new)
        if table is not None and beams > 1:
            table = table[0].repeat_interleave(beams, dim=0), table[1].repeat_interleave(beams, dim=0)
        return View(table, mask[:, None], self._bias(new, seen), new.segments if beams == 1 else None)

    def _table(self, places: Places) -> tuple[Tensor, Tensor] | None:
        if self.positions == "order":
            return rotary_table(places.positions, self.head_width)
        if self.positions == "time":
            return _time_table(places.times, self.head_width)
        if self.positions == "both":
            return _interleaved(
                rotary_table(places.positions, self.head_width), _time_table(places.times, self.head_width)
            )
        return None

    def _bias(self, new: Places, seen: Places) -> Tensor | None:
        """(R, H, T, S), learned of the time between two tokens, and of the wanted action and that of the event."""
        parts = []
        if self.time_bias is not None:
            parts.append(self.time_bias(_time_buckets(new.times, seen.times)))
        if self.action_bias is not None:
            size = round(self.action_bias.num_embeddings**0.5)
            parts.append(self.action_bias(new.next_actions[:, :, None] * size + seen.actions[:, None, :]))
        return torch.stack(parts).sum(0).permute(0, 3, 1, 2) if parts else None


def _block(config: ModelConfig) -> nn.Module:
    trunk = config.trunk
    if trunk.block == "hstu":
        return HSTUBlock(config.width, config.heads, config.head_width, config.dropout, trunk.norm)
    attention = Attention(
        config.width, config.heads, config.kv_heads, head_width=config.head_width, qk_norm=trunk.qk_norm
    )
    return Block(attention, _feed_forward(config), config.width, config.dropout, trunk.norm)


def _feed_forward(config: ModelConfig) -> nn.Module:
    if config.moe is not None:
        return MoE(config.width, config.moe)
    kind = SwiGLU if config.trunk.feed_forward == "swiglu" else ReluMLP
    return kind(config.width, config.inner)


def _time_table(times: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines whose angle turns with real time, so that attention depends on the time between events.

    Periods go from a minute to two months in equal ratios. Events without a time stand at an angle of 0.
    """
    known = times != TIME_MISSING
    pairs = head_width // 2
    ratios = torch.linspace(0, 1, pairs, dtype=torch.float64, device=times.device)
    periods = _SHORTEST_PERIOD * (_LONGEST_PERIOD / _SHORTEST_PERIOD) ** ratios
    turns = torch.where(known, times, 0).double()[:, None, :, None] / periods
    angle = (2 * torch.pi * turns.frac()).float()  # whole turns go first: seconds since 1970 are too many for float32
    return angle.cos(), angle.sin()


def _interleaved(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Every other angle from each table."""
    even = torch.arange(first[0].shape[-1], device=first[0].device) % 2 == 0
    cos, sin = (torch.where(even, a, b) for a, b in zip(first, second, strict=True))
    return cos, sin


def _time_buckets(new: Tensor, seen: Tensor) -> Tensor:
    """log2 of the seconds between (R, T) and (R, S), the last bucket where one is not given. (R, T, S)"""
    known = (new != TIME_MISSING)[:, :, None] & (seen != TIME_MISSING)[:, None, :]
    between = torch.where(known, new[:, :, None] - seen[:, None, :], 0).abs()
    bucket = (between.float() + 1).log2().long().clamp(max=_TIME_BUCKETS - 1)
    return torch.where(known, bucket, _TIME_BUCKETS)
