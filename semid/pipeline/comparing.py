"""Compare the modes of a model, of others, baselines and given lists on the same queries, with what they cost."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.errors import InputError
from semid.evaluation.comparison import Comparison, ModeResult, compare
from semid.evaluation.latency import latency
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline.answer import FALLBACKS, Answer
from semid.pipeline.answering import Answerer
from semid.pipeline.baselines import BASELINES, baselines, check_baselines
from semid.pipeline.given_lists import read_lists
from semid.progress import Progress, silent
from semid.ranking import Ranking

_RECALL_QUERIES = 1000
_BATCHES = {1: "Latency", 64: "Batch64"}
# So many at a time that memory does not grow with their number.
_BATCH_QUERIES = 4096


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """What a model is judged beside.

    Attributes:
        baselines: of BASELINES.
        models: others that were trained on the same dataset, by name.
        lists: files that :func:`~semid.pipeline.given_lists.read_lists` reads, by name.
    """

    baselines: tuple[str, ...] = BASELINES
    models: Mapping[str, GenerativeRecommender] = field(default_factory=dict)
    lists: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_baselines(self.baselines)


def compare_modes(
    answerer: Answerer,
    dataset: Dataset,
    split: str,
    *,
    ks: tuple[int, ...] = (10,),
    max_queries: int = 0,
    rivals: Rivals | None = None,
    timed: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Baselines, then generative, ANN and hybrid as far as the model was trained for them, other models, given lists.

    Each tells beside its quality what it costs: ``LatencyMs`` and ``LatencyP99Ms`` of one query alone, ``Batch64Ms``
    and ``Batch64P99Ms`` of 64 at once, ``QueriesPerSecond`` of all, ``IndexMB`` and ``BuildSeconds`` of what it
    searches.
    ``ann`` also tells ``RecallOfExact@k``: the share of the true k nearest items that the index finds. Where the
    hybrid answered in place of ``generative``, it tells how often and for which reason (``FallbackShare``,
    ``FallbackShare:REASON``), and what that changed in the HitRate of these queries (``FallbackGain:REASON@k``).

    Args:
        ks: list lengths; the largest is at most the answerer's k.
        max_queries: a fixed random sample of so many queries; 0 for all.
        rivals: by default all baselines.
        timed: also tell how long one query and a batch of 64 take.
        progress: called with the mode, the queries done, and all of them.

    Raises:
        InputError: no such split, a model of another dataset, k is too large, or names that are used twice.
    """
    rivals = rivals or Rivals()
    if max(ks) > answerer.config.k:
        raise InputError(f"Lists of {answerer.config.k} items cannot be judged at k={max(ks)}: recommend more.")
    every = dataset.split(split)
    rows = every.sampled(max_queries or len(every))
    queries = every.select(rows)
    ways = _ways(answerer, dataset, rivals)
    given = _given(rivals, dataset, every, rows, answerer.config.k)
    twice = [name for name in given if name in ways]
    if twice:
        raise InputError(f"Two ways to recommend are named {twice[0]!r}: give the lists another name.")
    judged = {name: _judged(name, way, queries, timed, progress or silent) for name, way in ways.items()}
    answers = {name: answer for name, (answer, _) in judged.items()}
    comparison = compare(
        queries,
        {name: _result(answer) for name, answer in answers.items()} | given,
        ks=ks,
        candidates=answerer.recommender.candidates,
        train_counts=answerer.recommender.train_counts,
        action_weights=_target_weights(dataset, queries),
        codes=answerer.recommender.catalogue.codes.cpu().numpy(),
    )
    for name, (_, cost) in judged.items():
        comparison.modes[name].update(cost)
    _tell_of_fallbacks(comparison, answers, queries, max(ks))
    if "ann" in comparison.modes:
        sample = queries.select(np.arange(min(_RECALL_QUERIES, len(queries))))
        comparison.modes["ann"][f"RecallOfExact@{answerer.config.k}"] = answerer.index_recall(sample)
    return comparison


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to answer queries.

    Attributes:
        answer: to them.
        index_bytes: of what it searches; None where it searches nothing.
        build_seconds: that this took to make.
    """

    answer: Callable[[Queries], Answer]
    index_bytes: int | None = None
    build_seconds: float | None = None


def _ways(answerer: Answerer, dataset: Dataset, rivals: Rivals) -> dict[str, Way]:
    recommender, config = answerer.recommender, answerer.config
    floor = baselines(
        rivals.baselines,
        dataset,
        recommender.catalogue,
        recommender.candidates,
        config.k,
        filter_seen=config.filter_seen,
    )
    ways = {name: Way(answer=partial(_ranked, rank)) for name, rank in floor.items()}
    ways |= _modes_of(answerer, dataset, {mode: mode for mode in answerer.modes})
    for name, model in rivals.models.items():
        other = Answerer(model.among(recommender.candidates), config, answerer.fields)
        names = {mode: f"{name} {mode}" if len(other.modes) > 1 else name for mode in other.modes}
        if set(names.values()) & set(ways):
            raise InputError(f"Two ways to recommend are named {name!r}: give the model another name.")
        ways |= _modes_of(other, dataset, names)
    return ways


def _ranked(rank: Callable[[Queries], Ranking], queries: Queries) -> Answer:
    return Answer(rank(queries))


def _modes_of(answerer: Answerer, dataset: Dataset, names: Mapping[str, str]) -> dict[str, Way]:
    """The modes of a model under names of their own, with what they search."""
    artifact = answerer.recommender.artifact
    if artifact is not None and dataset.artifact is not None:
        artifact.require_parent("dataset", dataset.artifact)
    searched = {mode: _SEARCHED[mode] for mode in names}
    costs = {part: part(answerer) for part in dict.fromkeys(chain(*searched.values()))}  # what is built is built once
    ways = {}
    for mode, name in names.items():
        used = [costs[part] for part in searched[mode]]
        ways[name] = Way(
            answer=partial(answerer.answer, mode=mode),
            index_bytes=sum(size for size, _ in used),
            build_seconds=sum(seconds for _, seconds in used),
        )
    return ways


def _trie_cost(answerer: Answerer) -> tuple[int, float]:
    """Bytes, and seconds to build it once more."""
    began = time.perf_counter()
    trie = replace(answerer.recommender.catalogue).trie
    return trie.nbytes, time.perf_counter() - began


def _index_cost(answerer: Answerer) -> tuple[int, float]:
    """Bytes, and seconds to build it, or to load it where it was saved."""
    began = time.perf_counter()
    index = answerer.index
    return index.nbytes, time.perf_counter() - began


def _content_cost(answerer: Answerer) -> tuple[int, float]:
    began = time.perf_counter()
    index = answerer.content_index
    return 0 if index is None else index.nbytes, time.perf_counter() - began


_SEARCHED = {
    "generative": (_trie_cost,),
    "ann": (_index_cost,),
    "hybrid": (_trie_cost, _index_cost, _content_cost),
}


def _given(rivals: Rivals, dataset: Dataset, queries: Queries, rows: np.ndarray, k: int) -> dict[str, ModeResult]:
    """The lists of files for some of the queries, under the file's name, with the mode where there are several."""
    given = {}
    for name, path in rivals.lists.items():
        rankings = read_lists(path, dataset, queries, k)
        for mode, ranking in rankings.items():
            given[name if len(rankings) == 1 else f"{name} {mode}"] = ModeResult(ranking=ranking.select(rows))
    return given


def _judged(
    name: str, way: Way, queries: Queries, timed: bool, progress: Progress
) -> tuple[Answer, dict[str, float]]:
    """All answers, and what they cost. One query at a time first: that also builds what is built once."""
    cost: dict[str, float] = {}
    for batch, label in _BATCHES.items() if timed else ():
        taken = latency(lambda rows: way.answer(queries.select(rows)), len(queries), batch)
        cost |= {f"{label}Ms": taken.median, f"{label}P99Ms": taken.p99}
    answers: list[Answer] = []
    began = time.perf_counter()
    for part in queries.batches(_BATCH_QUERIES):
        answers.append(way.answer(part))
        progress(name, sum(len(answer.ranking) for answer in answers), len(queries))
    cost["QueriesPerSecond"] = len(queries) / (time.perf_counter() - began)
    if way.index_bytes is not None and way.build_seconds is not None:
        cost |= {"IndexMB": way.index_bytes / 1e6, "BuildSeconds": way.build_seconds}
    return Answer.concatenate(answers), cost


def _result(answer: Answer) -> ModeResult:
    return ModeResult(ranking=answer.ranking, fallback=None if answer.fallback is None else answer.fallback > 0)


def _tell_of_fallbacks(comparison: Comparison, answers: Mapping[str, Answer], queries: Queries, k: int) -> None:
    """How often the hybrid answered in place of a mode, for which reason, and what that changed."""
    targets = Targets.of(queries)
    for name, answer in answers.items():
        if answer.fallback is None:
            continue
        gain = np.zeros(len(queries))
        if answer.alone is not None:
            after, before = (
                query_metrics(ranking, targets, k).hit_rate for ranking in (answer.ranking, answer.alone)
            )
            gain = after - before
        told = comparison.modes[name]
        for place, reason in enumerate(FALLBACKS, 1):
            rows = answer.fallback == place
            if rows.any():
                told[f"FallbackShare:{reason}"] = float(rows.mean())
                told[f"FallbackGain:{reason}@{k}"] = float(gain[rows].mean())


def _target_weights(dataset: Dataset, queries: Queries) -> Sequence[float] | None:
    """By action; None where none of the targets has a weight, exposures alone, say: then all count the same."""
    weighed = any(dataset.action_weights[action] for action in np.unique(queries.target_actions) if action >= 0)
    return dataset.action_weights if weighed else None
