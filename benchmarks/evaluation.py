"""How long does it take to judge a million lists of 10, beside ranx and pytrec_eval, and how much memory?

All start from the same arrays of items and end with the same four means: HitRate, NDCG, MRR and Recall. ranx is given
arrays, its fastest way in, and is compiled before the clock starts; pytrec_eval takes dictionaries of strings, and
making them counts. Ours is there a second time with everything it reports: all metrics, popularity slices, codes,
intervals from 1,000 resamples. The floor compares every place with the target once. Systems take turns, figures are
medians; memory is the peak of a process of its own, with the arrays (120 MB) and what is imported.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --clock cpu   # where others use the machine too
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring import Settings, System, Timing, interleave
from rich.console import Console
from rich.table import Table

from semid.data.events import EventLog, Queries
from semid.evaluation.comparison import ModeResult, compare
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.ranking import Ranking

FOUR = ("HitRate", "NDCG", "MRR", "Recall")
OURS, ALL, FLOOR = "semid", "semid, all metrics and intervals", "floor"
RANX, PYTREC = "ranx", "pytrec_eval"


@dataclass(frozen=True, eq=False)
class Lists:
    """Q lists of k items and one target each, which three in ten lists hold."""

    items: np.ndarray
    scores: np.ndarray
    targets: np.ndarray
    train_counts: np.ndarray
    codes: np.ndarray

    @staticmethod
    def random(num_queries: int, k: int, num_items: int) -> "Lists":
        rng = np.random.default_rng(0)
        items = (rng.integers(0, num_items, (num_queries, 1)) + np.arange(k) * (num_items // k)) % num_items
        scores = np.tile(-np.arange(k, dtype=np.float32), (num_queries, 1))
        targets = rng.integers(0, num_items, num_queries)
        held = np.flatnonzero(rng.random(num_queries) < 0.3)
        targets[held] = items[held, rng.integers(0, k, len(held))]
        return Lists(items, scores, targets, rng.geometric(0.1, num_items) - 1, rng.integers(0, 256, (num_items, 3)))

    def first(self, num_queries: int) -> "Lists":
        rows = slice(num_queries)
        return Lists(self.items[rows], self.scores[rows], self.targets[rows], self.train_counts, self.codes)

    @property
    def ranking(self) -> Ranking:
        return Ranking(self.items, self.scores)

    @property
    def queries(self) -> Queries:
        nothing, count = np.zeros(0, np.int64), len(self.items)
        return Queries(
            log=EventLog(nothing, nothing, nothing, np.zeros(1, np.int64)),
            users=np.arange(count, dtype=np.int32),
            start=np.zeros(count, np.int64),
            end=np.zeros(count, np.int64),
            target_items=self.targets.astype(np.int32),
            target_actions=np.ones(count, np.int8),
            target_offsets=np.arange(count + 1),
        )


def ours(lists: Lists) -> dict[str, float]:
    return query_metrics(lists.ranking, Targets.of(lists.queries), lists.items.shape[1]).means()


def all_of_ours(lists: Lists) -> dict[str, float]:
    k, items = lists.items.shape[1], np.arange(len(lists.train_counts))
    found = compare(
        lists.queries,
        {"one": ModeResult(ranking=lists.ranking)},
        ks=(k,),
        candidates=items,
        train_counts=lists.train_counts,
        action_weights=(0.0, 1.0, 2.5),
        codes=lists.codes,
    )
    return {name.removesuffix(f"@{k}"): value for name, value in found.modes["one"].items()}


def floor(lists: Lists) -> dict[str, float]:
    found = sum(
        np.count_nonzero(lists.items[row : row + 8192] == lists.targets[row : row + 8192, None])
        for row in range(0, len(lists.items), 8192)
    )
    return {"HitRate": found / len(lists.items)}


def ranx(lists: Lists) -> dict[str, float]:
    from ranx import evaluate

    num_queries, k = lists.items.shape
    run = np.stack([lists.items, lists.scores.astype(np.float64)], axis=2)
    wanted = np.stack([lists.targets, np.ones(num_queries)], axis=1)[:, None]
    names = [f"{name}@{k}" for name in ("hit_rate", "ndcg", "mrr", "recall")]
    found = evaluate(wanted, run, names)
    return dict(zip(FOUR, (float(found[name]) for name in names), strict=True))


def pytrec_eval(lists: Lists) -> dict[str, float]:
    from pytrec_eval import RelevanceEvaluator

    k = lists.items.shape[1]
    names = [str(item) for item in range(len(lists.train_counts))]
    run = {
        str(query): {names[item]: float(-place) for place, item in enumerate(row)}
        for query, row in enumerate(lists.items.tolist())
    }
    wanted = {str(query): {names[item]: 1} for query, item in enumerate(lists.targets.tolist())}
    measures = (f"success_{k}", f"ndcg_cut_{k}", "recip_rank", f"recall_{k}")
    found = RelevanceEvaluator(wanted, set(measures)).evaluate(run)
    return {
        name: float(np.mean([of_query[measure] for of_query in found.values()]))
        for name, measure in zip(FOUR, measures, strict=True)
    }


SYSTEMS: Mapping[str, Callable[[Lists], dict[str, float]]] = {
    OURS: ours,
    ALL: all_of_ours,
    RANX: ranx,
    PYTREC: pytrec_eval,
    FLOOR: floor,
}


def timed(lists: Lists, settings: argparse.Namespace) -> dict[str, Timing]:
    """Every system in turn, warm."""

    def system(name: str) -> System:
        return System(name=name, run=lambda _: SYSTEMS[name](lists), warm=lambda: SYSTEMS[name](lists.first(100)))

    how = Settings(threads=settings.threads, repeats=settings.repeats, limit=120, clock=settings.clock)
    return interleave([system(name) for name in SYSTEMS], lambda means: means, how)


def peak(name: str, settings: argparse.Namespace) -> float | None:
    """MiB of a process of its own at its peak, arrays and libraries included; None where it cannot be told."""
    sizes = [f"--{size}={getattr(settings, size)}" for size in ("queries", "k", "items")]
    command = [sys.executable, __file__, *sizes, "--peak-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def own_peak(settings: argparse.Namespace) -> float:
    """Of this process, while the system named by ``--peak-of`` runs; what made the arrays does not count. Linux."""
    lists = Lists.random(settings.queries, settings.k, settings.items)
    SYSTEMS[settings.peak_of](lists.first(100))
    Path("/proc/self/clear_refs").write_text("5")
    SYSTEMS[settings.peak_of](lists)
    [kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


def described(name: str, timing: Timing, fastest: Timing, settings: argparse.Namespace) -> dict[str, object]:
    """Figures of one system; what it found must be what ours found."""
    for metric in FOUR:
        value, expected = timing.figure(metric), fastest.figure(metric)
        if value is not None and expected is not None and abs(value - expected) > 1e-6:
            raise AssertionError(f"{name} finds {metric} = {value}, {OURS} {expected}")
    return {
        "system": name,
        "seconds": timing.median,
        "of_ours": timing.median / fastest.median if timing.median and fastest.median else None,
        "peak_mib": peak(name, settings) if timing.median else None,
        "note": timing.note,
    }


def main() -> None:
    settings = parse()
    if settings.peak_of:
        print(own_peak(settings))
        return
    timings = timed(Lists.random(settings.queries, settings.k, settings.items), settings)
    results = [described(name, timing, timings[OURS], settings) for name, timing in timings.items()]
    show(results, settings)
    hardware = {"machine": platform.machine(), "numpy": np.__version__}
    print(json.dumps({"benchmark": "evaluation", **vars(settings), **hardware, "results": results}))


def show(results: list[dict[str, object]], settings: argparse.Namespace) -> None:
    """One line a system."""
    title = f"{settings.queries:,} lists of {settings.k}, {settings.items:,} items, {settings.threads} threads"
    table = Table(title=title)
    for column in ("system", "seconds", "times semid", "peak, MiB"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for row in results:
        if row["seconds"] is None:
            table.add_row(str(row["system"]), str(row["note"]))
            continue
        peak_mib = "–" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
        table.add_row(str(row["system"]), f"{row['seconds']:.3f}", f"{row['of_ours']:.2f}", peak_mib)
    Console(width=110).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of this process alone")
    parser.add_argument("--peak-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    # Numba reads it when it is first imported.
    os.environ["NUMBA_NUM_THREADS"] = str(settings.threads)
    return settings


if __name__ == "__main__":
    main()
