"""TencentGR layout H written as layout C."""

import json
import shutil
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from semid.data.events import TIME_MISSING
from semid.data.formats.new_folder import new_folder
from semid.data.formats.parquet_files import num_rows, parquet_files, plain
from semid.data.formats.pickle_writing import PickleStream
from semid.data.tencentgr.embedding_join import EmbeddingSource, VectorBatch, check_vectors, find_embeddings
from semid.data.tencentgr.feature_spool import FeatureSpool
from semid.data.tencentgr.feature_texts import FeatureTexts
from semid.data.tencentgr.indexer import Indexer
from semid.data.tencentgr.layout_c import EMBEDDING_FOLDER as EMBEDDING_FOLDER_C
from semid.data.tencentgr.layout_h import (
    EMBEDDING_FOLDER,
    EMBEDDING_SUFFIX,
    NOT_FEATURES,
    candidate_batches,
    event_batches,
    feature_batches,
    require_known,
    vector_batches,
)
from semid.data.tencentgr.user_log import NO_ACTION, NO_ITEM, UserEvents
from semid.progress import Progress, silent

_ITEM_BLOCK = 1 << 14
_PICKLED_EMBEDDINGS = ("81",)


def convert_h_to_c(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Write a folder in layout H as a folder in layout C, both of which read to the same dataset.

    Users keep their order; each gets its profile record last, with the time of its last event. Rows of embedding
    files that have no vector are left out.

    Args:
        source: folder in layout H.
        target: new folder; it appears when it is complete.
        progress: called with what is being written, how much of it is done, and how much there is.

    Raises:
        InputError: something in the source is missing or wrong, or the target exists.
    """
    with new_folder(target) as folder:
        _Conversion(source, folder, progress or silent).run()


class _Conversion:
    def __init__(self, source: Path, target: Path, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._spool = target / ".spool"
        self._spool.mkdir()
        self._progress = progress
        self._indexer = Indexer(source / "indexer.pkl", lambda name: self._spool / name)
        self._described = np.zeros(self._indexer.num_items, np.bool_)

    def run(self) -> None:
        shutil.copyfile(self._source / "indexer.pkl", self._target / "indexer.pkl")
        items = self._features("item", self._indexer.num_items)
        users = self._features("user", self._indexer.users.count)
        self._write_items(items)
        self._write_users(items, users)
        if (self._source / "candidate").is_dir():
            self._write_candidates()
        for embedding in find_embeddings(self._source / EMBEDDING_FOLDER, EMBEDDING_SUFFIX, None):
            self._write_embedding(embedding)
        shutil.rmtree(self._spool)

    def _features(self, what: str, count: int) -> FeatureTexts:
        """Features of all items or users, row = re-id - 1."""
        spool = FeatureSpool(self._spool / f"{what}.bin", self._indexer.field_sizes)
        folder = self._source / f"{what}_feat"
        if folder.is_dir():
            for reids, features, where in feature_batches(folder, f"{what}_id"):
                require_known(reids, count, what, where)
                spool.append(reids - 1, features, where)
                if what == "item":
                    self._described[reids - 1] = True
                self._progress(f"{what} features", spool.num_rows, None)
        texts = FeatureTexts(spool, self._spool / f"{what}_fields", count, lambda row: f"{what} {row + 1}")
        (self._target / f"{what}_feat_num.json").write_text(json.dumps(texts.num_values) + "\n", encoding="utf-8")
        return texts

    def _write_items(self, items: FeatureTexts) -> None:
        with (self._target / "item_feat_dict.json").open("w", encoding="utf-8") as file:
            separator = "{"
            for first in range(0, len(self._described), _ITEM_BLOCK):
                rows = first + np.flatnonzero(self._described[first : first + _ITEM_BLOCK])
                for row, text in zip(rows.tolist(), items.texts(rows), strict=True):
                    file.write(f'{separator}"{row + 1}": {text}')
                    separator = ",\n"
            file.write("{}\n" if separator == "{" else "}\n")

    def _write_users(self, items: FeatureTexts, users: FeatureTexts) -> None:
        total = num_rows(parquet_files(self._source / "seq"))
        done, offset = 0, 0
        with (
            (self._target / "seq.jsonl").open("wb") as file,
            PickleStream(self._target / "seq_offsets.pkl", list) as offsets,
        ):
            for events, where in event_batches(self._source):
                require_known(events.users, self._indexer.users.count, "user", where)
                require_known(events.items[events.items != NO_ITEM], self._indexer.num_items, "item", where)
                lines = [line.encode() for line in _user_lines(events, items, users)]
                *starts, offset = accumulate(map(len, lines), initial=offset)
                file.write(b"".join(lines))
                offsets.append_integers(starts)
                done += len(lines)
                self._progress("users", done, total)

    def _write_candidates(self) -> None:
        row = 0
        with (self._target / "predict_set.jsonl").open("w", encoding="utf-8") as file:
            for batch, raw, _, _ in candidate_batches(self._source / "candidate"):
                names = [name for name in batch.schema.names if name not in NOT_FEATURES]
                columns = [plain(batch[name]).to_pylist() for name in names]
                positions = batch["retrieval_id"].to_pylist() if "retrieval_id" in batch.schema.names else None
                for place, raw_id in enumerate(raw.tolist()):
                    values = {
                        name: _candidate_value(column[place]) for name, column in zip(names, columns, strict=True)
                    }
                    line = {
                        "creative_id": raw_id,
                        "retrieval_id": row if positions is None else positions[place],
                        "features": {name: value for name, value in values.items() if value is not None},
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    row += 1
                self._progress("candidates", row, None)

    def _write_embedding(self, source: EmbeddingSource) -> None:
        folder = self._target / EMBEDDING_FOLDER_C
        folder.mkdir(exist_ok=True)
        name = f"emb_{source.name}_{source.dim}"
        if source.name in _PICKLED_EMBEDDINGS:
            with PickleStream(folder / f"{name}.pkl", dict) as pickled:
                for batch in self._vectors(source):
                    pickled.put_vectors(batch.raw, batch.vectors)
            return
        (folder / name).mkdir()
        with (folder / name / "part-00000.json").open("w", encoding="utf-8") as file:
            for batch in self._vectors(source):
                # Through float64 every float32 and float16 comes back as it was.
                for raw_id, vector in zip(batch.raw.tolist(), batch.vectors.astype(np.float64).tolist(), strict=True):
                    file.write(f'{{"anonymous_cid": "{raw_id}", "emb": {json.dumps(vector)}}}\n')

    def _vectors(self, source: EmbeddingSource) -> Iterator[VectorBatch]:
        total, done = num_rows(parquet_files(source.path)), 0
        for batch in vector_batches(source.path):
            done += len(batch.raw) + batch.skipped
            if len(batch.raw):
                check_vectors(source, batch)
                yield batch
            self._progress(f"embedding {source.name}", done, total)


def _user_lines(events: UserEvents, items: FeatureTexts, users: FeatureTexts) -> Iterator[str]:
    """One line of JSON for each user: its events, then its profile record with the time of the last event."""
    distinct = np.unique(events.items)
    known = distinct != NO_ITEM
    by_item = dict(zip(distinct[known].tolist(), items.texts(distinct[known] - 1), strict=True))
    times = [None if time == TIME_MISSING else time for time in events.times.tolist()]
    records = [
        f"{_or_null(item, NO_ITEM)}, null, {by_item.get(item, '{}')}, {_or_null(action, NO_ACTION)}, "
        f"{_or_null(time, None)}]"
        for item, action, time in zip(events.items.tolist(), events.actions.tolist(), times, strict=True)
    ]
    end = 0
    owners = zip(events.users.tolist(), events.lengths.tolist(), users.texts(events.users - 1), strict=True)
    for user, length, profile in owners:
        start, end = end, end + length
        last = times[end - 1] if length else None
        parts = [f"[{user}, {record}" for record in records[start:end]]
        parts.append(f"[{user}, null, {profile}, null, null, {_or_null(last, None)}]")
        yield "[" + ", ".join(parts) + "]\n"


def _or_null(value: int | None, null: int | None) -> str:
    return "null" if value == null else str(value)


def _candidate_value(value: Any) -> Any:
    """A value as layout C has it: an integer if it was seen in training, a string if not, None if missing."""
    if isinstance(value, list):
        return [known for known in map(_candidate_value, value) if known is not None]
    if isinstance(value, dict):
        content = value["feature_value"]
        if content is None:
            return None
        return str(content) if value.get("cold_start", value.get("is_str")) else int(content)
    return None if value is None else int(value)
