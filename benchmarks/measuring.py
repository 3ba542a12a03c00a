"""Rows of the benchmark's table, and how they are measured: warm, interleaved, medians, on equal threads."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

# Errors closer than this count as equal: the last digit of the table.
EQUAL = 1.001
_ERROR_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a run of the benchmark does.

    Attributes:
        scale: share of the full number of vectors.
        threads: for every system.
        repeats: runs of a system, each with a seed of its own.
        limit: a system whose first run takes more seconds is not run again.
        clock: ``wall`` for elapsed seconds, ``cpu`` for those of the processor, for a machine that others use too.
        data: folder of the real sets, if there is one.
        sets: which of them.
        embedding: the file ``emb_NAME.f16.npy`` of each.
        svd: components of the real embeddings.
        slow: also run the peers that take many minutes.
        scratch: folder of the files for what runs from disk.
    """

    scale: float = 1.0
    threads: int = 1
    repeats: int = 3
    limit: float = 30.0
    clock: str = "wall"
    data: Path | None = None
    sets: tuple[str, ...] = ("amazon14_beauty", "amazon14_sports")
    embedding: str = "minilm_384"
    svd: int = 128
    slow: bool = False
    scratch: Path = Path("runs/tokenizer")

    def scaled(self, vectors: int) -> int:
        """That many vectors at full scale."""
        return max(round(vectors * self.scale), 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        section, system, setting: what was measured.
        seconds: median of the runs.
        error: mean squared error over the variance, unless the section says otherwise; median of the runs.
        ratio: seconds of the system over those of ours; for a row of ours, None.
        goal: what was to be reached against this system.
        met: whether it was; None without a goal.
        figures: anything else, by name.
        note: anything else in words; where there is no measurement, why.
    """

    section: str
    system: str
    setting: str
    seconds: float | None = None
    error: float | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def requiring(self, text: str, met: bool) -> "Row":
        """The row with one more condition to its goal."""
        goal = f"{self.goal}, {text}" if self.goal else text
        reached = None if self.seconds is None else met and self.met is not False
        return replace(self, goal=goal, met=reached)


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """Something to measure: ``run(seed)`` does the work, ``warm()`` a little of it."""

    name: str
    run: Callable[[int], Any]
    warm: Callable[[], Any] | None = None


@dataclass(slots=True)
class Timing:
    """Seconds and figures of the runs of one system, or why there are none."""

    seconds: list[float] = field(default_factory=list)
    figures: list[Mapping[str, float]] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    def figure(self, name: str) -> float | None:
        values = [found[name] for found in self.figures if name in found]
        return median(values) if values else None

    def all_figures(self, *without: str) -> dict[str, float]:
        """Median of every figure but some."""
        names = list(dict.fromkeys(name for found in self.figures for name in found))
        return {name: median(found[name] for found in self.figures) for name in names if name not in without}


@contextmanager
def equal_threads(threads: int) -> Iterator[None]:
    """Every library computes on that many threads."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    with threadpool_limits(threads):
        yield


def interleave(
    systems: Sequence[System], score: Callable[[Any], Mapping[str, float]], settings: Settings
) -> dict[str, Timing]:
    """Run the systems in turn, several rounds, round ``r`` with seed ``r``.

    A system that is not installed or fails gets a note instead of times; ours, always the first one, may not fail.

    Args:
        systems: ours first.
        score: figures of what a run returned; not timed.
        settings: how often, and on which clock.
    """
    timings = {system.name: Timing() for system in systems}
    with equal_threads(settings.threads):
        for repeat in range(settings.repeats):
            for system in systems:
                timing = timings[system.name]
                if timing.note or any(seconds > settings.limit for seconds in timing.seconds):
                    continue
                try:
                    measure(system, repeat, score, timing, settings)
                except Exception as error:
                    if system is systems[0]:
                        raise
                    missing = isinstance(error, ModuleNotFoundError)
                    timing.note = f"not installed: {error.name}" if missing else f"failed: {error!r}"[:120]
    return timings


def measure(
    system: System, repeat: int, score: Callable[[Any], Mapping[str, float]], timing: Timing, settings: Settings
) -> None:
    """One run."""
    clock = time.process_time if settings.clock == "cpu" else time.perf_counter
    if repeat == 0 and system.warm is not None:
        system.warm()
    began = clock()
    result = system.run(repeat)
    timing.seconds.append(clock() - began)
    timing.figures.append(score(result))
    tell(f"  {system.name}: {timing.seconds[-1]:.2f} s {short(timing.figures[-1])}")


def row(
    section: str,
    setting: str,
    name: str,
    timings: Mapping[str, Timing],
    goal: "Goal | None" = None,
    *,
    ours: str,
) -> Row:
    """The line of one system beside ours."""
    timing, reference = timings[name], timings[ours]
    ratio = None
    if name != ours and timing.median is not None and reference.median:
        ratio = timing.median / reference.median
    met = goal.met(ratio, reference.figure("error"), timing.figure("error")) if goal and timing.median else None
    return Row(
        section=section,
        system=name,
        setting=setting,
        seconds=timing.median,
        error=timing.figure("error"),
        ratio=ratio,
        goal=goal.text if goal else "",
        met=met,
        figures=timing.all_figures("error"),
        note=timing.note,
    )


def fastest_at_no_more_error(names: Sequence[str], peer: Timing, timings: Mapping[str, Timing]) -> str:
    """Which of ours to set beside a peer; the first where none is as good."""
    limit = EQUAL * (peer.figure("error") or 0.0)
    good = [name for name in names if (timings[name].figure("error") or 1.0) <= limit]
    return min(good, key=lambda name: timings[name].median or 0.0) if good else names[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What to reach against a system: so many times faster, at no more than a multiple of its error."""

    faster: float | None = None
    error: float | None = None

    @property
    def text(self) -> str:
        parts = [] if self.faster is None else [f">={self.faster:g}x"]
        if self.error is not None:
            parts.append("error <=" if self.error == 1 else f"error <={self.error:g}x")
        return ", ".join(parts)

    def met(self, ratio: float | None, ours: float | None, other: float | None) -> bool:
        fast = self.faster is None or (ratio is not None and ratio >= self.faster)
        close = self.error is None or (ours is not None and other is not None and ours <= EQUAL * self.error * other)
        return fast and close


def nearest_error(vectors: np.ndarray, centroids: np.ndarray) -> float:
    """Sum over the vectors of the squared distance to the nearest centroid, over that to their mean.

    The nearest centroid is found in float32, by Faiss and in no system's own way; distances are then float64.
    """
    nearest = faiss.knn(vectors, np.ascontiguousarray(centroids, np.float32), 1)[1][:, 0]
    return relative_error(vectors, lambda rows: centroids[nearest[rows]])


def relative_error(
    vectors: np.ndarray, decoded: Callable[[slice], np.ndarray], mean: np.ndarray | None = None
) -> float:
    """Squared error of what stands for the vectors over their squared distance to a mean, theirs by default."""
    around = vectors.mean(0, dtype=np.float64) if mean is None else mean
    squared = spread = 0.0
    for first in range(0, len(vectors), _ERROR_ROWS):
        rows = slice(first, first + _ERROR_ROWS)
        block = vectors[rows].astype(np.float64)
        squared += float(((block - decoded(rows)) ** 2).sum())
        spread += float(((block - around) ** 2).sum())
    return squared / spread


def colliding(codes: np.ndarray) -> float:
    """Share of the items whose codes another item has too."""
    _, bucket, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return float((counts[bucket.reshape(-1)] > 1).mean())


def perplexities(codes: np.ndarray) -> list[float]:
    """Of each level: exp of the entropy of its code."""
    found = []
    for column in codes.T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        found.append(float(np.exp(-(share * np.log(share)).sum())))
    return found


def short(figures: Mapping[str, float]) -> str:
    """Figures in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def tell(message: str) -> None:
    """Progress, beside the results."""
    print(message, file=sys.stderr, flush=True)
