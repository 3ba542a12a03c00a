"""What does a mixture of experts cost beside a dense layer of the same active FLOPs, on CPU and GPU?

Forward and backward of one feed-forward layer, in float32 and under bfloat16 autocast. Dense is one SwiGLU as wide as
all the experts that a token uses together. Beside ours: the plain loop with a mask an expert and index_add, and
transformers' block of DeepSeek-V3, by its own loop and by torch's grouped product; its weights are in bfloat16 there,
since autocast leaves the grouped product in float32. Forms take turns; ratios are medians over the rounds. The floor
is what the active products would take at the speed of a large one.

    python benchmarks/moe.py --threads 1 --clock cpu   # where others use the machine too
    python benchmarks/moe.py --device cuda --tokens 65536 --width 1024 --hidden 512
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from semid.generative.layers import SwiGLU
from semid.generative.moe import MoE, MoEConfig

DENSE, OURS = "dense", "semid"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Loop(nn.Module):
    """Each expert looks for its tokens and adds to theirs."""

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.k = config.experts_per_token
        self.router = nn.Linear(width, config.num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(width, config.hidden) for _ in range(config.num_experts))
        self.shared = SwiGLU(width, config.shared_hidden)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        score = torch.sigmoid(self.router(tokens).float())
        weight, chosen = score.topk(self.k, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        result = self.shared(tokens)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == number)
            outputs = expert(tokens[rows])
            result = result.index_add(0, rows, outputs * weight[rows, places, None].to(outputs.dtype))
        return result.view_as(x)


def transformers_block(width: int, config: MoEConfig, implementation: str) -> nn.Module:
    """DeepSeek-V3's block with random weights."""
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    settings = DeepseekV3Config(
        hidden_size=width,
        n_routed_experts=config.num_experts,
        num_experts_per_tok=config.experts_per_token,
        moe_intermediate_size=config.hidden,
        n_shared_experts=config.shared_hidden // config.hidden,
        routed_scaling_factor=config.routed_scale,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
    )
    settings._experts_implementation = implementation
    block: nn.Module = DeepseekV3MoE(settings)
    for weight in block.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return block


def forms_of(width: int, config: MoEConfig) -> dict[str, nn.Module]:
    """Layers to compare, the dense one first."""
    dense = SwiGLU(width, config.experts_per_token * config.hidden + config.shared_hidden)
    return {
        DENSE: dense,
        OURS: MoE(width, config),
        "loop with index_add": Loop(width, config),
        "transformers, loop": transformers_block(width, config, "eager"),
        "transformers, grouped_mm": transformers_block(width, config, "grouped_mm"),
    }


def stepper(layer: nn.Module, x: Tensor, upstream: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward with all gradients; the layer before is there to want one too."""
    own = next(layer.parameters()).dtype

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        inputs = x.detach().to(own).requires_grad_()
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = layer(inputs)
        outputs.backward(upstream.to(outputs.dtype))

    return step


def seconds_of(step: Callable[[], None], steps: int, settings: argparse.Namespace) -> float:
    """Of one of so many steps in a row."""
    clock = time.process_time if settings.clock == "cpu" else time.perf_counter
    _wait(settings.device)
    began = clock()
    for _ in range(steps):
        step()
    _wait(settings.device)
    return (clock() - began) / steps


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def matrix_peak(dtype: torch.dtype, settings: argparse.Namespace) -> float:
    """FLOP a second of a large product a · bᵀ, which is how a layer multiplies; the best of a few."""
    size = 1024 if settings.device == "cpu" else 8192
    left, right = (torch.randn(size, size, device=settings.device, dtype=dtype) for _ in range(2))
    seconds = [seconds_of(lambda: torch.mm(left, right.T), 1, settings) for _ in range(6)]
    return 2 * size**3 / min(seconds)


def measured(name: str, settings: argparse.Namespace) -> list[dict[str, Any]]:
    """All forms in one dtype, in turns."""
    torch.manual_seed(0)
    dtype, config = DTYPES[name], config_of(settings)
    x, upstream = torch.randn(
        2, settings.tokens // settings.row, settings.row, settings.width, device=settings.device
    )
    layers = {form: layer.to(settings.device).train() for form, layer in forms_of(settings.width, config).items()}
    for form in layers:
        if form.startswith("transformers"):
            layers[form].to(dtype)
    steps = {form: stepper(layer, x, upstream, dtype) for form, layer in layers.items()}
    seconds: dict[str, list[float]] = {form: [] for form in steps}
    peak = 0.0
    for round_ in range(settings.warm + settings.repeats):
        peak = max(peak, matrix_peak(dtype, settings))
        for form, step in steps.items():
            spent = seconds_of(step, settings.steps, settings)
            if round_ >= settings.warm:
                seconds[form].append(spent)
    return [described(form, name, seconds, flops_of(settings), peak) for form in steps]


def config_of(settings: argparse.Namespace) -> MoEConfig:
    return MoEConfig(
        num_experts=settings.experts,
        experts_per_token=settings.per_token,
        hidden=settings.hidden,
        shared_hidden=settings.hidden,
    )


def flops_of(settings: argparse.Namespace) -> float:
    """Multiplications and additions of the active products: three matrices, forward and twice that backward."""
    return 2 * 3 * 3 * settings.tokens * settings.width * (settings.per_token + 1) * settings.hidden


def described(form: str, dtype: str, seconds: dict[str, list[float]], flops: float, peak: float) -> dict[str, Any]:
    """Figures of one form."""

    def ratio(over: str, under: str) -> float:
        return round(median(a / b for a, b in zip(seconds[over], seconds[under], strict=True)), 3)

    middle = median(seconds[form])
    return {
        "dtype": dtype,
        "form": form,
        "ms": round(1e3 * middle, 3),
        "least_ms": round(1e3 * min(seconds[form]), 3),
        "floor_ms": round(1e3 * flops / peak, 3),
        "gflops": round(flops / middle / 1e9, 1),
        "speed_of_dense": ratio(DENSE, form),
        "ours_is_faster": ratio(form, OURS),
    }


def main() -> None:
    settings = parse()
    torch.set_num_threads(settings.threads)
    results = [row for name in settings.dtypes for row in measured(name, settings)]
    show(results, settings)
    hardware = {"machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "moe", **vars(settings), **hardware, "results": results}))


def show(results: list[dict[str, Any]], settings: argparse.Namespace) -> None:
    """One line a form and dtype."""
    title = (
        f"{settings.tokens:,} tokens of {settings.width}, {settings.per_token} of {settings.experts} experts and a "
        f"shared one, {settings.hidden} each; {settings.device}, {settings.threads} threads"
    )
    table = Table(title=title)
    for column in ("dtype", "form", "ms", "floor, ms", "GFLOP/s", "speed of dense", "semid is faster"):
        table.add_column(column, justify="left" if column in ("dtype", "form") else "right")
    for row in results:
        table.add_row(
            row["dtype"],
            row["form"],
            f"{row['ms']:,.1f}",
            f"{row['floor_ms']:,.1f}",
            f"{row['gflops']:,.0f}",
            f"{100 * row['speed_of_dense']:.0f} %",
            f"{row['ours_is_faster']:.2f} ×",
        )
    Console(width=110).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--row", type=int, default=128, help="tokens of a row")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=256, help="inside each expert, the shared one too")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--per-token", type=int, default=2)
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=list(DTYPES))
    parser.add_argument("--steps", type=int, default=1, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of this process alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
