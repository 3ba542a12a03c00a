"""How queries are to be answered, and what an answer is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.fusing import check_rule

USUAL_ACTION = "usual"
BEST_FUSION = "auto"
FALLBACKS = ("short", "unsure", "new")


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """How queries are answered.

    Attributes:
        k: results per query.
        beam: width of the beam search, and number of ANN candidates that the hybrid joins; all there are is enough.
        exact: double the beam for the queries whose list is not provably the best, where that can be proven at all.
        filter_seen: leave out what is in the history.
        action: wanted next action; ``"usual"`` is the commonest of the validation targets, ``"any"`` none.
        fusion: rule by which the hybrid makes one order, of :data:`semid.retrieval.fusing.RULES`; ``"auto"`` is the
            one that was best on validation.
        factory: of the ANN index: ``"exact"``, a Faiss factory string, or ``"auto"``.
        eta: weight of log p(wanted action | item) in every mode; None takes those fitted on validation.
        budget: actions and how many of the k places each has, every share answered with its action wanted
            (PinRec, arXiv 2504.10507); k is their sum then, and ``action`` is not read.
        distinct: item column of whose values each list has at most one item; empty for no such limit.
        fallback: when the hybrid answers in place of mode ``generative``, any of FALLBACKS: ``short``, the beams find
            fewer than k items though there are more; ``unsure``, the list is not proven to be the best and is less
            probable than ``sure``; ``new``, an item without a training event is among the k nearest.
        sure: probability that a generated list holds the next item, by the model's own scores.
    """

    k: int = 10
    beam: int = 50
    exact: bool = False
    filter_seen: bool = False
    action: str = USUAL_ACTION
    fusion: str = BEST_FUSION
    factory: str = "auto"
    eta: float | None = None
    budget: tuple[tuple[str, int], ...] = ()
    distinct: str = ""
    fallback: tuple[str, ...] = ("short",)
    sure: float = 0.1

    def __post_init__(self) -> None:
        if self.eta is not None and not 0 <= self.eta < math.inf:
            raise InputError(f"eta={self.eta} must be at least 0 and finite.")
        unknown = [name for name in self.fallback if name not in FALLBACKS]
        if unknown:
            raise InputError(f"Unknown reason to fall back {unknown[0]!r}: use any of {', '.join(FALLBACKS)}.")
        if not 0 <= self.sure <= 1:
            raise InputError(f"sure={self.sure} must be a probability.")
        if self.fusion != BEST_FUSION:
            check_rule(self.fusion)
        places = [count for _, count in self.budget]
        if self.budget and (min(places) < 1 or len({name for name, _ in self.budget}) < len(places)):
            raise InputError(f"budget={dict(self.budget)} must name each action once, with at least one place.")
        if self.budget and sum(places) != self.k:
            raise InputError(f"The budget has {sum(places)} places, but k={self.k}: make them equal.")
        if self.k < 1:
            raise InputError(f"k={self.k} must be at least 1.")
        if self.beam < self.k:
            raise InputError(f"beam={self.beam} must be at least k={self.k}: widen the beam, or ask for fewer items.")


@dataclass(frozen=True, eq=False)
class Answer:
    """Lists of k items.

    Attributes:
        ranking: the lists.
        fallback: (Q,) int8, 1 + the place in FALLBACKS of the reason for which the hybrid answered, 0 where it did
            not; None where that cannot be.
        alone: the lists that mode ``generative`` had by itself; None where there was no fallback.
    """

    ranking: Ranking
    fallback: np.ndarray | None = None
    alone: Ranking | None = None

    @staticmethod
    def concatenate(parts: "Sequence[Answer]") -> "Answer":
        """Answers to consecutive batches of queries as one."""
        reasons = [part.fallback for part in parts if part.fallback is not None]
        alone = None
        if any(part.alone is not None for part in parts):
            alone = Ranking.concatenate([part.alone or part.ranking for part in parts])
        ranking = Ranking.concatenate([part.ranking for part in parts])
        return Answer(ranking, np.concatenate(reasons) if reasons else None, alone)

    def select(self, rows: np.ndarray) -> "Answer":
        """Those to some queries, (R,) places."""
        fallback = None if self.fallback is None else self.fallback[rows]
        return Answer(self.ranking.select(rows), fallback, self.alone and self.alone.select(rows))

    def with_part(self, rows: np.ndarray, part: "Answer") -> "Answer":
        """The same with the answers ``part`` to the queries at ``rows``."""
        order = np.arange(len(self.ranking))
        order[rows] = len(order) + np.arange(len(rows))
        return Answer.concatenate([self, part]).select(order)
