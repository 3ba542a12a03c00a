"""Items that a user names by a table: all of its rows, or those with certain values in a column."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.dataset import Dataset
from semid.data.table.files import TableFile, decoded, identifiers, open_table
from semid.data.table.id_index import IdIndex
from semid.errors import InputError

logger = logging.getLogger(__name__)


def restrict(candidates: np.ndarray, dataset: Dataset, *, allow: str | None, deny: str | None) -> np.ndarray:
    """The candidates (C,) that are allowed and not denied.

    Args:
        allow, deny: as :func:`listed_items` reads them; None allows all, or denies none.

    Raises:
        InputError: none is left, or as in :func:`listed_items`.
    """
    kept = np.ones(len(candidates), bool)
    if allow is not None:
        kept &= listed_items(allow, dataset)[candidates]
    if deny is not None:
        kept &= ~listed_items(deny, dataset)[candidates]
    if not kept.any():
        raise InputError(
            f"None of the {len(candidates)} candidates is left by --allow {allow} and --deny {deny}: name others."
        )
    rest: np.ndarray = candidates[kept]
    return rest


def listed_items(text: str, dataset: Dataset) -> np.ndarray:
    """Which items a table names. (N,) bool

    Args:
        text: ``FILE``, all items of a .parquet or .csv with a column ``item_id``, or ``FILE:COLUMN=VALUE,…``, those
            that have one of the values there, or in a list there.

    Raises:
        InputError: no such file or column, or no item that the dataset holds.
    """
    path, condition = _parsed(text)
    table = open_table(path)
    column, _, values = condition.partition("=")
    table.require("item_id", *([column] if condition else []))
    index = IdIndex(pa.array(dataset.item_ids), lambda row: f"item row {row} of {dataset.location}")
    listed, unknown = np.zeros(dataset.num_items, bool), 0
    for first, batch in table.batches(["item_id", *([column] if condition else [])]):
        ids = identifiers(table, "item_id", first, batch["item_id"])
        if condition:
            ids = ids.filter(pa.array(_has_one_of(table, column, batch[column], values.split(","))))
        rows = index.rows(ids)
        unknown += int((rows < 0).sum())
        listed[rows[rows >= 0]] = True
    if unknown:
        logger.warning("%s names %d items that the dataset does not hold.", text, unknown)
    if not listed.any():
        raise InputError(f"{text} names no item that the dataset holds, such as {index.examples()}.")
    return listed


def _parsed(text: str) -> tuple[Path, str]:
    path, colon, condition = text.rpartition(":")
    return (Path(path), condition) if colon and "=" in condition else (Path(text), "")


def _has_one_of(table: TableFile, column: str, values: pa.Array, wanted: list[str]) -> np.ndarray:
    """Whether each value, or one of each list, is wanted. (n,) bool"""
    lists = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    single = decoded(values.flatten() if lists else values)
    if pa.types.is_nested(single.type):
        raise InputError(f"{table.path} column {column!r} has type {values.type}: give values, or lists of values.")
    found: np.ndarray = pc.is_in(single.cast(pa.string()), pa.array(wanted)).to_numpy(zero_copy_only=False)
    if not lists:
        return found
    owners = pc.list_parent_indices(values).to_numpy()[found]
    return np.bincount(owners, minlength=len(values)) > 0
