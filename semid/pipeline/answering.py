"""Answer queries in each way the model can: generated, retrieved, both joined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from semid.data.events import Queries
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender, QueryStates, seen_items
from semid.pipeline import evidence
from semid.ranking import Ranking
from semid.retrieval.ann import AnnIndex
from semid.retrieval.combining import rank
from semid.retrieval.hybrid import fill

MODES = ("generative", "ann", "hybrid")
USUAL_ACTION = "usual"


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """How queries are answered.

    Attributes:
        k: results per query.
        beam: width of the beam search, and number of ANN candidates that the hybrid joins.
        filter_seen: leave out what is in the history.
        action: wanted next action; ``"usual"`` is the commonest of the validation targets, ``"any"`` none.
        factory: Faiss factory string of the ANN index.
        fallback: fill short generated lists by ANN in mode ``generative``.
    """

    k: int = 10
    beam: int = 50
    filter_seen: bool = False
    action: str = USUAL_ACTION
    factory: str = "auto"
    fallback: bool = True

    def __post_init__(self) -> None:
        if self.k < 1 or self.beam < self.k:
            raise InputError(f"beam={self.beam} must be at least k={self.k}, and k at least 1.")


@dataclass(frozen=True, eq=False)
class Answer:
    """Lists of k items, and (Q,) bool which of them needed ANN because the beams found fewer than k items;
    None where that cannot be."""

    ranking: Ranking
    fallback: np.ndarray | None = None


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
        config: how to answer.
    """

    def __init__(self, recommender: GenerativeRecommender, config: AnswerConfig) -> None:
        self.recommender, self.config = recommender, config

    @cached_property
    def index(self) -> AnnIndex:
        """The candidates' vectors."""
        rows = self.recommender.candidates
        return AnnIndex.build(self.recommender.item_vectors[rows], rows, self.config.factory)

    def index_recall(self, queries: Queries) -> float:
        """Share of the k items nearest to each query, by exact search, that the index finds."""
        states, _ = self.encode(queries)
        vectors = self.recommender.item_vectors[self.recommender.candidates]
        return self.index.recall_against_exact(self.recommender.query_vectors(states), vectors, self.config.k)

    def encode(self, queries: Queries) -> tuple[QueryStates, np.ndarray | None]:
        """States of the queries, and the items to leave out."""
        action = self.config.action
        if action == USUAL_ACTION:
            action = self.recommender.usual_action
        states = self.recommender.encode(queries, action)
        return states, seen_items(queries) if self.config.filter_seen else None

    def answer(self, queries: Queries, mode: str) -> Answer:
        """The top k of each query in one of MODES; see :meth:`answers`."""
        return self.answers(queries, (mode,))[mode]

    def answers(self, queries: Queries, modes: Sequence[str]) -> dict[str, Answer]:
        """The top k of each query in several of MODES, from one pass over the histories.

        Raises:
            InputError: an unknown mode or action, or a query without history.
        """
        check_modes(modes)
        states, seen = self.encode(queries)
        ways = {"generative": self._by_codes, "ann": self._by_vectors, "hybrid": self._by_both}
        return {mode: ways[mode](queries, states, seen) for mode in modes}

    def _by_codes(self, queries: Queries, states: QueryStates, seen: np.ndarray | None) -> Answer:
        k = self.config.k
        generated = self._ranked_anew(queries, self._generated(states, seen), "generative", evidence.GENERATIVE).top(
            k
        )
        if not self.config.fallback:
            return Answer(generated)
        short = generated.items[:, k - 1] < 0
        if not short.any():
            return Answer(generated, short)
        filled = fill(generated, self._nearest(queries, states, seen, 2 * k), k)
        return Answer(filled.ranking, filled.filled > 0)

    def _by_vectors(self, queries: Queries, states: QueryStates, seen: np.ndarray | None) -> Answer:
        return Answer(self._nearest(queries, states, seen, self.config.beam).top(self.config.k))

    def _by_both(self, queries: Queries, states: QueryStates, seen: np.ndarray | None) -> Answer:
        generated = self._generated(states, seen)
        lists = [generated, self._retrieved(states, seen, self.config.beam)]
        candidates = evidence.of_union(self.recommender, queries, states, lists, self.config.beam, seen)
        short = generated.items[:, self.config.k - 1] < 0
        return Answer(rank(candidates, self._weights("hybrid"), self.config.k), short)

    def _nearest(self, queries: Queries, states: QueryStates, seen: np.ndarray | None, count: int) -> Ranking:
        """What the index finds, ranked by all that mode ``ann`` looks at."""
        return self._ranked_anew(queries, self._retrieved(states, seen, count), "ann", evidence.DENSE)

    def _ranked_anew(self, queries: Queries, found: Ranking, mode: str, name: str) -> Ranking:
        """The items of a list by all that a mode looks at; their scores there are the evidence of that name."""
        weights = self._weights(mode)
        ranking = rank(evidence.of_one(found, name, queries), weights, found.items.shape[1])
        if found.bound is None:
            return ranking
        return replace(ranking, bound=evidence.bound_of_others(found.bound, name, weights))

    def _weights(self, mode: str) -> Mapping[str, float]:
        return self.recommender.weights.get(mode, evidence.PRIOR[mode])

    def _generated(self, states: QueryStates, seen: np.ndarray | None) -> Ranking:
        beam = self.config.beam
        return self.recommender.generate(states, beam=beam, k=beam, seen=seen)

    def _retrieved(self, states: QueryStates, seen: np.ndarray | None, count: int) -> Ranking:
        """What the index finds, scored as the dense head does."""
        scale = float(self.recommender.model.scale.detach())
        found = self.index.search(self.recommender.query_vectors(states), count, seen)
        return Ranking(found.items, found.scores * scale, None if found.bound is None else found.bound * scale)
