"""TencentGR layout C, the competition files: JSON lines and pickles."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from semid.data.building.builder import DatasetBuilder
from semid.data.events import TIME_MISSING
from semid.data.formats.json_files import json_lines, json_object_entries
from semid.data.formats.parquet_files import data_files
from semid.data.formats.pickles import stream_maps
from semid.data.reading import PrepareConfig
from semid.data.tencentgr.assembly import Assembly
from semid.data.tencentgr.embedding_join import EmbeddingSource, VectorBatch, find_embeddings, stacked
from semid.data.tencentgr.feature_spool import features_of_objects
from semid.data.tencentgr.indexer import raw_ids
from semid.data.tencentgr.user_log import NO_ACTION, NO_ITEM, UserEvents
from semid.errors import InputError
from semid.progress import Progress

EMBEDDING_FOLDER = "creative_emb"
_USER_LINES = 512
_ITEM_ENTRIES = 1 << 14
_CANDIDATE_LINES = 1 << 14
_VECTOR_NUMBERS = 1 << 20
_SLOTS = 6

Json = dict[str, Any]


def read_layout_c(source: Path, builder: DatasetBuilder, config: PrepareConfig, progress: Progress) -> None:
    """Read a folder in layout C.

    Needed are ``indexer.pkl`` and ``seq.jsonl``; ``item_feat_dict.json``, ``creative_emb/`` and
    ``predict_set.jsonl``, the candidates, are taken where they are there. ``predict_seq.jsonl`` repeats histories
    of the same users without targets, and offsets can be found by reading: both are left aside.

    Args:
        source: the folder.
        builder: of the dataset.
        config: policies for gaps and joins.
        progress: called with what is being read.

    Raises:
        InputError: something is missing, damaged or contradicts the rest; names the file and line.
    """
    assembly = Assembly(source / "indexer.pkl", builder, config, progress)
    if (source / "predict_set.jsonl").is_file():
        _read_candidates(source / "predict_set.jsonl", assembly)
    assembly.begin_users()
    described = np.zeros(assembly.indexer.num_items, np.bool_)
    if (source / "item_feat_dict.json").is_file():
        for done in _read_items(source / "item_feat_dict.json", assembly, described):
            progress("item features", done, assembly.indexer.num_items)
    for lines in _read_users(source / "seq.jsonl", assembly, described):
        progress("users", lines, assembly.indexer.users.count)
    for embedding in find_embeddings(source / EMBEDDING_FOLDER, "", config.embeddings):
        assembly.join(embedding, vector_batches(embedding), None)
    assembly.finish()
    unread = [name for name in ("predict_seq.jsonl", "user_action_type.json") if (source / name).is_file()]
    builder.report["files_left_aside"] = unread


def _read_candidates(path: Path, assembly: Assembly) -> None:
    batch: list[tuple[Any, Json]] = []

    def flush() -> None:
        raw = raw_ids([raw for raw, _ in batch], str(path))
        assembly.candidates.append(raw, features_of_objects([values for _, values in batch], str(path)), str(path))
        batch.clear()

    for number, value in json_lines(path):
        if not isinstance(value, dict) or value.get("creative_id") is None:
            raise InputError(f"{path} line {number} has no creative_id: a candidate needs its raw id.")
        features = value.get("features") or {}
        _require_object(features, f"{path} line {number}")
        batch.append((value["creative_id"], features))
        if len(batch) == _CANDIDATE_LINES:
            flush()
    flush()


def _read_items(path: Path, assembly: Assembly, described: np.ndarray) -> Iterator[int]:
    """Read the features of items; marks in ``described`` (N,) those that have an entry."""
    batch: list[tuple[str, Json]] = []
    done = 0

    def flush() -> None:
        reids = raw_ids([key for key, _ in batch], str(path))
        wrong = reids[(reids < 1) | (reids > len(described))]
        if len(wrong):
            raise InputError(f"{path} has item {wrong[0]}, but the indexer knows only items 1..{len(described)}.")
        described[reids - 1] = True
        features = features_of_objects([values for _, values in batch], str(path))
        assembly.item_features.append(reids - 1, features, str(path))
        batch.clear()

    for key, value in json_object_entries(path):
        _require_object(value, f"{path} item {key}")
        batch.append((key, value))
        done += 1
        if len(batch) == _ITEM_ENTRIES:
            flush()
            yield done
    flush()
    yield done


def _require_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where} has features {value!r}: expected an object.")


def _read_users(path: Path, assembly: Assembly, described: np.ndarray) -> Iterator[int]:
    """Read users; items without an entry of their own get the features that stand beside their first event."""
    if not path.is_file():
        raise InputError(f"No {path}: without sequences there is nothing to learn from; get it again.")
    block = _UserBlock(path, described)
    done = 0
    for number, line in json_lines(path):
        block.add(number, line)
        if len(block.users) == _USER_LINES:
            block.flush(assembly)
            done += _USER_LINES
            yield done
    done += len(block.users)
    block.flush(assembly)
    yield done


class _UserBlock:
    """Some lines of ``seq.jsonl`` taken apart."""

    def __init__(self, path: Path, described: np.ndarray) -> None:
        self._path = path
        self._described = described
        self._clear(1)

    def _clear(self, first_line: int) -> None:
        self.users: list[int] = []
        self._lines = [first_line]
        self._lengths: list[int] = []
        self._events: tuple[list[int], list[int], list[int]] = ([], [], [])
        self._profiles: list[Json] = []
        self._items: dict[int, Json] = {}

    def add(self, number: int, line: Any) -> None:
        """Take one line.

        Raises:
            InputError: it is not an array of six-slot records of one user; names the line.
        """
        where = f"{self._path} line {number}"
        if not isinstance(line, list) or not line:
            raise InputError(f"{where} is not an array of records: expected one user's records.")
        items, actions, times = self._events
        before = len(items)
        profile: Json = {}
        user = line[0][0] if isinstance(line[0], list) and line[0] else None
        for record in line:
            if not isinstance(record, list) or len(record) != _SLOTS or record[0] != user:
                raise InputError(f"{where} has the record {_shortened(record)}: expected six slots of one user.")
            _, item, user_features, features, action, time = record
            if item is None and features is None and action is None:
                _require_object(user_features or {}, where)
                profile = user_features or profile
                continue
            items.append(NO_ITEM if item is None else _integer(item, where))
            actions.append(NO_ACTION if action is None else _integer(action, where))
            times.append(TIME_MISSING if time is None else _integer(time, where))
            if features and 1 <= items[-1] <= len(self._described) and not self._described[items[-1] - 1]:
                _require_object(features, where)
                self._items.setdefault(items[-1], features)
        self.users.append(_integer(user, where))
        self._lines.append(number)
        self._lengths.append(len(items) - before)
        self._profiles.append(profile)

    def flush(self, assembly: Assembly) -> None:
        """Hand over what was taken, and begin anew."""
        if not self.users:
            return
        where = f"{self._path} lines {self._lines[1]}..{self._lines[-1]}:"
        first_row = assembly.users.num_users
        numbers = (np.array(values, np.int64) for values in (self.users, self._lengths, *self._events))
        assembly.users.append(UserEvents(*numbers), where)
        rows = np.arange(first_row, first_row + len(self.users))
        assembly.user_features.append(rows, features_of_objects(self._profiles, where), where)
        if self._items:
            reids = np.array(list(self._items), np.int64)
            assembly.item_features.append(reids - 1, features_of_objects(list(self._items.values()), where), where)
            self._described[reids - 1] = True
        self._clear(self._lines[-1])


def _integer(value: Any, where: str) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise InputError(f"{where} has {value!r} where a re-id, an action or a time is expected: integers are needed.")


def _shortened(record: Any) -> str:
    text = repr(record)
    return text if len(text) <= 80 else text[:77] + "..."


def vector_batches(source: EmbeddingSource) -> Iterator[VectorBatch]:
    """The vectors of one embedding: a pickled map, or a folder of JSON lines with or without file endings."""
    per_batch = max(1, _VECTOR_NUMBERS // max(1, source.dim))
    rows = _pickled_vectors(source.path) if source.path.is_file() else _json_vectors(source.path)
    batch = _VectorRows()
    for path, place, raw, vector in rows:
        if path != batch.path or len(batch.raw) == per_batch:
            yield from batch.taken()
            batch = _VectorRows(path)
        batch.add(place, raw, vector)
    yield from batch.taken()


class _VectorRows:
    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.raw: list[Any] = []
        self._places: list[int] = []
        self._vectors: list[np.ndarray] = []
        self._skipped = 0

    def add(self, place: int, raw: Any, vector: Any) -> None:
        assert self.path is not None
        if raw is None or not isinstance(vector, list | tuple | np.ndarray) or not len(vector):
            self._skipped += 1
            return
        try:
            numbers = np.asarray(vector, None if isinstance(vector, np.ndarray) else np.float64)
            if numbers.dtype.kind not in "fiu":
                raise TypeError
        except (ValueError, TypeError):
            raise InputError(f"{self.path} row {place} has a vector that is not a list of numbers.") from None
        self.raw.append(raw)
        self._places.append(place)
        self._vectors.append(numbers)

    def taken(self) -> Iterator[VectorBatch]:
        if self.path is None:
            return
        raw = raw_ids(self.raw, str(self.path))
        vectors = stacked(self.path, self._vectors, self._places)
        yield VectorBatch(self.path, np.array(self._places, np.int64), raw, vectors, self._skipped)


def _pickled_vectors(path: Path) -> Iterator[tuple[Path, int, Any, Any]]:
    place = 0
    for chunk in stream_maps(path, lambda at: at == ()):
        for raw, vector in zip(chunk.keys, chunk.values, strict=True):
            yield path, place, raw, vector
            place += 1


def _json_vectors(folder: Path) -> Iterator[tuple[Path, int, Any, Any]]:
    for path in data_files(folder, "*"):
        for number, value in json_lines(path):
            if not isinstance(value, dict):
                raise InputError(f"{path} line {number} is not an object with anonymous_cid and emb.")
            yield path, number, value.get("anonymous_cid"), value.get("emb")
