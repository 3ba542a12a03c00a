"""What speaks for an item to come next: both heads of the model, what follows the history, and what is in it already.

Each mode ranks its candidates by some of it, with weights of its own that are fitted on validation queries. Whether
users take an item again is learned that way too: nothing is filtered.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from semid.data.events import Queries
from semid.data.transitions import ages
from semid.generative.recommender import GenerativeRecommender, QueryStates
from semid.ranking import Ranking
from semid.retrieval.combining import Candidates, fit_weights
from semid.retrieval.hybrid import union

GENERATIVE, DENSE, TRANSITION, REPEAT, RECENCY = "generative", "dense", "transition", "repeat", "recency"
# Without validation queries: the heads alone, and together with what follows the history.
_HISTORY = {REPEAT: 0.0, RECENCY: 0.0}
PRIOR: Mapping[str, Mapping[str, float]] = {
    "generative": {GENERATIVE: 1.0, **_HISTORY},
    "ann": {DENSE: 1.0, **_HISTORY},
    "hybrid": {GENERATIVE: 0.5, DENSE: 0.5, TRANSITION: 0.3, **_HISTORY},
}
_POSITIVE = (GENERATIVE, DENSE, TRANSITION)
# Strengths of transitions count by their logarithm, from a strength of one in so many on.
_STRENGTH = 20.0


def of_one(ranking: Ranking, name: str, queries: Queries) -> Candidates:
    """The items of one ranking, whose scores are the evidence of that name, with that of the history."""
    order = np.argsort(np.where(ranking.items < 0, np.iinfo(np.int64).max, ranking.items), axis=1, kind="stable")
    items = np.take_along_axis(ranking.items, order, axis=1)
    scores = np.take_along_axis(ranking.scores, order, axis=1).astype(np.float64)
    return Candidates(items=items, evidence={name: scores, **_of_history(queries, items)})


def of_union(
    recommender: GenerativeRecommender,
    queries: Queries,
    states: QueryStates,
    rankings: Sequence[Ranking],
    followers: int,
    seen: np.ndarray | None = None,
) -> Candidates:
    """All items of several rankings of the same queries with all evidence: none is judged by half of it.

    Args:
        followers: how many of the items that most often follow the history join them.
        seen: (Q, S) item rows to leave out among these, -1 padded.
    """
    after = None if recommender.transitions is None else recommender.transitions.after(queries)
    if after is not None:
        rankings = [*rankings, _unseen(after.best(followers, recommender.candidates), seen)]
    items = union(rankings)
    transition = np.zeros(items.shape) if after is None else np.log1p(_STRENGTH * after.of(items).astype(np.float64))
    heads = {
        GENERATIVE: recommender.code_scores(states, items).astype(np.float64),
        DENSE: recommender.dense_scores(states, items).astype(np.float64),
    }
    return Candidates(items=items, evidence={**heads, TRANSITION: transition, **_of_history(queries, items)})


def _unseen(ranking: Ranking, seen: np.ndarray | None) -> Ranking:
    if seen is None:
        return ranking
    hidden = (ranking.items[:, :, None] == seen[:, None, :]).any(axis=2)
    return Ranking(np.where(hidden, -1, ranking.items), ranking.scores)


def fit(candidates: Candidates, queries: Queries, mode: str) -> dict[str, float]:
    """Weights of the evidence of a mode, from what came next."""
    rows = np.repeat(np.arange(len(queries)), np.diff(queries.target_offsets))
    targets = np.stack([rows, queries.target_items.astype(np.int64)], axis=1)
    return fit_weights(candidates, targets, PRIOR[mode], positive=_POSITIVE)


def bound_of_others(bound: np.ndarray, name: str, weights: Mapping[str, float]) -> np.ndarray:
    """Most that an item may score whose evidence of that name is at most ``bound``. (Q,)"""
    again = max(0.0, weights[REPEAT], weights[REPEAT] + weights[RECENCY])  # a recency lies between 0 and 1
    most: np.ndarray = weights[name] * np.maximum(bound, np.finfo(np.float32).min) + again  # no 0 · -inf
    return most


def _of_history(queries: Queries, items: np.ndarray) -> dict[str, np.ndarray]:
    age = ages(queries, items)
    return {REPEAT: (age >= 0).astype(np.float64), RECENCY: np.where(age >= 0, 1 / (1.0 + np.maximum(age, 0)), 0.0)}
