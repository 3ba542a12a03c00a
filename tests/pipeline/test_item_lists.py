from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.pipeline.item_lists import listed_items, restrict


@pytest.fixture
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture
def table(dataset: Dataset, tmp_path: Path) -> Path:
    """Items 2, 3, 5 and one that nobody knows."""
    ids = pa.array([*pa.array(dataset.item_ids).take(pa.array([2, 3, 5])).to_pylist(), 987_654_321])
    columns = {
        "item_id": ids,
        "brand": pa.array(["acme", None, "bolt", "acme"]),
        "size": pa.array([7, 8, 7, 7]),
        "tags": pa.array([["a", "b"], [], ["b"], None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("", [2, 3, 5]),
        (":brand=acme", [2]),
        (":brand=acme,bolt", [2, 5]),
        (":size=7", [2, 5]),
        (":tags=b", [2, 5]),
        (":tags=a", [2]),
    ],
)
def test_rows_with_a_value(dataset: Dataset, table: Path, condition: str, rows: list[int]) -> None:
    assert np.flatnonzero(listed_items(f"{table}{condition}", dataset)).tolist() == rows


def test_csv_and_strings_of_digits_name_the_same_items(dataset: Dataset, table: Path) -> None:
    read = pq.read_table(table, columns=["item_id", "brand"])
    strings = read.set_column(0, "item_id", read["item_id"].cast(pa.string()))
    pq.write_table(strings, table.with_name("strings.parquet"))
    pa_csv.write_csv(read, table.with_suffix(".csv"))
    for path in (table.with_name("strings.parquet"), table.with_suffix(".csv")):
        assert np.flatnonzero(listed_items(f"{path}:brand=bolt", dataset)).tolist() == [5]


def test_allowed_and_not_denied(dataset: Dataset, table: Path) -> None:
    candidates = np.array([0, 2, 3, 5, 7])
    assert restrict(candidates, dataset, allow=None, deny=None).tolist() == [0, 2, 3, 5, 7]
    assert restrict(candidates, dataset, allow=str(table), deny=None).tolist() == [2, 3, 5]
    assert restrict(candidates, dataset, allow=None, deny=str(table)).tolist() == [0, 7]
    assert restrict(candidates, dataset, allow=str(table), deny=f"{table}:size=7").tolist() == [3]


def test_what_names_nothing_is_refused(dataset: Dataset, table: Path) -> None:
    for text, message in {
        f"{table}:colour=red": "has no column 'colour'; it has: item_id, brand",
        f"{table}:brand=Acme": "names no item that the dataset holds, such as",
        f"{table.parent}/none.parquet": "There is no file",
        f"{table.parent}/items.txt": "suffix '.txt': tables are .parquet or .csv",
    }.items():
        with pytest.raises(InputError, match=message):
            listed_items(text, dataset)
    with pytest.raises(InputError, match="None of the 2 candidates is left by --allow"):
        restrict(np.array([0, 7]), dataset, allow=str(table), deny=None)
