"""Oracles: the Llama and Qwen3 layers of transformers and the encoder layer of torch, with the same weights; HSTU by
hand."""

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding

from semid.generative.blocks import Block, HSTUBlock, ReluMLP
from semid.generative.layers import Attention, SwiGLU, View, rotary_table

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


def pair(kv_heads: int) -> tuple[Block, LlamaDecoderLayer, LlamaRotaryEmbedding]:
    """A Llama layer with random weights and our block with the same ones."""
    torch.manual_seed(kv_heads)
    config = llama_config(kv_heads)
    theirs = LlamaDecoderLayer(config, layer_idx=0).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    ours = Block(Attention(WIDTH, HEADS, kv_heads), SwiGLU(WIDTH, HIDDEN), WIDTH).eval()
    names = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output",
        "mlp.gate_proj": "feed_forward.gate",
        "mlp.up_proj": "feed_forward.up",
        "mlp.down_proj": "feed_forward.down",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "feed_forward_norm",
    }
    ours.load_state_dict(
        {f"{names[name.removesuffix('.weight')]}.weight": value for name, value in theirs.state_dict().items()}
    )
    return ours, theirs, LlamaRotaryEmbedding(config)


def view(positions: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> View:
    return View(rotary_table(positions, WIDTH // HEADS), mask, bias)


def scattered_positions() -> Tensor:
    """Rising, but neither consecutive nor the same in every row."""
    return torch.randint(1, 9, (BATCH, TOKENS)).cumsum(1)


def causal() -> Tensor:
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_block_equals_llama(kv_heads: int) -> None:
    ours, theirs, rotary = pair(kv_heads)
    x, positions = torch.randn(BATCH, TOKENS, WIDTH), scattered_positions()
    bias = torch.zeros(TOKENS, TOKENS).masked_fill(~causal(), -torch.inf)

    expected = theirs(x, attention_mask=bias[None, None], position_embeddings=rotary(x, positions))
    actual, cache = ours(x, view(positions, causal()[None, None]))

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert cache.keys.shape == cache.values.shape == (BATCH, kv_heads, TOKENS, WIDTH // HEADS)


def test_block_gradients_equal_llama() -> None:
    ours, theirs, rotary = pair(2)
    x, upstream = torch.randn(2, BATCH, TOKENS, WIDTH)
    positions = scattered_positions()
    bias = torch.zeros(TOKENS, TOKENS).masked_fill(~causal(), -torch.inf)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()

    ours(mine, view(positions, causal()[None, None]))[0].backward(upstream)
    theirs(other, attention_mask=bias[None, None], position_embeddings=rotary(x, positions)).backward(upstream)

    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [1, 4, TOKENS - 1])
def test_continuing_from_the_cache_equals_one_pass(cut: int) -> None:
    block, _, _ = pair(2)
    x, positions, mask = torch.randn(BATCH, TOKENS, WIDTH), scattered_positions(), causal()[None, None]
    whole, cache = block(x, view(positions, mask))

    early, past = block(x[:, :cut], view(positions[:, :cut], mask[..., :cut, :cut]))
    late, extended = block(x[:, cut:], view(positions[:, cut:], mask[..., cut:, :]), past)

    torch.testing.assert_close(torch.cat([early, late], dim=1), whole)
    torch.testing.assert_close(extended.keys, cache.keys)
    torch.testing.assert_close(extended.values, cache.values)


def test_masked_tokens_have_no_influence() -> None:
    block, _, _ = pair(2)
    x, positions = torch.randn(1, TOKENS, WIDTH), torch.arange(TOKENS)[None]
    changed = x.clone()
    changed[:, 4:] = torch.randn(1, TOKENS - 4, WIDTH)
    before, after = (block(tokens, view(positions, causal()[None, None]))[0] for tokens in (x, changed))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_no_mask_attends_to_everything() -> None:
    block, _, _ = pair(2)
    x, positions = torch.randn(1, TOKENS, WIDTH), torch.arange(TOKENS)[None]
    everything = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool)
    torch.testing.assert_close(block(x, view(positions, None))[0], block(x, view(positions, everything))[0])


def test_dropout_acts_on_both_branches_while_training_only() -> None:
    torch.manual_seed(0)
    block = Block(Attention(WIDTH, HEADS, 2), SwiGLU(WIDTH, HIDDEN), WIDTH, dropout=255 / 256)
    x, positions = torch.randn(1, TOKENS, WIDTH), torch.arange(TOKENS)[None]
    assert (block.train()(x, view(positions, None))[0] == x).float().mean() > 0.95
    assert (block.eval()(x, view(positions, None))[0] == x).float().mean() < 0.05


def test_qk_norm_equals_qwen3() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=12,
        intermediate_size=HIDDEN,
        rms_norm_eps=1e-6,
    )
    config._attn_implementation = "eager"
    theirs, rotary = Qwen3Attention(config, layer_idx=0).eval(), Qwen3RotaryEmbedding(config)
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.5
    ours = Attention(WIDTH, HEADS, 2, head_width=12, qk_norm=True)
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"} | {
        "q_norm": "query_norm",
        "k_norm": "key_norm",
    }
    ours.load_state_dict(
        {f"{names[name.removesuffix('.weight')]}.weight": value for name, value in theirs.state_dict().items()}
    )
    x, positions = torch.randn(BATCH, TOKENS, WIDTH), scattered_positions()
    bias = torch.zeros(TOKENS, TOKENS).masked_fill(~causal(), -torch.inf)[None, None]
    expected, _ = theirs(x, position_embeddings=rotary(x, positions), attention_mask=bias)
    actual, _ = ours(x, View(rotary_table(positions, 12), causal()[None, None]))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_relu_blocks_equal_those_of_torch(norm: str) -> None:
    """Against nn.TransformerEncoderLayer; where it has LayerNorm first, ours has RMSNorm, so the input is centred."""
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, norm_first=norm == "pre", layer_norm_eps=1e-5
    ).eval()
    ours = Block(Attention(WIDTH, HEADS, HEADS), ReluMLP(WIDTH, HIDDEN), WIDTH, norm=norm).eval()
    attention = theirs.self_attn
    attention.in_proj_bias.data.zero_()
    attention.out_proj.bias.data.zero_()
    for part, weight in zip(
        (ours.attention.query, ours.attention.key, ours.attention.value),
        attention.in_proj_weight.chunk(3),
        strict=True,
    ):
        part.weight.data = weight.data
    ours.attention.output.weight.data = attention.out_proj.weight.data
    ours.feed_forward.up.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down.load_state_dict(theirs.linear2.state_dict())
    if norm == "pre":
        ours.attention_norm, ours.feed_forward_norm = theirs.norm1, theirs.norm2
    x = torch.randn(BATCH, TOKENS, WIDTH)
    expected = theirs(x, src_mask=~causal())
    torch.testing.assert_close(ours(x, View(mask=causal()[None, None]))[0], expected, rtol=1e-4, atol=1e-5)


def hstu(heads: int = HEADS, head_width: int = 6, norm: str = "none") -> HSTUBlock:
    torch.manual_seed(0)
    block = HSTUBlock(WIDTH, heads, head_width, norm=norm).eval()
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    return block


def hstu_by_hand(block: HSTUBlock, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """One row (T, D), token by token, head by head, in double precision."""
    heads = block.num_heads
    inner = block.output.in_features
    silu = lambda v: v / (1 + torch.exp(-v))  # noqa: E731
    u, v, q, k = (part.double() for part in silu(block.expand(x).double()).chunk(4, dim=-1))
    rows = []
    for token in range(len(x)):
        mixed = torch.zeros(inner, dtype=torch.float64)
        for head in range(heads):
            part = slice(head * inner // heads, (head + 1) * inner // heads)
            for other in range(len(x)):
                if mask[token, other]:
                    score = q[token, part] @ k[other, part] / (inner // heads) ** 0.5 + bias[head, token, other]
                    mixed[part] += silu(score) * v[other, part]
        norm = block.inner_norm
        mixed = (mixed - mixed.mean()) / (mixed.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
        rows.append(x[token] + block.output.weight.double() @ (mixed * u[token]) + block.output.bias)
    return torch.stack(rows)


def test_hstu_follows_the_formula() -> None:
    block, x, bias = hstu(), torch.randn(BATCH, TOKENS, WIDTH), torch.randn(BATCH, HEADS, TOKENS, TOKENS)
    actual, _ = block(x, View(mask=causal()[None, None], bias=bias))
    for row in range(BATCH):
        expected = hstu_by_hand(block, x[row], causal(), bias[row])
        torch.testing.assert_close(actual[row].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_hstu_continues_from_its_cache(norm: str) -> None:
    block, x, positions = hstu(head_width=8, norm=norm), torch.randn(BATCH, TOKENS, WIDTH), scattered_positions()
    mask = causal()[None, None]
    whole, _ = block(x, view(positions, mask))
    early, past = block(x[:, :3], view(positions[:, :3], mask[..., :3, :3]))
    late, _ = block(x[:, 3:], view(positions[:, 3:], mask[..., 3:, :]), past)
    torch.testing.assert_close(torch.cat([early, late], dim=1), whole, rtol=1e-4, atol=1e-5)
