"""What does a bank of negatives cost, in seconds and memory, with the loss in chunks and without?

Loss and gradients of P positions against 10³…4·10⁵ negatives, each form in a process of its own: softmax over stored
logits in plain torch, the same with each chunk computed again for its gradient (torch.utils.checkpoint), and ours.

    python benchmarks/bank_loss.py
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from semid.generative.losses import equal_pairs, softmax_loss
from semid.generative.precision import matrix_dtype

_CHUNK_ROWS = 64


def naive(states: Tensor, bank: Tensor, scale: Tensor, rows: Tensor, log_expected: Tensor) -> Tensor:
    """All logits at once."""
    return _of_rows(states, bank, scale, rows, log_expected, 0).mean()


def checkpointed(states: Tensor, bank: Tensor, scale: Tensor, rows: Tensor, log_expected: Tensor) -> Tensor:
    """Some positions at a time, twice."""
    parts = [
        checkpoint(_of_rows, states[i : i + _CHUNK_ROWS], bank, scale, rows, log_expected, i, use_reentrant=False)
        for i in range(0, len(states), _CHUNK_ROWS)
    ]
    return torch.cat(parts).mean()


def _of_rows(states: Tensor, bank: Tensor, scale: Tensor, rows: Tensor, log_expected: Tensor, first: int) -> Tensor:
    own = torch.arange(first, first + len(states))
    cosines = states @ bank.T * scale
    positive = cosines.gather(1, own[:, None])
    same = rows[None, :] == rows[own, None]
    logits = (cosines - log_expected).masked_fill(same, -torch.inf).scatter(1, own[:, None], positive)
    return F.cross_entropy(logits, own, reduction="none")


def ours(dtype: torch.dtype) -> Callable[..., Tensor]:
    def loss(states: Tensor, bank: Tensor, scale: Tensor, rows: Tensor, log_expected: Tensor) -> Tensor:
        own = torch.arange(len(states))
        return softmax_loss(
            states,
            bank,
            scale,
            own,
            log_expected=log_expected,
            excluded=equal_pairs(rows[own], rows),
            dtype=dtype,
        )

    return loss


FORMS: dict[str, Callable[..., Tensor]] = {
    "ours": ours(torch.float32),
    "ours, bfloat16": ours(torch.bfloat16),
    "stored logits": naive,
    "checkpointed chunks": checkpointed,
}


def measured(arguments: tuple[str, int, argparse.Namespace]) -> dict[str, Any]:
    """One form at one size: median seconds, MiB above what the process held before, the loss."""
    name, negatives, settings = arguments
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    size = settings.positions + negatives
    states = F.normalize(torch.randn(settings.positions, settings.width), dim=1).requires_grad_()
    bank = F.normalize(torch.randn(size, settings.width), dim=1).requires_grad_()
    scale = torch.tensor(20.0, requires_grad=True)
    rows, log_expected = torch.randint(2 * size, (size,)), torch.randn(size)
    loss = FORMS[name](states[:64], bank[:2000], scale, rows[:2000], log_expected[:2000])
    torch.autograd.grad(loss, (states, bank, scale))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(settings.repeats):
        began = time.perf_counter()
        loss = FORMS[name](states, bank, scale, rows, log_expected)
        torch.autograd.grad(loss, (states, bank, scale))
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "form": name,
        "negatives": negatives,
        "seconds": round(median(seconds), 4),
        "mib": round((peak - before) / 1024, 1),
        "loss": round(loss.item(), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--negatives", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most-stored", type=float, default=10.0, help="GiB of logits up to which they are stored")
    parser.set_defaults(negatives=[1_000, 10_000, 100_000, 400_000])
    settings = parser.parse_args()
    results = []
    for negatives in settings.negatives:
        for name in FORMS:
            # Logits, their masked and corrected copies, and gradients: about five of them.
            needed = 5 * 4 * settings.positions * (settings.positions + negatives) / 2**30
            if name == "stored logits" and needed > settings.most_stored:
                results.append({"form": name, "negatives": negatives, "note": f"would need {needed:.0f} GiB"})
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results.append(pool.map(measured, [(name, negatives, settings)])[0])
    show(results, settings)
    facts = {"torch": torch.__version__, "bf16": matrix_dtype("auto", torch.device("cpu")) == torch.bfloat16}
    named = {"positions": settings.positions, "width": settings.width, "threads": settings.threads}
    print(json.dumps({"benchmark": "bank_loss", **named, **facts, "results": results}))


def show(results: list[dict[str, Any]], settings: argparse.Namespace) -> None:
    """Rows by size, with seconds as a multiple of ours."""
    table = Table(title=f"{settings.positions} positions, {settings.width} wide, {settings.threads} threads")
    for column in ("negatives", "form", "seconds", "× ours", "MiB"):
        table.add_column(column, justify="left" if column == "form" else "right")
    reference = {row["negatives"]: row["seconds"] for row in results if row["form"] == "ours"}
    for row in results:
        if "note" in row:
            table.add_row(f"{row['negatives']:,}", row["form"], row["note"], "", "")
            continue
        ratio = row["seconds"] / reference[row["negatives"]]
        table.add_row(
            f"{row['negatives']:,}", row["form"], f"{row['seconds']:.3f}", f"{ratio:.2f}", f"{row['mib']:.0f}"
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
