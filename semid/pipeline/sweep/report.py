"""What a scaling study found: every run, means by value with their intervals, power laws; as JSON, table and plot."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from semid.evaluation.over_seeds import mean_over_seeds
from semid.evaluation.plotting import Curve, Panel
from semid.evaluation.power_law import NoFit, PowerLaw, fit_power_law
from semid.pipeline.baselines import POPULARITY
from semid.pipeline.sweep.axes import AXES, Series
from semid.pipeline.sweep.run import METRICS, SPLIT, RunResult

_COST = ("tokens/s", "minutes", "trunk weights", "table weights")
_HEADER = ("axis", "value", "mode", *METRICS, *_COST)
_DRAWN = METRICS[0]


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """All runs of a study.

    Attributes:
        data: where the dataset lies.
        series: the points along each axis.
        runs: by name of the point, one a seed.
    """

    data: str
    series: Sequence[Series]
    runs: Mapping[str, Sequence[RunResult]]

    @cached_property
    def modes(self) -> tuple[str, ...]:
        """The ways to recommend that the models were trained for."""
        return tuple(mode for mode in self._some_run.modes if mode != POPULARITY)

    @property
    def _some_run(self) -> RunResult:
        return next(iter(self.runs.values()))[0]

    def points(self, series: Series, mode: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Value of the axis and of the metric in every run of a series, (n,) each."""
        pairs = [(value, run.modes[mode][metric]) for value, name in series.names.items() for run in self.runs[name]]
        x, y = np.array(pairs, np.float64).T
        return x, y

    def fit(self, series: Series, mode: str, metric: str) -> PowerLaw | NoFit:
        """The power law through the runs of a series."""
        return fit_power_law(*self.points(series, mode, metric))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: every run, and for every series the means at each value and the laws."""
        return {
            "data": self.data,
            "split": SPLIT,
            "queries": self._some_run.queries,
            "seeds": [run.seed for run in next(iter(self.runs.values()))],
            "series": [self._described(series) for series in self.series],
            "runs": [asdict(run) for runs in self.runs.values() for run in runs],
        }

    def _described(self, series: Series) -> dict[str, Any]:
        values = [{"value": value, "name": name, "modes": self._means(name)} for value, name in series.names.items()]
        fits = {mode: {metric: _plain(self.fit(series, mode, metric)) for metric in METRICS} for mode in self.modes}
        return {"axis": series.axis, "fixed": dict(series.fixed), "values": values, "fits": fits}

    def _means(self, name: str) -> dict[str, dict[str, dict[str, float | None]]]:
        """Mean over seeds and half its interval, by mode and metric."""
        return {
            mode: {
                metric: dict(zip(("mean", "half"), self.mean(name, mode, metric), strict=True)) for metric in METRICS
            }
            for mode in self.modes
        }

    def mean(self, name: str, mode: str, metric: str) -> tuple[float, float | None]:
        """Mean over the seeds of a point and half its 95 % interval."""
        return mean_over_seeds([run.modes[mode][metric] for run in self.runs[name]])

    def table_rows(self) -> list[tuple[str, ...]]:
        """A header, then a row for each value and mode, and one for the laws of each series and mode."""
        return [_HEADER, *(row for series in self.series for row in self._rows(series))]

    def _rows(self, series: Series) -> list[tuple[str, ...]]:
        axis = f"{series.axis} ({_fixed(series)})" if series.fixed else series.axis
        rows = []
        for value, name in series.names.items():
            for mode in self.modes:
                means = (_with_interval(*self.mean(name, mode, metric)) for metric in METRICS)
                rows.append((axis, f"{value:,}", mode, *means, *_cost(self.runs[name])))
        for mode in self.modes:
            laws = (_law(self.fit(series, mode, metric)) for metric in METRICS)
            rows.append((axis, "fit", mode, *laws, *("" for _ in _COST)))
        return rows

    def title(self) -> str:
        """What the figures are of."""
        run, seeds = self._some_run, next(iter(self.runs.values()))
        which = ", ".join(str(one.seed) for one in seeds)
        return f"{self.data}, split {SPLIT}, {run.queries:,} queries, seeds {which}"

    def markdown(self, plot: str) -> str:
        """The table with what it means, and the plot, a path relative to the page."""
        header, *rows = self.table_rows()
        lines = [
            f"# Scaling: {self.title()}",
            "",
            "Mean over seeds ± half its 95 % interval (Student's t). *fit*: x^b ± half the 95 % interval of b, by "
            "least squares through the logarithms of all runs, and the share of the variance that it explains.",
            "",
            f"![{_DRAWN} along each axis]({plot})",
            "",
            f"| {' | '.join(header)} |",
            f"|{'---|' * 3}{'---:|' * (len(header) - 3)}",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
        return "\n".join([*lines, ""])

    def panels(self) -> list[Panel]:
        """A panel for each series, with a curve for each mode."""
        return [
            Panel(
                label=AXES[series.axis].label,
                title=_fixed(series),
                curves=[self._curve(series, mode) for mode in self.modes],
            )
            for series in self.series
        ]

    def _curve(self, series: Series, mode: str) -> Curve:
        x, y = self.points(series, mode, _DRAWN)
        return Curve(name=mode, x=x, y=y, law=fit_power_law(x, y))

    def plot_labels(self) -> dict[str, str]:
        """Title and height of the plot."""
        what = "points are runs, lines power laws, bands their 95 % intervals"
        return {"title": f"{self.title()}: {what}", "y_label": _DRAWN}


def _plain(law: PowerLaw | NoFit) -> dict[str, Any]:
    return {"no_fit": law.reason} if isinstance(law, NoFit) else asdict(law)


def _fixed(series: Series) -> str:
    return ", ".join(f"{axis} {value:,}" for axis, value in series.fixed.items())


def _with_interval(mean: float, half: float | None) -> str:
    return f"{mean:.4f}" if half is None else f"{mean:.4f} ± {half:.4f}"


def _law(law: PowerLaw | NoFit) -> str:
    if isinstance(law, NoFit):
        return f"no fit: {law.reason}"
    return f"x^{law.exponent:.3f} ± {(law.interval[1] - law.interval[0]) / 2:.3f}, R² {law.r_squared:.2f}"


def _cost(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Speed and time, means over seeds, and the weights, which the seeds share."""
    speed, minutes = fmean(run.tokens_per_second for run in runs), fmean(run.seconds for run in runs) / 60
    return f"{speed:,.0f}", f"{minutes:.1f}", f"{runs[0].trunk_weights:,}", f"{runs[0].table_weights:,}"
