"""A scaling study: the model trained along several axes, judged on validation, with a power law for each axis."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from semid.artifacts import create_file
from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.evaluation.plotting import draw_panels, require_plotting
from semid.generative.config import ModelConfig
from semid.generative.presets import PRESETS
from semid.generative.train import TrainConfig
from semid.pipeline.sweep.axes import SweepPlan, default_axes, make_plan
from semid.pipeline.sweep.report import SweepReport
from semid.pipeline.sweep.run import SPLIT, RunResult, SweepRun
from semid.progress import Progress, silent
from semid.tokenizers.tokenizer import SemanticIdTokenizer

JSON, TABLE, PLOT = "sweep.json", "sweep.md", "sweep.svg"
_RUNS, _MARK = "runs", ".semid-sweep"


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What is varied, and what is trained.

    The axes are ``negatives``, uniform ones (of the bank, which stands for the full softmax then, or of each position
    where the loss has such), ``width`` (heads follow, 64 wide but at least 4), ``depth`` (blocks), ``id_width`` (of
    the id tables) and ``data`` (share of the users whose training events are seen, drawn by the seed). Under a limit
    of minutes larger models see fewer tokens.

    Attributes:
        model: the base, from which one axis at a time is varied.
        axes: values by axis; none: three values around what the base has, of all but ``data``.
        grid: train every combination of the values instead.
        train: how; its seed is not used.
        seeds: of each point, one training each.
        queries: a fixed random sample of so many validation queries judges; 0 for all.
        keep_models: keep the models of the runs, which are removed once they are judged.
    """

    model: ModelConfig = PRESETS["small"].model
    axes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    grid: bool = False
    train: TrainConfig = field(default_factory=TrainConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    queries: int = 6000
    keep_models: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"Seeds {list(self.seeds)}: give at least one, and each once.")
        if self.queries < 0:
            raise InputError(f"queries={self.queries} must be at least 1, or 0 for all.")
        for seed in self.seeds:
            replace(self.train, seed=seed)  # which refuses seeds that cannot be
        _ = self.plan

    @cached_property
    def plan(self) -> SweepPlan:
        """The points and the series that they make."""
        return make_plan(self.model, self.axes or default_axes(self.model), grid=self.grid)

    def runs(self, folder: Path) -> list[SweepRun]:
        """Every point with every seed, seed by seed."""
        return [
            SweepRun(
                name=name,
                point=point,
                train=replace(self.train, seed=seed),
                max_queries=self.queries,
                folder=folder / f"{name}-seed{seed}",
            )
            for seed in self.seeds
            for name, point in self.plan.points.items()
        ]


def run_sweep(
    dataset: Dataset,
    tokenizer: SemanticIdTokenizer,
    config: SweepConfig,
    out: Path,
    *,
    progress: Progress | None = None,
    device: str = "cpu",
) -> SweepReport:
    """Train and judge all that was not yet, then write ``sweep.json``, ``sweep.md`` and ``sweep.svg``.

    Every run has a folder of its own in ``OUT/runs``. One that was stopped goes on from its checkpoint, one that is
    finished is not repeated, so that a study can also be given more values or seeds later. The test split is not
    read.

    Args:
        out: new or empty folder, or one that an earlier sweep filled.
        progress: told of every run and its stages.

    Raises:
        InputError: matplotlib is missing, there are no validation queries, something else is at ``out``, a run there
            has other settings, or a training failed.
    """
    require_plotting()
    _check(dataset, tokenizer, out)
    runs = config.runs(out / _RUNS)
    results = {run: run.finished(run.settings(dataset, tokenizer)) for run in runs}
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    for number, run in enumerate(runs, start=1):
        show = _told(progress or silent, f"run {number} of {len(runs)}, {run.folder.name}")
        try:
            results[run] = results[run] or run.execute(
                dataset, tokenizer, keep_model=config.keep_models, progress=show, device=device
            )
        except KeyboardInterrupt:
            done = sum(result is not None for result in results.values())
            raise KeyboardInterrupt(
                f"Interrupted: {done} of {len(runs)} runs are finished in {out}; the same sweep goes on from there."
            ) from None
    report = SweepReport(data=dataset.location, series=config.plan.series, runs=_by_name(results.values()))
    _write(report, out)
    return report


def _check(dataset: Dataset, tokenizer: SemanticIdTokenizer, out: Path) -> None:
    """Raise InputError for what would fail later, before anything is written."""
    if not len(dataset.queries[SPLIT]):
        raise InputError(
            f"{dataset.location} has no validation queries, by which a sweep judges: prepare it with a split that "
            "leaves some."
        )
    if tokenizer.artifact_ is not None and dataset.artifact is not None:
        tokenizer.artifact_.require_parent("dataset", dataset.artifact)
    if out.exists() and not (out / _MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there and not from a sweep: choose another folder or remove it.")


def _told(progress: Progress, run: str) -> Progress:
    def show(what: str, done: int, total: int | None) -> None:
        progress(f"{run}: {what}", done, total)

    return show


def _by_name(results: Iterable[RunResult | None]) -> dict[str, list[RunResult]]:
    named: dict[str, list[RunResult]] = {}
    for result in results:
        assert result is not None
        named.setdefault(result.name, []).append(result)
    return named


def _write(report: SweepReport, out: Path) -> None:
    content: dict[str, Any] = report.to_dict()
    with create_file(out / JSON) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with create_file(out / TABLE) as partial:
        partial.write_text(report.markdown(PLOT), encoding="utf-8")
    draw_panels(out / PLOT, report.panels(), **report.plot_labels())
