"""The best of all that the searches found, by all evidence, asking the code head no more than it takes.

The code head is by far the dearest to ask. What the beams hold it has judged already, and of all else the beam search
says how probable it is at most. So an item is asked for only if, at its most, it would be among the k best. The lists
are those of asking for all (threshold algorithm: Fagin, Lotem and Naor 2003, "Optimal aggregation algorithms for
middleware").

Legend: Q queries, C candidates of the largest union, k results.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from semid.data.events import Queries
from semid.generative.history_encoder import QueryStates
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import evidence
from semid.pipeline.evidence import GENERATIVE, NEW, NEW_GENERATIVE, Past
from semid.ranking import Ranking
from semid.retrieval.combining import Candidates, best_of
from semid.retrieval.content_neighbours import ContentNeighbours
from semid.selection import is_in

# Most items of a query that are asked for first: with their answers most of the others are out.
_FIRST = 8
# The beams and the code head may differ in the last digits.
_ALIKE = 1e-3


def best_of_union(
    recommender: GenerativeRecommender,
    queries: Queries,
    states: QueryStates,
    generated: Ranking,
    others: Sequence[Ranking],
    followers: int,
    past: Past,
    content: ContentNeighbours | None,
    weights: Mapping[str, float],
    k: int,
) -> Ranking:
    """The k best of :func:`semid.pipeline.evidence.of_union` by the weighted sum of its evidence.

    Args:
        generated: beams outside the history, with their bound.
        others: what other searches found.
        weights: of the evidence.
    """
    bound = np.zeros(len(queries)) if generated.bound is None else generated.bound

    def most(items: np.ndarray) -> np.ndarray:
        known = generated.scores_of(items)
        return np.where(np.isnan(known), np.where(is_in(items, past.items), 0.0, bound[:, None]), known)

    lists = [generated, *others]
    candidates = evidence.of_union(recommender, queries, states, lists, followers, past, content, most)
    known = ~np.isnan(generated.scores_of(candidates.items))

    def ask(items: np.ndarray) -> np.ndarray:
        return recommender.code_scores(states, items)

    return best_by_need(candidates, known, weights, ask, k)


def best_by_need(
    candidates: Candidates,
    known: np.ndarray,
    weights: Mapping[str, float],
    ask: Callable[[np.ndarray], np.ndarray],
    k: int,
) -> Ranking:
    """The k best candidates by their weighted evidence.

    Args:
        candidates: whose log-probability of codes is the most it may be where it is not known.
        known: (Q, C) bool, where it is.
        ask: for the log-probability of items (Q, M), -1 padded.
    """
    items, told = candidates.items, dict(candidates.evidence)
    told[GENERATIVE], new = told[GENERATIVE].copy(), told[NEW] > 0
    weight = weights.get(GENERATIVE, 0.0) + weights.get(NEW_GENERATIVE, 0.0) * new
    known = known | (weight == 0) | (items < 0)
    for count in (_FIRST, items.shape[1]):
        told[NEW_GENERATIVE] = np.where(new, told[GENERATIVE], 0.0)
        scores = Candidates(items=items, evidence=told).scores(weights)
        sure = np.where(known, scores, -np.inf)
        most = np.where(known, -np.inf, np.where(weight < 0, np.inf, scores))
        last = np.partition(sure, -k, axis=1)[:, -k, None] if k <= items.shape[1] else -np.inf
        asked = _highest(np.where(most >= last - _ALIKE, most, -np.inf), count)
        if asked.shape[1] == 0:
            break
        rows, places = np.nonzero(asked >= 0)
        at = rows, asked[rows, places]
        answers = ask(np.where(asked < 0, -1, np.take_along_axis(items, np.maximum(asked, 0), axis=1)))
        told[GENERATIVE][at], known[at] = answers[rows, places], True
    told[NEW_GENERATIVE] = np.where(new, told[GENERATIVE], 0.0)
    scores = Candidates(items=items, evidence=told).scores(weights)
    return best_of(items, np.where(known, scores, -np.inf), k)


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the ``count`` highest values of each row that are above -inf, -1 padded; no wider than needed."""
    most = min(int((values > -np.inf).sum(axis=1).max(initial=0)), count)
    order = np.argsort(-values, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(values, order, axis=1) > -np.inf, order, -1)
