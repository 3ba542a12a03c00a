"""The *table* layout: interactions, items, users, embeddings and given queries as parquet, CSV and npy files.

* ``interactions``: ``user_id``, ``item_id``, and ``position`` or ``timestamp`` (Unix seconds or dates); optionally
  ``action`` and ``split`` (0/1/2 or train/valid/test). With ``split`` alone, events have no order.
* ``items``: ``item_id`` and any columns; row i is item i. Without it the items are the rows of the ``.npy``
  embeddings, or else the distinct ids of the interactions in order.
* ``users``: ``user_id`` and any columns.
* ``emb_NAME.npy``, ``emb_NAME.f16.npy``: a vector per item row, all zero where missing; ``emb_NAME.parquet``:
  ``item_id``, ``emb``.
* ``official_eval``: ``split``, ``user_id``, ``history``, ``target``: queries with histories of their own.
* ``samples``: the same columns, training rows included, in place of interactions.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder
from semid.data.reading import PrepareConfig
from semid.data.table.embeddings import find_embeddings, open_vectors, write_embeddings
from semid.data.table.events import scan_interactions, write_events
from semid.data.table.files import TableFile, find_table, identifiers
from semid.data.table.id_index import IdIndex
from semid.data.table.items import write_fields, write_item_ids
from semid.data.table.queries import query_users, write_queries, write_training_samples
from semid.data.table.user_rows import UserRows
from semid.errors import InputError
from semid.progress import Progress


def read_table(source: Path, builder: DatasetBuilder, config: PrepareConfig, progress: Progress) -> None:
    """Read a folder in table layout into the builder.

    Raises:
        InputError: a file is missing, damaged, or contradicts another.
    """
    interactions, samples = find_table(source, "interactions"), find_table(source, "samples")
    events = interactions or samples
    if events is None:
        raise InputError(f"{source} has no interactions.parquet, interactions.csv or samples.parquet: add one.")
    paths = find_embeddings(source, config.embeddings)
    item_table = find_table(source, "items")
    items = _item_index(item_table, paths, events)
    builder.num_items = len(items)
    write_item_ids(builder, item_table, items.ids)
    write_fields(builder, "items", item_table, np.arange(len(items)), len(items))
    write_embeddings(builder, paths, items, config, progress)

    user_table = find_table(source, "users")
    user_ids = _ids(user_table, "user_id") if user_table is not None else None
    if interactions is None:
        users = _read_samples(builder, events, items, user_ids)
    else:
        users = _read_interactions(source, builder, interactions, items, user_ids, config, progress)
    if user_table is not None and user_ids is not None:
        write_fields(builder, "users", user_table, users.rows(user_ids), builder.num_users)


def _read_interactions(
    source: Path,
    builder: DatasetBuilder,
    table: TableFile,
    items: IdIndex,
    user_ids: pa.Array | None,
    config: PrepareConfig,
    progress: Progress,
) -> UserRows:
    scan = scan_interactions(table)
    official = find_table(source, "official_eval")
    users = UserRows(builder, _distinct([user_ids, query_users(official) if official is not None else None]))
    write_events(builder, table, scan, items, users, null_action=config.null_action, progress=progress)
    users.finish()
    if official is not None:
        write_queries(builder, official, items, users, allow_train=False)
    return users


def _read_samples(builder: DatasetBuilder, table: TableFile, items: IdIndex, user_ids: pa.Array | None) -> UserRows:
    users = UserRows(builder, _distinct([user_ids, query_users(table)]))
    write_training_samples(builder, table, items, users)
    users.finish()
    write_queries(builder, table, items, users, allow_train=True)
    return users


def _distinct(parts: list[pa.Array | None]) -> pa.Array | None:
    there = [part for part in parts if part is not None]
    if len({part.type for part in there}) > 1:
        raise InputError("User ids are integers in one file and strings in another: write them alike.")
    return pc.unique(pa.concat_arrays(there)) if there else None


def _ids(table: TableFile, name: str) -> pa.Array:
    table.require(name)
    return pa.concat_arrays([identifiers(table, name, first, batch[name]) for first, batch in table.batches([name])])


def _item_index(table: TableFile | None, embeddings: dict[str, Path], events: TableFile) -> IdIndex:
    if table is not None:
        return IdIndex(_ids(table, "item_id"), table.where)
    matrices = [path for path in embeddings.values() if path.suffix == ".npy"]
    ids = pa.array(np.arange(len(open_vectors(matrices[0])))) if matrices else _mentioned_items(events)
    return IdIndex(ids, lambda row: f"item {row}")


def _mentioned_items(events: TableFile) -> pa.Array:
    """The distinct item ids of the interactions, in order."""
    if events.path.stem == "samples":
        raise InputError(f"{events.path} needs an items table or .npy embeddings beside it: add one.")
    events.require("item_id")
    found = pa.array([], pa.int64())
    for first, batch in events.batches(["item_id"]):
        new = identifiers(events, "item_id", first, batch["item_id"])
        found = pc.unique(pa.concat_arrays([found.cast(new.type), new]))
    return found.take(pc.sort_indices(found))
