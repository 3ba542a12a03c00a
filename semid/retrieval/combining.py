"""One order from several kinds of evidence: a conditional logit whose weights are fitted on validation queries.

The chance that item i of the candidates of a query comes next is softmax(Σ_f w_f x_f(i)) (McFadden 1974, "Conditional
logit analysis"). Evidence that can only speak for an item has a weight of at least zero.

Legend: Q queries, C candidates of the largest union, k results, F kinds of evidence.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from semid.errors import InputError
from semid.ranking import Ranking

# What a weight is believed to be before any query is looked at: its prior mean, and the width of the prior.
_WIDTH = 1.0
# Below any log-probability a decoder computes: an impossible item goes last, among its like by the other evidence.
_IMPOSSIBLE = -1e6


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Items of each query with all that speaks for or against them.

    Attributes:
        items: (Q, C) int64 item rows, increasing along a row, padded with -1 at the end.
        evidence: by name, (Q, C) float64; what it is at padding does not matter.
    """

    items: np.ndarray
    evidence: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for name, values in self.evidence.items():
            if values.shape != self.items.shape:
                raise InputError(f"{name} has shape {values.shape} but the candidates have {self.items.shape}.")
            wrong = (self.items >= 0) & (np.isnan(values) | (values == np.inf))
            if wrong.any():
                query, place = np.argwhere(wrong)[0]
                raise InputError(
                    f"{name} of item {self.items[query, place]} for query {query} is {values[query, place]}."
                )

    def select(self, rows: np.ndarray) -> "Candidates":
        """Those of some queries, (R,) places."""
        evidence = {name: values[rows] for name, values in self.evidence.items()}
        return Candidates(items=self.items[rows], evidence=evidence)

    def scores(self, weights: Mapping[str, float]) -> np.ndarray:
        """Weighted sums of the evidence named, -inf at padding. (Q, C) float64"""
        total = np.zeros(self.items.shape)
        for name, weight in weights.items():
            if weight:
                total += weight * np.maximum(self.evidence[name], _IMPOSSIBLE)
        return np.where(self.items < 0, -np.inf, total)


def rank(candidates: Candidates, weights: Mapping[str, float], k: int) -> Ranking:
    """The k candidates of the highest scores, equal ones by lowest item row.

    Raises:
        InputError: k < 1.
    """
    return best_of(candidates.items, candidates.scores(weights), k)


def best_of(items: np.ndarray, scores: np.ndarray, k: int) -> Ranking:
    """The k items (Q, C) of the highest scores (Q, C), equal ones by lowest item row; those of -inf are not listed.

    Raises:
        InputError: k < 1.
    """
    if k < 1:
        raise InputError(f"{k} results per query were asked for: k must be at least 1.")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return Ranking.padded(np.where(best == -np.inf, -1, np.take_along_axis(items, order, axis=1)), best, k)


def fit_weights(
    candidates: Candidates,
    targets: np.ndarray,
    prior: Mapping[str, float],
    *,
    positive: tuple[str, ...] = (),
) -> dict[str, float]:
    """The most probable weights given what came next, by L-BFGS.

    Args:
        candidates: of the validation queries.
        targets: (T, 2) int64, a query and an item that came next there; those that are no candidates tell nothing.
        prior: the evidence to weigh, and the mean of a normal prior on each weight, of width 1: what is answered
            where there are no targets.
        positive: evidence whose weight is at least zero.
    """
    names = list(prior)
    mean = np.array([prior[name] for name in names])
    rows = targets[:, 0]
    same = candidates.items[rows] == targets[:, 1, None]
    known = same.any(1)
    if not known.any():
        return dict(prior)
    rows, place = rows[known], same[known].argmax(1)
    there = candidates.items[rows] >= 0
    widths = there.sum(1)
    # (E, F) of the candidates alone, query after query: most rows are shorter than the longest.
    evidence = np.stack([np.maximum(candidates.evidence[name][rows][there], _IMPOSSIBLE) for name in names], -1)
    firsts = np.cumsum(widths) - widths
    own = evidence[firsts + place]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = evidence @ weights
        top = np.maximum.reduceat(scores, firsts)
        chance = np.exp(scores - np.repeat(top, widths))
        mass = np.add.reduceat(chance, firsts)
        lost = np.log(mass) + top - own @ weights
        slope = (chance / np.repeat(mass, widths)) @ evidence - own.sum(0)
        away = (weights - mean) / _WIDTH
        return float(lost.sum() + away @ away / 2), slope + away / _WIDTH

    bounds = [(0.0, None) if name in positive else (None, None) for name in names]
    found = minimize(loss, mean, jac=True, bounds=bounds, method="L-BFGS-B")
    return dict(zip(names, (float(weight) for weight in found.x), strict=True))
