import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.errors import InputError
from semid.pipeline.histories import HistoryReader, queries_of_split


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path: Path, dataset: Dataset, size: int = 4096):
    return list(HistoryReader(path, dataset).batches(size))


def test_raw_ids_become_rows_of_items_and_users(dataset, tmp_path):
    items, users = dataset.item_ids, dataset.user_ids
    path = write_lines(
        tmp_path / "mine.jsonl",
        {"user_id": users[4], "history": [int(items[3]), int(items[0]), int(items[3])]},
        {"history": [int(items[9])], "actions": ["click"], "timestamps": [77]},
        {"user_id": "somebody else", "history": [str(items[5]), str(items[6])], "actions": [None, "exposure"]},
    )
    [batch] = read(path, dataset)
    queries = batch.queries
    assert batch.user_ids == [users[4], None, "somebody else"]
    assert queries.users.tolist() == [4, -1, -1]
    assert queries.log.items.tolist() == [3, 0, 3, 9, 5, 6]
    assert queries.start.tolist() == [0, 3, 4]
    assert queries.end.tolist() == [3, 4, 6]
    click, exposure = dataset.action_names.index("click"), dataset.action_names.index("exposure")
    assert queries.log.actions.tolist() == [ACTION_UNKNOWN] * 3 + [click, ACTION_UNKNOWN, exposure]
    assert queries.log.times.tolist() == [TIME_MISSING] * 3 + [77] + [TIME_MISSING] * 2


def test_parquet_and_lines_are_read_alike_at_any_batch_size(dataset, tmp_path):
    rng = np.random.default_rng(0)
    records = [
        {"user_id": str(dataset.user_ids[row]), "history": rng.choice(dataset.item_ids, 1 + row % 4).tolist()}
        for row in range(25)
    ]
    lines = read(write_lines(tmp_path / "mine.jsonl", *records), dataset, size=7)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "mine.parquet")
    table = read(tmp_path / "mine.parquet", dataset, size=10)
    assert [batch.first for batch in lines] == [0, 7, 14, 21]
    assert [batch.first for batch in table] == [0, 10, 20]
    for batches in (lines, table):
        histories = [
            dataset.item_ids[batch.queries.log.items[start:end]].tolist()
            for batch in batches
            for start, end in zip(batch.queries.start, batch.queries.end, strict=True)
        ]
        assert histories == [record["history"] for record in records]


def test_unknown_items_are_left_out_and_counted(dataset, tmp_path, caplog):
    known = int(dataset.item_ids[2])
    path = write_lines(tmp_path / "mine.jsonl", {"history": [1, known, 2], "timestamps": [5, 6, 7]})
    with caplog.at_level(logging.WARNING, logger="semid"):
        [batch] = read(path, dataset)
    assert batch.queries.log.items.tolist() == [2]
    assert batch.queries.log.times.tolist() == [6]
    assert "Left out 2 items" in caplog.text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1, 2], "line 1 must be an object"),
        ({"items": [1]}, "line 1 must be an object"),
        ({"history": 5}, "line 1 has history 5: it must be a list"),
        ({"history": [1], "actions": ["click", "click"]}, "line 1 has 2 actions for 1 items"),
        ({"history": [1], "timestamps": [0.5]}, "timestamps that are no integers"),
        ({"history": [1], "timestamps": "now"}, "line 1 has timestamps 'now': it must be a list"),
    ],
)
def test_records_that_say_something_else(dataset, tmp_path, record, message):
    with pytest.raises(InputError, match=message):
        read(write_lines(tmp_path / "mine.jsonl", record), dataset)


def test_parquet_without_a_history(dataset, tmp_path):
    pq.write_table(pa.table({"items": [[1]]}), tmp_path / "mine.parquet")
    with pytest.raises(InputError, match="no column 'history'; it has: items"):
        read(tmp_path / "mine.parquet", dataset)


def test_a_split_comes_in_parts_that_make_the_whole(dataset):
    queries = dataset.queries["test"]
    parts = list(queries_of_split(dataset, "test", size=50))
    assert [part.first for part in parts] == list(range(0, len(queries), 50))
    np.testing.assert_array_equal(np.concatenate([part.queries.users for part in parts]), queries.users)
    np.testing.assert_array_equal(np.concatenate([part.queries.end for part in parts]), queries.end)
    assert [user for part in parts for user in part.user_ids] == dataset.user_ids[queries.users].tolist()


def test_next_asks_after_all_events_of_every_user_who_has_some(road):
    dataset = Dataset.open(road.folder / "data")
    lengths = np.diff(dataset.events.offsets)
    batches = list(queries_of_split(dataset, "next", size=64))
    assert [batch.first for batch in batches] == list(range(0, int((lengths > 0).sum()), 64))
    users = np.concatenate([batch.queries.users for batch in batches])
    asked = np.concatenate([batch.queries.end - batch.queries.start for batch in batches])
    np.testing.assert_array_equal(users, np.flatnonzero(lengths))
    np.testing.assert_array_equal(asked, lengths[users])
    assert batches[0].user_ids == dataset.user_ids[users[:64]].tolist()
