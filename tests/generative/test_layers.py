"""Oracle: the Llama layers of transformers, with the same weights."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from semid.generative import layers
from semid.generative.layers import (
    Dropout,
    EmbeddingTables,
    KeyValues,
    RMSNorm,
    SwiGLU,
    View,
    attend,
    rotary_table,
    rotate,
)

WIDTH, HEADS, HIDDEN, TOKENS, BATCH = 32, 4, 48, 7, 3


def llama_config(kv_heads: int) -> LlamaConfig:
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        intermediate_size=HIDDEN,
        rms_norm_eps=1e-6,
        attention_bias=False,
        mlp_bias=False,
    )
    config._attn_implementation = "eager"
    return config


def test_selected_cache_rows_are_those_of_the_parents() -> None:
    cache = KeyValues(torch.randn(3, 2, 4, 8), torch.randn(3, 2, 4, 8))
    chosen = cache.select(torch.tensor([2, 0, 2, 1]))
    for row, parent in enumerate([2, 0, 2, 1]):
        assert torch.equal(chosen.keys[row], cache.keys[parent])
        assert torch.equal(chosen.values[row], cache.values[parent])


def test_rotary_equals_llama_and_depends_on_distance_only() -> None:
    torch.manual_seed(0)
    query, key, positions = torch.randn(2, HEADS, 5, 8), torch.randn(2, HEADS, 5, 8), torch.randint(0, 999, (2, 5))
    cos, sin = LlamaRotaryEmbedding(llama_config(2))(query, positions)
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    table = rotary_table(positions, 8)
    torch.testing.assert_close(rotate(query, table), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotate(key, table), expected[1], rtol=1e-4, atol=1e-5)

    def scores(shift: int) -> Tensor:
        moved = rotary_table(positions + shift, 8)
        return rotate(query, moved) @ rotate(key, moved).mT

    torch.testing.assert_close(scores(0), scores(57), rtol=1e-3, atol=1e-3)


def test_norm_and_swiglu_equal_llama() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, WIDTH) * 100
    norm, reference = RMSNorm(WIDTH), LlamaRMSNorm(WIDTH, eps=1e-6)
    norm.weight.data = reference.weight.data = torch.randn(WIDTH)
    torch.testing.assert_close(norm(x), reference(x))
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(norm(torch.zeros(1, WIDTH)), torch.zeros(1, WIDTH))

    ours, theirs = SwiGLU(WIDTH, HIDDEN), LlamaMLP(llama_config(2))
    for mine, other in ((ours.gate, theirs.gate_proj), (ours.up, theirs.up_proj), (ours.down, theirs.down_proj)):
        mine.weight.data = other.weight.data
    torch.testing.assert_close(ours(x), theirs(x))


def test_tables_sum_their_columns_and_wrap_around() -> None:
    tables = EmbeddingTables((3, 5), 4)
    first, second = (table.weight for table in tables.tables)
    columns = torch.tensor([0, 2, 3, 7]), torch.tensor([4, 5, 11, 0])
    expected = torch.stack([first[[0, 2, 0, 1]], second[[4, 0, 1, 0]]]).sum(0)
    torch.testing.assert_close(tables(columns), expected)
    assert len(tables) == 2
    torch.testing.assert_close(tables.column(1, torch.tensor([[6], [3]])), second[[1, 3]][:, None])


@pytest.mark.parametrize("most", [0, 512], ids=["fused", "stored scores"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("masked", "biased"), [(False, False), (True, False), (False, True), (True, True)])
def test_attention_equals_the_formula(
    monkeypatch: pytest.MonkeyPatch, most: int, groups: int, masked: bool, biased: bool
) -> None:
    """Head by head in double precision, values and gradients; more keys than queries, as with a cache."""
    monkeypatch.setattr(layers, "_MOST_STORED_TOKENS", most)
    torch.manual_seed(groups)
    inputs = [
        torch.randn(BATCH, heads, tokens, 8, dtype=torch.float64, requires_grad=True)
        for heads, tokens in ((HEADS, TOKENS), (HEADS // groups, 9), (HEADS // groups, 9))
    ]
    mask = (torch.rand(BATCH, 1, TOKENS, 9) < 0.6) | (torch.arange(9) == 4) if masked else None

    bias = torch.randn(BATCH, HEADS, TOKENS, 9) if biased else None

    def expected(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = []
        for head in range(HEADS):
            scores = query[:, head] @ key[:, head // groups].transpose(1, 2) / 8**0.5
            if bias is not None:
                scores = scores + bias[:, head]
            if mask is not None:
                scores = scores.masked_fill(~mask[:, 0], -torch.inf)
            rows.append(scores.softmax(-1) @ value[:, head // groups])
        return torch.stack(rows, dim=1)

    mixed, wanted = attend(*inputs, View(mask=mask, bias=bias)), expected(*inputs)
    torch.testing.assert_close(mixed, wanted, rtol=1e-5, atol=1e-6)
    upstream = torch.randn_like(wanted)
    pairs = zip(
        torch.autograd.grad(mixed, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    )
    for gradient, other in pairs:
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_dropout_hits_every_place_alike_and_keeps_the_mean() -> None:
    """Each byte of a random word decides one element, its sign bit too."""
    torch.manual_seed(0)
    x = torch.ones(40_000, 8, requires_grad=True)
    dropped = Dropout(0.3)(x)
    threshold = round(256 * 0.3)
    assert dropped.unique().tolist() == pytest.approx([0.0, 256 / (256 - threshold)])
    rates = (dropped == 0).float().mean(0)
    torch.testing.assert_close(rates, torch.full((8,), threshold / 256), rtol=0, atol=0.01)
    together = ((dropped[:, 0] == 0) & (dropped[:, 1] == 0)).float().mean()
    assert float(together) == pytest.approx((threshold / 256) ** 2, abs=0.01)
    [gradient] = torch.autograd.grad(dropped.sum(), x)
    torch.testing.assert_close(gradient, dropped.detach())


@pytest.mark.parametrize("size", [1, 7, 9])
def test_dropout_of_odd_sizes_and_none_when_off(size: int) -> None:
    x = torch.randn(size, 3)
    assert Dropout(0.5)(x).shape == x.shape
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5)(x.bfloat16()).dtype == torch.bfloat16


def test_few_products_are_the_same_term_by_term(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 4, 1, 8, generator=generator)
    key, value = torch.randn(2, 6, 2, 5, 8, generator=generator)
    mask = torch.rand(6, 1, 1, 5, generator=generator) < 0.7
    mask[..., 0] = True
    term_by_term = layers.attend(query, key, value, View(mask=mask))
    monkeypatch.setattr(layers, "_FEW", 0)
    torch.testing.assert_close(term_by_term, layers.attend(query, key, value, View(mask=mask)))
