"""Columns of a later dataset in the codes of an earlier one: codes differ, so they are matched by their values."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semid.data.dataset import Dataset
from semid.data.features import FIELD_MISSING, FIELD_UNKNOWN, Fields, ListField
from semid.errors import InputError

VALUES_NAME = "values.parquet"
VALUES_SCHEMA = pa.schema([("field", pa.string()), ("code", pa.int32()), ("value", pa.string())])


def in_codes_of(old: Dataset, new: Dataset, kind: str) -> Fields:
    """The columns of a later dataset as an earlier one would have written them.

    Args:
        kind: ``"item"`` or ``"user"``.

    Returns:
        Rows of ``new``; names, order and sizes of ``old``. Values that ``old`` does not have are missing.

    Raises:
        InputError: other columns, or a dataset that does not say what its codes stand for.
    """
    before, now = (data.item_fields if kind == "item" else data.user_fields for data in (old, new))
    for names, names_now, what in (
        (before.names, now.names, f"{kind} column"),
        (before.lists, now.lists, f"{kind} column of lists"),
    ):
        _require_same(set(names), set(names_now), what, old, new)
    if not before.names and not before.lists:
        return now
    values, values_now = _values(old, kind), _values(new, kind)
    singles = np.empty(now.values.shape, np.int32)
    for place, (name, size) in enumerate(zip(before.names, before.sizes, strict=True)):
        there = now.names.index(name)
        singles[:, place] = _codes(values, values_now, name, size, now.sizes[there])[now.values[:, there]]
    lists = {
        name: _translated(now.lists[name], _codes(values, values_now, name, field.size, now.lists[name].size), field)
        for name, field in before.lists.items()
    }
    return Fields(before.names, before.sizes, singles, lists)


def _require_same(before: set[str], now: set[str], what: str, old: Dataset, new: Dataset) -> None:
    for names, more, less in ((before - now, old, new), (now - before, new, old)):
        if names:
            raise InputError(
                f"{more.location} has the {what} {sorted(names)[0]!r} and {less.location} has not: prepare both with "
                "the same columns."
            )


def _values(data: Dataset, kind: str) -> pa.Table:
    """Field, code and value of all columns."""
    artifact, name = data.artifact_or_raise, f"{kind}_fields/{VALUES_NAME}"
    if name not in artifact.files:
        raise InputError(
            f"{data.location} was prepared by an earlier semid, which did not keep the values of columns: prepare it "
            "and train again."
        )
    return pq.read_table(Path(artifact.path, name))


def _codes(old: pa.Table, new: pa.Table, name: str, size: int, size_now: int) -> np.ndarray:
    """The old code of every new code of a column. (size_now,) int32"""
    (codes, values), (codes_now, values_now) = (_of(old, name, size), _of(new, name, size_now))
    place = pc.index_in(values_now, values).fill_null(-1).to_numpy()
    translation = np.full(size_now, FIELD_MISSING, np.int32)
    translation[FIELD_UNKNOWN] = FIELD_UNKNOWN
    translation[codes_now[place >= 0]] = codes[place[place >= 0]]
    return translation


def _of(table: pa.Table, name: str, size: int) -> tuple[np.ndarray, pa.Array]:
    """Codes of one column that a row may have, and their values."""
    own = table.filter((pc.field("field") == name) & (pc.field("code") < size)).combine_chunks()
    return own["code"].to_numpy(), own["value"].combine_chunks()


def _translated(field: ListField, codes: np.ndarray, old: ListField) -> ListField:
    """A multi-value column in old codes, without the values that have none."""
    values = codes[field.values]
    kept = values != FIELD_MISSING
    before = np.concatenate([[0], np.cumsum(kept)])
    return ListField(before[field.offsets], values[kept], old.size)
