"""Why a user is recommended what it is: a query answered in every mode, and asked what spoke for each item."""

from functools import cached_property
from itertools import chain

import numpy as np

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING, Queries
from semid.errors import InputError
from semid.generative.recommender import ANY_ACTION
from semid.pipeline import evidence
from semid.pipeline.answer import FALLBACKS, Answer
from semid.pipeline.answering import Answerer
from semid.pipeline.evidence import Past
from semid.pipeline.explanation import Event, Link, ListedItem, QueryExplanation
from semid.pipeline.naming import Names
from semid.ranking import Ranking
from semid.retrieval.combining import Candidates
from semid.retrieval.fusing import RECIPROCAL_RANKS, by_reciprocal_rank

# Where candidates come from.
BEAMS, VECTORS, FOLLOWERS, CONTENT, HISTORY = "beams", "vectors", "followers", "content", "history"


def query_of(dataset: Dataset, user: int, split: str, number: int | None = None) -> Queries:
    """One query of a user row.

    Args:
        split: ``valid``, ``test``, or ``next``: what comes after all events of the user.
        number: which of its queries, from 1 on; the last one by default.

    Raises:
        InputError: the user has no such query.
    """
    name = repr(dataset.user_ids[user : user + 1].tolist()[0])
    if split == "next":
        if dataset.events.offsets[user] == dataset.events.offsets[user + 1]:
            raise InputError(f"User {name} of {dataset.location} has no events that anything could come after.")
        return Queries.after(dataset.events, np.array([user]), np.array([user]))
    rows = np.flatnonzero(dataset.split(split).users == user)
    if not len(rows):
        asked = [name for name, queries in dataset.queries.items() if (queries.users == user).any()]
        raise InputError(
            f"User {name} has no query in split {split!r}: use {', '.join([*asked, 'next'])}, or another user."
        )
    if number is not None and not 1 <= number <= len(rows):
        raise InputError(f"User {name} has queries 1..{len(rows)} in split {split!r}, so there is no query {number}.")
    return dataset.split(split).select(rows[[(number or len(rows)) - 1]])


def explain_query(
    answerer: Answerer, dataset: Dataset, query: Queries, *, names: Names | None = None, events: int = 10
) -> QueryExplanation:
    """Answer one query in every mode the model was trained for, and say why.

    Args:
        answerer: of a model that was trained on ``dataset``.
        query: a single one, as :func:`query_of` gives it.
        names: of the items; by default their raw ids and the dataset's own titles.
        events: how many of the history to name.

    Raises:
        InputError: the model belongs to another dataset, a budget of several actions, or fewer than 0 events.
    """
    if events < 0:
        raise InputError(f"{events} events cannot be named: ask for at least 0.")
    if answerer.config.budget:
        raise InputError("Lists that share their places among actions are not explained: ask for one action.")
    artifact = answerer.recommender.artifact
    if artifact is not None and dataset.artifact is not None:
        artifact.require_parent("dataset", dataset.artifact)
    return _Explainer(answerer, dataset, query, names or Names(dataset)).explained(events)


class _Explainer:
    """One query with its answers; C are the items they list, and targets."""

    def __init__(self, answerer: Answerer, dataset: Dataset, query: Queries, names: Names) -> None:
        self._answerer, self._recommender = answerer, answerer.recommender
        self._dataset, self._query = dataset, query
        self._codes = self._recommender.catalogue.codes.cpu().numpy()
        self._latest_first = np.asarray(query.log.items[query.start[0] : query.end[0]])[::-1]
        self._answers = answerer.answers(query, answerer.modes)
        self._states = answerer.encode(query)
        lists = [answer.ranking.items[0] for answer in self._answers.values()]
        rows = np.concatenate([*lists, query.target_items]).astype(np.int64)
        self._rows = np.array(list(dict.fromkeys(rows[rows >= 0].tolist())), np.int64)
        self._names = names.items(np.concatenate([self._rows, self._latest_first]))

    def explained(self, events: int) -> QueryExplanation:
        action, answers = self._states.action, self._answers
        return QueryExplanation(
            user=self._dataset.user_ids[self._query.users].tolist()[0],
            action=self._recommender.action_names[action - 1] if action else ANY_ACTION,
            num_events=len(self._latest_first),
            events=tuple(self._event(back) for back in reversed(range(min(events, len(self._latest_first))))),
            weights={mode: dict(self._answerer.weights(way)) for mode, way in self._ways.items()},
            exact={mode: _first(answer.ranking.exact) for mode, answer in answers.items()},
            fallback={mode: _reason(answer) for mode, answer in answers.items()},
            items=tuple(self._item(place, row) for place, row in enumerate(self._rows.tolist())),
        )

    def _event(self, back: int) -> Event:
        log, at = self._query.log, int(self._query.end[0]) - 1 - back
        return Event(
            item=self._names[int(log.items[at])],
            codes=self._codes_of(log.items[at]),
            action=self._dataset.action_names[log.actions[at]] if log.actions[at] >= 0 else None,
            time=int(log.times[at]) if log.times[at] != TIME_MISSING else None,
        )

    def _item(self, place: int, row: int) -> ListedItem:
        shared, like = self._like(row)
        places = {mode: _places(answer.ranking.items[0]) for mode, answer in self._answers.items()}
        return ListedItem(
            item=self._names[row],
            codes=self._codes_of(row),
            target=row in self._query.target_items,
            new=bool(self._recommender.train_counts[row] == 0),
            ranks={mode: listed.get(row) for mode, listed in places.items()},
            log_probs=() if self._log_probs is None else tuple(self._log_probs[place].tolist()),
            cosine=None if self._cosines is None else float(self._cosines[place]),
            evidence={
                mode: {name: float(x[place]) for name, x in kinds.items()} for mode, kinds in self._evidence.items()
            },
            found_by={name: there[row] for name, there in self._found_by.items() if row in there},
            shared=shared,
            like=like,
            follows=self._follows[place],
        )

    @cached_property
    def _log_probs(self) -> np.ndarray | None:
        """(C, L) of each code."""
        if "generative" not in self._answers:
            return None
        scores: np.ndarray = self._recommender.level_scores(self._states, self._rows[None])[0]
        return scores

    @cached_property
    def _cosines(self) -> np.ndarray | None:
        """(C,)"""
        if "ann" not in self._answers:
            return None
        scores = self._recommender.dense_scores(self._states, self._rows[None])[0]
        cosines: np.ndarray = scores / float(self._recommender.model.scale.detach())
        return cosines

    @property
    def _ways(self) -> dict[str, str]:
        """By mode, the one that answered."""
        return {mode: "hybrid" if _reason(answer) else mode for mode, answer in self._answers.items()}

    @cached_property
    def _evidence(self) -> dict[str, dict[str, np.ndarray]]:
        """By mode, weight times value (C,) of each kind that it looks at."""
        found = {}
        for mode, way in self._ways.items():
            candidates = self._judged(way)
            order = np.searchsorted(candidates.items[0], self._rows)  # candidates stand in the order of their rows
            weights = {name: weight for name, weight in self._answerer.weights(way).items() if weight}
            found[mode] = {name: weight * candidates.evidence[name][0, order] for name, weight in weights.items()}
        return found

    def _judged(self, way: str) -> Candidates:
        """The items with all that a mode looks at. Ranks, of that rule, are those among all items found and these."""
        recommender, states, items = self._recommender, self._states, self._rows[None]
        none = np.full((1, 0), -1, np.int64)
        nothing_else = Past(none, none, np.ones(1, bool))
        if way == "hybrid":
            by_ranks = self._answerer.rule == RECIPROCAL_RANKS
            if by_ranks:
                items = np.array([list({*self._rows.tolist(), *chain(*self._found_by.values())})])
            listed = Ranking(items, np.zeros(items.shape, np.float32))
            judged = evidence.of_union(
                recommender, self._query, states, [listed], 0, nothing_else, self._answerer.content
            )
            return by_reciprocal_rank(judged, self._answerer.weights(way)) if by_ranks else judged
        if way == "generative":
            scores, name = recommender.code_scores(states, items), evidence.GENERATIVE
        else:
            assert self._cosines is not None
            scores, name = self._cosines[None], evidence.DENSE
        return evidence.of_one(recommender, self._query, states, Ranking(items, scores), name, nothing_else)

    @cached_property
    def _found_by(self) -> dict[str, dict[int, int]]:
        """By search, the place of each item that it found, as the answers had them before any beam was widened."""
        recommender, states, config = self._recommender, self._states, self._answerer.config
        most = max(evidence.JUDGED_AGAIN, config.k)
        past = Past.of(self._query, recommender.candidates, most, filter_seen=config.filter_seen)
        found = {HISTORY: past.again}
        if "generative" in self._answers:
            found[BEAMS] = recommender.generate(states, beam=config.beam, k=config.beam, seen=past.items).items
        if "ann" in self._answers:
            vectors = recommender.query_vectors(states)
            found[VECTORS] = self._answerer.index.search(vectors, config.beam, past.items).items
        if recommender.transitions is not None and "hybrid" in self._answers:
            followers = recommender.transitions.after(self._query).best(config.beam, recommender.candidates).items
            found[FOLLOWERS] = np.where(np.isin(followers, past.items), -1, followers)
        if "hybrid" in self._answers:
            for ranking in self._answerer.like_history(self._query, past):
                found[CONTENT] = ranking.items
        return {name: _places(items[0]) for name, items in found.items()}

    @cached_property
    def _follows(self) -> list[Link | None]:
        """Which event each item follows most."""
        if self._recommender.transitions is None:
            return [None] * len(self._rows)
        backs = self._recommender.transitions.sources(self._latest_first[::-1], self._rows).tolist()
        return [None if back < 0 else self._link(back) for back in backs]

    def _like(self, row: int) -> tuple[int, Link | None]:
        """How many codes an item shares with the item of the history that shares most, the latest of equals."""
        same = np.logical_and.accumulate(self._codes[self._latest_first] == self._codes[row], axis=1)
        shared = same.sum(axis=1)
        back = int(shared.argmax())
        return int(shared[back]), self._link(back) if shared[back] else None

    def _link(self, back: int) -> Link:
        return Link(item=self._names[int(self._latest_first[back])], back=back)

    def _codes_of(self, row: int) -> tuple[int, ...]:
        return tuple(self._codes[row].tolist())


def _places(items: np.ndarray) -> dict[int, int]:
    return {row: place for place, row in enumerate(items.tolist(), 1) if row >= 0}


def _reason(answer: Answer) -> str | None:
    """For which the hybrid answered the only query."""
    return FALLBACKS[answer.fallback[0] - 1] if answer.fallback is not None and answer.fallback[0] else None


def _first(values: np.ndarray | None) -> bool | None:
    return None if values is None else bool(values[0])
