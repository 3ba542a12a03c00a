"""Several ways of recommending, judged on the same queries."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semid.data.events import Queries
from semid.errors import InputError
from semid.evaluation.metrics import Targets, evaluate
from semid.ranking import Ranking


@dataclass(frozen=True, eq=False, kw_only=True)
class ModeResult:
    """What one way of recommending answered.

    Attributes:
        ranking: one list per query.
        fallback: (Q,) bool, which queries needed another way to fill their list; None if that cannot happen.
        latency_ms: time to answer one query alone, see :func:`median_latency_ms`; None if not measured.
        seconds: time to answer all queries; None if not measured.
    """

    ranking: Ranking
    fallback: np.ndarray | None = None
    latency_ms: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """What the queries ask for, so that the metrics can be read rightly.

    Attributes:
        queries: number of queries.
        targets: number of distinct targets over all queries.
        outside_candidates: targets that no mode may recommend; they count as misses.
        cold: targets that have no training event.
        queries_without_weight: queries left out of the Scores as no target of theirs has a weight above 0.
    """

    queries: int
    targets: int
    outside_candidates: int
    cold: int
    queries_without_weight: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Metrics by mode. A metric that does not apply to a mode is absent.

    Attributes:
        targets: what was asked.
        modes: metric values by mode and metric name.
    """

    targets: TargetSummary
    modes: dict[str, dict[str, float]]

    def to_dict(self, *, data: str, split: str) -> dict[str, Any]:
        """As plain JSON: data, split, number of queries, metrics by mode."""
        modes = {mode: dict(metrics) for mode, metrics in self.modes.items()}
        return {"data": data, "split": split, "queries": self.targets.queries, "modes": modes}

    def metric_names(self) -> list[str]:
        """All metrics that some mode has, in order."""
        return list(dict.fromkeys(name for metrics in self.modes.values() for name in metrics))

    def notes(self) -> list[str]:
        """Sentences to print below the table, for whatever makes the numbers differ from the plain reading."""
        t = self.targets
        notes = []
        if t.outside_candidates:
            notes.append(f"{t.outside_candidates} of {t.targets} targets are no candidates: always misses.")
        if t.cold:
            notes.append(f"{t.cold} of {t.targets} targets never occur in training.")
        if t.queries_without_weight:
            notes.append(
                f"{t.queries_without_weight} of {t.queries} queries have only targets of weight 0: not in the Scores."
            )
        return notes


def compare(
    queries: Queries,
    modes: Mapping[str, ModeResult],
    *,
    ks: Sequence[int] = (10,),
    candidates: np.ndarray,
    train_counts: np.ndarray,
    action_weights: Sequence[float] | None = None,
) -> Comparison:
    """Judge every mode on the same queries.

    Beside the metrics of :func:`semid.evaluation.metrics.evaluate`, where a mode tells: ``ProvablyExact``,
    share of the lists proven to be the best; ``FallbackShare``, share of the queries that needed the fallback;
    ``LatencyMs``; ``QueriesPerSecond``.

    Args:
        modes: results by name, in the order of the table.
        ks: list lengths.
        candidates: (C,) item rows that may be recommended.
        train_counts: (N,) training events by item.
        action_weights: by action code; all 1 if None.

    Raises:
        InputError: no modes, no candidates, or a ranking that does not fit; the message names the mode.
    """
    if not modes:
        raise InputError("There is nothing to compare: name at least one mode.")
    if not len(candidates):
        raise InputError("There are no candidate items: give at least one item row.")
    targets = Targets.of(queries, action_weights)
    judged = {}
    for name, result in modes.items():
        try:
            quality = evaluate(result.ranking, targets, ks=ks, candidates=candidates, train_counts=train_counts)
        except InputError as error:
            raise InputError(f"Mode {name!r}: {error}") from None
        judged[name] = quality | _conduct(result)
    summary = TargetSummary(
        queries=len(targets),
        targets=len(targets.items),
        outside_candidates=int((~np.isin(targets.items, candidates)).sum()),
        cold=int((train_counts[targets.items] == 0).sum()),
        queries_without_weight=int((targets.query_weights == 0).sum()),
    )
    return Comparison(targets=summary, modes=judged)


def median_latency_ms(answer: Callable[[int], object], queries: Sequence[int], warm_up: int = 3) -> float:
    """Median time to answer one query alone, in milliseconds.

    Args:
        answer: recommends for one query and returns when the result is there.
        queries: which queries to ask, one after the other.
        warm_up: calls before the clock starts.

    Raises:
        InputError: no queries.
    """
    if not len(queries):
        raise InputError("There are no queries to take the time of: name at least one.")
    for query in range(warm_up):
        answer(queries[query % len(queries)])
    seconds = []
    for query in queries:
        start = time.perf_counter()
        answer(query)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def _conduct(result: ModeResult) -> dict[str, float]:
    """What a mode tells of itself."""
    conduct = {}
    if result.ranking.exact is not None:
        conduct["ProvablyExact"] = float(result.ranking.exact.mean())
    if result.fallback is not None:
        conduct["FallbackShare"] = float(result.fallback.mean())
    if result.latency_ms is not None:
        conduct["LatencyMs"] = result.latency_ms
    if result.seconds:
        conduct["QueriesPerSecond"] = len(result.ranking) / result.seconds
    return conduct
