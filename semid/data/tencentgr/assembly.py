"""What both layouts of TencentGR have in common: how users, items, features and embeddings become a dataset.

User rows follow the order of the sequences. The item of re-id r is row r - 1; candidates that the indexer does not
know are the rows after, in the order of the candidate file.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pyarrow as pa

from semid.data.building.builder import DatasetBuilder
from semid.data.building.field_files import FieldsBuilder
from semid.data.features import FIELD_RESERVED
from semid.data.reading import PrepareConfig
from semid.data.tencentgr.candidate_pool import CandidatePool
from semid.data.tencentgr.embedding_join import EmbeddingJoin, EmbeddingSource, VectorBatch
from semid.data.tencentgr.feature_spool import FeatureSpool
from semid.data.tencentgr.indexer import Indexer
from semid.data.tencentgr.user_log import UserLog
from semid.errors import InputError
from semid.progress import Progress


class Assembly:
    """The parts of a dataset that both readers fill: first candidates, then users, the rest in any order.

    Attributes:
        indexer: raw ids and re-ids.
        candidates: call :meth:`begin_users` when all are in.
        users: the events.
        item_features, user_features: by row.
    """

    def __init__(
        self, indexer_path: Path, builder: DatasetBuilder, config: PrepareConfig, progress: Progress
    ) -> None:
        progress("indexer", 0, None)
        self.indexer = Indexer(indexer_path, builder.spool)
        self.item_features = FeatureSpool(builder.spool("item_features.bin"), self.indexer.field_sizes)
        self.user_features = FeatureSpool(builder.spool("user_features.bin"), self.indexer.field_sizes)
        self.candidates = CandidatePool(self.indexer.items, self.item_features)
        self._builder = builder
        self._config = config
        self._progress = progress

    def begin_users(self) -> None:
        """All candidates are known, and with them all items."""
        self.items = self.candidates.all_items()
        self._builder.num_items = len(self.items.raw)
        self.users = UserLog(self.indexer, self._builder, self._config.null_action)

    def join(self, source: EmbeddingSource, batches: Iterable[VectorBatch], total: int | None) -> None:
        """Read one embedding."""
        config = self._config
        join = EmbeddingJoin(source, self.items, self._builder, config.float_dtype, config.min_join_rate)
        for rows in join.run(batches):
            self._progress(f"embedding {source.name}", rows, total)

    def finish(self) -> None:
        """Write what was collected; splits are cut after this."""
        builder, raw = self._builder, self.items.raw
        if not builder.num_users:
            raise InputError(f"The folder of {self.indexer.path} has no users: its sequences are empty.")
        self.users.finish()
        self._progress("features", 0, None)
        self._name_values(
            self.item_features.write(partial(builder.fields, "items"), len(raw), lambda row: f"item {raw[row]}")
        )
        self._name_values(
            self.user_features.write(
                partial(builder.fields, "users"), builder.num_users, lambda row: f"user row {row}"
            )
        )
        builder.raw_ids("items", pa.int64()).append(raw)
        rows = self.candidates.rows()
        if len(rows):
            builder.set_candidates(rows)
        builder.report["candidates"] = self.candidates.facts()
        builder.report["users_in_indexer"] = self.indexer.users.count
        builder.report["items_in_indexer"] = self.indexer.num_items
        builder.report.update(self.users.facts)

    def _name_values(self, fields: FieldsBuilder) -> None:
        for name, size in [*zip(fields.names, fields.sizes, strict=True), *fields.list_sizes.items()]:
            reids, values = self.indexer.field_values(name, size - FIELD_RESERVED)
            fields.put_values(name, reids + (FIELD_RESERVED - 1), values)
