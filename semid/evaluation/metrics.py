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
Scores, and stays in the unweighted metrics. All metrics, worked by hand, are in docs/evaluation.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from semid.errors import InputError
from semid.evaluation.bootstrap import Groups
from semid.evaluation.exposure import gini, mean_of_listed, times_shown
from semid.evaluation.matching import check_lists, target_places
from semid.evaluation.pool import Pool
from semid.evaluation.targets import Targets
from semid.ranking import Ranking

HIT_RATE_SHARE = 0.31
NDCG_SHARE = 0.69
# A metric's value of every query (Q,), and the weight of the query in the mean: None is 1 for all.
Part = tuple[np.ndarray, np.ndarray | None]


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

    def parts(self) -> dict[str, Part]:
        """By name, what the metrics are means of; the two Scores as the module says.

        Raises:
            InputError: no query has a target with a weight above 0.
        """
        counted = self.weight > 0
        if not counted.any():
            raise InputError("No target has an action with a weight above 0: there is no Score; check the weights.")
        return {
            "HitRate": (self.hit_rate, None),
            "NDCG": (self.ndcg, None),
            "MRR": (self.mrr, None),
            "Recall": (self.recall, None),
            "Score": (self.score, None if counted.all() else counted),
            "ScoreWeighted": (self.score, self.weight),
        }

    def means(self) -> dict[str, float]:
        """Names and means over queries.

        Raises:
            InputError: as :meth:`parts`.
        """
        return {name: float(np.average(values, weights=weights)) for name, (values, weights) in self.parts().items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """Metrics of one ranking.

    Attributes:
        values: by name, such as ``"NDCG@10"``.
        sums: of those that are means over queries, values times weights and weights summed by group. (2, B) each
    """

    values: dict[str, float]
    sums: dict[str, np.ndarray]


def query_metrics(ranking: Ranking, targets: Targets, k: int) -> QueryMetrics:
    """Metrics of the first k places of every list.

    Raises:
        InputError: as :func:`semid.evaluation.matching.check_lists`.
    """
    check_lists(ranking, len(targets), [k])
    return _query_metrics(target_places(ranking.items, targets, k), targets, k)


def evaluate(
    ranking: Ranking,
    targets: Targets,
    *,
    ks: Sequence[int] = (10,),
    candidates: np.ndarray | None = None,
    train_counts: np.ndarray | None = None,
    codes: np.ndarray | None = None,
) -> dict[str, float]:
    """All metrics of one ranking by name, such as ``"NDCG@10"``; :func:`judge` says which.

    Args:
        ks: list lengths.
        candidates, train_counts, codes: see :class:`semid.evaluation.pool.Pool`.

    Raises:
        InputError: as :func:`judge`.
    """
    pool = Pool(candidates=candidates, train_counts=train_counts, codes=codes)
    return judge(ranking, targets, pool, ks=ks).values


def judge(
    ranking: Ranking, targets: Targets, pool: Pool, *, ks: Sequence[int], groups: Groups | None = None
) -> Judgement:
    """All metrics of one ranking.

    Beside those of :class:`QueryMetrics`, as far as the pool knows what they take:

    * ``Coverage@k``, share of the candidates that appear in any list, and ``Gini@k``, how unequally they do;
    * ``Novelty@k``, mean self-information of the items of a list in bits, over the lists that are not empty (Zhou
      et al., Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS 107(10), 2010);
    * ``ColdHitRate@k``, ``TailHitRate@k``, ``HeadHitRate@k``: hit rate over the queries with a target in that slice
      of the items, by such targets only;
    * ``CodePrefix1HitRate@k`` and on: share of the queries where an item of the list and a target begin with the
      same 1, 2, … codes, for all but the last level. No item-level figures;
    * ``Validity``, share of the places up to the largest k, or to the number of candidates if that is less, that
      hold a candidate, or any item where candidates are not known.

    A metric that no query has a part in, such as ColdHitRate where nothing is cold, is absent.

    Args:
        ks: list lengths.
        groups: of queries, by which sums are kept; one for all if None.

    Raises:
        InputError: no queries, no ks, items that the pool does not know, or as
            :func:`semid.evaluation.matching.check_lists` and :meth:`QueryMetrics.parts`.
    """
    if not len(targets):
        raise InputError("There are no queries to evaluate: use a split that has some.")
    if not len(ks):
        raise InputError("No list length was given: name at least one k.")
    check_lists(ranking, len(targets), ks)
    pool.require(ranking.items, "A list names")
    pool.require(targets.items, "A target is")
    groups = groups or Groups.one(len(targets))
    values: dict[str, float] = {}
    sums: dict[str, np.ndarray] = {}
    for k, figures in zip(ks, _figures(ranking.items, targets, pool, ks), strict=True):
        for name, figure in figures.items():
            if isinstance(figure, float):
                values[f"{name}@{k}"] = figure
                continue
            summed = groups.sums(*figure)
            if summed[1].any():
                values[f"{name}@{k}"] = float(summed[0].sum() / summed[1].sum())
                sums[f"{name}@{k}"] = summed
    return Judgement(values=values | {"Validity": _validity(ranking.items[:, : max(ks)], pool)}, sums=sums)


def _figures(items: np.ndarray, targets: Targets, pool: Pool, ks: Sequence[int]) -> Iterator[dict[str, Part | float]]:
    """Metrics by name at each k: numbers, or the parts of means."""
    widest = max(ks)
    places = target_places(items, targets, widest)
    first_places = dict(_slice_places(places, targets, pool, widest))
    for level, names in enumerate(pool.prefixes, 1):
        alike = target_places(items, targets, widest, names)
        first_places[f"CodePrefix{level}"] = targets.reduce(np.minimum, alike), None
    for k in ks:
        figures: dict[str, Part | float] = dict(_query_metrics(places, targets, k).parts())
        if pool.candidates is not None:
            shown = times_shown(items[:, :k], pool.candidates)
            figures["Coverage"] = float((shown > 0).mean())
            if shown.any():
                figures["Gini"] = gini(shown)
        if pool.information is not None:
            figures["Novelty"] = mean_of_listed(items[:, :k], pool.information)
        for name, (first, asked) in first_places.items():
            figures[f"{name}HitRate"] = first < k, asked
        yield figures


def _query_metrics(places: np.ndarray, targets: Targets, k: int) -> QueryMetrics:
    """Metrics at k from the places of the targets (G,); what lies at place k or after it is a miss."""
    gain = 1 / np.log2(np.arange(2, k + 2))
    gains = np.append(gain, np.zeros(int(places.max(initial=0)) + 1))[places]
    first = targets.reduce(np.minimum, places)
    hit = first < k
    found = places < k
    weight = targets.query_weights
    ideal = np.append(0, np.cumsum(gain))[np.minimum(targets.counts, k)]
    weighted_ideal = targets.reduce(np.add, targets.weights * np.append(gain, 0)[np.minimum(targets.ranks, k)])
    weighted_hit_rate = _ratio(targets.reduce(np.add, found * targets.weights), weight)
    weighted_ndcg = _ratio(targets.reduce(np.add, gains * targets.weights), weighted_ideal)
    return QueryMetrics(
        hit_rate=hit.astype(np.float64),
        ndcg=targets.reduce(np.add, gains) / ideal,
        mrr=hit / (1.0 + first),
        recall=targets.reduce(np.add, found.astype(np.float64)) / targets.counts,
        weighted_hit_rate=weighted_hit_rate,
        weighted_ndcg=weighted_ndcg,
        score=HIT_RATE_SHARE * weighted_hit_rate + NDCG_SHARE * weighted_ndcg,
        weight=weight,
    )


def _slice_places(places: np.ndarray, targets: Targets, pool: Pool, k: int) -> Iterator[tuple[str, Part]]:
    """Of each slice that is asked for, the first place of a target in it, and which queries ask."""
    for name, members in pool.slices.items():
        inside = members[targets.items]
        if inside.any():
            first = targets.reduce(np.minimum, np.where(inside, places, k))
            yield name, (first, targets.reduce(np.logical_or, inside))


def _validity(items: np.ndarray, pool: Pool) -> float:
    if pool.candidates is None:
        return float((items >= 0).mean())
    places = len(items) * min(items.shape[1], len(pool.candidates))
    return float(times_shown(items, pool.candidates).sum() / places)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio
