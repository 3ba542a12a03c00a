"""How fast is a training step, as tokens a second and as a share of what the machine's matrix units can do?

Synthetic histories of uneven length, one job: predict every next item by a softmax over the catalogue. Ours packs
histories into rows without padding; beside it transformers' Llama of the same shape and SASRec in plain torch, both
on batches padded to their longest history, and SASRec as RecBole trains it, one target a row of 50. A token is an
event whose successor is learned. Steps take turns; forward, backward, clipping and AdamW are all in.

    python benchmarks/training.py                      # 512 wide, 8 blocks
    python benchmarks/training.py --dial 2             # the preset small
    python benchmarks/training.py --device cuda --batch-tokens 65536 --items 100000
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING, EventLog
from semid.data.features import Fields
from semid.generative.catalogue import Catalogue
from semid.generative.config import ModelConfig
from semid.generative.histories import TokenBatch
from semid.generative.model import Model
from semid.generative.precision import matrix_dtype
from semid.generative.train import TrainConfig, Trainer

RECBOLE_LENGTH = 50


@dataclass(frozen=True)
class System:
    """``step`` trains on one batch and says how many tokens it learned; ``flops`` of one token, if known."""

    name: str
    step: Callable[[], int]
    flops: float | None = None


def histories(users: int, items: int, longest: int, seed: int = 0) -> list[np.ndarray]:
    """Lengths are geometric with a mean of a third of the longest; items follow a power law."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.geometric(3 / longest, users), 2, longest + 1)
    weight = 1 / (np.arange(items) + 10.0)
    return np.split(rng.choice(items, int(lengths.sum()), p=weight / weight.sum()), np.cumsum(lengths)[:-1])


def dataset_of(rows: list[np.ndarray], items: int) -> Dataset:
    """All events are for training."""
    flat = np.concatenate(rows).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    log = EventLog(flat, np.full(len(flat), ACTION_UNKNOWN, np.int8), np.full(len(flat), TIME_MISSING), offsets)
    return Dataset(
        events=log,
        train_end=offsets[1:],
        queries={},
        candidates=np.arange(items, dtype=np.int32),
        item_fields=Fields((), (), np.zeros((items, 0), np.int32)),
        user_fields=Fields((), (), np.zeros((len(rows), 0), np.int32)),
        embeddings={},
        action_names=("event",),
        action_weights=(1.0,),
    )


def ours(
    name: str, config: ModelConfig, rows: list[np.ndarray], settings: argparse.Namespace, precision: str
) -> System:
    """A step of the trainer itself."""
    config = replace(config, full_softmax_items=settings.items)
    model, dataset, catalogue = model_of(config, rows, settings.items, settings.device)
    train = TrainConfig(batch_tokens=settings.batch_tokens, precision=precision, epochs=1000)
    trainer = Trainer(model, dataset, catalogue, train, lambda _: {})

    train_on_next = stepping(trainer)

    def step() -> int:
        return int((train_on_next().targets >= 0).sum())

    return System(name, step, flops_a_token(step))


def stepping(trainer: Trainer) -> Callable[[], TokenBatch]:
    """Each call trains on the batch that comes next, pass after pass, and returns it."""

    def batches() -> Iterator[TokenBatch]:
        while True:
            yield from trainer._batches()
            trainer.state.epoch += 1

    stream = batches()

    def train_on_next() -> TokenBatch:
        batch = next(stream).to(trainer.device)
        trainer._step(batch)
        return batch

    return train_on_next


def model_of(
    config: ModelConfig, rows: list[np.ndarray], items: int, device: str = "cpu"
) -> tuple[Model, Dataset, Catalogue]:
    """A model to be trained on these histories, items having a code each and random content."""
    dataset = dataset_of(rows, items)
    levels = (items // 64 + 1, 8, 8)
    codes = np.stack(np.unravel_index(np.arange(items), levels), axis=1).astype(np.int32)
    width = 128 if "content" in config.features else 1
    content = torch.randn(items, width, generator=torch.Generator().manual_seed(0))
    known = torch.ones(items, dtype=torch.bool)
    catalogue = Catalogue.of(dataset, SemanticIds(codes, levels), content, known).to(torch.device(device))
    torch.manual_seed(0)
    return Model(config.restricted_to(catalogue.available()), catalogue).to(device).train(), dataset, catalogue


def flops_a_token(step: Callable[[], int]) -> float:
    """Multiplications and additions of the matrix products of one step, forward and backward, by its tokens."""
    with FlopCounterMode(display=False) as counter:
        tokens = step()
    return counter.get_total_flops() / tokens


class Padded:
    """Batches of whole histories, padded on the right to the longest of them."""

    def __init__(self, rows: list[np.ndarray], settings: argparse.Namespace) -> None:
        self.rows, self.settings = rows, settings
        self.rng = np.random.default_rng(1)

    def next(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T), -100 where there is none, of about as many tokens as asked for."""
        mean = np.mean([len(row) - 1 for row in self.rows])
        chosen = self.rng.integers(len(self.rows), size=max(1, int(self.settings.batch_tokens / mean)))
        longest = max(len(self.rows[i]) for i in chosen) - 1
        inputs, targets = np.zeros((len(chosen), longest), np.int64), np.full((len(chosen), longest), -100)
        for place, i in enumerate(chosen):
            row = self.rows[i]
            inputs[place, : len(row) - 1], targets[place, : len(row) - 1] = row[:-1], row[1:]
        return torch.from_numpy(inputs).to(self.settings.device), torch.from_numpy(targets).to(self.settings.device)

    def prefixes(self) -> tuple[Tensor, Tensor]:
        """As RecBole augments: each row is a prefix cut to 50 events, with its next item as the only target."""
        count = max(1, self.settings.batch_tokens // RECBOLE_LENGTH)
        inputs, targets = np.zeros((count, RECBOLE_LENGTH), np.int64), np.full((count, RECBOLE_LENGTH), -100)
        for place, i in enumerate(self.rng.integers(len(self.rows), size=count)):
            row = self.rows[i]
            end = self.rng.integers(1, len(row))
            seen = row[max(0, end - RECBOLE_LENGTH) : end]
            inputs[place, : len(seen)], targets[place, len(seen) - 1] = seen, row[end]
        return torch.from_numpy(inputs).to(self.settings.device), torch.from_numpy(targets).to(self.settings.device)


class SASRec(nn.Module):
    """Post-norm Transformer with learned positions, GELU and tied item table, as RecBole's (arXiv 1808.09781)."""

    def __init__(self, config: ModelConfig, items: int) -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(items, config.width), nn.Embedding(512, config.width)
        block = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, "gelu", batch_first=True
        )
        self.blocks = nn.TransformerEncoder(block, config.layers, enable_nested_tensor=False)
        self.norm, self.dropout = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        nn.init.normal_(self.items.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T) items to (B, T, D) states."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.dropout(self.norm(self.items(inputs) + self.positions(positions)))
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1], device=inputs.device)
        states: Tensor = self.blocks(x, mask=mask, is_causal=True)
        return states


def sasrec(config: ModelConfig, rows: list[np.ndarray], settings: argparse.Namespace, *, recbole: bool) -> System:
    """Cross-entropy over all items, in float32 as both are published."""
    torch.manual_seed(0)
    model = SASRec(config, settings.items).to(settings.device).train()
    source = Padded(rows, settings)

    def loss() -> tuple[Tensor, int]:
        inputs, targets = source.prefixes() if recbole else source.next()
        wanted = targets >= 0
        states = model(inputs)[wanted]
        return F.cross_entropy(states @ model.items.weight.T, targets[wanted]), int(wanted.sum())

    name = "SASRec as in RecBole, a target a row" if recbole else "SASRec, plain torch, padded"
    return System(f"{name}, float32", _stepper(model, loss))


def llama(config: ModelConfig, rows: list[np.ndarray], settings: argparse.Namespace) -> System:
    """transformers' Llama with items as its vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=settings.items,
        hidden_size=config.width,
        intermediate_size=config.inner,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(shape).to(settings.device).train()
    source, dtype = Padded(rows, settings), matrix_dtype(settings.precision, torch.device(settings.device))

    def loss() -> tuple[Tensor, int]:
        inputs, targets = source.next()
        with torch.autocast(settings.device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(input_ids=inputs, attention_mask=(targets >= 0).long()).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), int((targets >= 0).sum())

    return System("transformers Llama, padded", _stepper(model, loss))


def _stepper(model: nn.Module, loss: Callable[[], tuple[Tensor, int]]) -> Callable[[], int]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> int:
        value, tokens = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return tokens

    return step


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP a second of the best of a few large square products."""
    best = 0.0
    for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192, 16384):
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        left @ right
        for _ in range(5):
            _wait(device)
            began = time.perf_counter()
            left @ right
            _wait(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    settings = parse()
    torch.set_num_threads(settings.threads)
    rows = histories(settings.users, settings.items, settings.longest)
    config = ModelConfig.sized(settings.dial)
    alone = replace(config, features=("id",), code_weight=0.0)
    systems = [
        ours("semid, the same job", alone, rows, settings, settings.precision),
        ours("semid, content, codes and both heads", config, rows, settings, settings.precision),
        replace(ours("semid, the same job, float32", alone, rows, settings, "float32"), flops=None),
    ]
    if not settings.alone:
        systems.append(llama(config, rows, settings))
        systems += [sasrec(config, rows, settings, recbole=recbole) for recbole in (False, True)]
    peak = matrix_peak(settings.device, matrix_dtype(settings.precision, torch.device(settings.device)))
    speeds: dict[str, list[float]] = {system.name: [] for system in systems}
    for round_ in range(settings.warm + settings.repeats):
        for system in systems:
            _wait(settings.device)
            began = time.perf_counter()
            tokens = sum(system.step() for _ in range(settings.steps))
            _wait(settings.device)
            if round_ >= settings.warm:
                speeds[system.name].append(tokens / (time.perf_counter() - began))
    peak = max(peak, matrix_peak(settings.device, matrix_dtype(settings.precision, torch.device(settings.device))))
    results = [described(system, median(speeds[system.name]), peak) for system in systems]
    for result in results:
        result["ratio"] = round(results[0]["tokens_per_second"] / result["tokens_per_second"], 2)
    show(results, peak, config, settings)
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "peak_gflops": round(peak / 1e9)}
    named = {name: value for name, value in vars(settings).items() if name != "alone"}
    print(json.dumps({"benchmark": "training", **named, **hardware, "results": results}))


def described(system: System, speed: float, peak: float) -> dict[str, Any]:
    """Figures of one system."""
    share = None if system.flops is None else round(speed * system.flops / peak, 3)
    return {"system": system.name, "tokens_per_second": round(speed), "share_of_peak": share}


def show(results: list[dict[str, Any]], peak: float, config: ModelConfig, settings: argparse.Namespace) -> None:
    """One line a system."""
    title = (
        f"{config.width} wide, {config.layers} blocks, {settings.items:,} items, {settings.batch_tokens:,} tokens a "
        f"step, {settings.device}, peak {peak / 1e9:,.0f} GFLOP/s"
    )
    table = Table(title=title)
    for column in ("system", "tokens/s", "semid is faster", "of peak"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for result in results:
        share = "" if result["share_of_peak"] is None else f"{100 * result['share_of_peak']:.0f} %"
        table.add_row(result["system"], f"{result['tokens_per_second']:,}", f"{result['ratio']:.2f} ×", share)
    Console(width=110).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dial", type=int, default=8, help="of ModelConfig.sized: 1, 2, 4, 8 are the presets")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--longest", type=int, default=100)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="without the peers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
