"""Item and user tables: raw ids, titles, and the columns that make categorical fields."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder
from semid.data.building.field_files import FieldsBuilder
from semid.data.features import FIELD_MISSING, FIELD_RESERVED
from semid.data.table.files import TableFile, decoded

# Columns that name or describe one row; they are never categories.
_NOT_FIELDS = frozenset({"item_id", "user_id", "raw_id", "title", "text"})


def write_fields(
    builder: DatasetBuilder, kind: str, table: TableFile | None, rows: np.ndarray, num_rows: int
) -> None:
    """Write the fields of ``kind`` ``"items"`` or ``"users"``.

    A column becomes a field if its values are shared: at most half as many distinct values as there are values.
    Lists of integers or strings become multi-value fields, other columns of integers, strings or booleans
    single-value ones; the rest, such as numbers with a fraction, is left out and named in the report.

    Args:
        rows: (R,) the row of each table row, each once.
        num_rows: rows there are.
    """
    singles: dict[str, np.ndarray] = {}
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    left_out = []
    for column in table.schema.names if table else []:
        assert table is not None
        if column in _NOT_FIELDS:
            continue
        values = pa.concat_arrays([decoded(chunk) for chunk in table.column(column).chunks])
        if _is_list(values.type):
            coded = _list_codes(values)
            if coded is not None:
                lists[column] = coded
        else:
            codes = shared_codes(values)
            if codes is not None:
                singles[column] = codes
        if column not in lists and column not in singles:
            left_out.append(column)
    if left_out:
        builder.report[f"{kind}_columns_left_out"] = left_out
    fields = builder.fields(kind, list(singles), num_rows)
    if singles:
        fields.put(rows, np.stack(list(singles.values()), axis=1))
    _put_lists(fields, rows, lists)


def _put_lists(fields: FieldsBuilder, rows: np.ndarray, lists: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for name, (lengths, codes) in lists.items():
        fields.put_list(name, rows, lengths, codes)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def shared_codes(values: pa.Array) -> np.ndarray | None:
    """Field codes by order of first appearance; None if the values are not categories. (n,) int32"""
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)):
        return None
    encoded = values.dictionary_encode()
    known = len(values) - values.null_count
    if not known or len(encoded.dictionary) > known / 2:
        return None
    codes: np.ndarray = pc.add(encoded.indices, FIELD_RESERVED).fill_null(FIELD_MISSING).to_numpy()
    return codes.astype(np.int32)


def _list_codes(values: pa.Array) -> tuple[np.ndarray, np.ndarray] | None:
    """Lengths and codes of a list column, missing elements left out."""
    flat = decoded(values.flatten())
    if not (pa.types.is_integer(flat.type) or pa.types.is_string(flat.type)):
        return None
    codes = shared_codes(flat)
    if codes is None:
        return None
    lengths = pc.list_value_length(values).fill_null(0).to_numpy()
    owners = np.repeat(np.arange(len(lengths)), lengths)[codes != FIELD_MISSING]
    return np.bincount(owners, minlength=len(lengths)), codes[codes != FIELD_MISSING]


def write_item_ids(builder: DatasetBuilder, table: TableFile | None, ids: pa.Array) -> None:
    """Write the raw ids, with titles where the item table has some."""
    titles: Sequence[str] | pa.Array | None = None
    if table is not None and "title" in table and table.column("title").null_count < len(ids):
        titles = pa.concat_arrays([decoded(chunk) for chunk in table.column("title").chunks]).cast(pa.string())
    writer = builder.raw_ids("items", ids.type, titles=titles is not None)
    writer.append(ids, titles)
