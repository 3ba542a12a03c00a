"""What a token is made of: item encoder, event context, profile; each input a switch.

Shapes: N items, D width, L levels, F categorical fields.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.data.features import FIELD_MISSING, ListField
from semid.errors import InputError
from semid.generative.histories import GAP_MISSING, HOUR_MISSING, WEEKDAY_MISSING, TokenBatch
from semid.generative.layers import EmbeddingTables
from semid.generative.trie import CodeTrie
from semid.selection import stretches

FEATURES = ("id", "codes", "content", "fields", "action", "time", "profile")
# Larger catalogues share rows of two tables, by remainders of two primes (as in OnePiece, arXiv 2512.07424).
MAX_ID_ROWS = 1 << 20
ID_PRIMES = (1_048_573, 1_048_559)
MAX_FIELD_ROWS = 1 << 18
# From so many rows on, a step costs by the rows that it looks at.
SPARSE_FIELD_ROWS = 1 << 14
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
        has_times: whether events carry time.
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
    has_times: bool

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
            item_fields=_integers(dataset.item_fields.values),
            item_sizes=dataset.item_fields.sizes,
            item_lists=tuple(ListColumn.of(field) for field in dataset.item_fields.lists.values()),
            user_fields=F.pad(_integers(dataset.user_fields.values), (0, 0, 0, 1), value=FIELD_MISSING),
            user_sizes=dataset.user_fields.sizes,
            user_lists=tuple(ListColumn.of(field).with_empty_row() for field in dataset.user_fields.lists.values()),
            num_actions=len(dataset.action_names) if _any_but(log.actions, ACTION_UNKNOWN) else 0,
            has_times=_any_but(log.times, TIME_MISSING),
        )

    @cached_property
    def trie(self) -> CodeTrie:
        """The codes of all items, on the device."""
        ids = SemanticIds(self.codes.cpu().numpy().astype(np.int32), self.num_codes)
        return CodeTrie.build(ids, device=self.codes.device)

    def available(self) -> tuple[str, ...]:
        """The features this catalogue can feed."""
        there = {
            "id": True,
            "codes": True,
            "content": bool(self.known.any()),
            "fields": bool(self.item_sizes or self.item_lists),
            "action": self.num_actions > 1,
            "time": self.has_times,
            "profile": bool(self.user_sizes or self.user_lists),
        }
        return tuple(name for name in FEATURES if there[name])

    def to(self, device: torch.device) -> "Catalogue":
        """The same catalogue on another device."""

        def move(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, tuple) and value and isinstance(value[0], ListColumn):
                return tuple(ListColumn(c.offsets.to(device), c.values.to(device), c.size) for c in value)
            return value

        return Catalogue(**{field.name: move(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]


def _integers(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))  # a copy: tensors must not lie on read-only mapped files


def _any_but(values: np.ndarray, missing: int) -> bool:
    """Whether there is any other value, looked for block by block."""
    return any(bool((values[first : first + _BLOCK] != missing).any()) for first in range(0, len(values), _BLOCK))


class FieldsEncoder(nn.Module):
    """Sum of one embedding a categorical column; the mean over the values of a multi-value column.

    Args:
        sparse: whether large tables have gradients in the rows that were looked up alone.
    """

    def __init__(
        self, sizes: tuple[int, ...], list_sizes: tuple[int, ...], width: int, *, sparse: bool = False
    ) -> None:
        super().__init__()
        sparse_from = SPARSE_FIELD_ROWS if sparse else None
        self.single = EmbeddingTables([min(size, MAX_FIELD_ROWS) for size in sizes], width, sparse_from=sparse_from)
        self.lists = EmbeddingTables(
            [min(size, MAX_FIELD_ROWS) for size in list_sizes], width, sparse_from=sparse_from
        )

    def forward(self, values: Tensor, lists: tuple[ListColumn, ...], rows: Tensor) -> Tensor:
        """Encode ``rows`` (M,) of the (R, F) values and the list columns. (M, D)"""
        chosen = values[rows]
        parts = [self.single.column(index, chosen[:, index]) for index in range(len(self.single))]
        parts += [self._mean(index, column, rows) for index, column in enumerate(lists)]
        return torch.stack(parts).sum(0)

    def _mean(self, index: int, column: ListColumn, rows: Tensor) -> Tensor:
        start = column.offsets[rows]
        length = column.offsets[rows + 1] - start
        owner, place = stretches(start, length)
        values = self.lists.column(index, column.values[place])
        sums = values.new_zeros(len(rows), values.shape[1]).index_add(0, owner, values)
        return sums / length.clamp(min=1)[:, None]


class ItemEncoder(nn.Module):
    """One vector an item, used both as input token and as item tower.

    The sum of the parts that are switched on. Items that training never saw get no id part, and ids are
    dropped at random while training, so that cold items can live from codes, content and columns.

    Args:
        whole: whether every training step encodes all items.
    """

    def __init__(
        self, catalogue: Catalogue, width: int, features: tuple[str, ...], id_dropout: float, *, whole: bool = True
    ) -> None:
        super().__init__()
        self.id_dropout = id_dropout
        rows = catalogue.num_items
        sizes = ID_PRIMES if rows > MAX_ID_ROWS else (rows,)
        # Where not all items are encoded at each step, a step costs by the items that it looks at.
        self.ids = EmbeddingTables(sizes, width, sparse_from=None if whole else 0) if "id" in features else None
        self.codes = EmbeddingTables(catalogue.num_codes, width) if "codes" in features else None
        self.content = nn.Linear(catalogue.content.shape[1], width) if "content" in features else None
        self.unknown = nn.Parameter(torch.zeros(width)) if "content" in features else None
        lists = tuple(column.size for column in catalogue.item_lists)
        self.fields = (
            FieldsEncoder(catalogue.item_sizes, lists, width, sparse=not whole) if "fields" in features else None
        )
        if self.content is not None:
            nn.init.normal_(self.content.weight, std=0.05 / catalogue.content.shape[1] ** 0.5)
            nn.init.zeros_(self.content.bias)

    def forward(self, catalogue: Catalogue, rows: Tensor) -> Tensor:
        """Vectors of item ``rows`` (M,). (M, D)"""
        parts: list[Tensor] = []
        if self.ids is not None:
            keep = catalogue.trained[rows]
            if self.training and self.id_dropout:
                keep = keep & (torch.rand(len(rows), device=rows.device) >= self.id_dropout)
            parts.append(self.ids([rows] * len(self.ids)) * keep[:, None])
        if self.codes is not None:
            parts.append(self.codes(catalogue.codes[rows].unbind(1)))
        if self.content is not None and self.unknown is not None:
            projected = self.content(catalogue.content[rows])
            parts.append(torch.where(catalogue.known[rows, None], projected, self.unknown))
        if self.fields is not None:
            parts.append(self.fields(catalogue.item_fields, catalogue.item_lists, rows))
        return torch.stack([part.float() for part in parts]).sum(0)


class ContextEncoder(nn.Module):
    """What an event adds to its item: the action taken and when it happened. (R, S, D)"""

    def __init__(self, num_actions: int, width: int, features: tuple[str, ...]) -> None:
        super().__init__()
        times = (GAP_MISSING + 1, HOUR_MISSING + 1, WEEKDAY_MISSING + 1)
        self.action = EmbeddingTables((num_actions + 1,), width) if "action" in features else None
        self.time = EmbeddingTables(times, width) if "time" in features else None

    def forward(self, batch: TokenBatch) -> Tensor | None:
        parts: list[Tensor] = []
        if self.action is not None:
            parts.append(self.action([batch.actions]))
        if self.time is not None:
            parts.append(self.time([batch.gaps, batch.hours, batch.weekdays]))
        return torch.stack(parts).sum(0) if parts else None


class NextActionCondition(nn.Module):
    """Tell a state which action is wanted next: FiLM (arXiv 1709.07871), starting as the identity.

    Action 0 is *any*. The condition enters after the trunk, so one pass over the history serves every action.
    """

    def __init__(self, num_actions: int, width: int) -> None:
        super().__init__()
        self.action = nn.Embedding(num_actions + 1, width)
        self.film = nn.Linear(width, 2 * width)
        nn.init.normal_(self.action.weight, std=0.02)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """States (P, D) conditioned on actions (P,). (P, D)"""
        scale, shift = self.film(F.silu(self.action(action))).chunk(2, dim=-1)
        result: Tensor = state * (1 + scale) + shift
        return result
