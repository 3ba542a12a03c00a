from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.features import FIELD_MISSING
from semid.data.field_values import in_codes_of
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.errors import InputError


def library(folder: Path, columns: dict[str, list], users: dict[str, list] | None = None) -> Dataset:
    raw, count = folder / "raw", len(next(iter(columns.values())))
    raw.mkdir(parents=True)
    pq.write_table(pa.table({"item_id": [f"b{row}" for row in range(count)], **columns}), raw / "items.parquet")
    readers = {"user_id": ["x"] * 3 + ["y"] * 3, "item_id": ["b0", "b1", "b2"] * 2, "timestamp": [1, 2, 3] * 2}
    pq.write_table(pa.table(readers), raw / "interactions.parquet")
    if users:
        pq.write_table(pa.table({"user_id": ["x", "y"], **users}), raw / "users.parquet")
    prepare(raw, folder / "data", PrepareConfig())
    return Dataset.open(folder / "data")


OLD = {"shelf": ["art", "art", "sea", "sea"], "year": [1999, 1999, 2001, 2001]}


def test_codes_are_those_of_the_same_values(tmp_path):
    """Other order of values and of columns; integers and words; a value that is new and one that is missing."""
    old = library(tmp_path / "old", OLD)
    columns = {
        "year": [2001, 2001, 1999, 1999, None, 7, 7],
        "shelf": ["war", "war", "sea", "art", "art", None, "sea"],
    }
    fields = in_codes_of(old, library(tmp_path / "new", columns), "item")
    assert FIELD_MISSING == 0
    code = {name: place for place, name in enumerate(old.item_fields.names)}
    art, _, sea, _ = old.item_fields.values[:, code["shelf"]]
    year99, _, year01, _ = old.item_fields.values[:, code["year"]]
    np.testing.assert_array_equal(fields.values[:, code["shelf"]], [0, 0, sea, art, art, 0, sea])
    np.testing.assert_array_equal(fields.values[:, code["year"]], [year01, year01, year99, year99, 0, 0, 0])
    assert (fields.names, fields.sizes) == (old.item_fields.names, old.item_fields.sizes)


def test_lists_keep_their_order_and_lose_what_is_new(tmp_path):
    old = library(tmp_path / "old", {"tags": [["a", "b"], ["b"], ["a"], ["c", "a", "c"]]})
    later = library(tmp_path / "new", {"tags": [["c", "x", "a"], ["x", "x"], [], ["b", "a", "b"], None]})
    field, was = in_codes_of(old, later, "item").lists["tags"], old.item_fields.lists["tags"]
    a, b = was.values[:2]
    c = was.values[was.offsets[3]]
    np.testing.assert_array_equal(field.offsets, [0, 2, 2, 2, 5, 5])
    np.testing.assert_array_equal(field.values, [c, a, b, a, b])
    assert field.size == was.size


def test_columns_of_users(tmp_path):
    old = library(tmp_path / "old", OLD, {"town": ["Ulm", "Ulm"]})
    later = library(tmp_path / "new", OLD, {"town": ["Ulm", "Ulm"]})
    np.testing.assert_array_equal(in_codes_of(old, later, "user").values, old.user_fields.values)


def test_files_of_the_challenge(road, tmp_path):
    """Their values are told by the indexer: the same files give the same codes."""
    data = Dataset.open(road.folder / "data")
    for kind, fields in (("item", data.item_fields), ("user", data.user_fields)):
        same = in_codes_of(data, data, kind)
        np.testing.assert_array_equal(same.values, fields.values)
        for name, field in fields.lists.items():
            np.testing.assert_array_equal(same.lists[name].values, field.values)


@pytest.mark.parametrize(("columns", "told"), [({"year": OLD["year"]}, "old"), (OLD | {"size": [1, 1, 2, 2]}, "new")])
def test_other_columns_are_refused(tmp_path, columns, told):
    old, later = library(tmp_path / "old", OLD), library(tmp_path / "new", columns)
    with pytest.raises(InputError, match=f"{told}.* has the item column '(shelf|size)' and .* has not: prepare both"):
        in_codes_of(old, later, "item")


def test_a_dataset_that_does_not_keep_its_values_is_refused(tmp_path):
    old, later = library(tmp_path / "old", OLD), library(tmp_path / "new", OLD)
    del later.artifact_or_raise.files["item_fields/values.parquet"]
    with pytest.raises(InputError, match=r"prepared by an earlier semid.*prepare it and train again"):
        in_codes_of(old, later, "item")
