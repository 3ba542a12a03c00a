import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.pipeline.given_lists import read_lists


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture
def rows(dataset) -> list[dict]:
    """Two modes, queries in falling order, lists of different lengths."""
    queries = dataset.queries["test"].select(np.arange(4))
    ids = dataset.item_ids.tolist()
    return [
        {
            "query": query,
            "user_id": dataset.user_ids[queries.users[query]],
            "mode": mode,
            "items": ids[query : query + 1 + query][:: -1 if mode == "b" else 1],
            "scores": [1.0 - place for place in range(query + 1)],
        }
        for mode in ("a", "b")
        for query in (3, 2, 1, 0)
    ]


def written(folder: Path, rows: list[dict]) -> Path:
    path = folder / "lists.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def first(dataset: Dataset):
    return dataset.queries["test"].select(np.arange(4))


def test_lists_by_mode_and_query(dataset, rows, tmp_path) -> None:
    found = read_lists(written(tmp_path, rows), dataset, first(dataset), 3)
    assert found["a"].items.tolist() == [[0, -1, -1], [1, 2, -1], [2, 3, 4], [3, 4, 5]]
    assert found["b"].items.tolist() == [[0, -1, -1], [2, 1, -1], [4, 3, 2], [6, 5, 4]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists.parquet")
    same = read_lists(tmp_path / "lists.parquet", dataset, first(dataset), 3)
    np.testing.assert_array_equal(same["b"].items, found["b"].items)


def test_the_least_that_a_row_must_say(dataset, tmp_path) -> None:
    ids = dataset.item_ids.tolist()
    rows = [{"query": query, "items": [] if query == 2 else [ids[7]]} for query in range(4)]
    found = read_lists(written(tmp_path, rows), dataset, first(dataset), 2)
    assert list(found) == ["lists"]
    assert found["lists"].items.tolist() == [[7, -1], [7, -1], [-1, -1], [7, -1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": ["nobody"], "scores": None}, "lists item 'nobody', which the dataset does not hold"),
        ({"query": 4}, r"answers query 4, but the split has queries 0\.\.3"),
        ({"query": -1}, "answers query -1, but"),
        ({"query": None}, "answers query None, but"),
        ({"query": 2}, "answers query 2 once more"),
        ({"user_id": "somebody"}, "says query 3 is of user 'somebody', but it is of"),
        ({"scores": [float("nan")] * 4}, "scores that are NaN"),
        ({"scores": [1.0, 2.0, 3.0, 4.0]}, "scores that rise"),
        ({"scores": [1.0]}, "has 1 scores for 4 items"),
        ({"items": 7}, "has items 7: it must be a list"),
    ],
)
def test_rows_that_cannot_be(dataset, rows, tmp_path, change, message) -> None:
    rows[0] |= change
    if change.get("query") == 2:
        rows[0]["user_id"] = None
    with pytest.raises(InputError, match=message):
        read_lists(written(tmp_path, rows), dataset, first(dataset), 3)


def test_an_item_twice(dataset, rows, tmp_path) -> None:
    rows[0]["items"][1] = rows[0]["items"][0]
    with pytest.raises(InputError, match="line 1 lists an item twice"):
        read_lists(written(tmp_path, rows), dataset, first(dataset), 3)


def test_files_that_lack_queries_or_are_none(dataset, rows, tmp_path) -> None:
    with pytest.raises(InputError, match="lists of mode 'b' for 3 of 4 queries; the first that lacks one is 0"):
        read_lists(written(tmp_path, rows[:-1]), dataset, first(dataset), 3)
    with pytest.raises(InputError, match=r"lists\.jsonl has no lists"):
        read_lists(written(tmp_path, []), dataset, first(dataset), 3)
    with pytest.raises(InputError, match=r"suffix '\.txt': lists are"):
        read_lists(tmp_path / "lists.txt", dataset, first(dataset), 3)
