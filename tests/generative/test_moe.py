"""Oracles: DeepSeek-V3's mixture of experts in transformers, and every expert computed for every token."""

from collections.abc import Callable
from statistics import median

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from semid.errors import InputError
from semid.generative.moe import MoE, MoEConfig, dead_experts_warning, load_facts, sequence_balance_loss

WIDTH = 16
CONFIG = MoEConfig(num_experts=6, experts_per_token=3, hidden=12, shared_hidden=24, routed_scale=2.5, bias_rate=0.01)
BARE = MoEConfig(num_experts=4, experts_per_token=1, hidden=8, shared_hidden=0)


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
    weights |= {"experts.gate_up_proj": moe.experts.gate_up, "experts.down_proj": moe.experts.down}
    assert moe.shared is not None
    for name in ("gate", "up", "down"):
        weights[f"shared_experts.{name}_proj.weight"] = getattr(moe.shared, name).weight
    reference.load_state_dict(weights)
    return reference


def dense(moe: MoE, x: Tensor) -> Tensor:
    """Every expert for every token, the unchosen ones masked."""
    score = torch.sigmoid(x @ moe.router.weight.T)
    kept = torch.zeros_like(score).scatter(-1, (score + moe.bias).topk(moe.config.experts_per_token).indices, 1.0)
    weight = moe.config.routed_scale * kept * score / (kept * score).sum(-1, keepdim=True)
    gate, up = torch.einsum("...d,efd->...ef", x, moe.experts.gate_up).chunk(2, dim=-1)
    outputs = torch.einsum("...ef,edf->...ed", F.silu(gate) * up, moe.experts.down)
    routed = torch.einsum("...e,...ed->...d", weight, outputs)
    return routed if moe.shared is None else routed + moe.shared(x)


def test_equals_deepseek_v3() -> None:
    moe, x, upstream = random_moe(), torch.randn(4, 9, WIDTH), torch.randn(4, 9, WIDTH)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    reference = deepseek(moe)
    actual, expected = moe(mine), reference(other)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    actual.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moe.router.weight.grad, reference.gate.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moe.experts.gate_up.grad, reference.experts.gate_up_proj.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moe.experts.down.grad, reference.experts.down_proj.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("favourite", [0.0, 100.0, -100.0], ids=["spread", "all to one", "one without tokens"])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        MoEConfig(num_experts=5, experts_per_token=1, hidden=8, shared_hidden=0),
        MoEConfig(num_experts=8, experts_per_token=2, hidden=5, shared_hidden=7, routed_scale=0.5),
        MoEConfig(num_experts=4, experts_per_token=3, hidden=8, shared_hidden=0, sequence_loss=0.1),
        MoEConfig(num_experts=3, experts_per_token=3, hidden=8, shared_hidden=4),
    ],
)
def test_equals_computing_every_expert(config: MoEConfig, favourite: float) -> None:
    """Outputs and all gradients, in float64."""
    moe = random_moe(config, seed=3).double()
    moe.bias[1] += favourite
    x = torch.randn(2, 11, WIDTH, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    wanted = [x, *moe.parameters()]
    actual, expected = moe(x), dense(moe, x)
    torch.testing.assert_close(actual, expected)
    pairs = zip(
        torch.autograd.grad(actual, wanted, upstream), torch.autograd.grad(expected, wanted, upstream), strict=True
    )
    for mine, other in pairs:
        torch.testing.assert_close(mine, other)


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


def test_load_of_an_epoch_outlasts_the_steps() -> None:
    moe = random_moe(BARE)
    moe.bias.copy_(torch.tensor([0.0, 50.0, 0.0, 0.0]))
    for _ in range(3):
        moe(torch.randn(5, WIDTH))
        moe.balance()
    assert moe.take_load().tolist() == [0, 15, 0, 0]
    assert moe.take_load().tolist() == [0, 0, 0, 0]


def test_padding_is_no_load() -> None:
    moe, x = random_moe(), torch.randn(2, 4, WIDTH)
    segments = torch.tensor([[7, 7, 8, -1], [9, -1, -1, -1]])
    output = moe(x, segments)
    real = segments >= 0
    expected = torch.bincount(moe.route(x[real])[0].flatten(), minlength=6)
    assert moe.load.tolist() == expected.tolist()
    assert int(moe.take_load().sum()) == 4 * CONFIG.experts_per_token
    torch.testing.assert_close(output, moe(x))


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


def skewed_moe(**changes: float) -> tuple[MoE, Tensor]:
    """Two experts of eight like what all tokens have in common, which is returned beside them."""
    torch.manual_seed(0)
    moe = MoE(WIDTH, MoEConfig(num_experts=8, experts_per_token=2, hidden=8, shared_hidden=8, **changes))
    centre = torch.randn(WIDTH)
    moe.router.weight.data[:2] += centre
    return moe, centre


def violations(moe: MoE, centre: Tensor, rate: float, objective: Callable[[MoE, Tensor], Tensor]) -> list[float]:
    """MaxVio in each of 120 training steps."""
    optimizer = torch.optim.AdamW(moe.parameters(), rate)
    seen = []
    for _ in range(120):
        x = torch.randn(256, WIDTH) + 0.3 * centre
        optimizer.zero_grad()
        objective(moe, x).backward()
        optimizer.step()
        moe.balance()
        seen += load_facts([moe.take_load()])["max_violation"]
    return seen


def test_a_router_with_favourites_is_balanced_by_the_bias_and_by_nothing_else() -> None:
    goal = torch.linspace(-1, 1, WIDTH**2).view(WIDTH, WIDTH)

    def objective(moe: MoE, x: Tensor) -> Tensor:
        return F.mse_loss(moe(x), torch.sin(x @ goal))

    balanced = violations(*skewed_moe(bias_rate=0.01), 1e-3, objective)
    left = violations(*skewed_moe(bias_rate=0.0), 1e-3, objective)
    assert balanced[0] == left[0] > 2
    assert median(balanced[-20:]) < 0.8
    assert min(left) > 1.5


def test_the_balance_loss_alone_evens_out_the_load() -> None:
    def objective(moe: MoE, x: Tensor) -> Tensor:
        moe(x)
        assert moe.balance_loss is not None
        return moe.balance_loss

    seen = violations(*skewed_moe(bias_rate=0.0, sequence_loss=1.0), 0.02, objective)
    assert seen[0] > 2
    assert median(seen[-20:]) < 0.8


def balance_by_hand(score: Tensor, k: int) -> Tensor:
    """Formulas 18 to 20 of one sequence (T, E), in loops."""
    tokens, experts = score.shape
    total = torch.zeros((), dtype=score.dtype)
    for e in range(experts):
        chosen = sum(e in score[t].topk(k).indices.tolist() for t in range(tokens))
        share = sum(score[t, e] / score[t].sum() for t in range(tokens)) / tokens
        total = total + experts / (k * tokens) * chosen * share
    return total


@pytest.mark.parametrize("k", [1, 2, 3])
def test_balance_loss_is_the_papers_for_each_sequence(k: int) -> None:
    torch.manual_seed(k)
    segments = torch.tensor([[4, 4, 4, 1, 1, -1], [2, 2, 2, 2, 2, 2], [0, 3, 3, -1, -1, -1], [-1] * 6])
    score = torch.rand(segments.numel(), 5, dtype=torch.float64, requires_grad=True)
    actual = sequence_balance_loss(score, segments, k)
    by_sequence = [balance_by_hand(score[(segments == s).flatten()], k) for s in range(5)]
    expected = torch.stack(by_sequence).mean()
    torch.testing.assert_close(actual, expected)
    mine, other = (torch.autograd.grad(loss, score)[0] for loss in (actual, expected))
    torch.testing.assert_close(mine, other)
    assert (mine[(segments < 0).flatten()] == 0).all()


def test_balance_loss_is_one_at_even_load_and_larger_otherwise() -> None:
    even = torch.full((4, 4), 0.1) + torch.eye(4)
    crowded = torch.full((4, 4), 0.1) + torch.eye(4)[[2, 2, 2, 2]]
    row = torch.zeros(1, 4, dtype=torch.int64)
    assert float(sequence_balance_loss(even, row, 1)) == pytest.approx(1.0)
    assert float(sequence_balance_loss(crowded, row, 1)) == pytest.approx(4 * 1.1 / 1.4)
    each = torch.arange(4)[None]  # a sequence of one token cannot be balanced
    assert float(sequence_balance_loss(even, each, 1)) == pytest.approx(4 * 1.1 / 1.4)
    assert float(sequence_balance_loss(even, row - 1, 1)) == 0.0


def test_balance_loss_is_kept_while_training_with_a_weight() -> None:
    moe, x = random_moe(MoEConfig(hidden=8, shared_hidden=0, sequence_loss=0.5)), torch.randn(3, 5, WIDTH)
    assert moe.balance_loss is None
    moe(x)
    assert moe.balance_loss is not None
    score = torch.sigmoid(x @ moe.router.weight.T)
    expected = 0.5 * torch.stack([balance_by_hand(row, 2) for row in score]).mean()
    torch.testing.assert_close(moe.balance_loss, expected)
    moe.balance_loss.backward()
    assert moe.experts.down.grad is None
    assert float(moe.router.weight.grad.norm()) > 0
    whole = moe.balance_loss.item()
    moe(x, torch.tensor([[0, 0, 1, 1, -1]]).expand(3, 5) + 10 * torch.arange(3)[:, None])
    assert moe.balance_loss is not None
    assert moe.balance_loss.item() != pytest.approx(whole)
    moe.eval()(x)
    assert moe.balance_loss is None
    plain = random_moe()
    plain(x)
    assert plain.balance_loss is None


def test_facts_of_a_load_by_hand() -> None:
    loads = [torch.tensor([6, 0, 2, 0]), torch.tensor([2, 2, 2, 2]), torch.tensor([0, 0, 0, 0])]
    facts = load_facts(loads)
    assert facts["expert_share"] == [[0.75, 0.0, 0.25, 0.0], [0.25] * 4, [0.0] * 4]
    assert facts["max_violation"] == [2.0, 0.0, 0.0]
    assert facts["dead_experts"] == [2, 0, 4]


def test_dead_experts_are_named() -> None:
    busy, idle = torch.tensor([1, 2, 3]), torch.tensor([0, 2, 0])
    assert dead_experts_warning([busy, busy]) is None
    sentence = dead_experts_warning([idle, busy, torch.tensor([5, 0, 5])])
    assert sentence is not None
    assert sentence.startswith("No token was routed to experts 0, 2 of layer 0; 1 of layer 2:")


def test_autocast_routes_in_float32() -> None:
    moe, x = random_moe(), torch.randn(8, WIDTH)
    exact = moe.route(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = moe.route(x)
        output = moe(x)
    assert torch.equal(exact[0], cast[0])
    assert torch.equal(exact[1], cast[1])
    torch.testing.assert_close(output, moe(x), rtol=0.1, atol=0.2)
    seen = []
    moe.experts.register_forward_hook(lambda _, arguments, result: seen.extend([arguments[0].dtype, result.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        moe(x)
    assert seen == [torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"experts_per_token": 0}, "experts_per_token=0 must be between 1 and num_experts=8"),
        ({"experts_per_token": 9}, "experts_per_token=9 must be between 1 and num_experts=8"),
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"shared_hidden": -1}, "shared_hidden=-1 at least 0"),
        ({"routed_scale": 0.0}, "routed_scale=0.0 must be above 0"),
        ({"bias_rate": -0.1}, "bias_rate=-0.1 must be at least 0"),
        ({"sequence_loss": float("nan")}, "sequence_loss=nan must be at least 0 and finite"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        MoEConfig(**settings)
