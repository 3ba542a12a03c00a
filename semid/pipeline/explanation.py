"""What is said of a recommendation: the list of every mode, and all that spoke for its items, as tables and JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from semid.pipeline.cells import shortened, without_empty_columns, written
from semid.pipeline.naming import Named


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of the history; ``action`` and ``time`` (Unix seconds) are None where not given."""

    item: Named
    codes: tuple[int, ...]
    action: str | None
    time: int | None


@dataclass(frozen=True, kw_only=True)
class Link:
    """An item of the history and how many events before its end it stands, 0 for the last one."""

    item: Named
    back: int


@dataclass(frozen=True, kw_only=True)
class ListedItem:
    """An item that a mode lists, or that came next.

    Attributes:
        item, codes: it.
        target: whether it came next.
        new: whether no training event has it.
        ranks: by mode, its place in the list from 1 on; None where it is not listed.
        log_probs: log p(code | codes before) of each code; empty where the model was not trained to generate.
        cosine: of the vectors of user and item; None where the model was not trained to retrieve.
        evidence: by mode, weight times value of each kind of evidence; their sum is what the mode ranks it by.
        found_by: where it came from: its place among the ``beams``, the nearest ``vectors``, the ``followers`` of
            the history and what is like it by ``content``, none of which looks at the history itself, and in that, of
            what was taken last the first.
        shared: number of codes, from the first on, that it shares with ``like``.
        like: the item of the history that shares most codes with it, the latest of equals; None if none shares any.
        follows: the item of the history that it follows most strongly in training; None if it follows none.
    """

    item: Named
    codes: tuple[int, ...]
    target: bool
    new: bool
    ranks: Mapping[str, int | None]
    log_probs: tuple[float, ...]
    cosine: float | None
    evidence: Mapping[str, Mapping[str, float]]
    found_by: Mapping[str, int]
    shared: int
    like: Link | None
    follows: Link | None

    @property
    def label(self) -> str:
        """Its raw id, marked if it came next."""
        return f"{self.item.id}{' *' if self.target else ''}"

    def reasons(self) -> str:
        """Where it came from and what of the history it is like, as part of a sentence."""
        parts = [", ".join(f"{name} {place}" for name, place in self.found_by.items()) or "no search found it"]
        if self.like:
            parts.append(f"{self.shared} code{'s' if self.shared > 1 else ''} of event {self.like.back}")
        if self.follows:
            parts.append(f"follows event {self.follows.back}")
        if self.new:
            parts.append("new")
        return "; ".join(parts)

    @property
    def log_prob(self) -> float | None:
        """Of all of its codes."""
        return sum(self.log_probs) if self.log_probs else None

    def score(self, mode: str) -> float:
        """What a mode ranks it by."""
        return sum(self.evidence[mode].values())


@dataclass(frozen=True, kw_only=True)
class QueryExplanation:
    """One query.

    Attributes:
        user: raw id.
        action: that was wanted.
        num_events: of the history.
        events: the last ones, oldest first.
        weights: by mode, of the evidence.
        exact: by mode, whether the list is provably the best; None where that is not known.
        fallback: by mode, for which reason the hybrid answered in its place; None where it did not.
        items: those listed, in the order of the modes and their lists, each once; then targets that nobody lists.
    """

    user: int | str
    action: str
    num_events: int
    events: tuple[Event, ...]
    weights: Mapping[str, Mapping[str, float]]
    exact: Mapping[str, bool | None]
    fallback: Mapping[str, str | None]
    items: tuple[ListedItem, ...]

    @property
    def modes(self) -> tuple[str, ...]:
        """Those that the model was trained for."""
        return tuple(self.weights)

    def listed(self, mode: str) -> list[ListedItem]:
        """The list of one mode."""
        return sorted((i for i in self.items if i.ranks[mode]), key=lambda item: item.ranks[mode] or 0)

    def summary_rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        targets = [str(item.item.id) for item in self.items if item.target]
        unproven = [mode for mode, exact in self.exact.items() if exact is False]
        rows = [
            ("wanted action", self.action),
            ("history", f"{self.num_events:,} events"),
            ("came next", ", ".join(targets) or "not known"),
            (
                "hits",
                ", ".join(f"{mode} at {i.ranks[mode]}" for mode in self.modes for i in self.listed(mode) if i.target),
            ),
            ("answered by the hybrid", ", ".join(f"{mode} ({why})" for mode, why in self.fallback.items() if why)),
            ("not proven to be the best list", ", ".join(unproven)),
        ]
        return [(name, value) for name, value in rows if value]

    def event_rows(self) -> list[tuple[str, ...]]:
        """A header, and a row an event, the last one first."""
        rows: list[tuple[str, ...]] = [("event", "item", "codes", "action", "time", "title")]
        for back, event in enumerate(reversed(self.events)):
            time = "" if event.time is None else f"{datetime.fromtimestamp(event.time, UTC):%Y-%m-%d %H:%M}"
            title = shortened(event.item.title)
            rows.append((str(back), str(event.item.id), written(event.codes), event.action or "", time, title))
        return without_empty_columns(rows)

    def list_rows(self) -> list[tuple[str, ...]]:
        """A header, and a row a place; targets are marked."""
        lists = zip_longest(*(self.listed(mode) for mode in self.modes))
        return [
            ("place", *self.modes),
            *((str(place), *(i.label if i else "" for i in items)) for place, items in enumerate(lists, 1)),
        ]

    def item_rows(self) -> list[tuple[str, ...]]:
        """A header, and a row an item: codes, places, log-probability of all codes and of each, cosine."""
        rows = [("item", "codes", *(mode[:3] for mode in self.modes), "log p", "by level", "cosine")]
        for item in self.items:
            places = (str(item.ranks[mode] or "–") for mode in self.modes)
            by_level = " ".join(f"{value:.2f}" for value in item.log_probs)
            total = "" if item.log_prob is None else f"{item.log_prob:.2f}"
            cosine = "" if item.cosine is None else f"{item.cosine:.3f}"
            rows.append((item.label, written(item.codes), *places, total, by_level, cosine))
        return without_empty_columns(rows)

    def evidence_rows(self, mode: str) -> list[tuple[str, ...]]:
        """A header, and a row an item, the best first: what a mode ranks it by, and the parts of that."""
        kinds = [name for name in self.weights[mode] if any(item.evidence[mode].get(name) for item in self.items)]
        best_first = sorted(self.items, key=lambda item: -item.score(mode))
        return [
            ("item", "place", "score", *kinds),
            *(
                (
                    item.label,
                    str(item.ranks[mode] or "–"),
                    f"{item.score(mode):.2f}",
                    *(f"{item.evidence[mode][kind]:.2f}" for kind in kinds),
                )
                for item in best_first
            ),
        ]

    def reason_rows(self) -> list[tuple[str, str]]:
        """Items with where they come from, and before that their titles where they have one."""
        rows = []
        for item in self.items:
            rows += [(item.label, item.item.title or item.reasons())]
            rows += [("", item.reasons())] if item.item.title else []
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        derived = [
            {"log_prob": i.log_prob, "scores": {mode: i.score(mode) for mode in self.modes}} for i in self.items
        ]
        lists = {mode: [item.item.id for item in self.listed(mode)] for mode in self.modes}
        plain = asdict(self)
        plain["items"] = [{**item, **more} for item, more in zip(plain["items"], derived, strict=True)]
        return {**plain, "lists": lists}
