"""What validation queries teach the modes: weights of the evidence, and which rule of fusion the hybrid follows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from semid.data.events import Queries
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import evidence
from semid.pipeline.evidence import Past
from semid.ranking import Ranking
from semid.retrieval.combining import Candidates
from semid.retrieval.exact import exact_search
from semid.retrieval.fusing import LEARNED, LINEAR, RECIPROCAL_RANKS, RULES, fuse

_CANDIDATES = 50
_K = 10


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """What was learned.

    Attributes:
        weights: by mode, and by rule of fusion other than ``learned``, whose weights are those of mode ``hybrid``.
        fusions: NDCG@10 by rule of fusion, the best first.
    """

    weights: Mapping[str, Mapping[str, float]]
    fusions: Mapping[str, float]


def weigh(recommender: GenerativeRecommender, queries: Queries | None, action: str) -> Weighing:
    """Fit the weights that make what came next most probable, and try every rule of fusion.

    A rule is judged by weights that were fitted on the other half of the queries, both ways round, so that the one
    with the most weights has no advantage. Nothing is learned without queries.
    """
    if queries is None:
        return Weighing(weights={}, fusions={})
    candidates = candidates_by_mode(recommender, queries, action, _CANDIDATES, hybrid=True)
    weights: dict[str, Mapping[str, float]] = {
        mode: evidence.fit(found, queries, evidence.PRIOR[mode]) for mode, found in candidates.items()
    }
    if "hybrid" not in candidates:
        return Weighing(weights=weights, fusions={})
    weights[LINEAR] = _fitted(candidates["hybrid"], queries, LINEAR)
    return Weighing(weights=weights, fusions=_tried(candidates["hybrid"], queries))


def weights_of_rule(weights: Mapping[str, Mapping[str, float]], rule: str) -> Mapping[str, float]:
    """Those of a rule of fusion; the prior ones where none were fitted."""
    name = "hybrid" if rule == LEARNED else rule
    return weights.get(name, evidence.PRIOR[name])


def candidates_by_mode(
    recommender: GenerativeRecommender, queries: Queries, action: str, count: int, *, hybrid: bool
) -> dict[str, Candidates]:
    """The candidates of each mode whose heads are trained, with their evidence."""
    config, states = recommender.model.config, recommender.encode(queries, action)
    rows, past = recommender.candidates, Past.of(queries, recommender.candidates, evidence.JUDGED_AGAIN)
    count = min(count, len(rows))
    lists: dict[str, Ranking] = {}
    if config.code_weight > 0:
        lists["generative"] = recommender.generate(states, beam=count, k=count, seen=past.items)
    if config.contrastive_weight > 0:
        vectors = recommender.query_vectors(states)
        lists["ann"] = exact_search(vectors, recommender.item_vectors[rows], count, rows, past.items)
    names = {"generative": evidence.GENERATIVE, "ann": evidence.DENSE}
    candidates = {
        mode: evidence.of_one(recommender, queries, states, ranking, names[mode], past)
        for mode, ranking in lists.items()
    }
    if hybrid and len(lists) == 2:
        content, union = evidence.content_of(recommender), list(lists.values())
        if content is not None:
            union.append(content.ranking(queries, rows, count, past.items))
        candidates["hybrid"] = evidence.of_union(recommender, queries, states, union, count, past, content)
    return candidates


def _tried(candidates: Candidates, queries: Queries) -> dict[str, float]:
    """NDCG@10 of each rule on queries its weights have not seen, the best first."""
    halves = np.arange(0, len(queries), 2), np.arange(1, len(queries), 2)
    gained = dict.fromkeys(RULES, 0.0)
    for fitted, judged in (halves, halves[::-1]):
        if not len(judged):  # of a single query
            continue
        asked = queries.select(judged)
        for rule in RULES:
            weights = _fitted(candidates.select(fitted), queries.select(fitted), rule)
            ranking = fuse(candidates.select(judged), rule, weights, _K)
            gained[rule] += float(query_metrics(ranking, Targets.of(asked), _K).ndcg.sum())
    best_first = sorted(RULES, key=lambda rule: -gained[rule])
    return {rule: gained[rule] / len(queries) for rule in best_first}


def _fitted(candidates: Candidates, queries: Queries, rule: str) -> Mapping[str, float]:
    prior = weights_of_rule({}, rule)
    return prior if rule == RECIPROCAL_RANKS or not len(queries) else evidence.fit(candidates, queries, prior)
