"""Compare generating, ANN search, both joined and popularity on the same queries."""

import time

import numpy as np

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.errors import InputError
from semid.evaluation.comparison import Comparison, ModeResult, compare, median_latency_ms
from semid.generative.recommender import seen_items
from semid.pipeline.answering import MODES, Answerer
from semid.retrieval.popularity import popularity_ranking

POPULARITY = "popularity"
_LATENCY_QUERIES = 20


def compare_modes(
    answerer: Answerer,
    dataset: Dataset,
    split: str,
    *,
    ks: tuple[int, ...] = (10,),
    max_queries: int = 0,
) -> Comparison:
    """Popularity, generative, ANN and hybrid on the queries of one split.

    Args:
        ks: list lengths; the largest is at most the answerer's k.
        max_queries: a fixed random sample of so many queries; 0 for all.

    Raises:
        InputError: no such split, the model belongs to another dataset, or k is too large.
    """
    recommender = answerer.recommender
    if recommender.artifact is not None and dataset.artifact is not None:
        recommender.artifact.require_parent("dataset", dataset.artifact)
    if max(ks) > answerer.config.k:
        raise InputError(f"Lists of {answerer.config.k} items cannot be judged at k={max(ks)}: recommend more.")
    queries = dataset.split(split)
    if 0 < max_queries < len(queries):
        rows = np.random.default_rng(0).choice(len(queries), max_queries, replace=False)
        queries = queries.select(np.sort(rows))
    targets: tuple[float, ...] | None = dataset.action_weights
    if not any(dataset.action_weights[action] for action in np.unique(queries.target_actions) if action >= 0):
        targets = None  # nothing but exposures, say: then every target counts the same
    _ = recommender.trie, answerer.index  # built before the clock starts
    modes = {POPULARITY: _popularity(dataset, queries, answerer)}
    modes |= {mode: _judged(answerer, queries, mode) for mode in MODES}
    return compare(
        queries,
        modes,
        ks=ks,
        candidates=dataset.candidates,
        train_counts=dataset.train_counts,
        action_weights=targets,
    )


def _popularity(dataset: Dataset, queries: Queries, answerer: Answerer) -> ModeResult:
    seen = seen_items(queries) if answerer.config.filter_seen else None
    began = time.perf_counter()
    ranking = popularity_ranking(dataset.train_counts, dataset.candidates, len(queries), answerer.config.k, seen)
    return ModeResult(ranking=ranking, seconds=time.perf_counter() - began)


def _judged(answerer: Answerer, queries: Queries, mode: str) -> ModeResult:
    began = time.perf_counter()
    answer = answerer.answer(queries, mode)
    seconds = time.perf_counter() - began
    latency = median_latency_ms(
        lambda query: answerer.answer(queries.select(np.array([query])), mode),
        range(min(_LATENCY_QUERIES, len(queries))),
    )
    return ModeResult(ranking=answer.ranking, fallback=answer.fallback, seconds=seconds, latency_ms=latency)
