"""Several ways of recommending, judged on the same queries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from semid.data.events import Queries
from semid.errors import InputError
from semid.evaluation.bootstrap import (
    BootstrapConfig,
    Groups,
    holm,
    percentile_intervals,
    resampled,
    sign_flip_p_values,
)
from semid.evaluation.metrics import Judgement, judge
from semid.evaluation.pool import Pool
from semid.evaluation.targets import Targets
from semid.ranking import Ranking

# Modes are tested against each other by these, at the largest k.
MAIN_METRICS = ("HitRate", "NDCG", "Score")
SIGNIFICANCE = 0.05


@dataclass(frozen=True, eq=False, kw_only=True)
class ModeResult:
    """What one way of recommending answered.

    Attributes:
        ranking: one list per query.
        fallback: (Q,) bool, which queries needed another way to fill their list; None if that cannot happen.
    """

    ranking: Ranking
    fallback: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """What the queries ask for, so that the metrics can be read rightly.

    Attributes:
        queries: number of queries.
        targets: number of distinct targets over all queries.
        outside_candidates: targets that no mode may recommend; they count as misses.
        candidates: items that may be recommended.
        longest: k of the longest lists judged.
        cold: targets that have no training event.
        queries_without_weight: queries left out of the Scores as no target of theirs has a weight above 0.
    """

    queries: int
    targets: int
    outside_candidates: int
    candidates: int
    longest: int
    cold: int
    queries_without_weight: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """By how much a mode is better than another one on the same queries.

    Attributes:
        mode, other: names; ``other`` comes earlier in the table.
        metric: name, such as ``"NDCG@10"``.
        mean: value of ``mode`` less that of ``other``.
        low, high: its 95 % interval.
        p_value: two-sided, of no difference; corrected for all pairs of modes by this metric.
    """

    mode: str
    other: str
    metric: str
    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Metrics by mode. A metric that does not apply to a mode is absent.

    Attributes:
        targets: what was asked.
        modes: metric values by mode and metric name.
        intervals: 95 % intervals of the metrics that are means over queries, by mode and metric name; none where
            fewer than two users, or queries of somebody unknown, have a part in the metric.
        differences: of every two modes, by each of MAIN_METRICS at the largest k.
    """

    targets: TargetSummary
    modes: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def to_dict(self, *, data: str, split: str) -> dict[str, Any]:
        """As plain JSON: data, split, number of queries, metrics by mode, their intervals, differences of modes."""
        modes = {mode: dict(metrics) for mode, metrics in self.modes.items()}
        intervals = {
            mode: {name: list(ends) for name, ends in found.items()} for mode, found in self.intervals.items()
        }
        return {
            "data": data,
            "split": split,
            "queries": self.targets.queries,
            "modes": modes,
            "intervals": intervals,
            "differences": [asdict(difference) for difference in self.differences],
        }

    def metric_names(self) -> list[str]:
        """All metrics that some mode has, in order."""
        return list(dict.fromkeys(name for metrics in self.modes.values() for name in metrics))

    def main_metrics(self) -> list[str]:
        """Those of MAIN_METRICS, at the largest k, that are there with an interval."""
        names = {name for found in self.intervals.values() for name in found if name.split("@")[0] in MAIN_METRICS}
        largest = max((int(name.split("@")[1]) for name in names), default=0)
        return [f"{name}@{largest}" for name in MAIN_METRICS if f"{name}@{largest}" in names]

    def notes(self) -> list[str]:
        """Sentences to print below the table, for whatever makes the numbers differ from the plain reading."""
        t = self.targets
        notes = []
        if t.outside_candidates:
            notes.append(f"{t.outside_candidates} of {t.targets} targets are no candidates: always misses.")
        if t.longest >= t.candidates:
            notes.append(f"Lists of {t.longest} hold all {t.candidates} candidates: hits at that k say nothing.")
        if t.cold:
            notes.append(f"{t.cold} of {t.targets} targets never occur in training.")
        if t.queries_without_weight:
            notes.append(
                f"{t.queries_without_weight} of {t.queries} queries have only targets of weight 0: not in the Scores."
            )
        alike: dict[str, list[str]] = {}
        for d in self.differences:
            if d.p_value >= SIGNIFICANCE:
                alike.setdefault(f"{d.other} and {d.mode}", []).append(f"{d.metric} p = {d.p_value:.2f}")
        if alike:
            named = "; ".join(f"{pair} ({', '.join(metrics)})" for pair, metrics in alike.items())
            notes.append(f"Too few queries to tell apart: {named}.")
        return notes


def compare(
    queries: Queries,
    modes: Mapping[str, ModeResult],
    *,
    ks: Sequence[int] = (10,),
    candidates: np.ndarray,
    train_counts: np.ndarray,
    action_weights: Sequence[float] | None = None,
    codes: np.ndarray | None = None,
    bootstrap: BootstrapConfig | None = None,
) -> Comparison:
    """Judge every mode on the same queries.

    Beside the metrics of :func:`semid.evaluation.metrics.judge`, where a mode tells: ``ProvablyExact``,
    share of the lists proven to be the best; ``FallbackShare``, share of the queries that needed the fallback.
    Intervals and tests are those of :mod:`semid.evaluation.bootstrap`.

    Args:
        modes: results by name, in the order of the table.
        ks: list lengths.
        candidates: (C,) item rows that may be recommended.
        train_counts: (N,) training events by item.
        action_weights: by action code; all 1 if None.
        codes: (N, L) codes of the items, for the figures by code.
        bootstrap: how intervals and tests are made.

    Raises:
        InputError: no modes, no candidates, or a ranking that does not fit; the message names the mode.
    """
    if not modes:
        raise InputError("There is nothing to compare: name at least one mode.")
    config = bootstrap or BootstrapConfig()
    pool = Pool(candidates=candidates, train_counts=train_counts, codes=codes)
    targets = Targets.of(queries, action_weights)
    groups = Groups.of(queries.users, config)
    judged: dict[str, Judgement] = {}
    for name, result in modes.items():
        try:
            judged[name] = judge(result.ranking, targets, pool, ks=ks, groups=groups)
        except InputError as error:
            raise InputError(f"Mode {name!r}: {error}") from None
    summary = TargetSummary(
        queries=len(targets),
        targets=len(targets.items),
        outside_candidates=int((~np.isin(targets.items, candidates)).sum()),
        candidates=len(candidates),
        longest=max(ks),
        cold=int((train_counts[targets.items] == 0).sum()),
        queries_without_weight=int((targets.query_weights == 0).sum()),
    )
    main = [f"{name}@{max(ks)}" for name in MAIN_METRICS]
    intervals, differences = _how_sure(judged, main, config)
    return Comparison(
        targets=summary,
        modes={name: found.values | _conduct(modes[name]) for name, found in judged.items()},
        intervals=intervals,
        differences=differences,
    )


def _how_sure(
    judged: Mapping[str, Judgement], main: Sequence[str], config: BootstrapConfig
) -> tuple[dict[str, dict[str, tuple[float, float]]], list[Difference]]:
    """Intervals of all means over queries, and the differences of modes by the main ones, from the same resamples."""
    keys = [
        (mode, name)
        for mode, found in judged.items()
        for name, sums in found.sums.items()
        if np.count_nonzero(sums[1]) > 1
    ]
    intervals: dict[str, dict[str, tuple[float, float]]] = {mode: {} for mode in judged}
    if not keys:
        return intervals, []
    ratios = resampled(np.stack([judged[mode].sums[name] for mode, name in keys]), config)
    for (mode, name), (low, high) in zip(keys, percentile_intervals(ratios).T.tolist(), strict=True):
        intervals[mode][name] = low, high
    columns = dict(zip(keys, ratios.T, strict=True))
    differences = []
    for metric in main:
        pairs = [(mode, other) for other, mode in combinations(judged, 2) if (mode, metric) in columns]
        if pairs:
            differences += _differences(metric, pairs, judged, columns, config)
    return intervals, differences


def _differences(
    metric: str,
    pairs: Sequence[tuple[str, str]],
    judged: Mapping[str, Judgement],
    columns: Mapping[tuple[str, str], np.ndarray],
    config: BootstrapConfig,
) -> list[Difference]:
    """Of the pairs of modes by one metric, whose weights are the same in all modes."""
    resamples = np.stack([columns[mode, metric] - columns[other, metric] for mode, other in pairs], axis=1)
    sums = np.stack([judged[mode].sums[metric][0] - judged[other].sums[metric][0] for mode, other in pairs])
    return [
        Difference(
            mode=mode,
            other=other,
            metric=metric,
            mean=judged[mode].values[metric] - judged[other].values[metric],
            low=low,
            high=high,
            p_value=p_value,
        )
        for (mode, other), (low, high), p_value in zip(
            pairs,
            percentile_intervals(resamples).T.tolist(),
            holm(sign_flip_p_values(sums, config)).tolist(),
            strict=True,
        )
    ]


def _conduct(result: ModeResult) -> dict[str, float]:
    """What a mode tells of itself."""
    conduct = {}
    if result.ranking.exact is not None:
        conduct["ProvablyExact"] = float(result.ranking.exact.mean())
    if result.fallback is not None:
        conduct["FallbackShare"] = float(result.fallback.mean())
    return conduct
