"""Synthetic data in TencentGR's layout H, of any size, with a structure that models can find.

Items lie in a tree of clusters that several noisy, partly missing embeddings show; users have tastes in that tree
that drift, come in sessions, and click what fits. The same settings give the same bytes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from semid.data.formats.new_folder import new_folder
from semid.data.formats.parquet_files import TableWriter
from semid.data.formats.pickle_writing import PickleStream
from semid.data.synthetic.behaviour import MOST_EVENTS, USER_FIELDS, Behaviour, Logs
from semid.data.synthetic.catalogue import ITEM_FIELDS, Catalogue, Projection, shuffled
from semid.data.synthetic.effects import check_effects
from semid.errors import InputError
from semid.progress import Progress, silent

_CANDIDATE_SHARE = 0.95
_UNSEEN_VALUES = 0.15
_EMPTY_ROWS = 0.2
_USER_PRIME = 999_999_999_989
_ACTIONS = {0: 1, 1: 2, 2: 3}


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What to make.

    Attributes:
        users: U.
        items: N items in the logs; cold ones come on top.
        embeddings: (id, width) of each; ids 81 to 86 get the published coverages, others 90 %.
        seed: of everything.
        mean_events: events of a user on average, before cutting at 100.
        cold_share: share of the candidates that no user has ever seen.
        null_actions: share of events without an action.
        effects: what is planted besides, some of EFFECTS; ``semid.data.synthetic.effects`` says what they are.
    """

    users: int = 5_000
    items: int = 3_000
    embeddings: tuple[tuple[str, int], ...] = (("81", 32), ("82", 1024), ("85", 3584))
    seed: int = 0
    mean_events: float = 40.0
    cold_share: float = 0.2
    null_actions: float = 0.0
    effects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("users", "items"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed={self.seed} must be between 0 and 2^63.")
        if not 1 <= self.mean_events <= MOST_EVENTS:
            raise InputError(f"mean_events={self.mean_events} must be between 1 and {MOST_EVENTS}.")
        for name in ("cold_share", "null_actions"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be a share below 1.")
        names = [name for name, _ in self.embeddings]
        for name, dim in self.embeddings:
            if not re.fullmatch(r"[A-Za-z0-9]+", name):
                raise InputError(f"Embedding id {name!r} must be of letters and digits.")
            if dim < 1:
                raise InputError(f"Embedding {name} has width {dim}: it must be at least 1.")
            if names.count(name) > 1:
                raise InputError(f"Embedding {name} is given twice: name each once.")
        check_effects(self.effects, tuple(names))


def synthesise(target: Path, config: SyntheticConfig | None = None, progress: Progress | None = None) -> None:
    """Write synthetic data as the new folder ``target`` in layout H, with memory that does not grow with users.

    Args:
        target: appears when it is complete.
        config: what to make.
        progress: called with what is being written, how much of it is done, and how much there is.

    Raises:
        InputError: the target exists.
    """
    with new_folder(target) as folder:
        _Writer(folder, config or SyntheticConfig(), progress or silent).run()


class _Writer:
    def __init__(self, folder: Path, config: SyntheticConfig, progress: Progress) -> None:
        self._folder = folder
        self._config = config
        self._progress = progress
        num_cold = round(config.items * _CANDIDATE_SHARE * config.cold_share / (1 - config.cold_share))
        self._catalogue = Catalogue(config.items, num_cold, config.seed, config.effects)
        self._behaviour = Behaviour(self._catalogue, config.users, config.mean_events)

    def run(self) -> None:
        self._write_indexer()
        self._write_items()
        self._write_users()
        for name, dim in self._config.embeddings:
            self._write_embedding(name, dim)

    def _user_reids(self, rows: np.ndarray) -> np.ndarray:
        """Users do not come in the order of their re-ids, as nothing promises that they do."""
        return shuffled(rows, self._config.users) + 1

    def _write_indexer(self) -> None:
        sizes = {**self._catalogue.field_sizes(), **{name: size for name, (size, _, _) in USER_FIELDS.items()}}
        with PickleStream(self._folder / "indexer.pkl", dict) as stream:
            stream.open_map("u")
            for number in range(self._behaviour.num_batches):
                rows = self._behaviour.users(number)
                raw = (rows.astype(np.int64) * 1_618_033 + 27_182_818) % _USER_PRIME
                stream.put_texts([f"user_{value:012d}" for value in raw.tolist()], self._user_reids(rows))
            stream.close_map()
            stream.open_map("i")
            for number in range(self._catalogue.num_blocks):
                numbers = self._catalogue.block(number).numbers
                numbers = numbers[numbers < self._config.items]
                stream.put_integers(self._catalogue.raw_ids(numbers), self._catalogue.reids(numbers))
            stream.close_map()
            stream.open_map("f")
            for name, size in sizes.items():
                stream.open_map(name)
                for first in range(1, size + 1, 4096):
                    values = np.arange(first, min(first + 4096, size + 1))
                    stream.put_integers(_raw_values(int(name), values), values)
                stream.close_map()
            stream.close_map()
            stream.open_map("a")
            stream.put_integers(np.array(list(_ACTIONS)), np.array(list(_ACTIONS.values())))
            stream.close_map()

    def _write_items(self) -> None:
        value = pa.struct([("feature_value", pa.string()), ("cold_start", pa.int32())])
        features = pa.schema([("item_id", pa.int64()), *((name, pa.int64()) for name in ITEM_FIELDS)])
        pool = pa.schema(
            [("item_id", pa.int64()), ("retrieval_id", pa.int64()), *((name, value) for name in ITEM_FIELDS)]
        )
        position = 0
        with self._table("item_feat", features) as items, self._table("candidate", pool) as candidates:
            for number in range(self._catalogue.num_blocks):
                block = self._catalogue.block(number)
                columns = self._catalogue.features(block, number)
                logged = block.numbers < self._config.items
                items.write_batch(self._item_batch(block.numbers[logged], columns, logged, features))
                batch = self._candidate_batch(block.numbers, columns, number, position, pool)
                candidates.write_batch(batch)
                position += batch.num_rows
                self._progress("items", int(block.numbers[-1]) + 1, self._config.items + self._catalogue.num_cold)

    def _item_batch(
        self,
        numbers: np.ndarray,
        columns: dict[str, tuple[np.ndarray, np.ndarray]],
        logged: np.ndarray,
        schema: pa.Schema,
    ) -> pa.RecordBatch:
        arrays = [pa.array(self._catalogue.reids(numbers))]
        arrays += [pa.array(values[logged], mask=~there[logged]) for values, there in columns.values()]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _candidate_batch(
        self,
        numbers: np.ndarray,
        columns: dict[str, tuple[np.ndarray, np.ndarray]],
        block: int,
        position: int,
        schema: pa.Schema,
    ) -> pa.RecordBatch:
        """Most items of the block and all its cold ones; some values of cold items were never seen in training."""
        rng = self._catalogue.generator(7, block)
        cold = numbers >= self._config.items
        kept = np.flatnonzero(cold | (rng.random(len(numbers)) < _CANDIDATE_SHARE))
        arrays = [
            pa.array(self._catalogue.raw_ids(numbers[kept])),
            pa.array(np.arange(position, position + len(kept))),
        ]
        for name, (values, there) in columns.items():
            unseen = (cold & (rng.random(len(numbers)) < _UNSEEN_VALUES))[kept]
            content = np.where(unseen, _raw_values(int(name), values[kept] + 10**6), values[kept]).astype(str)
            parts = [pa.array(content.tolist(), pa.string()), pa.array(unseen.astype(np.int32))]
            names = [field.name for field in schema.field(name).type]
            arrays.append(pa.StructArray.from_arrays(parts, names=names, mask=pa.array(~there[kept])))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _write_users(self) -> None:
        event = pa.struct([("item_id", pa.int64()), ("action_type", pa.int32()), ("timestamp", pa.int64())])
        logs = pa.schema([("user_id", pa.int64()), ("seq", pa.list_(event))])
        kinds = {
            name: pa.list_(pa.int64()) if is_list else pa.int64() for name, (_, is_list, _) in USER_FIELDS.items()
        }
        profiles = pa.schema([("user_id", pa.int64()), *kinds.items()])
        with self._table("seq", logs) as sequences, self._table("user_feat", profiles) as features:
            for number in range(self._behaviour.num_batches):
                rows = self._behaviour.users(number)
                reids = pa.array(self._user_reids(rows))
                sequences.write_batch(self._log_batch(reids, self._behaviour.logs(number), number, logs))
                columns = self._behaviour.profiles(number)
                arrays = [reids, *(pa.array(columns[name], kind) for name, kind in kinds.items())]
                features.write_batch(pa.RecordBatch.from_arrays(arrays, schema=profiles))
                self._progress("users", int(rows[-1]) + 1, self._config.users)

    def _log_batch(self, reids: pa.Array, logs: Logs, number: int, schema: pa.Schema) -> pa.RecordBatch:
        rng = self._catalogue.generator(8, number)
        gaps = rng.random(len(logs.items)) < self._config.null_actions
        kind = schema.field("seq").type
        events = pa.StructArray.from_arrays(
            [
                pa.array(self._catalogue.reids(logs.items)),
                pa.array(logs.actions.astype(np.int32), mask=gaps),
                pa.array(logs.times),
            ],
            fields=list(kind.value_type),
        )
        offsets = np.concatenate([[0], np.cumsum(logs.lengths)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), events)
        return pa.RecordBatch.from_arrays([reids, lists], schema=schema)

    def _write_embedding(self, name: str, dim: int) -> None:
        schema = pa.schema([("anonymous_cid", pa.string()), ("emb", pa.list_(pa.float32()))])
        projection = Projection(self._catalogue, name, dim)
        with self._table(f"mm_emb/emb_{name}_{dim}_parquet", schema) as table:
            for number in range(self._catalogue.num_blocks):
                block = self._catalogue.block(number)
                vectors, there = projection.vectors(block, number)
                # Some items without a vector have a row all the same, as in the release.
                kept = there | (self._catalogue.generator(9, number, dim).random(len(there)) < _EMPTY_ROWS)
                lengths = np.where(there[kept], dim, 0)
                offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
                lists = pa.ListArray.from_arrays(
                    pa.array(offsets), pa.array(vectors[there].reshape(-1)), mask=pa.array(~there[kept])
                )
                raw = pa.array(self._catalogue.raw_ids(block.numbers[kept]).astype(str).tolist(), pa.string())
                table.write_batch(pa.RecordBatch.from_arrays([raw, lists], schema=schema))
                self._progress(f"embedding {name}", number + 1, self._catalogue.num_blocks)

    @contextmanager
    def _table(self, folder: str, schema: pa.Schema) -> Iterator[Any]:
        path = self._folder / folder / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        with TableWriter(path, schema) as writer:
            yield writer


def _raw_values(field: int, reids: np.ndarray) -> np.ndarray:
    """Raw values of a field's re-ids; those beyond its size are values never seen."""
    return field * 10**8 + 37 * reids
