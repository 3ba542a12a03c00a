"""How good rankings are: the usual metrics and those of the Tencent Ads Algorithm Challenge 2025.

Let G be the distinct target items of a query and y its ranked list. Unweighted: HitRate is 1 if any target is in
the list, Recall the share of G found, MRR 1 / rank of the first target, NDCG binary. Weighted by the action of
each target, w (a target met with several actions counts with its largest weight):

    wHR   = sum_k w(y_k) [y_k in G] / sum_{i in G} w(i)
    wNDCG = sum_k w(y_k) [y_k in G] / log2(k + 1)  /  the same sum for the best possible list
    Score = 0.31 wHR + 0.69 wNDCG

``Score`` is the mean over queries (*macro*); ``ScoreWeighted`` weighs each query by the sum of its target weights.
With one target per query and equal weights both are 0.31 HitRate + 0.69 NDCG. A query with an empty list scores 0.
A query whose targets all weigh 0 (only exposures, say) asks for nothing the Score counts: it is left out of both
Scores, and stays in the unweighted metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.data.dataset import ranges
from semid.data.events import ACTION_UNKNOWN, Queries
from semid.errors import InputError
from semid.ranking import Ranking

HIT_RATE_SHARE = 0.31
NDCG_SHARE = 0.69


@dataclass(frozen=True, eq=False, kw_only=True)
class Targets:
    """The distinct targets of Q queries; query q's are ``offsets[q]:offsets[q + 1]``, heaviest first.

    Attributes:
        items: (G,) int64 item rows.
        weights: (G,) float64.
        offsets: (Q + 1,) int64.
    """

    items: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(queries: Queries, action_weights: Sequence[float] | None = None) -> "Targets":
        """Targets with the weight of their actions; an unknown action weighs 1.

        Args:
            action_weights: by action code; every target weighs 1 if None.

        Raises:
            InputError: a query without targets, an action without a weight, or a weight that is negative or
                not finite.
        """
        counts = np.diff(queries.target_offsets)
        if len(counts) and counts.min() < 1:
            raise InputError(f"Query {counts.argmin()} has no target: only queries with targets can be evaluated.")
        rows = np.repeat(np.arange(len(counts)), counts)
        items = queries.target_items.astype(np.int64)
        weights = _action_weights(queries.target_actions, action_weights)
        order = np.lexsort((-weights, items, rows))  # the heaviest of each (query, item) first
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(rows[order]) > 0) | (np.diff(items[order]) > 0)
        order = order[first]
        order = order[np.lexsort((items[order], -weights[order], rows[order]))]
        offsets = np.append(0, np.cumsum(np.bincount(rows[order], minlength=len(counts))))
        return Targets(items=items[order], weights=weights[order], offsets=offsets.astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> np.ndarray:
        """Query of each target. (G,) int64"""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def query_weights(self) -> np.ndarray:
        """Sum of the target weights of each query. (Q,) float64"""
        return np.bincount(self.rows, self.weights, minlength=len(self))

    def only(self, keep: np.ndarray) -> "Targets":
        """The targets where ``keep`` (G,) is true, of the queries that still have one."""
        counts = np.bincount(self.rows[keep], minlength=len(self))
        offsets = np.append(0, np.cumsum(counts[counts > 0])).astype(np.int64)
        return Targets(items=self.items[keep], weights=self.weights[keep], offsets=offsets)


@dataclass(frozen=True, eq=False, kw_only=True)
class QueryMetrics:
    """Metrics of every single query at one k, each (Q,) float64.

    Attributes:
        weight: sum of the target weights; where it is 0, ``weighted_hit_rate``, ``weighted_ndcg`` and ``score``
            are 0 and mean nothing.
    """

    hit_rate: np.ndarray
    ndcg: np.ndarray
    mrr: np.ndarray
    recall: np.ndarray
    weighted_hit_rate: np.ndarray
    weighted_ndcg: np.ndarray
    score: np.ndarray
    weight: np.ndarray

    def means(self) -> dict[str, float]:
        """Names and means over queries; the two Scores as the module says.

        Raises:
            InputError: no query has a target with a weight above 0.
        """
        counted = self.weight > 0
        if not counted.any():
            raise InputError("No target has an action with a weight above 0: there is no Score; check the weights.")
        return {
            "HitRate": float(self.hit_rate.mean()),
            "NDCG": float(self.ndcg.mean()),
            "MRR": float(self.mrr.mean()),
            "Recall": float(self.recall.mean()),
            "Score": float(self.score[counted].mean()),
            "ScoreWeighted": float(np.average(self.score, weights=self.weight)),
        }


def query_metrics(ranking: Ranking, targets: Targets, k: int) -> QueryMetrics:
    """Metrics of the first k places of every list.

    Raises:
        InputError: lists shorter than k columns, of another number of queries, or naming an item twice.
    """
    items = _checked(ranking, len(targets), k)
    gains, found = _gains(items, targets)
    discount = 1 / np.log2(np.arange(2, k + 2))
    weight = targets.query_weights
    place = ranges(0, np.diff(targets.offsets))
    ideal_discount = np.where(place < k, 1 / np.log2(place + 2), 0)
    ideal = np.bincount(targets.rows, ideal_discount, minlength=len(targets))
    ideal_gain = np.bincount(targets.rows, ideal_discount * targets.weights, minlength=len(targets))
    hit = found.max(axis=1)
    hit_rate_weighted = _ratio(gains.sum(axis=1), weight)
    ndcg_weighted = _ratio(gains @ discount, ideal_gain)
    return QueryMetrics(
        hit_rate=hit.astype(np.float64),
        ndcg=found @ discount / ideal,
        mrr=np.where(hit, 1 / (1 + found.argmax(axis=1)), 0.0),
        recall=found.sum(axis=1) / np.diff(targets.offsets),
        weighted_hit_rate=hit_rate_weighted,
        weighted_ndcg=ndcg_weighted,
        score=HIT_RATE_SHARE * hit_rate_weighted + NDCG_SHARE * ndcg_weighted,
        weight=weight,
    )


def evaluate(
    ranking: Ranking,
    targets: Targets,
    *,
    ks: Sequence[int] = (10,),
    candidates: np.ndarray | None = None,
    train_counts: np.ndarray | None = None,
) -> dict[str, float]:
    """All metrics of one ranking by name, such as ``"NDCG@10"``.

    Beside those of :class:`QueryMetrics`: ``Coverage@k``, share of the candidates that appear in any list;
    ``ColdHitRate@k``, hit rate over the queries with a target never seen in training, by such targets only
    (absent if there are none); ``Validity``, share of the places up to the largest k, or to the number of
    candidates if that is less, that hold a candidate.

    Args:
        ks: list lengths.
        candidates: (C,) item rows that may be recommended; without them Coverage is absent and any item valid.
        train_counts: (N,) training events by item; without them ColdHitRate is absent.

    Raises:
        InputError: no queries, no ks, or as :func:`query_metrics` and :meth:`QueryMetrics.means`.
    """
    if not len(targets):
        raise InputError("There are no queries to evaluate: use a split that has some.")
    if not len(ks):
        raise InputError("No list length was given: name at least one k.")
    result: dict[str, float] = {}
    for k in ks:
        result |= {f"{name}@{k}": value for name, value in query_metrics(ranking, targets, k).means().items()}
        shown = ranking.items[:, :k]
        if candidates is not None:
            result[f"Coverage@{k}"] = len(np.intersect1d(shown, candidates)) / len(candidates)
        if train_counts is not None:
            cold = train_counts[targets.items] == 0
            if cold.any():
                asking = np.unique(targets.rows[cold])
                _, found = _gains(shown[asking], targets.only(cold))
                result[f"ColdHitRate@{k}"] = float(found.any(axis=1).mean())
    shown = ranking.items[:, : max(ks)]
    valid = shown >= 0 if candidates is None else np.isin(shown, candidates)
    places = shown.shape[1] if candidates is None else min(shown.shape[1], len(candidates))
    return result | {"Validity": float(valid.sum() / (len(shown) * places))}


def _gains(items: np.ndarray, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the target at each place, 0 where there is none, and whether there is one: (Q, k) each."""
    stride = int(max(items.max(initial=0), targets.items.max(initial=0))) + 1
    keys = targets.rows * stride + targets.items
    order = np.argsort(keys)
    keys = keys[order]
    wanted = np.arange(len(items))[:, None] * stride + items
    place = np.searchsorted(keys, wanted.ravel()).clip(max=len(keys) - 1).reshape(items.shape)
    found = (keys[place] == wanted) & (items >= 0)
    return np.where(found, targets.weights[order[place]], 0.0), found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio


def _checked(ranking: Ranking, num_queries: int, k: int) -> np.ndarray:
    if k < 1:
        raise InputError(f"Metrics at {k} were asked for: k must be at least 1.")
    if len(ranking) != num_queries:
        raise InputError(f"There are {len(ranking)} ranked lists but {num_queries} queries: give one list for each.")
    if ranking.items.shape[1] < k:
        raise InputError(f"Lists of {ranking.items.shape[1]} items cannot be judged at k = {k}: recommend more.")
    items = ranking.items[:, :k].astype(np.int64)
    ordered = np.sort(items, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        query, place = np.argwhere(twice)[0]
        raise InputError(f"The list of query {query} names item {ordered[query, place]} twice.")
    return items


def _action_weights(actions: np.ndarray, weights: Sequence[float] | None) -> np.ndarray:
    if weights is None:
        return np.ones(len(actions))
    table = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(table).all() or (table < 0).any():
        raise InputError(f"Action weights {list(weights)} must be finite and not negative.")
    highest = int(actions.max(initial=-1))
    if highest >= len(table):
        raise InputError(f"A target has action {highest} but there are weights for {len(table)} actions only.")
    return np.append(table, 1.0)[np.where(actions == ACTION_UNKNOWN, len(table), actions)]
