"""TencentGR layout H, the public release: parquet folders and one pickle."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder
from semid.data.events import TIME_MISSING
from semid.data.features import FIELD_UNKNOWN
from semid.data.formats.parquet_files import (
    integers,
    is_list,
    list_lengths,
    num_rows,
    parquet_batches,
    parquet_files,
    parquet_schema,
    plain,
)
from semid.data.reading import PrepareConfig
from semid.data.tencentgr.assembly import Assembly
from semid.data.tencentgr.candidate_pool import selected
from semid.data.tencentgr.embedding_join import VectorBatch, find_embeddings, mixed, stacked
from semid.data.tencentgr.feature_spool import Features, codes_of_reids, features_of_columns, without_missing
from semid.data.tencentgr.user_log import NO_ACTION, NO_ITEM, UserEvents
from semid.errors import InputError
from semid.progress import Progress

EMBEDDING_FOLDER = "mm_emb"
EMBEDDING_SUFFIX = "_parquet"
NOT_FEATURES = frozenset(("item_id", "creative_id", "reid_creative_id", "retrieval_id", "user_id"))
_USER_ROWS = 4096
_FEATURE_ROWS = 1 << 16
_VECTOR_ROWS = 1024
_EVENT_COLUMNS = {"item_id": NO_ITEM, "action_type": NO_ACTION, "timestamp": TIME_MISSING}
_VALUE, _FLAGS = "feature_value", ("cold_start", "is_str")


def read_layout_h(source: Path, builder: DatasetBuilder, config: PrepareConfig, progress: Progress) -> None:
    """Read a folder in layout H.

    Needed are ``indexer.pkl`` and ``seq/``; ``item_feat/``, ``user_feat/``, ``candidate/`` and ``mm_emb/`` are
    taken where they are there. Without candidates every item is one.

    Args:
        source: the folder.
        builder: of the dataset.
        config: policies for gaps and joins.
        progress: called with what is being read.

    Raises:
        InputError: something is missing, damaged or contradicts the rest; names the file.
    """
    assembly = Assembly(source / "indexer.pkl", builder, config, progress)
    if (source / "candidate").is_dir():
        for _, raw, features, where in candidate_batches(source / "candidate"):
            assembly.candidates.append(raw, features, where)
    assembly.begin_users()
    total = num_rows(_sequence_files(source))
    for events, where in event_batches(source):
        assembly.users.append(events, where)
        progress("users", builder.num_users, total)
    if (source / "item_feat").is_dir():
        for reids, features, where in feature_batches(source / "item_feat", "item_id"):
            require_known(reids, assembly.indexer.num_items, "item", where)
            assembly.item_features.append(reids - 1, features, where)
    if (source / "user_feat").is_dir():
        for reids, features, where in feature_batches(source / "user_feat", "user_id"):
            require_known(reids, assembly.indexer.users.count, "user", where)
            rows = assembly.users.rows(reids)
            assembly.user_features.append(rows[rows >= 0], selected(features, rows >= 0), where)
    for embedding in find_embeddings(source / EMBEDDING_FOLDER, EMBEDDING_SUFFIX, config.embeddings):
        assembly.join(embedding, vector_batches(embedding.path), num_rows(parquet_files(embedding.path)))
    assembly.finish()


def require_known(reids: np.ndarray, count: int, what: str, where: str) -> None:
    """Raise InputError unless all re-ids are 1..count."""
    wrong = reids[(reids < 1) | (reids > count)]
    if len(wrong):
        raise InputError(f"{where} has {what} {wrong[0]}, but the indexer knows only {what}s 1..{count}.")


def event_batches(source: Path) -> Iterator[tuple[UserEvents, str]]:
    """Users with their events in file order, and where they stand."""
    for path, first, batch in parquet_batches(_sequence_files(source), ("user_id", "seq"), _USER_ROWS):
        where = f"{path} rows {first}..{first + batch.num_rows - 1}:"
        sequences = batch["seq"]
        columns = _event_columns(sequences, str(path))
        yield (
            UserEvents(
                users=integers(batch["user_id"], 0, f"{path} column 'user_id'"),
                lengths=list_lengths(sequences),
                items=columns["item_id"],
                actions=columns["action_type"],
                times=columns["timestamp"],
            ),
            where,
        )


def _sequence_files(source: Path) -> list[Path]:
    folder = source / "seq"
    if not folder.is_dir():
        raise InputError(f"No folder {folder}: without sequences there is nothing to learn from; get it again.")
    return parquet_files(folder)


def _event_columns(sequences: pa.Array, path: str) -> dict[str, np.ndarray]:
    kind = sequences.type
    names = [field.name for field in kind.value_type] if is_list(kind) and pa.types.is_struct(kind.value_type) else []
    for name in _EVENT_COLUMNS:
        if name not in names:
            raise InputError(f"{path} column 'seq' is {kind}: expected a list of structs with {name!r}.")
    # Flattening the structs marks the fields of a null struct as null.
    columns = dict(zip(names, sequences.flatten().flatten(), strict=True))
    return {
        name: integers(columns[name], null, f"{path} column 'seq.{name}'") for name, null in _EVENT_COLUMNS.items()
    }


def feature_names(files: list[Path]) -> list[str]:
    """The feature columns of a folder: all but the ids."""
    return [name for name in parquet_schema(files).names if name not in NOT_FEATURES]


def feature_batches(folder: Path, key: str) -> Iterator[tuple[np.ndarray, Features, str]]:
    """Re-ids (n,) with their features, and where they stand."""
    files = parquet_files(folder)
    names = feature_names(files)
    for path, _, batch in parquet_batches(files, [key, *names], _FEATURE_ROWS):
        reids = integers(batch[key], 0, f"{path} column {key!r}")
        yield reids, features_of_columns(batch, names, str(path)), str(path)


def candidate_batches(folder: Path) -> Iterator[tuple[pa.RecordBatch, np.ndarray, Features, str]]:
    """Candidates as they stand and as raw ids (n,) with features, and where they stand.

    Both schemas are read: raw ids are called ``creative_id`` or, in the public 1M set, ``item_id``.
    """
    files = parquet_files(folder)
    columns = parquet_schema(files).names
    key = next((name for name in ("creative_id", "item_id") if name in columns), None)
    if key is None:
        raise InputError(f"{files[0]} has neither creative_id nor item_id: candidates need their raw ids.")
    names = [name for name in columns if name not in NOT_FEATURES]
    for path, first, batch in parquet_batches(files, columns, _FEATURE_ROWS):
        ids = plain(batch[key])
        if ids.null_count:
            raise InputError(f"{path} has {ids.null_count} candidates without {key} after row {first}: remove them.")
        raw = integers(ids, 0, f"{path} column {key!r}")
        yield batch, raw, _candidate_features(batch, names, str(path)), str(path)


def _candidate_features(batch: pa.RecordBatch, names: list[str], where: str) -> Features:
    features = Features()
    for name in names:
        column = batch[name]
        label = f"{where} column {name!r}"
        if pa.types.is_struct(column.type):
            features.single[name] = _struct_codes(column, label)
        elif is_list(column.type) and pa.types.is_struct(column.type.value_type):
            codes = _struct_codes(column.flatten(), label)
            features.lists[name] = without_missing(list_lengths(column), codes)
        else:
            bare = features_of_columns(batch, [name], where)
            features.single.update(bare.single)
            features.lists.update(bare.lists)
    return features


def _struct_codes(values: pa.Array, where: str) -> np.ndarray:
    """Codes of structs of a value and a flag that says whether it was seen in training. (n,) int32"""
    names = [field.name for field in values.type]
    flag_name = next((name for name in _FLAGS if name in names), None)
    if _VALUE not in names or flag_name is None:
        raise InputError(f"{where} is {values.type}: expected {_VALUE!r} with {' or '.join(_FLAGS)}.")
    columns = dict(zip(names, values.flatten(), strict=True))
    content = plain(columns[_VALUE])
    there = content.is_valid().to_numpy(zero_copy_only=False)
    unseen = there & (integers(columns[flag_name], 0, where) != 0)
    known = pa.array(there & ~unseen)
    reids = integers(pc.if_else(known, content, pa.scalar(None, content.type)), 0, where)
    return np.where(unseen, FIELD_UNKNOWN, codes_of_reids(reids, where)).astype(np.int32)


def vector_batches(folder: Path) -> Iterator[VectorBatch]:
    """The vectors of one embedding, which are lists of numbers or JSON strings of them."""
    for path, first, batch in parquet_batches(parquet_files(folder), ("anonymous_cid", "emb"), _VECTOR_ROWS):
        ids = plain(batch["anonymous_cid"])
        there = ids.is_valid().to_numpy(zero_copy_only=False)
        vectors, has_vector = _vectors(batch["emb"], path, first, there)
        kept = there & has_vector
        raw = integers(ids, 0, f"{path} column 'anonymous_cid'")
        yield VectorBatch(path, first + np.flatnonzero(kept), raw[kept], vectors, int((~kept).sum()))


def _vectors(column: pa.Array, path: Path, first: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the wanted rows that have one, and which rows have one."""
    if not is_list(column.type):
        return _parsed_vectors(plain(column), path, first, wanted)
    lengths = list_lengths(column)
    kept = wanted & (lengths > 0)
    places = np.flatnonzero(kept)
    if not len(places):
        return np.zeros((0, 0), np.float32), kept
    width = int(lengths[places[0]])
    wrong = places[lengths[places] != width]
    if len(wrong):
        raise mixed(path, first + int(wrong[0]), int(lengths[wrong[0]]), width)
    numbers = column.flatten().to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "fiu":
        raise InputError(f"{path} column 'emb' is {column.type}: expected lists of numbers.")
    return numbers[np.repeat(kept, lengths)].reshape(len(places), width), kept


def _parsed_vectors(column: pa.Array, path: Path, first: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"{path} column 'emb' is {column.type}: expected lists of numbers or JSON strings of them.")
    vectors: list[np.ndarray] = []
    places: list[int] = []
    for row in np.flatnonzero(wanted):
        text = column[int(row)].as_py()
        values = None if text is None else _parsed(text, path, first + int(row))
        if values is not None and len(values):
            vectors.append(values)
            places.append(int(row))
    kept = np.zeros(len(column), np.bool_)
    kept[places] = True
    return stacked(path, vectors, [first + place for place in places]), kept


def _parsed(text: str, path: Path, row: int) -> np.ndarray | None:
    try:
        value: Any = json.loads(text)
        if value is None:
            return None
        if not isinstance(value, list):
            raise ValueError
        vector: np.ndarray = np.array(value, np.float64)
        return vector
    except (ValueError, TypeError):
        raise InputError(
            f"{path} row {row} has an embedding that is not a JSON list of numbers: correct it."
        ) from None
