"""What is in a prepared dataset, in figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semid.data.dataset import Dataset
from semid.data.events import Queries

_BLOCK_EVENTS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class EmbeddingFacts:
    """Width of one embedding, and how many items have it."""

    dim: int
    valid: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """Counts of one dataset.

    Attributes:
        users, items, events: their numbers.
        train_events: events that models may learn from.
        cold_items: items without a training event.
        held_out_items: those of them that were made new when the dataset was prepared.
        candidates, cold_candidates: items that may be recommended, and those of them that are cold.
        actions: events by action, ``"unknown"`` where not given.
        queries: by split.
        cold_queries: by split, those of them that ask for an item without a training event.
        embeddings: by id.
        item_fields, user_fields: number of values by column, the codes for missing and unknown included.
        input: what the reader noted, such as join rates and dropped events.
        checksum: identifies the contents; None in memory.
    """

    users: int
    items: int
    events: int
    train_events: int
    cold_items: int
    held_out_items: int
    candidates: int
    cold_candidates: int
    actions: Mapping[str, int]
    queries: Mapping[str, int]
    cold_queries: Mapping[str, int]
    embeddings: Mapping[str, EmbeddingFacts]
    item_fields: Mapping[str, int]
    user_fields: Mapping[str, int]
    input: Mapping[str, Any]
    checksum: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        actions = ", ".join(f"{name} {count:,}" for name, count in self.actions.items() if count)
        rows = [
            ("users", f"{self.users:,}"),
            ("items", f"{self.items:,}, {self.cold_items:,} of them without a training event"),
            ("events", f"{self.events:,}, {self.train_events:,} of them for training"),
            ("actions", actions or "none"),
            ("candidates", f"{self.candidates:,}, {self.cold_candidates:,} of them cold"),
        ]
        if self.held_out_items:
            rows.append(("held-out items", f"{self.held_out_items:,}, none of which has an event"))
        rows += [(f"{split} queries", self._queries_of(split)) for split in self.queries]
        rows += [
            (f"embedding {name}", f"{facts.dim:,} wide, {facts.valid / max(self.items, 1):.1%} of items")
            for name, facts in self.embeddings.items()
        ]
        for kind, fields in (("item", self.item_fields), ("user", self.user_fields)):
            if fields:
                listed = ", ".join(f"{name} ({size:,})" for name, size in fields.items())
                rows.append((f"{kind} columns", listed))
        return rows

    def _queries_of(self, split: str) -> str:
        cold = self.cold_queries[split]
        return f"{self.queries[split]:,}" + (f", {cold:,} of them with a cold target" if cold else "")


def describe_dataset(dataset: Dataset) -> Description:
    """Count what a dataset holds."""
    details = dataset.artifact.details if dataset.artifact else {}
    cold = dataset.train_counts == 0
    return Description(
        users=dataset.num_users,
        items=dataset.num_items,
        events=dataset.events.num_events,
        train_events=int(dataset.train_counts.sum()),
        cold_items=int(cold.sum()),
        held_out_items=len(dataset.held_out),
        candidates=len(dataset.candidates),
        cold_candidates=int(cold[dataset.candidates].sum()),
        actions=_action_counts(dataset),
        queries={split: len(queries) for split, queries in dataset.queries.items()},
        cold_queries={split: _num_asking(queries, cold) for split, queries in dataset.queries.items()},
        embeddings={
            name: EmbeddingFacts(dim=embedding.dim, valid=int(np.asarray(embedding.valid).sum()))
            for name, embedding in dataset.embeddings.items()
        },
        item_fields=_sizes(dataset.item_fields.names, dataset.item_fields.sizes, dataset.item_fields.lists),
        user_fields=_sizes(dataset.user_fields.names, dataset.user_fields.sizes, dataset.user_fields.lists),
        input=details.get("report", {}),
        checksum=dataset.artifact.checksum if dataset.artifact else None,
    )


def _num_asking(queries: Queries, wanted: np.ndarray) -> int:
    """Queries with a target among the items wanted (N,)."""
    targets = np.flatnonzero(wanted[queries.target_items])
    return len(np.unique(np.searchsorted(queries.target_offsets, targets, side="right")))


def _sizes(names: tuple[str, ...], sizes: tuple[int, ...], lists: Mapping[str, Any]) -> dict[str, int]:
    return dict(zip(names, sizes, strict=True)) | {name: field.size for name, field in lists.items()}


def _action_counts(dataset: Dataset) -> dict[str, int]:
    names = ("unknown", *dataset.action_names)
    counts = np.zeros(len(names), np.int64)
    for first in range(0, dataset.events.num_events, _BLOCK_EVENTS):
        actions = dataset.events.actions[first : first + _BLOCK_EVENTS].astype(np.int64)
        counts += np.bincount(actions + 1, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))
