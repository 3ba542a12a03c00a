"""Answer queries in each way the model can: generated, retrieved, both joined."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from semid.data.events import Queries
from semid.data.features import Fields
from semid.data.plain_queries import queries_from_histories
from semid.errors import InputError
from semid.generative.history_encoder import QueryStates
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import evidence
from semid.pipeline.answer import BEST_FUSION, FALLBACKS, USUAL_ACTION, Answer, AnswerConfig
from semid.pipeline.evidence import Past
from semid.pipeline.indexing import item_index
from semid.pipeline.judging import best_of_union
from semid.pipeline.weighing import weights_of_rule
from semid.ranking import Ranking
from semid.retrieval.budget import fill_budget
from semid.retrieval.choice import build_index
from semid.retrieval.combining import rank
from semid.retrieval.content_neighbours import ContentNeighbours, where_known
from semid.retrieval.diversity import first_of_each
from semid.retrieval.fusing import LEARNED, RECIPROCAL_RANKS, fuse
from semid.retrieval.item_index import ItemIndex

MODES = ("generative", "ann", "hybrid")


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
        fields: columns of the items, for those that the configuration names.

    Raises:
        InputError: there is no such column.
    """

    def __init__(
        self, recommender: GenerativeRecommender, config: AnswerConfig | None = None, fields: Fields | None = None
    ) -> None:
        config = config or AnswerConfig()
        if config.distinct and fields is None:
            raise InputError(f"Lists of distinct {config.distinct!r} need the columns of the items: give them.")
        self.recommender, self.fields = recommender, fields
        self._groups = fields.groups(config.distinct) if fields is not None and config.distinct else None
        self.config = replace(config, beam=max(config.k, min(config.beam, len(recommender.candidates))))

    @property
    def modes(self) -> tuple[str, ...]:
        """Those of MODES whose heads were trained."""
        config = self.recommender.model.config
        heads = {"generative": config.code_weight > 0, "ann": config.contrastive_weight > 0}
        return tuple(mode for mode in MODES if heads.get(mode, all(heads.values())))

    @property
    def rule(self) -> str:
        """By which the hybrid makes one order."""
        best = next(iter(self.recommender.fusions), LEARNED)
        return best if self.config.fusion == BEST_FUSION else self.config.fusion

    def weights(self, mode: str) -> Mapping[str, float]:
        """Of each kind of evidence that one of MODES looks at."""
        known = self.recommender.weights
        weights = weights_of_rule(known, self.rule) if mode == "hybrid" else known.get(mode, evidence.PRIOR[mode])
        return weights if self.config.eta is None else {**weights, evidence.ACTION: self.config.eta}

    @cached_property
    def index(self) -> ItemIndex:
        """The candidates' vectors."""
        return item_index(self.recommender, self.config.factory)

    @cached_property
    def content(self) -> ContentNeighbours | None:
        """What is known of the items; None where nothing is known of any candidate."""
        return evidence.content_of(self.recommender)

    @cached_property
    def content_index(self) -> ItemIndex | None:
        """The content of the candidates."""
        if self.content is None:
            return None
        rows = self.content.known(self.recommender.candidates)
        device = self.recommender.catalogue.codes.device
        return build_index(self.content.unit_vectors(rows), rows, self.config.factory, device)

    def index_recall(self, queries: Queries) -> float:
        """Share of the k items nearest to each query, by exact search, that the index finds."""
        states = self.encode(queries)
        vectors = self.recommender.item_vectors[self.index.rows]
        return self.index.recall_against_exact(self.recommender.query_vectors(states), vectors, self.config.k)

    @property
    def action(self) -> str:
        """That is wanted next."""
        return self.recommender.usual_action if self.config.action == USUAL_ACTION else self.config.action

    def encode(self, queries: Queries) -> QueryStates:
        """States of the queries."""
        return self.recommender.encode(queries, self.action)

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
        return {mode: self._until_complete(queries, mode, answer) for mode, answer in found.items()}

    def _until_complete(self, queries: Queries, mode: str, answer: Answer) -> Answer:
        """The same, with a beam twice as wide for the lists that need one: asked for exact lists, those that are not
        proven to be, though that could be; asked for distinct items, those with too few."""
        ranking, width = answer.ranking, self.config.beam
        lacking = np.zeros(len(ranking), bool)
        if self.config.exact and ranking.bound is not None:
            lacking[(ranking.bound > ranking.scores[:, -1]) & (ranking.bound < np.inf)] = True
        if self.config.distinct:
            lacking[ranking.items[:, -1] < 0] = True
        rows = np.flatnonzero(lacking)
        if not len(rows) or width >= len(self.recommender.candidates):
            return answer
        return answer.with_part(rows, self.with_settings(beam=2 * width).answer(queries.select(rows), mode))

    def _by_budget(self, queries: Queries, modes: Sequence[str]) -> dict[str, Answer]:
        """Each mode's lists for every action of the budget, joined."""
        names, places = zip(*self.config.budget, strict=True)
        by_action = [self.with_settings(action=name, budget=()).answers(queries, modes) for name in names]
        joined = {}
        for mode in modes:
            answers = [answer[mode] for answer in by_action]
            reasons = [answer.fallback for answer in answers if answer.fallback is not None]
            ranking = fill_budget([answer.ranking for answer in answers], places)
            joined[mode] = Answer(ranking, np.max(reasons, axis=0) if reasons else None)
        return joined

    def with_settings(self, **changes: Any) -> "Answerer":
        """The same with other values in its configuration; the index of the items is shared if it is the same."""
        other = Answerer(self.recommender, replace(self.config, **changes), self.fields)
        if "ann" in self.modes and other.config.factory == self.config.factory:
            other.__dict__["index"] = self.index
            if "hybrid" in self.modes:
                other.__dict__ |= {"content": self.content, "content_index": self.content_index}
        return other

    def _by_codes(self, queries: Queries, states: QueryStates, past: Past) -> Answer:
        found = self._generated(states, past)
        alone = self._listed(self._judged(queries, states, past, found, "generative", evidence.GENERATIVE))
        if not self.config.fallback or "ann" not in self.modes:
            return Answer(alone)
        reasons = self._reasons_to_fall_back(states, past, found)
        rows = np.flatnonzero(reasons)
        if not len(rows):
            return Answer(alone, reasons)
        joined = self.answer(queries.select(rows), "hybrid").ranking
        unproven = replace(joined, bound=np.full(len(rows), np.inf, np.float32))
        ranking = Answer(alone).with_part(rows, Answer(unproven)).ranking
        return Answer(ranking, reasons, alone)

    def _reasons_to_fall_back(self, states: QueryStates, past: Past, found: Ranking) -> np.ndarray:
        """(Q,) int8 as in :class:`Answer`; of several reasons the first."""
        config, listed = self.config, found.top(self.config.k)
        reasons = np.zeros(len(found), np.int8)
        for place, name in enumerate(FALLBACKS, 1):
            if name not in config.fallback or (name == "unsure" and config.exact):  # those get wider beams
                continue
            there: Any
            if name == "short":
                there = (listed.items[:, -1] < 0) & (_bound(found) > -np.inf)
            elif name == "unsure":
                improbable = np.less(np.exp(listed.scores).sum(1), config.sure)
                there = np.greater(_bound(listed), listed.scores[:, -1]) & improbable
            else:
                there = self._are_new(self._retrieved(states, past, config.k).items).any(1)
            reasons[(reasons == 0) & there] = place
        return reasons

    def _are_new(self, items: np.ndarray) -> np.ndarray:
        new: np.ndarray = (items >= 0) & (self.recommender.train_counts[np.maximum(items, 0)] == 0)
        return new

    def _by_vectors(self, queries: Queries, states: QueryStates, past: Past) -> Answer:
        found = self._retrieved(states, past, self.config.beam)
        return Answer(self._listed(self._judged(queries, states, past, found, "ann", evidence.DENSE)))

    def _by_both(self, queries: Queries, states: QueryStates, past: Past) -> Answer:
        recommender, config, content = self.recommender, self.config, self.content
        generated = self._generated(states, past)
        others = [self._retrieved(states, past, config.beam), *self.like_history(queries, past)]
        # Lists of distinct items may need all that was found.
        weights, k = self.weights("hybrid"), 4 * config.beam + past.again.shape[1] if config.distinct else config.k
        if self.rule == RECIPROCAL_RANKS:  # ranks are known when everything is
            lists = [generated, *others]
            union = evidence.of_union(recommender, queries, states, lists, config.beam, past, content)
            found = fuse(union, self.rule, weights, k)
        else:
            found = best_of_union(
                recommender, queries, states, generated, others, config.beam, past, content, weights, k
            )
        return Answer(self._listed(found))

    def like_history(self, queries: Queries, past: Past) -> list[Ranking]:
        """The items whose content is most like that of the history, one list; none where no content is known."""
        if self.content is None or self.content_index is None:
            return []
        profiles = self.content.profiles(queries)
        return [where_known(profiles, self.content_index.search(profiles, self.config.beam, past.items))]

    def _listed(self, ranking: Ranking) -> Ranking:
        """The k best that go together."""
        return (ranking if self._groups is None else first_of_each(ranking, self._groups)).top(self.config.k)

    def _judged(
        self, queries: Queries, states: QueryStates, past: Past, found: Ranking, mode: str, name: str
    ) -> Ranking:
        """What was found and the past, ranked by all that a mode looks at."""
        weights = self.weights(mode)
        candidates = evidence.of_one(self.recommender, queries, states, found, name, past)
        ranking = rank(candidates, weights, candidates.items.shape[1])
        if found.bound is None:
            return ranking
        bound = evidence.bound_of_others(self.recommender, states, found.bound, name, weights, past)
        return replace(ranking, bound=bound)

    def _generated(self, states: QueryStates, past: Past) -> Ranking:
        beam = self.config.beam
        return self.recommender.generate(states, beam=beam, k=beam, seen=past.items)

    def _retrieved(self, states: QueryStates, past: Past, count: int) -> Ranking:
        return self.index.search(self.recommender.query_vectors(states), count, past.items)


def _bound(ranking: Ranking) -> np.ndarray:
    return np.full(len(ranking), np.inf) if ranking.bound is None else ranking.bound
