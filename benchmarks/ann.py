"""Which index of item vectors, and what does it cost?

Vectors like those of a trained model (``item_vectors.py``), and uniform ones as the worst case. HR@10 is the share of
queries whose item is among the ten found; recall, that of exact search's items. A star marks what ``auto`` chooses.

    python benchmarks/ann.py                               # on one thread
    python benchmarks/ann.py --items 1000000 --slow        # also a graph of a million items: many minutes to build
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import item_vectors
import numpy as np
import torch
from item_vectors import Vectors
from measuring import equal_threads, short, tell
from rich.console import Console
from rich.table import Table

from semid.evaluation.latency import latency
from semid.retrieval.choice import auto_factory, build_index, num_lists
from semid.retrieval.exact_index import EXACT
from semid.selection import is_in

K, MORE = 10, 100
KINDS = {"trained": item_vectors.trained, "uniform": item_vectors.uniform}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# A graph of more takes minutes to build.
_GRAPH_UNTIL = 100_000

Search = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class System:
    """``search`` answers queries (Q, D) with item rows (Q, k)."""

    name: str
    setting: str
    search: Search
    num_bytes: int
    build_seconds: float


@dataclass(frozen=True)
class Row:
    """A system at a setting. Times are milliseconds a query by batch, ``time_shares`` over those of exact search."""

    vectors: str
    items: int
    system: str
    setting: str
    hit_rate: float
    recall_10: float
    recall_100: float
    milliseconds: dict[int, float]
    bytes_per_item: float
    build_seconds: float
    hit_share: float = 1.0
    time_shares: dict[int, float] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=numbers, default=(10_000, 100_000, 1_000_000), metavar="N,…")
    parser.add_argument("--vectors", choices=tuple(KINDS), action="append", help="a kind; both without it")
    parser.add_argument("--factory", action="append", default=[], help="one more of semid's, such as HNSW16,SQ8")
    parser.add_argument("--batches", type=numbers, default=(1, 64), metavar="N,…")
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--slow", action="store_true", help="graphs of any size")
    parser.add_argument("--no-peers", action="store_true", help="semid alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: where others compute too")
    settings = parser.parse_args()
    with equal_threads(settings.threads):
        rows = [row for kind in settings.vectors or KINDS for row in measured(kind, settings)]
    Console(width=230).print(table_of(rows, settings))
    versions = {"torch": torch.__version__, "faiss": faiss.__version__}
    hardware = {"machine": platform.machine(), "threads": settings.threads, "clock": settings.clock}
    print(json.dumps({"benchmark": "ann", **hardware, **versions, "rows": [vars(row) for row in rows]}))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def measured(kind: str, settings: argparse.Namespace) -> Iterator[Row]:
    """All systems at all sizes, exact search first; of uniform vectors the largest size, and ours that is chosen."""
    for num_items in settings.items if kind == "trained" else (max(settings.items),):
        vectors = KINDS[kind](num_items, settings.width, settings.queries)
        lists = f"IVF{num_lists(num_items)}"
        factories = [EXACT, f"{lists},PQ{settings.width}x4fs,Refine(SQfp16)", *settings.factory]
        exact, truth = None, np.empty(0)
        for factory in factories if kind == "uniform" else [*factories, f"{lists},SQfp16"]:
            for system in ours(vectors.items, factory, settings):
                truth = truth if exact else system.search(vectors.queries, MORE)
                row = row_of(kind, system, vectors, truth, exact, settings)
                exact = exact or row
                yield row
        for system in peers(vectors.items, settings) if kind == "trained" else ():
            yield row_of(kind, system, vectors, truth, exact, settings)


def peers(items: np.ndarray, settings: argparse.Namespace) -> Iterator[System]:
    """Faiss itself."""
    graph = () if len(items) > _GRAPH_UNTIL and not settings.slow else ("HNSW32",)
    for name in () if settings.no_peers else ("Flat", *graph):
        index, seconds = timed(partial(plain_faiss, items, name), settings)
        size = len(faiss.serialize_index(index))
        yield System(f"faiss {name}", "", lambda queries, k, peer=index: peer.search(queries, k)[1], size, seconds)


def ours(items: np.ndarray, factory: str, settings: argparse.Namespace) -> Iterator[System]:
    """One of semid's; where it has inverted lists, also at fewer and at more probes than it uses by default."""
    index, seconds = timed(partial(build_index, items, factory=factory), settings)
    name = f"semid {factory}{'*' if factory == auto_factory(*items.shape) else ''}"

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return index.search(queries, k).items

    lists = None if factory == EXACT else faiss.try_extract_index_ivf(index.index)
    if lists is None:
        yield System(name, "", search, index.nbytes, seconds)
        return
    default = lists.nprobe
    for times in (0.25, 0.5, 1, 2):
        lists.nprobe = min(round(default * times), lists.nlist)
        setting = f"{lists.nprobe} probes{', the default' if times == 1 else ''}"
        yield System(name, setting, search, index.nbytes, seconds)


def plain_faiss(items: np.ndarray, factory: str) -> Any:
    index = faiss.index_factory(items.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.add(items)
    if factory.startswith("HNSW"):
        index.hnsw.efSearch = 64
    return index


def row_of(
    kind: str, system: System, vectors: Vectors, truth: np.ndarray, exact: Row | None, settings: argparse.Namespace
) -> Row:
    """What a system finds and how long it takes, beside exact search."""
    found = system.search(vectors.queries, K)
    hit_rate = float((found == vectors.targets[:, None]).any(1).mean())
    milliseconds = {}
    for batch in settings.batches:
        taken = latency(
            lambda rows: system.search(vectors.queries[rows], K),
            len(vectors.queries),
            batch,
            seconds=2.0,
            clock=CLOCKS[settings.clock],
        )
        milliseconds[batch] = taken.median / min(batch, len(vectors.queries))
    row = Row(
        vectors=kind,
        items=len(vectors.items),
        system=system.name,
        setting=system.setting,
        hit_rate=hit_rate,
        recall_10=recall(found, truth[:, :K]),
        recall_100=recall(system.search(vectors.queries, MORE), truth),
        milliseconds=milliseconds,
        bytes_per_item=system.num_bytes / len(vectors.items),
        build_seconds=system.build_seconds,
        hit_share=1.0 if exact is None else hit_rate / exact.hit_rate,
        time_shares=None if exact is None else {b: ms / exact.milliseconds[b] for b, ms in milliseconds.items()},
    )
    tell(f"  {kind} {row.items:,} {row.system} {row.setting}: {row.hit_share:.3f} {short(milliseconds)}")
    return row


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(is_in(truth, found).mean())


def timed(build: Callable[[], Any], settings: argparse.Namespace) -> tuple[Any, float]:
    began = CLOCKS[settings.clock]()
    return build(), CLOCKS[settings.clock]() - began


def table_of(rows: list[Row], settings: argparse.Namespace) -> Table:
    table = Table(title=f"{settings.width} wide, {settings.queries:,} queries, k = {K}, {settings.threads} thread(s)")
    names = ("vectors", "items", "system", "setting", "HR@10", "of exact", "recall@10", "recall@100")
    for name in (*names, *(f"ms of {batch}" for batch in settings.batches), "bytes/item", "build s"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        shares = row.time_shares or {}
        times = [f"{ms:.3f} ({shares[b]:.0%})" if b in shares else f"{ms:.3f}" for b, ms in row.milliseconds.items()]
        table.add_row(
            row.vectors,
            f"{row.items:,}",
            row.system,
            row.setting,
            f"{row.hit_rate:.4f}",
            f"{row.hit_share:.1%}",
            f"{row.recall_10:.4f}",
            f"{row.recall_100:.4f}",
            *times,
            f"{row.bytes_per_item:.0f}",
            f"{row.build_seconds:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
