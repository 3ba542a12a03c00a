"""Answer queries in each way the model can: generated, retrieved, both joined."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from semid.data.events import Queries
from semid.data.plain_queries import queries_from_histories
from semid.errors import InputError
from semid.generative.history_encoder import QueryStates
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import evidence
from semid.pipeline.evidence import Past
from semid.pipeline.indexing import item_index
from semid.ranking import Ranking
from semid.retrieval.budget import fill_budget
from semid.retrieval.combining import rank
from semid.retrieval.hybrid import union
from semid.retrieval.item_index import ItemIndex

MODES = ("generative", "ann", "hybrid")
USUAL_ACTION = "usual"


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """How queries are answered.

    Attributes:
        k: results per query.
        beam: width of the beam search, and number of ANN candidates that the hybrid joins; all there are is enough.
        exact: double the beam for the queries whose list is not provably the best, where that can be proven at all.
        filter_seen: leave out what is in the history.
        action: wanted next action; ``"usual"`` is the commonest of the validation targets, ``"any"`` none.
        factory: of the ANN index: ``"exact"``, a Faiss factory string, or ``"auto"``.
        eta: weight of log p(wanted action | item) in every mode; None takes those fitted on validation.
        budget: actions and how many of the k places each has, every share answered with its action wanted
            (PinRec, arXiv 2504.10507); k is their sum then, and ``action`` is not read.
        fallback: where the beams find fewer than k items, let those that ANN finds join them in mode ``generative``.
    """

    k: int = 10
    beam: int = 50
    exact: bool = False
    filter_seen: bool = False
    action: str = USUAL_ACTION
    factory: str = "auto"
    eta: float | None = None
    budget: tuple[tuple[str, int], ...] = ()
    fallback: bool = True

    def __post_init__(self) -> None:
        if self.eta is not None and not 0 <= self.eta < math.inf:
            raise InputError(f"eta={self.eta} must be at least 0 and finite.")
        places = [count for _, count in self.budget]
        if self.budget and (min(places) < 1 or len({name for name, _ in self.budget}) < len(places)):
            raise InputError(f"budget={dict(self.budget)} must name each action once, with at least one place.")
        if self.budget and sum(places) != self.k:
            raise InputError(f"The budget has {sum(places)} places, but k={self.k}: make them equal.")
        if self.k < 1 or self.beam < self.k:
            raise InputError(f"beam={self.beam} must be at least k={self.k}, and k at least 1.")


@dataclass(frozen=True, eq=False)
class Answer:
    """Lists of k items, and (Q,) bool which of them needed ANN because the beams found fewer than k items;
    None where that cannot be."""

    ranking: Ranking
    fallback: np.ndarray | None = None

    @staticmethod
    def concatenate(parts: "Sequence[Answer]") -> "Answer":
        """Answers to consecutive batches of queries as one."""
        short = [part.fallback for part in parts if part.fallback is not None]
        ranking = Ranking.concatenate([part.ranking for part in parts])
        return Answer(ranking, np.concatenate(short) if short else None)

    def select(self, rows: np.ndarray) -> "Answer":
        """Those to some queries, (R,) places."""
        return Answer(self.ranking.select(rows), None if self.fallback is None else self.fallback[rows])

    def with_part(self, rows: np.ndarray, part: "Answer") -> "Answer":
        """The same with the answers ``part`` to the queries at ``rows``."""
        order = np.arange(len(self.ranking))
        order[rows] = len(order) + np.arange(len(rows))
        return Answer.concatenate([self, part]).select(order)


def check_modes(modes: Sequence[str]) -> None:
    """Raise InputError unless these are one or more of MODES."""
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        named = unknown[0] if unknown else ""
        raise InputError(f"Unknown mode {named!r}: use one or more of {', '.join(MODES)}.")


class Answerer:
    """A recommender with an ANN index beside it.

    Args:
        recommender: trained.
        config: how to answer; by default as :class:`AnswerConfig` says.
    """

    def __init__(self, recommender: GenerativeRecommender, config: AnswerConfig | None = None) -> None:
        config = config or AnswerConfig()
        self.recommender = recommender
        self.config = replace(config, beam=max(config.k, min(config.beam, len(recommender.candidates))))

    @property
    def modes(self) -> tuple[str, ...]:
        """Those of MODES whose heads were trained."""
        config = self.recommender.model.config
        heads = {"generative": config.code_weight > 0, "ann": config.contrastive_weight > 0}
        return tuple(mode for mode in MODES if heads.get(mode, all(heads.values())))

    @cached_property
    def index(self) -> ItemIndex:
        """The candidates' vectors."""
        return item_index(self.recommender, self.config.factory)

    def index_recall(self, queries: Queries) -> float:
        """Share of the k items nearest to each query, by exact search, that the index finds."""
        states = self.encode(queries)
        vectors = self.recommender.item_vectors[self.index.rows]
        return self.index.recall_against_exact(self.recommender.query_vectors(states), vectors, self.config.k)

    def encode(self, queries: Queries) -> QueryStates:
        """States of the queries."""
        action = self.config.action
        return self.recommender.encode(queries, self.recommender.usual_action if action == USUAL_ACTION else action)

    def recommend(self, histories: Sequence[Sequence[int]], mode: str = "generative") -> Ranking:
        """The top k after each history, a list of item rows, oldest first.

        Raises:
            InputError: as in :meth:`answers`, or a row that no item has.
        """
        queries = queries_from_histories(histories, self.recommender.catalogue.num_items)
        return self.answer(queries, mode).ranking

    def answer(self, queries: Queries, mode: str) -> Answer:
        """The top k of each query in one of MODES; see :meth:`answers`."""
        return self.answers(queries, (mode,))[mode]

    def answers(self, queries: Queries, modes: Sequence[str]) -> dict[str, Answer]:
        """The top k of each query in several of MODES, from one pass over the histories.

        Raises:
            InputError: an unknown mode or action, a mode the model was not trained for, or a query without history.
        """
        check_modes(modes)
        untrained = [mode for mode in modes if mode not in self.modes]
        if untrained:
            raise InputError(
                f"This model was not trained for mode {untrained[0]!r}: use {', '.join(self.modes)}, or train one "
                "with both losses."
            )
        if self.config.budget:
            return self._by_budget(queries, modes)
        blocks = self.recommender.encoder.blocks(queries)
        parts = [self._block_of_answers(queries.select(rows), modes) for rows in blocks]
        order = np.argsort(np.concatenate(blocks))
        return {mode: Answer.concatenate([part[mode] for part in parts]).select(order) for mode in modes}

    def _block_of_answers(self, queries: Queries, modes: Sequence[str]) -> dict[str, Answer]:
        states = self.encode(queries)
        config = self.config
        most = max(evidence.JUDGED_AGAIN, config.k)
        past = Past.of(queries, self.recommender.candidates, most, filter_seen=config.filter_seen)
        ways = {"generative": self._by_codes, "ann": self._by_vectors, "hybrid": self._by_both}
        found = {mode: ways[mode](queries, states, past) for mode in modes}
        return {mode: self._until_exact(queries, mode, answer) for mode, answer in found.items()}

    def _until_exact(self, queries: Queries, mode: str, answer: Answer) -> Answer:
        """Asked for exact lists, those that are not proven to be, though that could be, from a beam twice as wide."""
        bound, width = answer.ranking.bound, self.config.beam
        if not self.config.exact or bound is None or width >= len(self.recommender.candidates):
            return answer
        rows = np.flatnonzero((bound > answer.ranking.scores[:, -1]) & (bound < np.inf))
        if not len(rows):
            return answer
        return answer.with_part(rows, self._with(beam=2 * width).answer(queries.select(rows), mode))

    def _by_budget(self, queries: Queries, modes: Sequence[str]) -> dict[str, Answer]:
        """Each mode's lists for every action of the budget, joined."""
        names, places = zip(*self.config.budget, strict=True)
        by_action = [self._with(action=name, budget=()).answers(queries, modes) for name in names]
        joined = {}
        for mode in modes:
            answers = [answer[mode] for answer in by_action]
            short = [answer.fallback for answer in answers if answer.fallback is not None]
            ranking = fill_budget([answer.ranking for answer in answers], places)
            joined[mode] = Answer(ranking, np.any(short, axis=0) if short else None)
        return joined

    def _with(self, **changes: Any) -> "Answerer":
        """The same with other settings; the index of the items is shared."""
        other = Answerer(self.recommender, replace(self.config, **changes))
        if "ann" in self.modes:
            other.__dict__["index"] = self.index
        return other

    def _by_codes(self, queries: Queries, states: QueryStates, past: Past) -> Answer:
        found = self._generated(states, past)
        short = found.items[:, self.config.k - 1] < 0
        if self.config.fallback and short.any() and "ann" in self.modes:
            found = self._with_nearest(states, past, found, short)
        generated = self._judged(queries, states, past, found, "generative", evidence.GENERATIVE)
        return Answer(generated.top(self.config.k), short if self.config.fallback else None)

    def _with_nearest(self, states: QueryStates, past: Past, found: Ranking, short: np.ndarray) -> Ranking:
        """What was generated and, where that is short, what the index finds, by the probability of its codes."""
        nearest = self._retrieved(states, past, self.config.k)
        items = union([found, Ranking(np.where(short[:, None], nearest.items, -1), nearest.scores)])
        return Ranking(items, self.recommender.code_scores(states, items), found.bound)

    def _by_vectors(self, queries: Queries, states: QueryStates, past: Past) -> Answer:
        found = self._retrieved(states, past, self.config.beam)
        return Answer(self._judged(queries, states, past, found, "ann", evidence.DENSE).top(self.config.k))

    def _by_both(self, queries: Queries, states: QueryStates, past: Past) -> Answer:
        generated = self._generated(states, past)
        lists = [generated, self._retrieved(states, past, self.config.beam)]
        candidates = evidence.of_union(self.recommender, queries, states, lists, self.config.beam, past)
        short = generated.items[:, self.config.k - 1] < 0
        return Answer(rank(candidates, self._weights("hybrid"), self.config.k), short)

    def _judged(
        self, queries: Queries, states: QueryStates, past: Past, found: Ranking, mode: str, name: str
    ) -> Ranking:
        """What was found and the past, ranked by all that a mode looks at."""
        weights = self._weights(mode)
        candidates = evidence.of_one(self.recommender, queries, states, found, name, past)
        ranking = rank(candidates, weights, candidates.items.shape[1])
        if found.bound is None:
            return ranking
        bound = evidence.bound_of_others(self.recommender, states, found.bound, name, weights, past)
        return replace(ranking, bound=bound)

    def _weights(self, mode: str) -> Mapping[str, float]:
        weights = self.recommender.weights.get(mode, evidence.PRIOR[mode])
        return weights if self.config.eta is None else {**weights, evidence.ACTION: self.config.eta}

    def _generated(self, states: QueryStates, past: Past) -> Ranking:
        beam = self.config.beam
        return self.recommender.generate(states, beam=beam, k=beam, seen=past.items)

    def _retrieved(self, states: QueryStates, past: Past, count: int) -> Ranking:
        return self.index.search(self.recommender.query_vectors(states), count, past.items)
