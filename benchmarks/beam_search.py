"""How many requests a second does constrained beam search answer, what does the constraint cost, and the index?

Random weights, histories of 60 tokens, catalogues of uniform and of skewed codes; ours and the peers take turns in
one process. ``requests``: from histories to lists. ``selection``: from given log-probabilities to lists, beside
STATIC where it is installed; ``levels``: one level of it. ``index``: bytes and seconds of the trie, its filters and
insertions.

    python benchmarks/beam_search.py                       # on one thread
    python benchmarks/beam_search.py --only index --items 20000000 --codes 2048
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from peers import decoders
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from training import dataset_of

from semid.codes import SemanticIds
from semid.data.plain_queries import queries_from_histories
from semid.generative.beam_search import beam_search
from semid.generative.beam_steps import Beams, StepLogits, next_beams
from semid.generative.catalogue import Catalogue
from semid.generative.children import Children
from semid.generative.config import ModelConfig
from semid.generative.item_filter import Allowed, ItemFilter
from semid.generative.model import Model
from semid.generative.recommender import GenerativeRecommender
from semid.generative.trie import CodeTrie
from semid.generative.trie_growth import with_items
from semid.tokenizers.tokenizer import SemanticIdTokenizer

LEVELS = 3
SECTIONS = ("requests", "selection", "levels", "index")


@dataclass(frozen=True)
class Row:
    """``seconds`` of a system at a setting; ``ratio`` over ours, None for ours."""

    section: str
    setting: str
    system: str
    seconds: float
    figure: str
    ratio: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--codes", type=int, default=256, help="a level")
    parser.add_argument("--tokenizer", help="selection among the codes of a fitted one, of three levels")
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")], default=[1, 16])
    parser.add_argument("--beam", type=int, default=50)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=60, help="of each history: four an event")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of ours")
    parser.add_argument("--no-peers", action="store_true", help="time ours alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section; all without it")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    sections = {"requests": requests, "selection": selection, "levels": levels, "index": index}
    probe = gigaflops()
    rows = [row for name in settings.only or SECTIONS for row in sections[name](settings)]
    table = Table(title=f"{settings.items:,} items, {LEVELS} x {settings.codes} codes, beam {settings.beam}")
    for name in ("section", "setting", "system", "time", "figure", "times ours"):
        table.add_column(name)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}"
        table.add_row(row.section, row.setting, row.system, f"{row.seconds * 1e3:,.2f} ms", row.figure, ratio)
    Console(width=150).print(table)
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "threads": settings.threads}
    probes = {"gigaflops_before": probe, "gigaflops_after": gigaflops()}
    print(json.dumps({"benchmark": "beam_search", **hardware, **probes, "rows": [vars(row) for row in rows]}))


def requests(settings: argparse.Namespace) -> list[Row]:
    """From histories of the same number of tokens to lists of as many items as beams."""
    codes = uniform_codes(settings.items, settings.codes)
    systems_of = {
        "semid, layout code": recommender_of(codes, settings, layout="code", contrastive_weight=0.0),
        "semid, layout item": recommender_of(codes, settings, contrastive_weight=0.0),
        "semid, layout item, with item vectors": recommender_of(codes, settings),
    }
    sizes = (settings.codes,) * LEVELS
    peers = {} if settings.no_peers else peers_of(codes, settings)
    rows = []
    for batch in settings.batches:
        rng = np.random.default_rng(batch)
        events = rng.integers(0, settings.items, (batch, settings.tokens // (1 + LEVELS)))
        tokens = torch.from_numpy(rng.integers(1, 1 + sum(sizes), (batch, settings.tokens)))
        systems: dict[str, Callable[[], Any]] = {
            name: partial(answer, made, events.tolist(), settings.beam) for name, made in systems_of.items()
        }
        systems |= {name: partial(search, tokens) for name, search in peers.items()}
        found = taking_turns(systems, settings.repeats)
        for name, seconds in found.items():
            figure = f"{batch / seconds:,.0f} requests/s"
            ratio = None if name.startswith("semid") else seconds / found["semid, layout code"]
            rows.append(Row("requests", f"batch {batch}", name, seconds, figure, ratio))
    return rows


def peers_of(codes: np.ndarray, settings: argparse.Namespace) -> dict[str, decoders.Search]:
    """Of the same shape, the catalogue in a dictionary."""
    sizes, heads = (settings.codes,) * LEVELS, head_count(settings.width)
    prefixes = decoders.prefixes_of(codes, sizes)
    gpt2 = decoders.gpt2(sizes, settings.width, settings.layers, heads, settings.tokens)
    t5 = decoders.t5(sizes, settings.width, settings.layers, heads)
    return {
        "transformers GPT-2": decoders.generating(gpt2, prefixes, LEVELS, settings.beam),
        "GPT-2, history read once": decoders.prefilled(gpt2, prefixes, sizes, settings.beam),
        "transformers T5": decoders.generating(t5, prefixes, LEVELS, settings.beam),
    }


def head_count(width: int) -> int:
    return max(4, width // 64)


def answer(made: GenerativeRecommender, histories: list[list[int]], beam: int) -> Any:
    states = made.encode(queries_from_histories(histories, made.catalogue.num_items))
    return made.generate(states, beam=beam, k=beam)


def recommender_of(codes: np.ndarray, settings: argparse.Namespace, **changes: Any) -> GenerativeRecommender:
    """Random weights, items known by id and codes."""
    items = len(codes)
    dataset = dataset_of([np.arange(items)], items)
    ids = SemanticIds(codes, (settings.codes,) * LEVELS)
    catalogue = Catalogue.of(dataset, ids, torch.zeros(items, 1), torch.zeros(items, dtype=torch.bool))
    heads = head_count(settings.width)
    config = ModelConfig(
        width=settings.width,
        layers=settings.layers,
        heads=heads,
        kv_heads=heads,
        features=("id", "codes"),
        context=settings.tokens // (1 + LEVELS),
    )
    torch.manual_seed(0)
    model = Model(replace(config, **changes).restricted_to(catalogue.available()), catalogue)
    dtype = getattr(torch, settings.precision)
    return GenerativeRecommender(model, catalogue, dataset.candidates, dataset.action_names, dtype)


@dataclass(frozen=True, eq=False)
class Given:
    """A decoder that has been: log-probabilities of every level, (B, K) and then (B · W, K)."""

    trie: CodeTrie
    steps: list[Tensor]

    def first(self, state: Tensor) -> tuple[Tensor, Any]:
        return self.steps[0], (0, None)

    def next(self, cache: Any, parents: Tensor, nodes: Tensor) -> Any:
        return cache[0] + 1, nodes.flatten()

    def log_probs(self, cache: Any) -> Tensor:
        level, nodes = cache
        return self.trie.mask(level)[nodes].add_(self.steps[level])

    def logits(self, cache: Any) -> StepLogits | None:
        return None

    def child_log_probs(self, cache: Any, users: slice, children: Children) -> Tensor:
        step = self.steps[cache[0]].view(len(children.ends), -1) if users.start == 0 else None
        assert step is not None, "one part holds all users here"
        return step.gather(1, children.owner * len(self.steps[0][0]) + children.codes)


def selection(settings: argparse.Namespace) -> list[Row]:
    """All levels from given log-probabilities to beams; STATIC's harness takes its log-softmax as well."""
    rows = []
    for kind, codes in catalogues(settings):
        trie = CodeTrie.build(SemanticIds(codes, (settings.codes,) * LEVELS))
        for batch in settings.batches:
            generator = torch.Generator().manual_seed(batch)
            logits = [torch.randn(batch, settings.codes, generator=generator) for _ in range(LEVELS)]
            steps = [F.log_softmax(level, -1) for level in logits]
            # All beams of a user see the same, as systems do not hold them in the same order.
            widths = [min(settings.beam, len(level)) for level in trie.levels]
            steps[1:] = [step.repeat_interleave(width, dim=0) for step, width in zip(steps[1:], widths, strict=False)]
            state = torch.zeros(batch, 1)
            search = partial(beam_search, Given(trie, steps), state, trie, beam=settings.beam, k=settings.beam)
            systems: dict[str, Callable[[], Any]] = {"semid": search}
            peer = None
            if settings.beam <= settings.codes:  # the others take no wider one
                systems["without a constraint"] = partial(free, steps, settings.beam)
                peer = static(codes, settings)
            if peer is not None:
                systems["STATIC"] = partial(peer.search, steps, settings.beam)
                with torch.inference_mode():
                    theirs, mine = systems["STATIC"]().numpy(), codes[search().items.numpy()]
                places = settings.codes ** np.arange(LEVELS)
                assert (np.sort(theirs @ places, 1) == np.sort(mine @ places, 1)).all(), "the lists differ"
            found = taking_turns(systems, settings.repeats)
            for name, seconds in found.items():
                ratio = None if name == "semid" else seconds / found["semid"]
                rows.append(Row("selection", f"{kind}, batch {batch}", name, seconds, "3 levels", ratio))
    return rows


def levels(settings: argparse.Namespace) -> list[Row]:
    """One level from given log-probabilities to beams: the second, where nodes have many children, and the third."""
    rows = []
    codes = uniform_codes(settings.items, settings.codes)
    trie = CodeTrie.build(SemanticIds(codes, (settings.codes,) * LEVELS))
    peer = static(codes, settings)
    if peer is None:
        return []
    for batch in settings.batches:
        generator = torch.Generator().manual_seed(batch)
        for depth, name in ((1, "second level"), (2, "third level")):
            above = trie.levels[depth - 1]
            order = torch.rand(batch, len(above), generator=generator).argsort(1)
            nodes = order[:, : settings.beam].sort(1).values
            scores = torch.randn(nodes.shape, generator=generator).abs().neg()
            step = F.log_softmax(torch.randn(nodes.numel(), settings.codes, generator=generator), -1)
            given = Given(trie, [step] * LEVELS)
            beams = Beams(nodes, nodes * 0, scores, scores[:, 0] - torch.inf, scores[:, 0] > 0)
            limits = Allowed.of(trie, batch, None, None, None)
            cache = (depth, nodes.flatten())
            systems: dict[str, Callable[[], Any]] = {
                "semid": partial(next_beams, given, cache, depth, beams, nodes.shape[1], limits)
            }
            chosen = above.codes[nodes].long()
            if depth == 1:
                systems["STATIC"] = partial(peer.dense_step, step, scores, chosen)
            else:
                first = trie.levels[0].codes[trie.levels[0].parent(nodes)].long()
                systems["STATIC"] = partial(peer.sparse_step, step, scores, first, chosen)
            with torch.inference_mode():
                mine = systems["semid"]().scores.sort(1, descending=True).values
                torch.testing.assert_close(mine, systems["STATIC"](), rtol=1e-5, atol=1e-5)
            found = taking_turns(systems, settings.repeats)
            for system, seconds in found.items():
                ratio = None if system == "semid" else seconds / found["semid"]
                rows.append(Row("levels", f"batch {batch}, {name}", system, seconds, "", ratio))
    return rows


def static(codes: np.ndarray, settings: argparse.Namespace) -> decoders.Static | None:
    """STATIC's index, where it is installed."""
    try:
        return decoders.Static(codes, settings.codes)
    except ModuleNotFoundError:
        Console(stderr=True).print("STATIC is not installed: left out.")
        return None


def free(steps: Sequence[Tensor], beam: int) -> Tensor:
    """The same search where every code may follow every other."""
    scores = steps[0].topk(beam, 1).values
    for step in steps[1:]:
        scores = (scores[..., None] + step.view(*scores.shape, -1)).flatten(1).topk(beam, 1).values
    return scores


def index(settings: argparse.Namespace) -> list[Row]:
    """Bytes an item, and seconds to build, to filter, to add items."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, settings.codes, (settings.items, LEVELS), dtype=np.int32)
    ids = SemanticIds(codes, (settings.codes,) * LEVELS)
    trie = CodeTrie.build(ids)
    structure = sum(level.codes.nbytes + level.children.nbytes for level in trie.levels) / settings.items
    mask = torch.from_numpy(rng.random(settings.items) < 0.5)
    more = rng.integers(0, settings.codes, (max(1, settings.items // 100), LEVELS), dtype=np.int32)
    tasks = {
        "build": partial(CodeTrie.build, ids),
        "filter half the items": partial(ItemFilter.of, trie, mask),
        "add one percent": partial(with_items, trie, more),
    }
    size = f"{structure:.2f} + {trie.items.nbytes / settings.items:.0f} bytes an item"
    found = taking_turns(tasks, min(settings.repeats, 5))
    return [Row("index", name, "semid", taken, size if name == "build" else "") for name, taken in found.items()]


def catalogues(settings: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Codes (N, 3) of catalogues."""
    if settings.tokenizer is not None:
        yield "fitted", SemanticIdTokenizer.load(settings.tokenizer).semantic_ids_.codes
        return
    yield "uniform", uniform_codes(settings.items, settings.codes)
    yield "skewed", skewed_codes(settings.items, settings.codes)


def uniform_codes(items: int, size: int) -> np.ndarray:
    """Different random codes. (N, 3) int32"""
    flat = np.random.default_rng(0).choice(size**LEVELS, items, replace=False)
    return np.stack(np.unravel_index(flat, (size,) * LEVELS), axis=1).astype(np.int32)


def skewed_codes(items: int, size: int) -> np.ndarray:
    """Different codes whose popularity on every level follows a power law, as those of real items do."""
    rng, weight = np.random.default_rng(0), 1 / (np.arange(size) + 3.0)
    rows = np.zeros((0, LEVELS), np.int64)
    while len(rows) < items:
        drawn = rng.choice(size, (2 * items, LEVELS), p=weight / weight.sum())
        rows = np.unique(np.concatenate([rows, drawn]), axis=0)
    return rows[np.sort(rng.choice(len(rows), items, replace=False))].astype(np.int32)


def taking_turns(systems: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, warm."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(repeats + 1):
        for name, run in systems.items():
            began = time.perf_counter()
            with torch.inference_mode():
                run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in seconds.items()}


def gigaflops() -> float:
    """Of a large float32 matrix product, to tell a busy machine."""
    a = torch.randn(1024, 1024)
    seconds = taking_turns({"product": lambda: a @ a}, 5)["product"]
    return round(2 * 1024**3 / seconds / 1e9, 1)


if __name__ == "__main__":
    main()
