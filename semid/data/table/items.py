"""Item and user tables: raw ids, titles, and the columns that make categorical fields."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semid.data.building.builder import DatasetBuilder
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
    vocabularies: dict[str, pa.Array] = {}
    left_out = []
    for column in table.schema.names if table else []:
        assert table is not None
        if column in _NOT_FIELDS:
            continue
        values = pa.concat_arrays([decoded(chunk) for chunk in table.column(column).chunks])
        if _is_list(values.type):
            coded_lists = _list_codes(values)
            if coded_lists is not None:
                lists[column], vocabularies[column] = coded_lists
        else:
            coded = shared_codes(values)
            if coded is not None:
                singles[column], vocabularies[column] = coded
        if column not in vocabularies:
            left_out.append(column)
    if left_out:
        builder.report[f"{kind}_columns_left_out"] = left_out
    fields = builder.fields(kind, list(singles), num_rows)
    if singles:
        fields.put(rows, np.stack(list(singles.values()), axis=1))
    for name, (lengths, codes) in lists.items():
        fields.put_list(name, rows, lengths, codes)
    for name, values in vocabularies.items():
        fields.put_values(name, FIELD_RESERVED + np.arange(len(values)), values.cast(pa.string()))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def shared_codes(values: pa.Array) -> tuple[np.ndarray, pa.Array] | None:
    """Field codes (n,) int32 by order of first appearance, and the values they stand for, from FIELD_RESERVED on.

    None if the values are not categories.
    """
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)):
        return None
    encoded = values.dictionary_encode()
    known = len(values) - values.null_count
    if not known or len(encoded.dictionary) > known / 2:
        return None
    codes: np.ndarray = pc.add(encoded.indices, FIELD_RESERVED).fill_null(FIELD_MISSING).to_numpy()
    return codes.astype(np.int32), encoded.dictionary


def _list_codes(values: pa.Array) -> tuple[tuple[np.ndarray, np.ndarray], pa.Array] | None:
    """Lengths and codes of a list column, missing elements left out, and the values of the codes."""
    flat = decoded(values.flatten())
    if not (pa.types.is_integer(flat.type) or pa.types.is_string(flat.type)):
        return None
    coded = shared_codes(flat)
    if coded is None:
        return None
    codes, vocabulary = coded
    lengths = pc.list_value_length(values).fill_null(0).to_numpy()
    owners = np.repeat(np.arange(len(lengths)), lengths)[codes != FIELD_MISSING]
    return (np.bincount(owners, minlength=len(lengths)), codes[codes != FIELD_MISSING]), vocabulary


def write_item_ids(builder: DatasetBuilder, table: TableFile | None, ids: pa.Array) -> None:
    """Write the raw ids, with titles where the item table has some."""
    titles: Sequence[str] | pa.Array | None = None
    if table is not None and "title" in table and table.column("title").null_count < len(ids):
        titles = pa.concat_arrays([decoded(chunk) for chunk in table.column("title").chunks]).cast(pa.string())
    writer = builder.raw_ids("items", ids.type, titles=titles is not None)
    writer.append(ids, titles)
