"""What speaks for an item to come next: the heads of the model, what follows the history, and what is in it already.

Each mode ranks its candidates by some of it, with weights of its own that are fitted on validation queries. Whether
users take an item again is learned that way too: nothing is filtered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from semid.data.dataset import ranges
from semid.data.events import Queries
from semid.data.plain_queries import seen_items
from semid.data.timeline import DAY, WEEK, Timeline
from semid.data.transitions import ages, latest_first
from semid.generative.history_encoder import QueryStates
from semid.generative.recommender import GenerativeRecommender
from semid.ranking import Ranking
from semid.retrieval.combining import Candidates, fit_weights
from semid.retrieval.content_neighbours import ContentNeighbours
from semid.retrieval.fusing import LINEAR, RECIPROCAL_RANKS
from semid.retrieval.hybrid import union
from semid.selection import is_in

GENERATIVE, DENSE, TRANSITION, ACTION = "generative", "dense", "transition", "action"
REPEAT, RECENCY = "repeat", "recency"
DAY_COUNT, WEEK_COUNT, FRESHNESS = "day", "week", "freshness"
CONTENT = "content"
COUNT, NEW, NEW_GENERATIVE, NEW_DENSE = "count", "new", "new_generative", "new_dense"
# Without validation queries: the heads alone, and together with what follows the history.
_POPULARITY = {DAY_COUNT: 0.0, WEEK_COUNT: 0.0, FRESHNESS: 0.0}
_BESIDE = {ACTION: 0.0, REPEAT: 0.0, RECENCY: 0.0, **_POPULARITY}
PRIOR: Mapping[str, Mapping[str, float]] = {
    "generative": {GENERATIVE: 1.0, **_BESIDE},
    "ann": {DENSE: 1.0, **_BESIDE},
    "hybrid": {GENERATIVE: 0.5, DENSE: 0.5, TRANSITION: 0.3, CONTENT: 0.0, **_BESIDE, COUNT: 0.0},
    LINEAR: {GENERATIVE: 0.5, DENSE: 0.5},
    RECIPROCAL_RANKS: {GENERATIVE: 1.0, DENSE: 1.0},
}
_POSITIVE = (GENERATIVE, DENSE, TRANSITION, CONTENT, ACTION)
# What items without a training event are judged by in place of the evidence of the heads, where that was learned.
_OF_NEW = {NEW_GENERATIVE: GENERATIVE, NEW_DENSE: DENSE}
# Most items of a history that are judged beside what a search finds, unless longer lists are asked for.
JUDGED_AGAIN = 100
# Cosines of content, times this, are as large as what the heads say.
_CONTENT_SCALE = 10.0
# Strengths of transitions count by their logarithm, from a strength of one in so many on.
_STRENGTH = 20.0


@dataclass(frozen=True, eq=False)
class Past:
    """The histories of Q queries, which searches leave out so that they do not fill their lists with it.

    Attributes:
        items: (Q, S) all items of them, -1 padded.
        again: (Q, R) those that are judged beside what a search finds, -1 padded.
        all_judged: (Q,) bool, whether no other item of the history could be recommended.
    """

    items: np.ndarray
    again: np.ndarray
    all_judged: np.ndarray

    @staticmethod
    def of(queries: Queries, candidates: np.ndarray, most: int, *, filter_seen: bool = False) -> "Past":
        """Judge the latest ``most`` different candidates of each history again; none if what was seen is left out."""
        items = seen_items(queries)
        if filter_seen:
            return Past(items, items[:, :0], np.ones(len(queries), bool))
        rows, latest = latest_first(queries, candidates)
        different = np.bincount(rows, minlength=len(queries))
        place = ranges(0, different)
        kept = place < most
        again = np.full((len(queries), min(most, int(different.max(initial=0)))), -1, np.int64)
        again[rows[kept], place[kept]] = latest[kept]
        return Past(items, again, different <= most)


def content_of(recommender: GenerativeRecommender) -> ContentNeighbours | None:
    """The content of all items, to be compared; None where nothing is known of any candidate."""
    catalogue = recommender.catalogue
    known = catalogue.known.cpu().numpy()
    if not known[recommender.candidates].any():
        return None
    return ContentNeighbours.of(catalogue.content.float().cpu().numpy(), known)


def of_one(
    recommender: GenerativeRecommender, queries: Queries, states: QueryStates, found: Ranking, name: str, past: Past
) -> Candidates:
    """What a search found, and the past, with the evidence of one head and that of the history.

    Args:
        found: its scores are log-probabilities of codes, or cosines.
        name: of the head's evidence.
    """
    if name == DENSE:
        judged, factor = recommender.dense_scores(states, past.again), _scale(recommender)
    else:
        judged, factor = recommender.code_scores(states, past.again), 1.0
    items = np.concatenate([found.items, past.again], axis=1)
    scores = np.concatenate([found.scores * factor, judged], axis=1).astype(np.float64)
    order = np.argsort(np.where(items < 0, np.iinfo(np.int64).max, items), axis=1, kind="stable")
    items, scores = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)
    beside = _beside(recommender, queries, states, items)
    return Candidates(items=items, evidence={name: scores, **beside})


def of_union(
    recommender: GenerativeRecommender,
    queries: Queries,
    states: QueryStates,
    rankings: Sequence[Ranking],
    followers: int,
    past: Past,
    content: ContentNeighbours | None,
    code_scores: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Candidates:
    """All items of several rankings, and the past, with all evidence: none is judged by half of it.

    Args:
        followers: how many of the items that most often follow the history join them.
        content: of the items, as :func:`content_of` has it.
        code_scores: of items (Q, C), where it is not the code head that is to be asked.
    """
    after = None if recommender.transitions is None else recommender.transitions.after(queries)
    lists = [*rankings, Ranking(past.again, np.zeros(past.again.shape, np.float32))]
    if after is not None:
        lists.append(_unseen(after.best(followers, recommender.candidates), past.items))
    items = union(lists)
    transition = np.zeros(items.shape) if after is None else np.log1p(_STRENGTH * after.of(items).astype(np.float64))
    codes = recommender.code_scores(states, items) if code_scores is None else code_scores(items)
    beside = _beside(recommender, queries, states, items)
    heads = {
        GENERATIVE: codes.astype(np.float64),
        DENSE: recommender.dense_scores(states, items).astype(np.float64),
    }
    counts = _of_counts(recommender.train_counts, items, heads)
    like = np.zeros(items.shape)
    if content is not None:
        like = _CONTENT_SCALE * content.cosines(content.profiles(queries), items).astype(np.float64)
    return Candidates(items=items, evidence={**heads, TRANSITION: transition, CONTENT: like, **beside, **counts})


def _of_counts(counts: np.ndarray, items: np.ndarray, heads: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How often items were taken in training, which of them never were, and what the heads say of these."""
    taken = counts[np.maximum(items, 0)]
    new = taken == 0
    of_new = {name: np.where(new, heads[head], 0.0) for name, head in _OF_NEW.items()}
    return {COUNT: np.log1p(taken), NEW: new.astype(np.float64), **of_new}


def _beside(
    recommender: GenerativeRecommender, queries: Queries, states: QueryStates, items: np.ndarray
) -> dict[str, np.ndarray]:
    """What every mode looks at beside its heads."""
    action = recommender.action_scores(states, items).astype(np.float64)
    timeline = recommender.catalogue.timeline
    return {ACTION: action, **_of_history(queries, items), **_of_popularity(timeline, queries, items)}


def _of_popularity(timeline: Timeline | None, queries: Queries, items: np.ndarray) -> dict[str, np.ndarray]:
    """How often each item was taken in training in the day and in the week before the last event of the history, and
    1 / (1 + days since it last was); nothing without times or where the model does not look at popularity."""
    if timeline is None:
        return dict.fromkeys(_POPULARITY, np.zeros(items.shape))
    times = queries.log.times[queries.end - 1][:, None]
    age = timeline.last_seen(items, times)
    return {
        DAY_COUNT: np.log1p(timeline.counts(items, times, DAY)),
        WEEK_COUNT: np.log1p(timeline.counts(items, times, WEEK)),
        FRESHNESS: np.where(age < 0, 0.0, 1 / (1 + np.maximum(age, 0) / DAY)),
    }


def _scale(recommender: GenerativeRecommender) -> float:
    return float(recommender.model.scale.detach())


def _unseen(ranking: Ranking, seen: np.ndarray) -> Ranking:
    return Ranking(np.where(is_in(ranking.items, seen), -1, ranking.items), ranking.scores)


def fit(candidates: Candidates, queries: Queries, prior: Mapping[str, float]) -> dict[str, float]:
    """Weights of the evidence that a prior names, from what came next.

    The heads know items without a training event less well, and say so by scores that are too low. Where such items
    came next, those among the candidates have weights of their own, kept as what they add to the weights of others.
    """
    rows = np.repeat(np.arange(len(queries)), np.diff(queries.target_offsets))
    targets = np.stack([rows, queries.target_items.astype(np.int64)], axis=1)
    if COUNT not in prior or not _new_came_next(candidates, targets):
        return fit_weights(candidates, targets, prior, positive=_POSITIVE)
    new = candidates.evidence[NEW] > 0
    known = {head: np.where(new, 0.0, candidates.evidence[head]) for head in _OF_NEW.values()}
    apart = Candidates(items=candidates.items, evidence={**candidates.evidence, **known})
    prior = {**prior, NEW: 0.0, **{name: prior[head] for name, head in _OF_NEW.items()}}
    weights = fit_weights(apart, targets, prior, positive=(*_POSITIVE, *_OF_NEW))
    return {**weights, **{name: weights[name] - weights[head] for name, head in _OF_NEW.items()}}


def _new_came_next(candidates: Candidates, targets: np.ndarray) -> bool:
    new, rows = candidates.evidence[NEW] > 0, targets[:, 0]
    return bool((new[rows] & (candidates.items[rows] == targets[:, 1, None])).any())


def bound_of_others(
    recommender: GenerativeRecommender,
    states: QueryStates,
    bound: np.ndarray,
    name: str,
    weights: Mapping[str, float],
    past: Past,
) -> np.ndarray:
    """Most that an item may score that is neither found nor of the past that is judged. (Q,)

    Args:
        bound: (Q,) most that the search's score of such an item may be.
    """
    weight = weights[name] * (_scale(recommender) if name == DENSE else 1.0)
    # Such an item is not of the past; its action is no more certain than that of any item.
    there = bound > -np.inf  # otherwise nothing is left, whatever the weight
    if recommender.catalogue.timeline is not None and any(weights.get(name) for name in _POPULARITY):
        return np.full(len(bound), np.inf)  # an item may be as popular as it likes
    most = np.where(there, weight * np.where(there, bound, 0.0).astype(np.float64), -np.inf)
    if weights.get(ACTION):
        most = most + weights[ACTION] * recommender.action_bound(states).astype(np.float64)
    return np.where(past.all_judged, most, np.inf)


def _of_history(queries: Queries, items: np.ndarray) -> dict[str, np.ndarray]:
    age = ages(queries, items)
    return {REPEAT: (age >= 0).astype(np.float64), RECENCY: np.where(age >= 0, 1 / (1.0 + np.maximum(age, 0)), 0.0)}
