"""The code decoder: from a trunk state to the codes of the next item, level by level.

A small causal Transformer over L tokens: the state, then the codes chosen so far. Beams never touch the
history again, and earlier levels are kept as keys and values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.layers import Block, EmbeddingTables, KeyValues, RMSNorm, SwiGLU, rotary_table
from semid.generative.trie import CodeTrie


class CodeDecoder(nn.Module):
    """Logits of the next item's codes, level by level.

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

    def forward(self, state: Tensor, codes: Tensor, trie: CodeTrie | None = None) -> list[Tensor]:
        """Teacher forcing: logits (P, K_l) of each level given the true codes before it.

        Args:
            state: (P, D) trunk states.
            codes: (P, L) int64 true codes; the last level is not read.
            trie: of the whole catalogue; codes that no item continues with get -inf.
        """
        tokens = [self.state(state)]
        tokens += [self.codes.column(level, codes[:, level]) for level in range(len(self.codes))]
        hidden, _ = self._run(torch.stack(tokens, dim=1), first=0, past=None)
        logits = [head(hidden[:, level]) for level, head in enumerate(self.heads)]
        if trie is None:
            return logits
        nodes = torch.zeros(len(state), dtype=torch.int64, device=state.device)
        masked = []
        for level, level_logits in enumerate(logits):
            masked.append(level_logits.masked_fill(~trie.allowed(level, nodes), -torch.inf))
            nodes = trie.step(level, nodes, codes[:, level])
        return masked

    def score(self, state: Tensor, codes: Tensor, trie: CodeTrie | None = None) -> Tensor:
        """log p(codes | state) of C given items each: state (B, D), codes (B, C, L) → (B, C) float32."""
        batch, count, levels = codes.shape
        flat = codes.reshape(-1, levels)
        logits = self(state.repeat_interleave(count, dim=0), flat, trie)
        parts = [
            F.log_softmax(level_logits.float(), dim=-1).gather(1, flat[:, level, None])[:, 0]
            for level, level_logits in enumerate(logits)
        ]
        return torch.stack(parts).sum(0).view(batch, count)

    def first(self, state: Tensor) -> tuple[Tensor, list[KeyValues]]:
        """Logits (B, K_1) of the first code, and the keys and values to continue from."""
        hidden, past = self._run(self.state(state)[:, None], first=0, past=None)
        return self.heads[0](hidden[:, 0]).float(), past

    def next(self, past: list[KeyValues], rows: Tensor, codes: Tensor) -> tuple[Tensor, list[KeyValues]]:
        """Logits (M, K_l) after one more code each.

        Args:
            past: as the call before returned it.
            rows: (M,) int64, the row of the call before that each row continues.
            codes: (M,) int64, the code each row has just taken.
        """
        past = [layer.select(rows) for layer in past]
        level = past[0].keys.shape[2]
        token = self.codes.column(level - 1, codes)[:, None]
        hidden, past = self._run(token, first=level, past=past)
        return self.heads[level](hidden[:, 0]).float(), past

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


@dataclass(frozen=True, eq=False)
class SearchState:
    """What :class:`CodeSearch` carries from level to level.

    Attributes:
        past: keys and values, one row a beam.
        nodes: (B, W) int64 trie node of each beam; None without a trie.
    """

    past: list[KeyValues]
    nodes: Tensor | None


@dataclass(frozen=True, eq=False)
class CodeSearch:
    """The decoder as beam search asks it: log-probabilities level by level, B users, W beams.

    Attributes:
        decoder: trained.
        trie: of the whole catalogue if the decoder was trained over existing codes only, otherwise None.
    """

    decoder: CodeDecoder
    trie: CodeTrie | None

    def first(self, state: Tensor) -> tuple[Tensor, SearchState]:
        """Log-probabilities (B, K_1) of the first code."""
        logits, past = self.decoder.first(state)
        nodes = None if self.trie is None else torch.zeros(len(state), 1, dtype=torch.int64, device=state.device)
        if self.trie is not None and nodes is not None:
            logits = logits.masked_fill(~self.trie.allowed(0, nodes[:, 0]), -torch.inf)
        return F.log_softmax(logits, dim=-1), SearchState(past, nodes)

    def next(self, cache: SearchState, parents: Tensor, codes: Tensor) -> tuple[Tensor, SearchState]:
        """Log-probabilities (B, W, K_l) of the next code of beams that continue ``parents`` with ``codes``."""
        batch, beams = codes.shape
        before = cache.past[0].keys.shape[0] // batch
        rows = (parents + torch.arange(batch, device=parents.device)[:, None] * before).flatten()
        depth = cache.past[0].keys.shape[2]
        logits, past = self.decoder.next(cache.past, rows, codes.flatten())
        nodes = None
        if self.trie is not None and cache.nodes is not None:
            nodes = self.trie.step(depth - 1, cache.nodes.flatten()[rows].view(batch, beams), codes)
            logits = logits.masked_fill(~self.trie.allowed(depth, nodes.flatten()), -torch.inf)
        return F.log_softmax(logits, dim=-1).view(batch, beams, -1), SearchState(past, nodes)
