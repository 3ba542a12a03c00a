"""The prepared dataset: everything later commands need, memory-mapped from one artifact directory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from semid.artifacts import Artifact, ArtifactWriter, open_artifact
from semid.data.added import added_embeddings
from semid.data.events import EventLog, Queries
from semid.data.features import Embedding, Fields, ListField
from semid.errors import InputError

KIND = "dataset"
SPLITS = ("valid", "test")
_BLOCK_USERS = 1 << 16


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Items, users, events and queries of one catalogue.

    Files, all ``.npy`` unless said: ``events/{items,actions,times,offsets}``, ``train_end``, ``candidates``,
    ``{item,user}_fields/{single, NAME.offsets, NAME.values}``, ``embeddings/NAME`` with ``NAME.valid``, ``held_out``
    where items are,
    ``queries/SPLIT/{users,start,end,target_items,target_actions,target_offsets}`` (with a log of its own under
    ``queries/SPLIT/events/`` for given histories), ``items.parquet`` and ``users.parquet`` with ``raw_id``.

    Attributes:
        events: all events of all users.
        train_end: (U,) int64; user u trains on events ``offsets[u]:train_end[u]``.
        queries: by split, ``"valid"`` and ``"test"``.
        candidates: (C,) int32 sorted item rows that may be recommended, cold ones included.
        item_fields, user_fields: categorical columns.
        embeddings: by id.
        added: embeddings that were made from its training histories later, by id.
        action_names: names of the action codes, weakest first, such as exposure, click, conversion.
        action_weights: weight of each action as a target in the weighted metrics.
        artifact: where it came from; None when built in memory.
        held_out: (H,) int32 item rows that were made new: they have no event, and queries ask for them.
    """

    events: EventLog
    train_end: np.ndarray
    queries: Mapping[str, Queries]
    candidates: np.ndarray
    item_fields: Fields
    user_fields: Fields
    embeddings: Mapping[str, Embedding]
    action_names: tuple[str, ...]
    action_weights: tuple[float, ...]
    artifact: Artifact | None = None
    added: Mapping[str, Embedding] = field(default_factory=dict)
    held_out: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def num_items(self) -> int:
        return len(self.item_fields.values)

    @property
    def num_users(self) -> int:
        return self.events.num_users

    @staticmethod
    def open(path: str | Path) -> "Dataset":
        """Map a prepared dataset into memory.

        Raises:
            InputError: no dataset there, another format version, or a damaged file.
        """
        artifact = open_artifact(Path(path), KIND)
        return _DatasetReader(artifact).read()

    @staticmethod
    def being_written(writer: ArtifactWriter) -> "Dataset":
        """A dataset all of whose files are written, to be looked at before it is put in place."""
        names = (path.relative_to(writer.path).as_posix() for path in writer.path.rglob("*.npy"))
        files: dict[str, dict[str, Any]] = {name: {} for name in names}
        so_far = Artifact(
            path=writer.path, kind=KIND, settings={}, details=writer.details, parents={}, files=files, checksum=""
        )
        return _DatasetReader(so_far).read()

    def embedding(self, name: str) -> Embedding:
        """One embedding by id.

        Raises:
            InputError: no such id; the message lists those there are.
        """
        there = {**self.embeddings, **self.added}
        if name not in there:
            raise InputError(f"Unknown embedding {name!r} in {self.location}; it has: {', '.join(there) or 'none'}.")
        return there[name]

    def split(self, name: str) -> Queries:
        """The queries of one split.

        Raises:
            InputError: the split is unknown or has no queries.
        """
        if name not in self.queries or not len(self.queries[name]):
            there = ", ".join(s for s, q in self.queries.items() if len(q)) or "none"
            raise InputError(f"{self.location} has no queries in split {name!r}; splits with queries: {there}.")
        return self.queries[name]

    @property
    def location(self) -> str:
        return str(self.artifact.path) if self.artifact else "this dataset"

    @cached_property
    def item_ids(self) -> np.ndarray:
        """(N,) raw item ids, int64 or object."""
        return self._raw_ids("items.parquet", self.num_items)

    @cached_property
    def user_ids(self) -> np.ndarray:
        """(U,) raw user ids, int64 or object."""
        return self._raw_ids("users.parquet", self.num_users)

    def _raw_ids(self, name: str, count: int) -> np.ndarray:
        if self.artifact is None:
            return np.arange(count)
        ids: np.ndarray = pq.read_table(self.artifact.path / name, columns=["raw_id"])["raw_id"].to_numpy()
        return ids

    @cached_property
    def train_counts(self) -> np.ndarray:
        """(N,) int64 number of training events of each item."""
        counts = np.zeros(self.num_items, np.int64)
        for rows in self.training_rows():
            counts += np.bincount(self.events.items[rows], minlength=self.num_items)
        return counts

    def training_rows(self) -> Iterator[np.ndarray]:
        """Places of the training events in the log, in its order, by blocks of users: flat memory at any size."""
        starts = self.events.offsets[:-1]
        for first in range(0, self.num_users, _BLOCK_USERS):
            block = slice(first, first + _BLOCK_USERS)
            yield ranges(starts[block], self.train_end[block] - starts[block])

    @property
    def artifact_or_raise(self) -> Artifact:
        if self.artifact is None:
            raise InputError("This dataset lives in memory only: prepare it to disk first.")
        return self.artifact


def ranges(starts: np.ndarray | int, lengths: np.ndarray) -> np.ndarray:
    """``start, start + 1, …, start + length - 1`` of every row, one after the other. (sum(lengths),) int64"""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    rows: np.ndarray = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return rows


class _DatasetReader:
    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.details: dict[str, Any] = artifact.details

    def read(self) -> Dataset:
        events = self._events("events")
        return Dataset(
            events=events,
            train_end=self._array("train_end"),
            queries={split: self._queries(split, events) for split in SPLITS},
            candidates=self._array("candidates"),
            item_fields=self._fields("item_fields"),
            user_fields=self._fields("user_fields"),
            embeddings={name: self._embedding(name) for name in self.details["embeddings"]},
            action_names=tuple(self.details["action_names"]),
            action_weights=tuple(self.details["action_weights"]),
            artifact=self.artifact,
            added=added_embeddings(self.artifact),
            held_out=self._array("held_out") if "held_out.npy" in self.artifact.files else np.zeros(0, np.int32),
        )

    def _array(self, name: str) -> np.ndarray:
        path = self.artifact.path / f"{name}.npy"
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:  # an empty array cannot be mapped
            array = np.load(path, allow_pickle=False)
        except OSError as error:
            raise InputError(f"Cannot read {path} ({error.strerror or error}): prepare the dataset again.") from None
        return array

    def _events(self, folder: str) -> EventLog:
        return EventLog(*(self._array(f"{folder}/{name}") for name in ("items", "actions", "times", "offsets")))

    def _queries(self, split: str, events: EventLog) -> Queries:
        folder = f"queries/{split}"
        own = f"{folder}/events/items.npy" in self.artifact.files
        names: Sequence[str] = ("users", "start", "end", "target_items", "target_actions", "target_offsets")
        return Queries(
            self._events(f"{folder}/events") if own else events,
            *(self._array(f"{folder}/{name}") for name in names),
        )

    def _fields(self, folder: str) -> Fields:
        facts = self.details[folder]
        return Fields(
            names=tuple(facts["names"]),
            sizes=tuple(facts["sizes"]),
            values=self._array(f"{folder}/single"),
            lists={
                name: ListField(self._array(f"{folder}/{name}.offsets"), self._array(f"{folder}/{name}.values"), size)
                for name, size in facts["lists"].items()
            },
        )

    def _embedding(self, name: str) -> Embedding:
        return Embedding(name, self._array(f"embeddings/{name}"), self._array(f"embeddings/{name}.valid"))
