"""What is known of every item and user, as tensors on the device of a model.

Shapes: N items, L levels, U users, F categorical columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.data.features import FIELD_MISSING, Fields, ListField
from semid.data.timeline import Timeline
from semid.errors import InputError
from semid.generative.config import FEATURES
from semid.generative.neighbourhood import EventGraph
from semid.generative.trie import CodeTrie

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class ListColumn:
    """A multi-value column on the device: values of row r at ``offsets[r]:offsets[r + 1]``."""

    offsets: Tensor
    values: Tensor
    size: int

    @staticmethod
    def of(field: ListField) -> "ListColumn":
        return ListColumn(_integers(field.offsets), _integers(field.values), field.size)

    def with_empty_row(self) -> "ListColumn":
        return ListColumn(torch.cat([self.offsets, self.offsets[-1:]]), self.values, self.size)


@dataclass(frozen=True, eq=False)
class IdRows:
    """Where ids lie in tables that were trained on an earlier catalogue.

    Attributes:
        rows: (R,) int64 row each id had then, -1 for those that came since.
        count: how many there were.
    """

    rows: Tensor
    count: int

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The rows and their number."""
        return {"rows": self.rows.cpu().numpy(), "count": np.array([self.count], np.int64)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "IdRows":
        """What :meth:`to_arrays` gave."""
        return IdRows(torch.from_numpy(arrays["rows"]), int(arrays["count"][0]))


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What is known of every item and user, as tensors; the model embeds it but does not own it.

    Attributes:
        codes: (N, L) int64.
        num_codes: K per level.
        content: (N, C) float32 fused SVD vectors, unit mean square over the known items.
        known: (N,) bool, whether content is real.
        trained: (N,) bool, whether training saw the item; other ids carry no embedding.
        item_fields, user_fields: single-value columns (N, F) and (U + 1, F) int64, with their sizes; the last
            user row is that of somebody unknown, all missing.
        item_lists, user_lists: multi-value columns.
        num_actions: actions that are told apart; 0 where events name none.
        trained_actions: which of them training events have, in order.
        has_times: whether events carry time.
        time_origin: a moment in the middle of the training events, in Unix seconds; 0 without times.
        timeline: when each item was taken in training, for the feature ``popularity``.
        graph: who took what in training, for the feature ``graph``.
        near_codes: (N, L, k) int32, for each level the item's own code and those of the nearest other centroids; only
            training looks at them.
        item_ids, user_ids: rows of the tables of ids, where the model was trained on an earlier catalogue.
        action_codes: (A + 1,) int64, of each action + 1 of the events that of training, where these differ.
    """

    codes: Tensor
    num_codes: tuple[int, ...]
    content: Tensor
    known: Tensor
    trained: Tensor
    item_fields: Tensor
    item_sizes: tuple[int, ...]
    item_lists: tuple[ListColumn, ...]
    user_fields: Tensor
    user_sizes: tuple[int, ...]
    user_lists: tuple[ListColumn, ...]
    num_actions: int
    trained_actions: tuple[int, ...]
    has_times: bool
    time_origin: int = 0
    timeline: Timeline | None = None
    graph: EventGraph | None = None
    near_codes: Tensor | None = None
    item_ids: IdRows | None = None
    user_ids: IdRows | None = None
    action_codes: Tensor | None = None

    @property
    def num_items(self) -> int:
        return len(self.codes)

    @staticmethod
    def of(dataset: Dataset, semantic_ids: SemanticIds, content: Tensor, known: Tensor) -> "Catalogue":
        """Gather a dataset's features and a tokenizer's codes and vectors.

        Raises:
            InputError: the tokenizer was fitted on another number of items.
        """
        if semantic_ids.num_items != dataset.num_items:
            raise InputError(
                f"The tokenizer has codes for {semantic_ids.num_items} items but {dataset.location} has "
                f"{dataset.num_items}: fit the tokenizer on this dataset."
            )
        content = content.float()
        energy = content[known].square().mean().sqrt() if bool(known.any()) else torch.ones(())
        log = dataset.events
        return Catalogue(
            codes=_integers(semantic_ids.codes),
            num_codes=semantic_ids.num_codes,
            content=torch.where(known[:, None], content / energy.clamp(min=1e-12), 0.0),
            known=known,
            trained=torch.from_numpy(dataset.train_counts > 0),
            **columns(dataset.item_fields, dataset.user_fields),
            num_actions=len(dataset.action_names) if _any_but(log.actions, ACTION_UNKNOWN) else 0,
            trained_actions=_trained_actions(dataset),
            has_times=_any_but(log.times, TIME_MISSING),
            time_origin=_middle(log.times),
        )

    @property
    def num_users(self) -> int:
        return len(self.user_fields) - 1

    @property
    def id_counts(self) -> tuple[int, int]:
        """How many ids of items and of users training had."""
        items, users = self.item_ids, self.user_ids
        return (items.count if items else self.num_items), (users.count if users else self.num_users)

    def with_events(self, dataset: Dataset, features: tuple[str, ...]) -> "Catalogue":
        """The same with what these features ask of the training events."""
        timeline = Timeline.of(dataset) if "popularity" in features else None
        graph = EventGraph.of(dataset, self.codes.device) if "graph" in features else None
        return replace(self, timeline=timeline, graph=graph)

    @cached_property
    def trie(self) -> CodeTrie:
        """The codes of all items, on the device."""
        ids = SemanticIds(self.codes.cpu().numpy().astype(np.int32), self.num_codes)
        return CodeTrie.build(ids, device=self.codes.device)

    def available(self) -> tuple[str, ...]:
        """The features this catalogue can feed."""
        there = {
            "content": bool(self.known.any()),
            "fields": bool(self.item_sizes or self.item_lists),
            "action": self.num_actions > 1,
            **dict.fromkeys(("time", "session", "popularity", "fourier", "graph"), self.has_times),
            "profile": bool(self.user_sizes or self.user_lists),
        }
        return tuple(name for name in FEATURES if there.get(name, True))

    def to(self, device: torch.device) -> "Catalogue":
        """The same catalogue on another device."""

        def move(value: object) -> object:
            if isinstance(value, Tensor | EventGraph):
                return value.to(device)
            if isinstance(value, IdRows):
                return replace(value, rows=value.rows.to(device))
            if isinstance(value, tuple) and value and isinstance(value[0], ListColumn):
                return tuple(ListColumn(c.offsets.to(device), c.values.to(device), c.size) for c in value)
            return value

        return Catalogue(**{field.name: move(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]


def columns(items: Fields, users: Fields) -> dict[str, Any]:
    """The categorical columns of items and users, as attributes of a :class:`Catalogue`."""
    return {
        "item_fields": _integers(items.values),
        "item_sizes": items.sizes,
        "item_lists": tuple(ListColumn.of(field) for field in items.lists.values()),
        "user_fields": F.pad(_integers(users.values), (0, 0, 0, 1), value=FIELD_MISSING),
        "user_sizes": users.sizes,
        "user_lists": tuple(ListColumn.of(field).with_empty_row() for field in users.lists.values()),
    }


def _integers(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))  # a copy: tensors must not lie on read-only mapped files


def _trained_actions(dataset: Dataset) -> tuple[int, ...]:
    found = set[int]()
    for rows in dataset.training_rows():
        found.update(np.unique(dataset.events.actions[rows]).tolist())
    return tuple(sorted(found - {ACTION_UNKNOWN}))


def _middle(times: np.ndarray) -> int:
    """The median of some of the times, the same every time."""
    sample = np.asarray(times[:: max(1, len(times) // _BLOCK)])
    known = sample[sample != TIME_MISSING]
    return int(np.median(known)) if len(known) else 0


def _any_but(values: np.ndarray, missing: int) -> bool:
    """Whether there is any other value, looked for block by block."""
    return any(bool((values[first : first + _BLOCK] != missing).any()) for first in range(0, len(values), _BLOCK))
