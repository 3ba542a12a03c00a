"""Writes a prepared dataset piece by piece, with memory that does not grow with users or embedding rows.

A reader of some input format sets ``num_items``, streams what it finds into the methods below in any order of
sections, and ends with :meth:`DatasetBuilder.finish`, which cuts the splits.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from semid.artifacts import ArtifactWriter
from semid.data.building.arrays import write_array
from semid.data.building.embedding_files import EmbeddingBuilder
from semid.data.building.event_files import EventsWriter, GivenWriter
from semid.data.building.field_files import FieldsBuilder
from semid.data.building.query_files import write_splits
from semid.data.formats.parquet_files import TableWriter
from semid.data.splits import SplitConfig, SplitInput
from semid.errors import InputError

ACTION_WEIGHTS = {"exposure": 0.0, "click": 1.0, "conversion": 2.5}
_RAW_IDS = {"items": "items.parquet", "users": "users.parquet"}
_FIELD_FOLDERS = {"items": "item_fields", "users": "user_fields"}
_SPOOL = "spool"


def default_action_weights(names: Sequence[str]) -> tuple[float, ...]:
    """Weights of the TencentGR metric by name: exposure 0, click 1, conversion 2.5; any other action 1."""
    return tuple(ACTION_WEIGHTS.get(name, 1.0) for name in names)


class DatasetBuilder:
    """Fills the directory of a dataset artifact.

    Attributes:
        num_items: N; set it before anything else.
        name_user: raw id of a user row for messages; None names the row.
        action_names: names of the action codes, weakest first.
        action_weights: weight of each; None takes :func:`default_action_weights`.
        ordered: whether events of a user have an order; False where the input has neither time nor position.
        report: facts about the input such as join rates, as plain values; kept in the artifact.
    """

    def __init__(self, writer: ArtifactWriter) -> None:
        self.path = writer.path
        self.num_items: int | None = None
        self.name_user: Callable[[int], str] | None = None
        self.action_names: tuple[str, ...] = ()
        self.action_weights: tuple[float, ...] | None = None
        self.ordered = True
        self.report: dict[str, Any] = {}
        self._details = writer.details
        self._events = EventsWriter(self.path / "events", self.user_label, self.spool("splits.npy"))
        self._given: dict[str, GivenWriter] = {}
        self._fields: dict[str, FieldsBuilder] = {}
        self._embeddings: dict[str, EmbeddingBuilder] = {}
        self._raw_ids: dict[str, RawIdWriter] = {}
        self._candidates: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        """Users whose events have been appended so far."""
        return self._events.num_users

    @property
    def has_splits(self) -> bool:
        """Whether the events appended so far came with split codes."""
        return self._events.has_splits

    def append_events(
        self,
        lengths: np.ndarray,
        items: np.ndarray,
        actions: np.ndarray,
        times: np.ndarray,
        splits: np.ndarray | None = None,
    ) -> None:
        """Append the events of the next users in row order.

        Args:
            lengths: (u,) events of each user, 0 allowed.
            items: (sum(lengths),) item rows, oldest event of each user first.
            actions: same length; index into ``action_names`` or ACTION_UNKNOWN.
            times: same length; Unix seconds or TIME_MISSING.
            splits: same length; 0 train, 1 valid, 2 test, where the input says so; for all users or none.

        Raises:
            InputError: times of one user decrease, or an item row is out of range.
        """
        self._events.append(self._known_items(), lengths, items, actions, times, splits)

    def append_given(
        self,
        split: str,
        users: np.ndarray,
        lengths: np.ndarray,
        items: np.ndarray,
        actions: np.ndarray,
        times: np.ndarray,
        target_counts: np.ndarray,
        target_items: np.ndarray,
        target_actions: np.ndarray,
    ) -> None:
        """Append queries that come with the input, histories of their own included.

        Args:
            split: ``"valid"`` or ``"test"``.
            users: (q,) user rows.
            lengths: (q,) events of each history; ``items``, ``actions`` and ``times`` hold them one after the
                other, as in :meth:`append_events`.
            target_counts: (q,) number of targets of each; ``target_items``, ``target_actions`` hold them.

        Raises:
            InputError: as in :meth:`append_events`.
        """
        if split not in self._given:
            self._given[split] = GivenWriter(self.path / "queries" / split, split)
        self._given[split].append(
            self._known_items(), users, lengths, items, actions, times, target_counts, target_items, target_actions
        )

    def fields(self, kind: str, names: Sequence[str], num_rows: int) -> FieldsBuilder:
        """Start the categorical columns of ``kind`` ``"items"`` or ``"users"``."""
        builder = FieldsBuilder(self.path / _FIELD_FOLDERS[kind], tuple(names), num_rows)
        self._fields[kind] = builder
        return builder

    def embedding(self, name: str, dim: int, dtype: Any = np.float16) -> "EmbeddingBuilder":
        """Start the embedding ``name`` with N rows of width ``dim``."""
        builder = EmbeddingBuilder(self.path / "embeddings", name, self._known_items(), dim, dtype)
        self._embeddings[name] = builder
        return builder

    def raw_ids(self, kind: str, id_type: pa.DataType, *, titles: bool = False) -> "RawIdWriter":
        """Start the raw ids of ``kind`` ``"items"`` or ``"users"``; ``id_type`` is pa.int64() or pa.string()."""
        self._raw_ids[kind] = RawIdWriter(self.path / _RAW_IDS[kind], id_type, titles)
        return self._raw_ids[kind]

    def set_candidates(self, rows: np.ndarray) -> None:
        """Item rows that may be recommended; without this call every item may."""
        self._candidates = np.unique(np.asarray(rows, np.int32))

    def _known_items(self) -> int:
        assert self.num_items is not None, "set num_items first"
        return self.num_items

    def user_label(self, row: int) -> str:
        """How messages name a user."""
        return f"user {self.name_user(row)} (row {row})" if self.name_user else f"user row {row}"

    def spool(self, name: str) -> Path:
        """A path for a temporary file inside the artifact being written, removed by :meth:`finish`."""
        (self.path / _SPOOL).mkdir(exist_ok=True)
        return self.path / _SPOOL / name

    def finish(self, split: SplitConfig) -> None:
        """Close all files, cut the splits and record the facts.

        Raises:
            InputError: no events, no items, or a split that cannot be cut from these events.
        """
        if not self._known_items():
            raise InputError("The input has no items: give an item table or embeddings.")
        if not self.num_users:
            raise InputError("The input has no users: give interactions of at least one user.")
        self._finish_fields()
        self._events.close()
        for files in (self._given, self._embeddings, self._raw_ids):
            for part in files.values():
                part.close()
        if self._candidates is None:
            self._candidates = np.arange(self._known_items(), dtype=np.int32)
        write_array(self.path / "candidates.npy", self._candidates)
        counts = self._cut(split)
        self._record(counts)
        shutil.rmtree(self.path / _SPOOL)

    def _cut(self, split: SplitConfig) -> dict[str, int]:
        assert self._candidates is not None
        source = SplitInput(
            path=self.path,
            num_items=self._known_items(),
            candidates=self._candidates,
            action_names=self.action_names,
            splits_path=self.spool("splits.npy") if self._events.has_splits else None,
            ordered=self.ordered,
            given={name: writer.num_queries for name, writer in self._given.items()},
        )
        counts, facts = write_splits(source, split)
        self.report["split"] = facts
        return counts

    def _finish_fields(self) -> None:
        for kind, rows in (("items", self._known_items()), ("users", self.num_users)):
            if kind not in self._fields:
                self.fields(kind, (), rows)
            if kind not in self._raw_ids:
                self.raw_ids(kind, pa.int64()).append(np.arange(rows))
            assert self._fields[kind].num_rows == rows, (kind, self._fields[kind].num_rows, rows)
            assert self._raw_ids[kind].length == rows, (kind, self._raw_ids[kind].length, rows)
            self._details[_FIELD_FOLDERS[kind]] = self._fields[kind].close()

    def _record(self, split_counts: dict[str, int]) -> None:
        weights = self.action_weights or default_action_weights(self.action_names)
        self._details["embeddings"] = list(self._embeddings)
        self._details["action_names"] = list(self.action_names)
        self._details["action_weights"] = list(weights)
        self._details["counts"] = {
            "users": self.num_users,
            "items": self.num_items,
            "events": self._events.num_events,
            "candidates": 0 if self._candidates is None else len(self._candidates),
            **split_counts,
        }
        for name, embedding in self._embeddings.items():
            entry = self.report.setdefault("embeddings", {}).setdefault(name, {})
            entry.update(dim=embedding.dim, valid=embedding.num_valid)
        self._details["report"] = self.report


class RawIdWriter:
    """Streams the raw ids, and for items their titles, in row order."""

    def __init__(self, path: Path, id_type: pa.DataType, titles: bool) -> None:
        columns = [("raw_id", id_type)] + ([("title", pa.string())] if titles else [])
        self._schema = pa.schema(columns)
        self._writer = TableWriter(path, self._schema)
        self.length = 0

    def append(self, ids: Any, titles: Any = None) -> None:
        """Append the next ids; ``titles`` only if they were announced."""
        columns = [ids] if len(self._schema) == 1 else [ids, titles]
        arrays = [
            pa.array(column, field.type) if not isinstance(column, pa.Array) else column.cast(field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self.length += len(arrays[0])

    def close(self) -> None:
        self._writer.close()
