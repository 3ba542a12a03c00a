"""What does the id table of a large catalogue cost a training step, updated whole and by the rows a batch touches?

One step of a small model with sampled negatives on synthetic histories, for catalogues of growing size, as
`semid train` does it (Adam in the touched rows) and with dense gradients and AdamW over the whole table.

    python benchmarks/tables.py
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from training import histories, model_of, stepping

from semid.generative.config import ModelConfig
from semid.generative.train import TrainConfig, Trainer


def seconds_of_a_step(items: int, settings: argparse.Namespace, *, sparse: bool) -> float:
    """Median over some steps."""
    config = replace(ModelConfig.sized(2), features=("id",), code_weight=0.0, full_softmax_items=0)
    model, dataset, catalogue = model_of(config, histories(settings.users, items, 50), items)
    for module in model.items.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = sparse
    train = TrainConfig(batch_tokens=settings.batch_tokens)
    train_on_next = stepping(Trainer(model, dataset, catalogue, train, lambda _: {}))
    taken = []
    for _ in range(1 + settings.steps):  # the first warms up
        began = time.perf_counter()
        train_on_next()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.set_defaults(items=[100_000, 300_000, 1_000_000])
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    results: list[dict[str, Any]] = []
    for items in settings.items:
        by_row, whole = (seconds_of_a_step(items, settings, sparse=sparse) for sparse in (True, False))
        results.append({"items": items, "rows": round(by_row, 4), "whole": round(whole, 4)})
    table = Table(title=f"Seconds of a step, {settings.batch_tokens:,} tokens, {settings.threads} threads")
    for column in ("items", "touched rows", "whole table", "ratio"):
        table.add_column(column, justify="right")
    for row in results:
        ratio = row["whole"] / row["rows"]
        table.add_row(f"{row['items']:,}", f"{row['rows']:.3f}", f"{row['whole']:.3f}", f"{ratio:.2f}")
    Console(width=100).print(table)
    hardware = {"machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "tables", **hardware, **vars(settings), "results": results}))


if __name__ == "__main__":
    main()
