"""How long does a constrained beam search take on a GPU, and how much of it is the choice among children?

Random weights, uniform codes. ``search``: from trunk states to lists, in layout ``item``, plain and as a CUDA graph.
``code``: from histories that are read to lists, in layout ``code``. ``selection``: one step from given logits to the
next beams, in torch and in the fused kernel.

    python benchmarks/beam_search_gpu.py
    python benchmarks/beam_search_gpu.py --width 1024 --layers 8 --levels 4 --codes 256 --beam 200 --batches 1,16
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from training import dataset_of

from semid.codes import SemanticIds
from semid.data.plain_queries import queries_from_histories
from semid.generative.beam_search import beam_search
from semid.generative.beam_steps import Beams, StepLogits, next_beams
from semid.generative.catalogue import Catalogue
from semid.generative.children import Children
from semid.generative.config import ModelConfig
from semid.generative.graphed_search import SearchGraphs
from semid.generative.item_filter import Allowed
from semid.generative.model import Model
from semid.generative.recommender import GenerativeRecommender
from semid.generative.trie import CodeTrie
from semid.selection import best_positions

Row = tuple[str, str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--codes", type=int, default=2048, help="a level")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--events", type=int, default=99, help="of each history")
    parser.add_argument("--beam", type=int, default=50)
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")], default=[1, 64])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--cpu", action="store_true", help="run on the processor, to try the script at a small size")
    settings = parser.parse_args()
    if not torch.cuda.is_available() and not settings.cpu:
        sys.exit(
            "This benchmark needs a CUDA GPU, and torch sees none here; --cpu tries the script on the processor."
        )
    device = "cpu" if settings.cpu else "cuda"
    codes = uniform_codes(settings)
    rows: list[Row] = []
    with torch.inference_mode():
        for layout in ("item", "code"):
            made = recommender_of(codes, settings, layout, device)
            for batch in settings.batches:
                rows += searches(made, layout, batch, settings)
        trie = CodeTrie.build(SemanticIds(codes, (settings.codes,) * settings.levels), device)
        for batch in settings.batches:
            rows += selection(trie, batch, settings)
    table = Table(title=f"{settings.items:,} items, {settings.levels} x {settings.codes} codes, beam {settings.beam}")
    for name in ("part", "setting", "median"):
        table.add_column(name)
    for part, setting, seconds in rows:
        table.add_row(part, setting, f"{seconds * 1e3:.3f} ms")
    Console(width=120).print(table)
    name = platform.machine() if settings.cpu else torch.cuda.get_device_name()
    facts = {"benchmark": "beam_search_gpu", "device": name, "torch": torch.__version__, **vars(settings)}
    print(json.dumps({**facts, "rows": rows}))


def searches(made: GenerativeRecommender, layout: str, batch: int, settings: argparse.Namespace) -> list[Row]:
    rng = np.random.default_rng(batch)
    histories = rng.integers(0, settings.items, (batch, settings.events)).tolist()
    queries = queries_from_histories(histories, settings.items)
    states = made.encode(queries)
    search = made._search(states, np.arange(batch))
    trie, graphs = made.catalogue.trie, SearchGraphs()
    run = partial(beam_search, search, states.states, trie, beam=settings.beam, k=settings.beam)
    parts: dict[str, Callable[[], Any]] = {"history": partial(made.encode, queries), "search": run}
    if not settings.cpu:
        parts["search, one graph"] = partial(run, graphs=graphs)
    return [(f"layout {layout}", f"batch {batch}, {name}", timed(part, settings)) for name, part in parts.items()]


@dataclass(frozen=True, eq=False)
class Given:
    """A decoder that has been: logits of one step."""

    step: StepLogits

    def first(self, state: Tensor) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def next(self, cache: Any, parents: Tensor, nodes: Tensor) -> Any:
        raise NotImplementedError

    def log_probs(self, cache: Any) -> Tensor:
        return self.step.codes.log_softmax(-1)

    def child_log_probs(self, cache: Any, users: slice, children: Children) -> Tensor:
        of_users = self.step.codes.view(len(children.ends), -1)
        values = of_users.gather(1, children.owner * self.step.codes.shape[1] + children.codes)
        return values - children.log_sum_exp(values).gather(1, children.owner)

    def logits(self, cache: Any) -> StepLogits:
        return self.step


def selection(trie: CodeTrie, batch: int, settings: argparse.Namespace) -> list[Row]:
    """Of every level but the first, from logits to beams."""
    rows, device = [], trie.device
    for depth in range(1, settings.levels):
        width, above = settings.beam, len(trie.levels[depth - 1])
        chosen = [torch.randperm(above, device=device)[: min(width, above)].sort().values for _ in range(batch)]
        nodes = torch.stack(chosen)
        known = torch.zeros(nodes.shape, device=device)
        beams = Beams(nodes, nodes * 0, known, known[:, 0], known[:, 0] > 0)
        given = Given(StepLogits(torch.randn(nodes.numel(), settings.codes, device=device)))
        limits, size = Allowed.of(trie, batch, None, None, None), trie.most_children(depth - 1, nodes.shape[1])

        def in_torch(given: Given = given, depth: int = depth, nodes: Tensor = nodes, size: int = size) -> Tensor:
            children = Children.of(trie, depth, nodes, size=size)
            return given.child_log_probs(None, slice(0, batch), children).masked_fill(~children.there, -torch.inf)

        parts: dict[str, Callable[[], Any]] = {"scores in torch": in_torch}
        if not settings.cpu:
            from semid.generative.children_triton import fused_scores

            children = Children.of(trie, depth, nodes, size=size)
            parts["scores in one kernel"] = partial(fused_scores, given.step, children, beams, limits)
        parts["best of them"] = partial(best_positions, in_torch(), width)
        parts["whole step"] = partial(next_beams, given, None, depth, beams, width, limits)
        rows += [
            ("selection", f"batch {batch}, level {depth + 1}, {name}", timed(part, settings))
            for name, part in parts.items()
        ]
    return rows


def timed(part: Callable[[], Any], settings: argparse.Namespace) -> float:
    """Median seconds, warm."""
    seconds = []
    for turn in range(settings.repeats + 5):
        if settings.cpu:
            began = time.perf_counter()
            part()
            taken = time.perf_counter() - began
        else:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            part()
            end.record()
            torch.cuda.synchronize()
            taken = start.elapsed_time(end) / 1e3
        if turn >= 5:
            seconds.append(taken)
    return median(seconds)


def uniform_codes(settings: argparse.Namespace) -> np.ndarray:
    """Different ones."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(settings.codes**settings.levels, settings.items, replace=False)
    return np.stack(np.unravel_index(drawn, (settings.codes,) * settings.levels), axis=1).astype(np.int32)


def recommender_of(
    codes: np.ndarray, settings: argparse.Namespace, layout: str, device: str
) -> GenerativeRecommender:
    dataset = dataset_of([np.arange(len(codes))], len(codes))
    ids = SemanticIds(codes, (settings.codes,) * settings.levels)
    catalogue = Catalogue.of(dataset, ids, torch.zeros(len(codes), 1), torch.zeros(len(codes), dtype=torch.bool))
    config = ModelConfig(
        width=settings.width,
        layers=settings.layers,
        heads=settings.width // 64,
        kv_heads=settings.width // 64,
        features=("codes",),
        context=settings.events,
        layout=layout,
        contrastive_weight=0.0,
    )
    torch.manual_seed(0)
    model = Model(config.restricted_to(catalogue.available()), catalogue).to(device)
    dtype = getattr(torch, settings.precision)
    return GenerativeRecommender(model, catalogue.to(torch.device(device)), dataset.candidates, ("view",), dtype)


if __name__ == "__main__":
    main()
