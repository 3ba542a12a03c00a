"""Generated and retrieved candidates as one list: every item is judged by both heads, never by one alone.

Legend: Q queries, C candidates of the largest union, k results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from semid.errors import InputError
from semid.ranking import Ranking

# Below any log-probability a decoder computes: an impossible item goes last, among its like by the other head.
_IMPOSSIBLE = -1e6

Scores = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """The union of several rankings with both scores of every item.

    Attributes:
        items: (Q, C) int64 item rows, increasing along a row, padded with -1 at the end.
        generative: (Q, C) float64 log-probability of the item's codes, -inf at padding.
        dense: (Q, C) float64 logit (cosine / temperature) of the contrastive head, -inf at padding.
    """

    items: np.ndarray
    generative: np.ndarray
    dense: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FusionFit:
    """What fitting the weight found: the best weight and the metric of every weight tried."""

    weight: float
    metric: float
    tried: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Filled:
    """Generated lists with their free places filled from retrieved ones.

    Attributes:
        ranking: the filled lists.
        filled: (Q,) int64 places that were filled; 0 where the generated list was long enough.
    """

    ranking: Ranking
    filled: np.ndarray


def union(rankings: Sequence[Ranking]) -> np.ndarray:
    """Distinct items of several rankings of the same queries.

    Returns:
        (Q, C) int64 item rows, increasing along a row, padded with -1 at the end; C is the largest union.

    Raises:
        InputError: no ranking, or rankings of different numbers of queries.
    """
    if len({len(ranking) for ranking in rankings}) != 1:
        lengths = ", ".join(str(len(ranking)) for ranking in rankings) or "none"
        raise InputError(f"The rankings to unite must answer the same queries; their lengths are: {lengths}.")
    last = np.iinfo(np.int64).max
    items = np.concatenate([ranking.items for ranking in rankings], axis=1).astype(np.int64)
    items = np.sort(np.where(items < 0, last, items), axis=1)
    repeated = np.zeros(items.shape, bool)
    repeated[:, 1:] = items[:, 1:] == items[:, :-1]
    items = np.sort(np.where(repeated, last, items), axis=1)
    width = int((items < last).sum(axis=1).max(initial=0))
    return np.where(items == last, -1, items)[:, :width]


def score_union(items: np.ndarray, generative: Scores, dense: Scores) -> Candidates:
    """Let both heads score every item of a union.

    Args:
        items: (Q, C) as :func:`union` returns them.
        generative: (Q, C) log-probabilities, or a function of ``items`` that computes them.
        dense: (Q, C) logits, likewise.

    Raises:
        InputError: scores of another shape, or NaN for an item.
    """
    return Candidates(
        items=items,
        generative=_scores_of(items, generative, "Generative"),
        dense=_scores_of(items, dense, "Dense"),
    )


def fuse(candidates: Candidates, weight: float, k: int) -> Ranking:
    """Rank the union by ``(1 - weight) * dense + weight * generative``, equal scores by lowest item row.

    Both become log-probabilities over the union first (log-softmax), so that fused scores mean the same for
    every query. That shifts a query's scores by a constant and never its order: weight 0 gives the dense order,
    weight 1 the generative one, and the weights between cover every ratio of the two scales.

    Args:
        weight: of the generative score, 0 to 1.
        k: results per query.

    Raises:
        InputError: weight outside 0..1 or k < 1.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"The fusion weight is {weight}: it must lie between 0 (all dense) and 1 (all generative).")
    if k < 1:
        raise InputError(f"{k} results per query were asked for: k must be at least 1.")
    padding = candidates.items < 0
    dense, generative = _log_softmax(candidates.dense, padding), _log_softmax(candidates.generative, padding)
    fused = np.where(padding, -np.inf, (1 - weight) * dense + weight * generative)
    order = np.argsort(-fused, axis=1, kind="stable")[:, :k]
    items, scores = np.take_along_axis(candidates.items, order, axis=1), np.take_along_axis(fused, order, axis=1)
    return _padded(items, scores, k)


def fit_fusion_weight(
    candidates: Candidates,
    metric: Callable[[Ranking], float],
    k: int = 10,
    weights: Sequence[float] = tuple(np.linspace(0, 1, 21).round(2).tolist()),
) -> FusionFit:
    """The weight whose fused ranking is best on validation queries.

    Args:
        candidates: unions for the validation queries.
        metric: what to maximise, such as NDCG@10 of these queries.
        weights: grid to try. Of equally good weights the one nearest to 0.5 wins, then the smaller.

    Raises:
        InputError: an empty grid.
    """
    if not len(weights):
        raise InputError("There are no fusion weights to try: give at least one between 0 and 1.")
    tried = tuple((float(weight), float(metric(fuse(candidates, weight, k)))) for weight in weights)
    weight, value = max(tried, key=lambda pair: (pair[1], -abs(pair[0] - 0.5), -pair[0]))
    return FusionFit(weight=weight, metric=value, tried=tried)


def fill(generated: Ranking, retrieved: Ranking, k: int) -> Filled:
    """Fill the places a generated list leaves free with the best retrieved items it does not hold.

    Filled items keep the order of the retrieved list and score below every generated one: the last generated
    score (0 if none) less 1 less what they lose to the best retrieved item.

    Args:
        generated: lists of any length, perhaps short or empty.
        retrieved: the same queries; k + the length of the generated list suffices to fill every place.

    Raises:
        InputError: rankings of different numbers of queries, or k < 1.
    """
    if len(generated) != len(retrieved):
        raise InputError(f"There are {len(generated)} generated but {len(retrieved)} retrieved lists.")
    if k < 1:
        raise InputError(f"{k} results per query were asked for: k must be at least 1.")
    own_items, own_scores = generated.items[:, :k], generated.scores[:, :k].astype(np.float64)
    kept = (own_items >= 0).sum(axis=1)
    # Only what stays in the list counts as present.
    fresh = (retrieved.items >= 0) & ~(retrieved.items[:, :, None] == own_items[:, None, :]).any(axis=2)
    floor = np.where(own_items >= 0, own_scores, 0).min(axis=1, initial=0) - 1
    best = retrieved.scores[:, :1].astype(np.float64)
    with np.errstate(invalid="ignore"):  # -inf - -inf of empty lists, masked right after
        lost = retrieved.scores - best
    items = np.concatenate([own_items, np.where(fresh, retrieved.items, -1)], axis=1)
    scores = np.concatenate([own_scores, np.where(fresh, floor[:, None] + lost, -np.inf)], axis=1)
    order = np.argsort(items < 0, axis=1, kind="stable")[:, :k]
    ranking = _padded(np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1), k)
    filled = (ranking.items >= 0).sum(axis=1) - kept
    exact = None if generated.exact is None else generated.exact & (filled == 0)
    return Filled(ranking=Ranking(ranking.items, ranking.scores, exact), filled=filled)


def _scores_of(items: np.ndarray, scores: Scores, name: str) -> np.ndarray:
    values = np.asarray(scores(items) if callable(scores) else scores, dtype=np.float64)
    if values.shape != items.shape:
        raise InputError(f"{name} scores have shape {values.shape} but the union has {items.shape}.")
    values = np.where(items < 0, -np.inf, values)
    wrong = np.isnan(values) | (values == np.inf)
    if wrong.any():
        query, place = np.argwhere(wrong)[0]
        raise InputError(f"{name} score of item {items[query, place]} for query {query} is {values[query, place]}.")
    return values


def _log_softmax(scores: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Over the items of each row; impossible items get a finite score, padding 0."""
    finite = np.where(padding, 0, np.maximum(scores, _IMPOSSIBLE))
    if not scores.shape[1]:
        return finite
    top = np.where(padding, -np.inf, finite).max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    total = np.where(padding, 0, np.exp(finite - top)).sum(axis=1, keepdims=True)
    normalised: np.ndarray = np.where(padding, 0, finite - top - np.log(np.maximum(total, 1e-300)))
    return normalised


def _padded(items: np.ndarray, scores: np.ndarray, k: int) -> Ranking:
    missing = ((0, 0), (0, k - items.shape[1]))
    scores = np.where(items < 0, -np.inf, scores)
    return Ranking(
        np.pad(items, missing, constant_values=-1),
        np.pad(scores, missing, constant_values=-np.inf).astype(np.float32),
    )
