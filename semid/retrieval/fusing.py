"""Rules that make one order of several kinds of evidence: learned weights, the heads alone, reciprocal ranks.

Legend: Q queries, C candidates of the largest union, k results.
"""

from collections.abc import Mapping

import numpy as np

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.combining import Candidates, rank

LEARNED, LINEAR, RECIPROCAL_RANKS = "learned", "linear", "rrf"
RULES = (LEARNED, LINEAR, RECIPROCAL_RANKS)
# What is added to every rank, so that the first places do not decide alone.
_SMOOTHING = 60


def fuse(candidates: Candidates, rule: str, weights: Mapping[str, float], k: int) -> Ranking:
    """The k best candidates by one of RULES.

    * ``learned`` and ``linear``: the weighted sum of the evidence named.
    * ``rrf``: Σ weight / (60 + rank), the rank being that by each kind of evidence named among all candidates
      (Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion").

    Raises:
        InputError: an unknown rule or k < 1.
    """
    check_rule(rule)
    return rank(by_reciprocal_rank(candidates, weights) if rule == RECIPROCAL_RANKS else candidates, weights, k)


def check_rule(rule: str) -> None:
    if rule not in RULES:
        raise InputError(f"Unknown rule of fusion {rule!r}: use one of {', '.join(RULES)}.")


def by_reciprocal_rank(candidates: Candidates, names: Mapping[str, float]) -> Candidates:
    """The same candidates; of each kind of evidence named 1 / (60 + rank), equal values having the same rank."""
    there = candidates.items >= 0
    evidence = {name: 1 / (_SMOOTHING + _ranks(candidates.evidence[name], there)) for name in names}
    return Candidates(items=candidates.items, evidence=evidence)


def _ranks(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """1 + how many values of the row are higher, (Q, C)."""
    values = np.where(there, values, -np.inf)
    order = np.argsort(-values, axis=1, kind="stable")
    falling = np.take_along_axis(values, order, axis=1)
    first = np.broadcast_to(np.arange(values.shape[1]), values.shape).copy()
    first[:, 1:][falling[:, 1:] == falling[:, :-1]] = 0
    ranks = np.empty(values.shape, np.int64)
    np.put_along_axis(ranks, order, 1 + np.maximum.accumulate(first, axis=1), axis=1)
    return ranks
