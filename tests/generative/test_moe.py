"""Oracles: DeepSeek-V3's mixture of experts in transformers, and every expert computed for every token."""

import pytest
import torch
from torch import Tensor
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from semid.errors import InputError
from semid.generative.moe import MoE, MoEConfig

WIDTH = 16
CONFIG = MoEConfig(num_experts=6, experts_per_token=3, hidden=12, shared_hidden=24, routed_scale=2.5, bias_rate=0.01)


def random_moe(config: MoEConfig = CONFIG, seed: int = 0) -> MoE:
    torch.manual_seed(seed)
    moe = MoE(WIDTH, config)
    for parameter in moe.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    moe.bias.copy_(torch.randn(config.num_experts) * 0.3)
    return moe


def deepseek(moe: MoE) -> DeepseekV3MoE:
    """The reference with the weights of ours."""
    config = moe.config
    reference = DeepseekV3MoE(
        DeepseekV3Config(
            hidden_size=WIDTH,
            n_routed_experts=config.num_experts,
            num_experts_per_tok=config.experts_per_token,
            moe_intermediate_size=config.hidden,
            n_shared_experts=config.shared_hidden // config.hidden,
            routed_scaling_factor=config.routed_scale,
            n_group=1,
            topk_group=1,
            norm_topk_prob=True,
        )
    )
    weights = {"gate.weight": moe.router.weight, "gate.e_score_correction_bias": moe.bias}
    weights["experts.gate_up_proj"] = torch.stack([torch.cat([e.gate.weight, e.up.weight]) for e in moe.experts])
    weights["experts.down_proj"] = torch.stack([expert.down.weight for expert in moe.experts])
    assert moe.shared is not None
    for name in ("gate", "up", "down"):
        weights[f"shared_experts.{name}_proj.weight"] = getattr(moe.shared, name).weight
    reference.load_state_dict(weights)
    return reference


def dense(moe: MoE, x: Tensor) -> Tensor:
    """Every expert for every token, in float64, token by token."""
    moe = moe.double()
    rows = []
    for token in x.double().reshape(-1, WIDTH):
        scores = torch.sigmoid(moe.router.weight @ token)
        chosen = (scores + moe.bias).argsort(descending=True)[: moe.config.experts_per_token].tolist()
        total = sum(scores[e] for e in chosen)
        outputs = [expert(token) for expert in moe.experts]
        row = sum(moe.config.routed_scale * scores[e] / total * outputs[e] for e in chosen)
        rows.append(row if moe.shared is None else row + moe.shared(token))
    moe.float()
    return torch.stack(rows).view(x.shape).float()


def test_equals_deepseek_v3() -> None:
    moe, x, upstream = random_moe(), torch.randn(4, 9, WIDTH), torch.randn(4, 9, WIDTH)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual, expected = moe(mine), deepseek(moe)(other)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    actual.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        MoEConfig(num_experts=5, experts_per_token=1, hidden=8, shared_hidden=0),
        MoEConfig(num_experts=3, experts_per_token=3, hidden=8, shared_hidden=4),
    ],
)
def test_equals_computing_every_expert(config: MoEConfig) -> None:
    moe, x = random_moe(config, seed=3), torch.randn(2, 11, WIDTH)
    torch.testing.assert_close(moe(x), dense(moe, x), rtol=1e-4, atol=1e-5)


def test_experts_without_tokens_are_left_alone() -> None:
    moe = random_moe(MoEConfig(num_experts=4, experts_per_token=1, hidden=8, shared_hidden=0))
    moe.bias.copy_(torch.tensor([0.0, 100.0, 0.0, 0.0]))
    x = torch.randn(5, WIDTH)
    torch.testing.assert_close(moe(x), moe.experts[1](x) * moe.config.routed_scale)


def test_bias_chooses_but_does_not_weigh() -> None:
    moe = random_moe()
    tokens = torch.randn(20, WIDTH)
    moe.bias.copy_(torch.tensor([9.0, 9.0, 9.0, 0.0, 0.0, 0.0]))
    experts, weights = moe.route(tokens)
    assert experts.sort(dim=1).values.tolist() == [[0, 1, 2]] * 20
    score = torch.sigmoid(tokens @ moe.router.weight.T).gather(1, experts)
    torch.testing.assert_close(weights, 2.5 * score / score.sum(1, keepdim=True))


def test_load_counts_training_tokens_and_balance_moves_the_bias() -> None:
    moe = random_moe(MoEConfig(num_experts=4, experts_per_token=1, hidden=8, shared_hidden=0, bias_rate=0.25))
    moe.bias.copy_(torch.tensor([50.0, 0.0, 0.0, 0.0]))
    moe.eval()(torch.randn(6, WIDTH))
    assert moe.load.tolist() == [0, 0, 0, 0]
    moe.train()(torch.randn(2, 3, WIDTH))
    assert moe.load.tolist() == [6, 0, 0, 0]
    moe.balance()  # the mean load is 1.5
    assert moe.bias.tolist() == [49.75, 0.25, 0.25, 0.25]
    assert moe.load.tolist() == [0, 0, 0, 0]
    assert "load" not in moe.state_dict()
    assert "bias" in moe.state_dict()


def test_balancing_evens_out_the_load() -> None:
    moe, tokens = random_moe(seed=5), torch.randn(400, WIDTH)
    moe.router.weight.data[0] += 0.2 * tokens.mean(0).sign()

    def spread() -> float:
        moe.eval()
        counts = torch.bincount(moe.route(tokens)[0].flatten(), minlength=6).float()
        return float(counts.std())

    before = spread()
    for _ in range(100):
        moe.train()(tokens)
        moe.balance()
    assert spread() < 0.2 * before


def test_autocast_routes_in_float32() -> None:
    moe, x = random_moe(), torch.randn(8, WIDTH)
    exact = moe.route(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = moe.route(x)
        output = moe(x)
    assert torch.equal(exact[0], cast[0])
    assert torch.equal(exact[1], cast[1])
    torch.testing.assert_close(output.float(), moe(x), rtol=0.1, atol=0.2)


@pytest.mark.parametrize("chosen", [0, 9])
def test_more_experts_chosen_than_there_are(chosen: int) -> None:
    with pytest.raises(InputError, match=f"experts_per_token={chosen} must be between 1 and num_experts=8"):
        MoEConfig(experts_per_token=chosen)
