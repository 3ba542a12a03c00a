"""Transformer layers: RMSNorm, rotary positions, grouped-query attention, FiLM, SwiGLU.

Shapes: B rows, T tokens, D width, H query heads, G key/value heads, C width of one head.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Longest rows whose attention scores are stored.
_MOST_STORED_TOKENS = 512
# Queries times keys of a head up to which one matrix product each takes a CPU longer than all terms at once.
_FEW = 8


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of earlier tokens, (B, G, T, C) each, rotated already."""

    keys: Tensor
    values: Tensor

    def select(self, rows: Tensor) -> "KeyValues":
        """Take rows (B',) of the batch, as when beams continue from their parents."""
        return KeyValues(self.keys[rows], self.values[rows])

    @staticmethod
    def concatenate(parts: Sequence["KeyValues"]) -> "KeyValues":
        """Those of consecutive batches as one; tokens that shorter ones lack are zeros, to be masked."""
        tokens = max(part.keys.shape[2] for part in parts)

        def padded(values: Tensor) -> Tensor:
            return F.pad(values, (0, 0, 0, tokens - values.shape[2]))

        return KeyValues(
            torch.cat([padded(part.keys) for part in parts]), torch.cat([padded(part.values) for part in parts])
        )

    def after(self, past: "Past | None") -> "Past":
        """These behind earlier ones."""
        if past is None:
            return self
        if isinstance(past, SharedPast):
            own = self.after(past.own)
            assert isinstance(own, KeyValues)
            return SharedPast(past.shared, own)
        return KeyValues(torch.cat([past.keys, self.keys], dim=2), torch.cat([past.values, self.values], dim=2))


@dataclass(frozen=True, eq=False)
class SharedPast:
    """Keys and values of B histories that W beams each look at, and of what each beam has added itself.

    Attributes:
        shared: (B, G, S, C) each, never copied for a beam.
        own: (B · W, G, T, C) each; None before the first token.
    """

    shared: KeyValues
    own: KeyValues | None = None

    def select(self, rows: Tensor) -> "SharedPast":
        """Take beams (M,), whose users stay as they are."""
        return SharedPast(self.shared, None if self.own is None else self.own.select(rows))


Past = KeyValues | SharedPast


class EmbeddingTables(nn.Module):
    """One embedding table a column of indices.

    An index past the end of its table wraps around, which is how a large set of ids shares the rows of a small
    table. Tables of at least ``sparse_from`` rows have gradients in the rows that were looked up alone.
    """

    def __init__(
        self, sizes: Sequence[int], width: int, std: float = 0.02, *, sparse_from: int | None = None
    ) -> None:
        super().__init__()
        least = float("inf") if sparse_from is None else sparse_from
        self.tables = nn.ModuleList(nn.Embedding(size, width, sparse=size >= least) for size in sizes)
        for index in range(len(sizes)):
            nn.init.normal_(self._table(index).weight, std=std)

    def __len__(self) -> int:
        return len(self.tables)

    def _table(self, index: int) -> nn.Embedding:
        table = self.tables[index]
        assert isinstance(table, nn.Embedding)
        return table

    def column(self, index: int, values: Tensor) -> Tensor:
        """Embeddings (..., D) of the values (...) of one column."""
        table = self._table(index)
        result: Tensor = table(values % table.num_embeddings)
        return result

    def forward(self, columns: Iterable[Tensor]) -> Tensor:
        """Sum over the columns, (...) each. (..., D)"""
        return torch.stack([self.column(index, values) for index, values in enumerate(columns)]).sum(0)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last dimension, in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


def rotary_table(positions: Tensor, head_width: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (arXiv 2104.09864).

    Args:
        positions: (B, T) integer positions.
        head_width: C, even.

    Returns:
        (B, 1, T, C / 2) each.
    """
    frequency = base ** (-torch.arange(0, head_width, 2, device=positions.device) / head_width)
    angle = positions[:, None, :, None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to (B, H, T, C) queries or keys, whose halves are turned into each other."""
    cos, sin = table
    first, second = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    turned = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
    return torch.cat(turned, dim=-1).to(x.dtype)


@dataclass(frozen=True, eq=False)
class View:
    """What T new tokens see of S tokens, the earlier ones included.

    Attributes:
        table: rotary table of the new tokens' positions; None leaves queries and keys as they are.
        mask: (B, 1, T, S) bool, True where attention is allowed; None attends to everything.
        bias: (B, H or 1, T, S) float added to the scores.
        segments: (B, T) which history each new token is of, -1 on padding; None if each row is one.
    """

    table: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    bias: Tensor | None = None
    segments: Tensor | None = None

    @cached_property
    def added(self) -> Tensor | None:
        """(B, H or 1, T, S) float added to the scores, -inf where attention is not allowed."""
        if self.mask is None:
            return self.bias
        bias = torch.zeros(self.mask.shape, device=self.mask.device) if self.bias is None else self.bias
        return bias.masked_fill(~self.mask, -torch.inf)

    def at(self, tokens: Tensor) -> "View":
        """Of one new token (B,) of each row."""
        rows = torch.arange(len(tokens), device=tokens.device)

        def of(values: Tensor) -> Tensor:
            return values.expand(len(tokens), *values.shape[1:])[rows, :, tokens][:, :, None]

        return View(
            table=None if self.table is None else (of(self.table[0]), of(self.table[1])),
            mask=None if self.mask is None else of(self.mask),
            bias=None if self.bias is None else of(self.bias),
            segments=None if self.segments is None else self.segments[rows, tokens, None],
        )

    def rotated(self, x: Tensor) -> Tensor:
        """(B, H, T, C) queries or keys at their positions."""
        return x if self.table is None else rotate(x, self.table)


def attend(query: Tensor, key: Tensor, value: Tensor, view: View) -> Tensor:
    """Softmax attention of (B, H, T, C) queries to (B, G, S, C) keys and values. (B, H, T, C)"""
    batch, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    if query.device.type != "cpu" or key.shape[2] > _MOST_STORED_TOKENS:
        key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
        mask = view.mask if view.bias is None or view.added is None else view.added.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # On CPUs the fused kernel is several times slower than its products one by one, as long as rows are short.
    grouped = (query * width**-0.5).reshape(batch, key.shape[1], groups * tokens, width)
    scores = (grouped @ key.transpose(2, 3)).float().view(batch, heads, tokens, -1)
    if view.added is not None:
        scores = scores + view.added
    shares = torch.softmax(scores, dim=-1).to(value.dtype)
    return _mixed(shares.view(batch, key.shape[1], groups * tokens, -1), value).view(query.shape)


def _mixed(weights: Tensor, value: Tensor) -> Tensor:
    """Weights (B, G, Q, S) times values (B, G, S, C). (B, G, Q, C)"""
    if value.device.type != "cpu" or weights.shape[2] * weights.shape[3] > _FEW:
        return weights @ value
    mixed = weights[..., :1] * value[:, :, :1]
    for place in range(1, value.shape[2]):
        mixed = torch.addcmul(mixed, weights[..., place, None], value[:, :, place, None])
    return mixed


def mix_shared(query: Tensor, past: SharedPast, view: View, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """Attention of one new token of each beam to the history that beams share and to what the beam has of its own.

    Args:
        query: (B · W, H, 1, C).
        past: S history tokens and T of each beam, the new one included.
        view: mask and bias of (B, 1 or H, 1, S + T), the same for all beams of a user.
        weigh: scores (..., S + T) to weights, -inf where attention is not allowed.

    Returns:
        (B · W, H, 1, C).
    """
    assert past.own is not None
    users, groups, tokens, width = past.shared.keys.shape
    beams, heads = query.shape[0] // users, query.shape[1]
    scaled = (query[:, :, 0] * width**-0.5).view(users, beams, groups, heads // groups, width)
    by_group = scaled.permute(0, 2, 1, 3, 4).reshape(users, groups, -1, width)  # (B, G, W · H/G, C)
    to_history = (by_group @ past.shared.keys.transpose(2, 3)).view(users, groups, beams, -1, tokens)
    own_query = scaled.reshape(users * beams, groups, -1, width)
    to_own = (own_query @ past.own.keys.transpose(2, 3)).view(users, beams, groups, heads // groups, -1)
    scores = torch.cat([to_history, to_own.transpose(1, 2)], dim=-1).float()  # (B, G, W, H/G, S + T)
    scores = scores.transpose(2, 3).reshape(users, heads, beams, -1)
    if view.added is not None:
        scores = scores + view.added
    weights = weigh(scores).to(query.dtype).view(users, groups, -1, beams, scores.shape[-1]).transpose(2, 3)
    shared, own = weights[..., :tokens], weights[..., tokens:]
    mixed = (shared.reshape(users, groups, -1, tokens) @ past.shared.values).view(users, groups, beams, -1, width)
    own = own.transpose(1, 2).reshape(users * beams, groups, heads // groups, -1)
    of_own = _mixed(own, past.own.values).view(users, beams, groups, -1, width)
    result: Tensor = (mixed.transpose(1, 2) + of_own).reshape(users * beams, heads, 1, width)
    return result


class Dropout(nn.Module):
    """Dropout whose random numbers are bytes: on CPUs several times faster, at rates that are multiples of 1/256.

    Args:
        rate: share of the elements that become 0; the others grow so that the mean stays.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = round(256 * rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.threshold:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return torch.where(kept, x * (256 / (256 - self.threshold)), 0.0)


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245) with rotary positions.

    Args:
        width: D.
        num_heads: H query heads.
        num_kv_heads: G key/value heads; H is a multiple of it.
        head_width: C; D over H if 0.
        qk_norm: normalise queries and keys before they are rotated (arXiv 2010.04245).
    """

    def __init__(
        self, width: int, num_heads: int, num_kv_heads: int, *, head_width: int = 0, qk_norm: bool = False
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = num_heads, num_kv_heads, head_width or width // num_heads
        self.query = nn.Linear(width, num_heads * self.head_width, bias=False)
        self.key = nn.Linear(width, num_kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(width, num_kv_heads * self.head_width, bias=False)
        self.output = nn.Linear(num_heads * self.head_width, width, bias=False)
        self.query_norm = RMSNorm(self.head_width) if qk_norm else None
        self.key_norm = RMSNorm(self.head_width) if qk_norm else None

    def forward(
        self, x_BTD: Tensor, view: View, past: Past | None = None, only: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        """Attend from T new tokens to themselves and the past.

        Args:
            x_BTD: new tokens.
            view: what they see.
            past: keys and values of earlier tokens.
            only: (B,) the one token of each row that attends; all of them without it.

        Returns:
            (B, T, D), or (B, 1, D), and the keys and values of all tokens.
        """
        key, value = (split_heads(part(x_BTD), self.num_kv_heads) for part in (self.key, self.value))
        if self.key_norm is not None:
            key = self.key_norm(key)
        cache = KeyValues(view.rotated(key), value).after(past)
        if only is not None:
            x_BTD, view = token_of(x_BTD, only), view.at(only)
        query = split_heads(self.query(x_BTD), self.num_heads)
        if self.query_norm is not None:
            query = self.query_norm(query)
        query = view.rotated(query)
        if isinstance(cache, SharedPast):
            mixed = mix_shared(query, cache, view, lambda scores: torch.softmax(scores, dim=-1))
        else:
            mixed = attend(query, cache.keys, cache.values, view)
        return self.output(join_heads(mixed)), cache


def token_of(x_BTD: Tensor, tokens: Tensor) -> Tensor:
    """One token (B,) of each row. (B, 1, D)"""
    return x_BTD[torch.arange(len(tokens), device=tokens.device), tokens][:, None]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H · C) → (B, H, T, C)"""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, T, C) → (B, T, H · C)"""
    return x.transpose(1, 2).flatten(2)


class FiLM(nn.Module):
    """x ⊙ (1 + γ(c)) + β(c) for a condition c (arXiv 1709.07871), starting as the identity.

    Args:
        width: D, of x and c.
        bounded: take tanh γ for γ.
    """

    def __init__(self, width: int, *, bounded: bool = False) -> None:
        super().__init__()
        self.bounded = bounded
        self.factors = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.factors.weight)
        nn.init.zeros_(self.factors.bias)

    def forward(self, x: Tensor, condition: Tensor, owner: Tensor | None = None) -> Tensor:
        """x (…, D) under conditions (…, D), or, with ``owner`` (…), under that row of them."""
        factors = self.factors(condition)
        scale, shift = (factors if owner is None else factors[owner]).chunk(2, dim=-1)
        result: Tensor = x * (1 + (torch.tanh(scale) if self.bounded else scale)) + shift
        return result


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return result
