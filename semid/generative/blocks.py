"""Blocks of a trunk: the Transformer's, before or after normalisation, and HSTU's.

Shapes: B rows, T tokens, D width, H heads, C width of one head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.layers import (
    Attention,
    Dropout,
    KeyValues,
    Past,
    RMSNorm,
    SharedPast,
    View,
    join_heads,
    mix_shared,
    split_heads,
    token_of,
)
from semid.generative.moe import MoE


class ReluMLP(nn.Module):
    """down(relu(up(x))), with biases (arXiv 1706.03762)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.relu(self.up(x)))
        return result


class Block(nn.Module):
    """Transformer block; the feed-forward part is any module from (B, T, D) to (B, T, D).

    Args:
        norm: ``pre``: RMSNorm before each branch (arXiv 2002.04745); ``post``: LayerNorm of each sum; ``none``.
    """

    def __init__(
        self, attention: Attention, feed_forward: nn.Module, width: int, dropout: float = 0.0, norm: str = "pre"
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.dropout = Dropout(dropout)
        before = RMSNorm if norm == "pre" else nn.Identity
        after = nn.LayerNorm if norm == "post" else nn.Identity
        self.attention_norm, self.feed_forward_norm = before(width), before(width)
        self.attention_sum, self.feed_forward_sum = after(width), after(width)

    def forward(
        self, x_BTD: Tensor, view: View, past: Past | None = None, only: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        """See :meth:`semid.generative.layers.Attention.forward`."""
        mixed, cache = self.attention(self.attention_norm(x_BTD), view, past, only)
        if only is not None:
            x_BTD, view = token_of(x_BTD, only), view.at(only)
        x_BTD = self.attention_sum(x_BTD + self.dropout(mixed))
        normed = self.feed_forward_norm(x_BTD)
        if isinstance(self.feed_forward, MoE):
            changed = self.feed_forward(normed, view.segments)
        else:
            changed = self.feed_forward(normed)
        return self.feed_forward_sum(x_BTD + self.dropout(changed)), cache


class HSTUBlock(nn.Module):
    """Hierarchical sequential transduction unit (arXiv 2402.17152).

    [U, V, Q, K] = SiLU(W x); every pair weighs SiLU(Q Kᵀ / √C + bias), with no softmax, so that how much there is to
    attend to is not lost; x + W_o(LayerNorm(A V) ⊙ U). The weights are not divided by the number of tokens, as in a
    public finalist's system of the Tencent challenge of 2025: the norm that follows would take it away.

    Args:
        norm: ``pre`` puts an RMSNorm before the first map, ``post`` a LayerNorm behind the sum, ``none`` neither.
    """

    def __init__(self, width: int, num_heads: int, head_width: int, dropout: float = 0.0, norm: str = "pre") -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_width
        self.expand = nn.Linear(width, 4 * inner)
        self.inner_norm = nn.LayerNorm(inner)
        self.output = nn.Linear(inner, width)
        self.dropout = Dropout(dropout)
        self.norm = RMSNorm(width) if norm == "pre" else nn.Identity()
        self.sum_norm = nn.LayerNorm(width) if norm == "post" else nn.Identity()

    def forward(
        self, x_BTD: Tensor, view: View, past: Past | None = None, only: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        """See :meth:`semid.generative.layers.Attention.forward`."""
        gate, *parts = F.silu(self.expand(self.norm(x_BTD))).chunk(4, dim=-1)
        value, query, key = (split_heads(part, self.num_heads) for part in parts)
        query, key = view.rotated(query), view.rotated(key)
        cache = KeyValues(key, value).after(past)
        if only is not None:
            x_BTD, gate, view = token_of(x_BTD, only), token_of(gate, only), view.at(only)
            query = query[torch.arange(len(only), device=only.device), :, only][:, :, None]
        if isinstance(cache, SharedPast):
            mixed = join_heads(mix_shared(query, cache, view, _silu_of_scores))
        else:
            mixed = join_heads(pointwise_attend(query, cache.keys, cache.values, view))
        changed = self.output(self.inner_norm(mixed) * gate)
        return self.sum_norm(x_BTD + self.dropout(changed)), cache


def _silu_of_scores(scores: Tensor) -> Tensor:
    return F.silu(scores.clamp(min=-1e4))  # of -inf it would be NaN, and its gradient too


def pointwise_attend(query: Tensor, key: Tensor, value: Tensor, view: View) -> Tensor:
    """Σ SiLU(q · k / √C + bias) v over the tokens allowed: (B, H, T, C) and (B, H, S, C) → (B, H, T, C)."""
    scores = ((query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)).float()
    if view.added is not None:
        scores = scores + view.added
    return _silu_of_scores(scores).to(value.dtype) @ value
