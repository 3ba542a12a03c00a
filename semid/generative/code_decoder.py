"""The code decoder: from a trunk state to the codes of the next item, level by level.

A small causal Transformer over L tokens: the state, then the codes chosen so far. Beams never touch the
history again, and earlier levels are kept as keys and values.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.layers import Block, EmbeddingTables, KeyValues, RMSNorm, SwiGLU, rotary_table


class CodeDecoder(nn.Module):
    """Log-probabilities of the next item's codes; implements the scorer that beam search asks.

    Args:
        num_codes: K per level.
        width: D of the trunk state and inside.
        num_heads, num_kv_heads, hidden: of its blocks.
        num_layers: blocks.
        dropout: on residual branches.
    """

    def __init__(
        self,
        num_codes: tuple[int, ...],
        *,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        hidden: int,
        num_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.head_width = width // num_heads
        self.state = nn.Linear(width, width, bias=False)
        self.codes = EmbeddingTables(num_codes[:-1], width, std=width**-0.5)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, num_kv_heads, SwiGLU(width, hidden), dropout) for _ in range(num_layers)
        )
        self.norm = RMSNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in num_codes)

    def forward(self, state: Tensor, codes: Tensor) -> list[Tensor]:
        """Teacher forcing: logits (P, K_l) of each level given the true codes before it.

        Args:
            state: (P, D) trunk states.
            codes: (P, L) int64 true codes; the last level is not read.
        """
        tokens = [self.state(state)]
        tokens += [self.codes.column(level, codes[:, level]) for level in range(len(self.codes))]
        hidden, _ = self._run(torch.stack(tokens, dim=1), first=0, past=None)
        return [head(hidden[:, level]) for level, head in enumerate(self.heads)]

    def first(self, state: Tensor) -> tuple[Tensor, list[KeyValues]]:
        """Log-probabilities (B, K_1) of the first code, and the cache to continue from."""
        hidden, cache = self._run(self.state(state)[:, None], first=0, past=None)
        return F.log_softmax(self.heads[0](hidden[:, 0]).float(), dim=-1), cache

    def next(self, cache: list[KeyValues], parents: Tensor, codes: Tensor) -> tuple[Tensor, list[KeyValues]]:
        """Log-probabilities (B, W, K_l) of the next code after each beam's newest one.

        Args:
            cache: as the call before returned it.
            parents: (B, W) int64, the beam of the call before that each beam continues.
            codes: (B, W) int64 the code each beam has just taken.
        """
        batch, beams = codes.shape
        width_before = cache[0].keys.shape[0] // batch
        rows = (parents + torch.arange(batch, device=parents.device)[:, None] * width_before).flatten()
        past = [layer.select(rows) for layer in cache]
        level = past[0].keys.shape[2]
        token = self.codes.column(level - 1, codes.flatten())[:, None]
        hidden, cache = self._run(token, first=level, past=past)
        logits = self.heads[level](hidden[:, 0]).float()
        return F.log_softmax(logits, dim=-1).view(batch, beams, -1), cache

    def score(self, state: Tensor, codes: Tensor) -> Tensor:
        """log p(codes | state) of C given items each: state (B, D), codes (B, C, L) → (B, C) float32."""
        batch, count, levels = codes.shape
        logits = self(state.repeat_interleave(count, dim=0), codes.reshape(-1, levels))
        flat = codes.reshape(-1, levels)
        parts = [
            F.log_softmax(level_logits.float(), dim=-1).gather(1, flat[:, level, None])[:, 0]
            for level, level_logits in enumerate(logits)
        ]
        return torch.stack(parts).sum(0).view(batch, count)

    def _run(self, x_BTD: Tensor, *, first: int, past: list[KeyValues] | None) -> tuple[Tensor, list[KeyValues]]:
        tokens = x_BTD.shape[1]
        positions = torch.arange(first, first + tokens, device=x_BTD.device)
        table = rotary_table(positions[None], self.head_width)
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x_BTD.device).tril() if tokens > 1 else None
        cache = []
        for layer, block in enumerate(self.blocks):
            x_BTD, keys_values = block(x_BTD, table, mask, past[layer] if past else None)
            cache.append(keys_values)
        return self.norm(x_BTD), cache
