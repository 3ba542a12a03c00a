"""What would TencentGR-1M and -10M take: memory on the device, and minutes of an epoch on one H100 and on eight?

Tables and catalogue are counted exactly, from a model of the full size that has no memory behind it. Speed is
measured in CPU seconds of one core, on a small set of the same shape: a step with a bank costs by its tokens and not
by the catalogue (`tables.py`). An H100 is then given the same share of its peak as this core reaches, and a tenth of
that share, between which it should lie, but never less than it takes to launch a kernel for every operation of a
step. Eight have a batch each, and exchange gradients after every step; semid itself trains on one device.

    semid data synth small --users 2000 --items 20000 --emb 81:32,82:64
    python benchmarks/full_size.py small
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from quality import content_names, prepared
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training import flops_a_token, matrix_peak, stepping

from semid.data.dataset import Dataset
from semid.generative.catalogue import Catalogue, ListColumn
from semid.generative.config import ModelConfig
from semid.generative.model import Model
from semid.generative.precision import matrix_dtype
from semid.generative.presets import PRESETS
from semid.generative.train import TrainConfig, Trainer
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.pipeline.training import catalogue_for
from semid.tokenizers.tokenizer import TokenizerConfig

# bf16 without sparsity and NVLink in one direction, as NVIDIA's data sheet of the H100 SXM has them.
H100_FLOPS, H100_LINK = 989e12, 450e9
LAUNCH_SECONDS = 5e-6
CONTENT, CODES = 128, (256, 256, 256)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The published sizes of a set: rows, events, values of the columns."""

    users: int
    items: int
    events: int
    actions: int
    item_sizes: tuple[int, ...]
    user_sizes: tuple[int, ...] = (87, 3, 8, 4)
    list_sizes: tuple[int, ...] = (15, 20, 5, 3)


SHAPES = {
    "TencentGR-1M": Shape(
        users=1_001_845,
        items=4_783_154,
        events=90_200_000,
        actions=2,
        item_sizes=(6, 51, 90_709, 30, 20, 691, 18, 497, 1_426, 4_191, 3_392, 2_135_891, 90_919),
    ),
    "TencentGR-10M": Shape(
        users=10_139_575,
        items=17_487_676,
        events=976_000_000,
        actions=3,
        item_sizes=(6, 53, 173_463, 30, 33, 988, 20, 558, 1_636, 4_950, 4_045, 5_041_300, 2_392),
    ),
}


@dataclass(frozen=True)
class Cost:
    """Of training: tokens a second, FLOPs of a token, operations of a step."""

    speed: float
    flops: float
    operations: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a small set of the same shape")
    parser.add_argument("--presets", type=lambda text: text.split(","), default=["small", "base", "first", "award"])
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/full-size"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    prepared(settings.dataset, settings.work, "auto")
    dataset = Dataset.open(settings.work / "data-auto")
    chosen = chosen_embeddings(dataset, content_names(dataset))
    tokenizer = fit_tokenizer(dataset, TokenizerConfig(**chosen, codes=CODES), None)
    peak = matrix_peak("cpu", matrix_dtype("auto", torch.device("cpu")))
    results = []
    for name in settings.presets:
        config = replace(PRESETS[name].model, full_softmax_items=0)
        catalogue, config = catalogue_for(dataset, tokenizer, config, torch.device("cpu"))
        torch.manual_seed(0)
        cost = measured(Model(config, catalogue), dataset, catalogue, settings)
        for set_name, shape in SHAPES.items():
            figures = extrapolated(config, shape, cost, peak, settings.batch_tokens)
            results.append(
                {
                    "preset": name,
                    "set": set_name,
                    "share_of_peak": round(cost.speed * cost.flops / peak, 3),
                    **figures,
                }
            )
    show(results, peak)
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "peak_gflops": round(peak / 1e9)}
    print(
        json.dumps({"benchmark": "full_size", **hardware, "batch_tokens": settings.batch_tokens, "results": results})
    )


class Operations(TorchDispatchMode):
    """Counts what would be kernels: every operation that is not a mere view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.count += not function.is_view
        return function(*arguments, **(keywords or {}))


def measured(model: Model, dataset: Dataset, catalogue: Catalogue, settings: argparse.Namespace) -> Cost:
    """Of a training step on this core."""
    train = TrainConfig(batch_tokens=settings.batch_tokens, epochs=1000)
    trainer = Trainer(model.train(), dataset, catalogue, train, lambda _: {})
    trainer._refresh_tree()
    train_on_next = stepping(trainer)

    def step() -> int:
        return int((train_on_next().segments >= 0).sum())

    flops, speeds = flops_a_token(step), []
    with Operations() as operations:
        step()
    for _ in range(settings.steps):
        began = time.process_time()
        speeds.append(step() / (time.process_time() - began))
    return Cost(median(speeds), flops, operations.count)


def extrapolated(config: ModelConfig, shape: Shape, cost: Cost, peak: float, batch: int) -> dict[str, Any]:
    """Memory in GB and minutes of an epoch."""
    with torch.device("meta"):
        catalogue = full_catalogue(shape)
        model = Model(config, catalogue)
    rows = sum(table.weight.numel() for table in model.modules() if isinstance(table, nn.Embedding) and table.sparse)
    dense = sum(weight.numel() for weight in model.parameters()) - rows
    held = [tensor for tensor in vars(catalogue).values() if isinstance(tensor, torch.Tensor)]
    held += [
        part for column in (*catalogue.item_lists, *catalogue.user_lists) for part in (column.offsets, column.values)
    ]
    here, steps = shape.events / cost.speed / 60, shape.events / batch
    compute, launches = here * peak / H100_FLOPS, steps * cost.operations * LAUNCH_SECONDS / 60
    # A ring passes the dense gradients twice; of the tables, each device sends the rows that its batch touched.
    touched = min(rows, batch * (config.inputs.part_width or config.width) * len(shape.item_sizes))
    exchange = 4 * (2 * dense + 8 * touched) / H100_LINK * steps / 8 / 60
    one = [max(share * compute, launches) for share in (1, 10)]
    return {
        "million_weights": {"dense": round(dense / 1e6, 1), "tables": round(rows / 1e6, 1)},
        # Weights and two moments, and a gradient where it is dense.
        "gb": {
            "training": round((4 * 4 * dense + 3 * 4 * rows) / 1e9, 2),
            "catalogue": round(sum(tensor.nbytes for tensor in held) / 1e9, 2),
        },
        "mflop_a_token": round(cost.flops / 1e6, 1),
        "operations_a_step": cost.operations,
        "tokens_per_second": round(cost.speed),
        "minutes": {
            "here": round(here),
            "h100": [round(minutes, 1) for minutes in one],
            "eight": [round(minutes / 8 + exchange, 1) for minutes in one],
        },
    }


def full_catalogue(shape: Shape) -> Catalogue:
    """Items and users as tensors of the right sizes; made on the device of the context."""
    whole = {"dtype": torch.int64}
    columns = [
        ListColumn(torch.empty(shape.users + 2, **whole), torch.empty(shape.users, **whole), size)
        for size in shape.list_sizes
    ]
    return Catalogue(
        codes=torch.empty(shape.items, len(CODES), **whole),
        num_codes=CODES,
        content=torch.empty(shape.items, CONTENT),
        known=torch.empty(shape.items, dtype=torch.bool),
        trained=torch.empty(shape.items, dtype=torch.bool),
        item_fields=torch.empty(shape.items, len(shape.item_sizes), **whole),
        item_sizes=shape.item_sizes,
        item_lists=(),
        user_fields=torch.empty(shape.users + 1, len(shape.user_sizes), **whole),
        user_sizes=shape.user_sizes,
        user_lists=tuple(columns),
        num_actions=shape.actions,
        trained_actions=tuple(range(shape.actions)),
        has_times=True,
    )


def show(results: list[dict[str, Any]], peak: float) -> None:
    """One line a preset and set."""
    table = Table(title=f"An epoch; the peak of this core is {peak / 1e9:,.0f} GFLOP/s")
    names = ("preset", "set", "M weights + rows", "GB training + catalogue", "MFLOP/token", "operations/step")
    for column in (*names, "tokens/s here", "of peak", "minutes here", "one H100", "eight"):
        table.add_column(column, justify="left" if column in ("preset", "set") else "right")
    for row in results:
        weights, gb, minutes = row["million_weights"], row["gb"], row["minutes"]
        table.add_row(
            row["preset"],
            row["set"],
            f"{weights['dense']} + {weights['tables']:,}",
            f"{gb['training']} + {gb['catalogue']}",
            f"{row['mflop_a_token']:,}",
            f"{row['operations_a_step']:,}",
            f"{row['tokens_per_second']:,}",
            f"{100 * row['share_of_peak']:.0f} %",
            f"{minutes['here']:,}",
            *(f"{low:g} … {high:g}" for low, high in (minutes["h100"], minutes["eight"])),
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
