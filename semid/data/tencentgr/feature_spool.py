"""Categorical features on their way into a dataset, while it is not yet known which fields there are.

Rows arrive in any order, some with fields that others lack; each block goes to disk as it comes and is put in
place when all have been seen. A field that has no value in any row is left out. A field with a list in any row
is a list field, and a single value of it counts as a list of one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from semid.data.building.field_files import FieldsBuilder
from semid.data.building.row_file import RowFile
from semid.data.features import FIELD_MISSING, FIELD_RESERVED, FIELD_UNKNOWN
from semid.data.formats.parquet_files import integers, is_list, list_lengths
from semid.errors import InputError


@dataclass(frozen=True, eq=False)
class Features:
    """Codes of n rows by field: ``single`` (n,) int32, ``lists`` as lengths (n,) and codes (sum(lengths),)."""

    single: dict[str, np.ndarray] = field(default_factory=dict)
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def codes_of_reids(reids: np.ndarray, where: str) -> np.ndarray:
    """Codes of feature re-ids, where 0 is no value: 0 stays *missing*, v ≥ 1 becomes v + 1. (n,) int32

    Raises:
        InputError: a negative re-id, or one that does not fit.
    """
    wrong = reids[(reids < 0) | (reids >= 2**31 - 1)]
    if len(wrong):
        raise InputError(f"{where} holds {wrong[0]}, which is no re-id of a feature value: re-ids start at 1.")
    return np.where(reids == 0, FIELD_MISSING, reids + (FIELD_RESERVED - 1)).astype(np.int32)


def features_of_columns(batch: pa.RecordBatch, names: Sequence[str], where: str) -> Features:
    """Features from columns of re-ids or lists of re-ids."""
    features = Features()
    for name in names:
        column = batch[name]
        label = f"{where} column {name!r}"
        if is_list(column.type):
            codes = codes_of_reids(integers(column.flatten(), 0, label), label)
            features.lists[name] = without_missing(list_lengths(column), codes)
        else:
            features.single[name] = codes_of_reids(integers(column, 0, label), label)
    return features


def without_missing(lengths: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A list column without its missing elements."""
    there = codes != FIELD_MISSING
    if there.all():
        return lengths, codes
    owners = np.repeat(np.arange(len(lengths)), lengths)[there]
    return np.bincount(owners, minlength=len(lengths)), codes[there]


def features_of_objects(objects: Sequence[Mapping[str, Any]], where: str) -> Features:
    """Features from JSON objects: an integer is a re-id, a string a value never seen in training."""
    singles: dict[str, list[int]] = {}
    lists: dict[str, dict[int, list[int]]] = {}
    for row, values in enumerate(objects):
        for name, value in values.items():
            if isinstance(value, list):
                lists.setdefault(name, {})[row] = [_code(element, name, where) for element in value]
            else:
                column = singles.get(name)
                if column is None:
                    column = singles[name] = [FIELD_MISSING] * len(objects)
                column[row] = _code(value, name, where)
    return Features(
        {name: np.array(codes, np.int32) for name, codes in singles.items()},
        {name: _list_column(by_row, len(objects)) for name, by_row in lists.items()},
    )


def _code(value: Any, name: str, where: str) -> int:
    if type(value) is int and 0 <= value < 2**31 - 1:
        return value + 1 if value else FIELD_MISSING
    if isinstance(value, str):
        return FIELD_UNKNOWN
    if value is None:
        return FIELD_MISSING
    raise InputError(f"{where} has {value!r} in field {name!r}: values are re-ids, strings or lists of them.")


def _list_column(by_row: dict[int, list[int]], count: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.zeros(count, np.int64)
    lengths[list(by_row)] = [len(codes) for codes in by_row.values()]
    codes = np.array([code for row in sorted(by_row) for code in by_row[row]], np.int32)
    return without_missing(lengths, codes)


class FeatureSpool:
    """Collects the features of items or users.

    Args:
        path: of a temporary file.
        num_values: how many values a field has by the indexer; a larger re-id is an error.
    """

    def __init__(self, path: Path, num_values: Mapping[str, int]) -> None:
        self.num_rows = 0
        self._path = path
        self._num_values = num_values
        self._file: IO[bytes] = path.open("wb")
        self._blocks: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self._single: set[str] = set()
        self._lists: set[str] = set()

    def append(self, rows: np.ndarray, features: Features, where: str) -> None:
        """Add the features of some rows, each row once in all.

        Raises:
            InputError: a re-id larger than the field's number of values.
        """
        for name, codes in features.single.items():
            self._check(name, codes, where)
        for name, (_, codes) in features.lists.items():
            self._check(name, codes, where)
        self._single |= {name for name, codes in features.single.items() if codes.any()}
        self._lists |= {name for name, (_, codes) in features.lists.items() if len(codes)}
        self._blocks.append((tuple(features.single), tuple(features.lists)))
        self._save(rows.astype(np.int64))
        for codes in features.single.values():
            self._save(codes)
        for lengths, codes in features.lists.values():
            self._save(lengths)
            self._save(codes)
        self.num_rows += len(rows)

    def _save(self, array: np.ndarray) -> None:
        np.save(self._file, array, allow_pickle=False)

    def _check(self, name: str, codes: np.ndarray, where: str) -> None:
        limit = self._num_values.get(name)
        if limit is not None and len(codes) and codes.max() >= limit + FIELD_RESERVED:
            raise InputError(
                f"{where} has {codes.max() - 1} in field {name!r}, which has only {limit} values in the indexer: "
                "re-ids are expected there, not raw values."
            )

    def write(
        self,
        open_fields: Callable[[tuple[str, ...], int], FieldsBuilder],
        num_rows: int,
        label: Callable[[int], str],
    ) -> FieldsBuilder:
        """Put everything in place; returns the columns.

        Args:
            open_fields: makes the columns, given the names of the single-value fields and R.
            num_rows: R; all rows are below it.
            label: names a row for messages.

        Raises:
            InputError: a row came twice.
        """
        self._file.close()
        names = field_order(self._single - self._lists)
        fields = open_fields(names, num_rows)
        fields.sizes = [self._num_values.get(name, 0) + FIELD_RESERVED for name in names]
        for name in field_order(self._lists):
            fields.add_list(name)
            fields.list_sizes[name] = self._num_values.get(name, 0) + FIELD_RESERVED
        seen = RowFile(self._path.with_suffix(".seen.npy"), np.bool_, (num_rows,))
        with self._path.open("rb") as self._file:
            for single_names, list_names in self._blocks:
                rows = self._load()
                _refuse_twice(rows, seen, label)
                self._put_block(fields, rows, single_names, list_names)
        return fields

    def _load(self) -> np.ndarray:
        array: np.ndarray = np.load(self._file, allow_pickle=False)
        return array

    def _put_block(
        self, fields: FieldsBuilder, rows: np.ndarray, single_names: tuple[str, ...], list_names: tuple[str, ...]
    ) -> None:
        single = {name: self._load() for name in single_names}
        lists = {name: (self._load(), self._load()) for name in list_names}
        values = np.zeros((len(rows), len(fields.names)), np.int32)
        for place, name in enumerate(fields.names):
            if name in single:
                values[:, place] = single[name]
        fields.put(rows, values)
        for name in fields.list_sizes:
            column = _as_list(single.get(name), lists.get(name))
            if column is not None:
                fields.put_list(name, rows, *column)


def _as_list(
    single: np.ndarray | None, lists: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """One list column from a block in which some rows may have a bare value instead of a list."""
    if single is None:
        return lists
    own = (single != FIELD_MISSING).astype(np.int64)
    if lists is None:
        return own, single[single != FIELD_MISSING]
    lengths, codes = lists
    total = own + lengths
    merged = np.empty(int(total.sum()), np.int32)
    starts = np.cumsum(total) - total
    has_own = np.zeros(len(merged), np.bool_)
    has_own[starts[own > 0]] = True
    merged[has_own] = single[own > 0]
    merged[~has_own] = codes
    return total, merged


def _refuse_twice(rows: np.ndarray, seen: RowFile, label: Callable[[int], str]) -> None:
    ordered = np.sort(rows)
    twice = np.concatenate([rows[seen.get(rows)], ordered[1:][np.diff(ordered) == 0]])
    if len(twice):
        raise InputError(f"The features of {label(int(twice[0]))} are given twice: keep one row of them.")
    seen.put(rows, np.ones(len(rows), np.bool_))


def field_order(names: set[str]) -> tuple[str, ...]:
    """Fields by number, then those that are no numbers by name."""
    return tuple(sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name)))
