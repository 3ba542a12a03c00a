"""Names by hand, from every place that titles can come from, and every way to name nothing."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.prepare import prepare
from semid.errors import InputError
from semid.pipeline.naming import Named, Names


def table(folder: Path, ids: list[object], users: list[object], titles: list[str | None] | None) -> Dataset:
    """Every user takes all items; titles of the items where given."""
    folder.mkdir()
    rows = [(user, item, place) for user in users for place, item in enumerate(ids)]
    columns = dict(zip(("user_id", "item_id", "position"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    pq.write_table(pa.table({"item_id": ids} | ({"title": titles} if titles else {})), folder / "items.parquet")
    return prepare(folder, folder.with_name(f"{folder.name}-data"))


@pytest.fixture
def numbered(tmp_path: Path) -> Dataset:
    return table(tmp_path / "numbered", [30, -10, 20], [7, 8], ["Thirty", None, "Twenty"])


@pytest.fixture
def lettered(tmp_path: Path) -> Dataset:
    return table(tmp_path / "lettered", ["c", "a", "007"], ["u1", "u2"], None)


def test_rows_of_ids(numbered: Dataset, lettered: Dataset) -> None:
    assert [Names(numbered).item(text) for text in ("30", "-10", "20")] == [0, 1, 2]
    assert [Names(lettered).item(text) for text in ("c", "a", "007")] == [0, 1, 2]
    assert Names(numbered).user("8") == 1
    assert Names(lettered).user("u1") == 0


@pytest.mark.parametrize("text", ["31", "c", "", "3.0", "9" * 30, "--10", "٣٠x"])
def test_unknown_ids_name_some_that_are_known(numbered: Dataset, text: str) -> None:
    with pytest.raises(
        InputError, match=r"There is no item '.*' in .*numbered-data; its items start 30, -10, 20: correct"
    ):
        Names(numbered).item(text)
    with pytest.raises(InputError, match=r"There is no user 'x' in .*; its users start 7, 8: correct the id"):
        Names(numbered).user("x")


def test_unknown_letters(lettered: Dataset) -> None:
    with pytest.raises(InputError, match=r"There is no item '7' in .* start 'c', 'a', '007': correct"):
        Names(lettered).item("7")


def test_titles_of_the_dataset(numbered: Dataset, lettered: Dataset) -> None:
    assert Names(numbered).items([2, 0, 2]) == {0: Named(30, "Thirty"), 2: Named(20, "Twenty")}
    assert Names(numbered).items([1]) == {1: Named(-10)}
    assert Names(lettered).items([1]) == {1: Named("a")}


def test_titles_of_a_table(tmp_path: Path, numbered: Dataset, lettered: Dataset) -> None:
    (tmp_path / "t.csv").write_text("item_id,name,price\n20,B: twenty,5\n99,C,6\n30,,7\n")
    names = Names(numbered, f"{tmp_path / 't.csv'}:name")
    assert names.items([0, 1, 2]) == {0: Named(30), 1: Named(-10), 2: Named(20, "B: twenty")}
    prices = Names(numbered, f"{tmp_path / 't.csv'}:price")
    assert prices.items([2]) == {2: Named(20, "5")}
    pq.write_table(pa.table({"item_id": ["a", "c"], "name": ["A", "C"]}), tmp_path / "t.parquet")
    assert Names(lettered, f"{tmp_path / 't.parquet'}:name").items([0, 2]) == {0: Named("c", "C"), 2: Named("007")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("items.csv", "'items.csv' names no titles: give FILE:COLUMN"),
        ("t.csv:", "names no titles"),
        ("nowhere.csv:name", "There is no file nowhere.csv"),
        ("t.txt:name", "has the suffix '.txt'"),
        ("t.csv:brand", "has no column 'brand'; it has: item_id, name"),
    ],
)
def test_no_titles(
    tmp_path: Path, numbered: Dataset, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("item_id,name\n20,B\n")
    with pytest.raises(InputError, match=message):
        Names(numbered, text)


def test_lists_are_no_titles(tmp_path: Path, numbered: Dataset) -> None:
    pq.write_table(pa.table({"item_id": [20], "tags": [["x"]]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"column 'tags' has type list.*: titles are single values"):
        Names(numbered, f"{tmp_path / 't.parquet'}:tags").items([2])
