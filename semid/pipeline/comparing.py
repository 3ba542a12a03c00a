"""Compare generating, ANN search, both joined and popularity on the same queries."""

import time

import numpy as np

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.data.plain_queries import seen_items
from semid.errors import InputError
from semid.evaluation.comparison import Comparison, ModeResult, compare, median_latency_ms
from semid.pipeline.answer import Answer
from semid.pipeline.answering import Answerer
from semid.progress import Progress, silent
from semid.ranking import Ranking
from semid.retrieval.popularity import popularity_ranking

POPULARITY = "popularity"
_LATENCY_QUERIES = 20
_RECALL_QUERIES = 1000
# So many at a time that memory does not grow with their number.
_BATCH_QUERIES = 4096


def compare_modes(
    answerer: Answerer,
    dataset: Dataset,
    split: str,
    *,
    ks: tuple[int, ...] = (10,),
    max_queries: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Popularity, generative, ANN and hybrid on the queries of one split, as far as the model was trained for them.

    ``ann`` also tells ``RecallOfExact@k``: the share of the true k nearest items that the index finds.

    Args:
        ks: list lengths; the largest is at most the answerer's k.
        max_queries: a fixed random sample of so many queries; 0 for all.
        progress: called with the mode, the queries done, and all of them.

    Raises:
        InputError: no such split, the model belongs to another dataset, or k is too large.
    """
    recommender = answerer.recommender
    if recommender.artifact is not None and dataset.artifact is not None:
        recommender.artifact.require_parent("dataset", dataset.artifact)
    if max(ks) > answerer.config.k:
        raise InputError(f"Lists of {answerer.config.k} items cannot be judged at k={max(ks)}: recommend more.")
    queries = dataset.split(split)
    if max_queries > 0:
        queries = queries.sample(max_queries)
    targets: tuple[float, ...] | None = dataset.action_weights
    if not any(dataset.action_weights[action] for action in np.unique(queries.target_actions) if action >= 0):
        targets = None  # nothing but exposures, say: then every target counts the same
    modes = {POPULARITY: _popularity(dataset, queries, answerer)}
    for mode in answerer.modes:
        modes[mode] = _judged(answerer, queries, mode, progress or silent)
    comparison = compare(
        queries,
        modes,
        ks=ks,
        candidates=dataset.candidates,
        train_counts=dataset.train_counts,
        action_weights=targets,
    )
    if "ann" in comparison.modes:
        sample = queries.select(np.arange(min(_RECALL_QUERIES, len(queries))))
        comparison.modes["ann"][f"RecallOfExact@{answerer.config.k}"] = answerer.index_recall(sample)
    return comparison


def _popularity(dataset: Dataset, queries: Queries, answerer: Answerer) -> ModeResult:
    parts = []
    began = time.perf_counter()
    for batch in queries.batches(_BATCH_QUERIES):
        seen = seen_items(batch) if answerer.config.filter_seen else None
        counts, pool = dataset.train_counts, dataset.candidates
        parts.append(popularity_ranking(counts, pool, len(batch), answerer.config.k, seen))
    return ModeResult(ranking=Ranking.concatenate(parts), seconds=time.perf_counter() - began)


def _judged(answerer: Answerer, queries: Queries, mode: str, progress: Progress) -> ModeResult:
    # One query at a time first: it also builds what is built once, before the clock of the whole starts.
    latency = median_latency_ms(
        lambda query: answerer.answer(queries.select(np.array([query])), mode),
        range(min(_LATENCY_QUERIES, len(queries))),
    )
    answers: list[Answer] = []
    began = time.perf_counter()
    for batch in queries.batches(_BATCH_QUERIES):
        answers.append(answerer.answer(batch, mode))
        progress(mode, sum(len(answer.ranking) for answer in answers), len(queries))
    seconds = time.perf_counter() - began
    whole = Answer.concatenate(answers)
    return ModeResult(ranking=whole.ranking, fallback=whole.fallback, seconds=seconds, latency_ms=latency)
