"""The table layout against plain loops, and every mistake in it as one sentence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.data.splits import SplitConfig
from semid.data.table.events import action_order
from semid.errors import InputError

ITEMS = {"item_id": [10, 20, 30, 40]}
EVENTS = {
    "user_id": [1, 1, 1, 2, 2],
    "item_id": [10, 20, 30, 40, 10],
    "timestamp": [100, 200, 300, 50, 60],
}


def write(folder: Path, form: str = "parquet", **tables: Mapping[str, Any] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        if columns is None:
            continue
        table = pa.table(dict(columns))
        if form == "parquet":
            pq.write_table(table, folder / f"{name}.parquet")
        else:
            pa_csv.write_csv(table, folder / f"{name}.csv")
    return folder


def read(folder: Path, **options: Any) -> Dataset:
    return prepare(folder, folder.parent / "prepared", PrepareConfig(**options))


def histories(data: Dataset) -> dict[Any, list[tuple[Any, int, int]]]:
    """Raw item id, action and time of the events of each raw user."""
    log, ids = data.events, data.item_ids
    found = {}
    for row, user in enumerate(data.user_ids.tolist()):
        span = range(log.offsets[row], log.offsets[row + 1])
        found[user] = [(ids[log.items[p]], int(log.actions[p]), int(log.times[p])) for p in span]
    return found


def report(data: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = data.artifact_or_raise.details["report"]
    return found


def random_events(seed: int, ids: str, *, by_user: bool) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 40, 600)
    if by_user:
        users = np.sort(users)
    items = rng.integers(0, 30, 600)
    names = {"int": lambda x: int(x), "str": lambda x: f"n{x:03}"}[ids]
    return {
        "user_id": [names(u) for u in users],
        "item_id": [names(i) for i in items],
        "timestamp": rng.integers(0, 200, 600).tolist(),
    }


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("ids", ["int", "str"])
@pytest.mark.parametrize("by_user", [True, False])
@pytest.mark.parametrize("small", [True, False])
def test_events_are_sorted_by_user_then_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, ids: str, by_user: bool, small: bool
) -> None:
    if small:  # many batches, many buckets
        monkeypatch.setattr("semid.data.table.files.BATCH_ROWS", 37)
        monkeypatch.setattr("semid.data.table.files._CSV_BLOCK_BYTES", 500)
        monkeypatch.setattr("semid.data.table.events._BUCKET_EVENTS", 70)
        monkeypatch.setattr("semid.data.table.events._SAMPLE_EVERY", 5)
    events = random_events(0, ids, by_user=by_user)
    expected: dict[Any, list[tuple[Any, int, int]]] = {}
    for user, item, time in zip(*events.values(), strict=True):
        expected.setdefault(user, []).append((item, ACTION_UNKNOWN, time))
    expected = {user: sorted(expected[user], key=lambda event: event[2]) for user in sorted(expected)}
    data = read(write(tmp_path / "raw", form, interactions=events))
    assert histories(data) == expected
    assert list(histories(data)) == list(expected)
    assert data.item_ids.tolist() == sorted(set(events["item_id"]))
    assert not list((tmp_path / "prepared").glob("**/*.arrow"))


def test_positions_win_over_file_order_and_ties_of_time(tmp_path: Path) -> None:
    events = {"user_id": [1, 1, 1], "item_id": [10, 20, 30], "position": [2, 0, 1], "timestamp": [7, 7, 7]}
    data = read(write(tmp_path / "raw", items=ITEMS, interactions=events))
    assert [event[0] for event in histories(data)[1]] == [20, 30, 10]


def test_times_against_the_positions_are_an_error(tmp_path: Path) -> None:
    events = {"user_id": ["a", "b", "b"], "item_id": [10, 20, 30], "position": [0, 0, 1], "timestamp": [1, 9, 8]}
    with pytest.raises(InputError, match=r"user 'b' \(row 1\) go back in time, from 9 to 8: sort"):
        read(write(tmp_path / "raw", items=ITEMS, interactions=events))
    assert not (tmp_path / "prepared").exists()


def test_events_without_a_time_stay_behind_their_neighbour(tmp_path: Path) -> None:
    events = {"user_id": [1] * 5, "item_id": [10, 20, 30, 40, 10], "timestamp": [None, 9, None, 3, None]}
    data = read(write(tmp_path / "raw", items=ITEMS, interactions=events))
    assert [(item, time) for item, _, time in histories(data)[1]] == [
        (10, TIME_MISSING), (40, 3), (10, TIME_MISSING), (20, 9), (30, TIME_MISSING),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "times",
    [
        pa.array([86400, 90000], pa.timestamp("s")),
        pa.array([86400 * 10**6, 90000 * 10**6 + 999], pa.timestamp("us", tz="UTC")),
        pa.array([86400.0, 90000.5]),
        pa.array(["1970-01-02", "1970-01-02 01:00:00"]),
        pa.array(["86400", "90000"]),
        pa.array([86400, 90000], pa.uint32()),
    ],
)
def test_times_may_be_written_in_several_ways(tmp_path: Path, times: pa.Array) -> None:
    events = {"user_id": [1, 1], "item_id": [10, 20], "timestamp": times}
    data = read(write(tmp_path / "raw", items=ITEMS, interactions=events))
    assert data.events.times.tolist() == [86400, 90000]


@pytest.mark.parametrize(
    ("actions", "names", "codes"),
    [
        (["conversion", "click", "exposure", "click", "click"], ("exposure", "click", "conversion"), [2, 1, 0, 1, 1]),
        (["view", "buy", "view", "view", "buy"], ("view", "buy"), [0, 1, 0, 0, 1]),
        ([5, 3, 5, 5, 9], ("3", "5", "9"), [1, 0, 1, 1, 2]),
        (["view", None, "buy", "view", None], ("view", "buy"), [0, -1, 1, 0, -1]),
        ([None] * 5, (), [-1] * 5),
    ],
)
def test_actions_are_named_weakest_first(
    tmp_path: Path, actions: list[Any], names: tuple[str, ...], codes: list[int]
) -> None:
    plain = pa.array(actions)
    for values in (plain, plain.dictionary_encode() if names else plain):
        data = read(write(tmp_path / "raw", items=ITEMS, interactions={**EVENTS, "action": values}))
        assert data.action_names == names
        assert data.events.actions.tolist() == codes
        assert report(data).get("null_actions", 0) == actions.count(None)


def test_too_many_actions_are_refused() -> None:
    assert action_order({str(n): 1 for n in range(127)})
    with pytest.raises(InputError, match="128 different actions"):
        action_order({str(n): 1 for n in range(128)})


def test_null_actions_follow_the_policy(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", items=ITEMS, interactions={**EVENTS, "action": ["a", None, "a", None, None]})
    dropped = read(folder, null_action="drop")
    assert {user: [e[0] for e in events] for user, events in histories(dropped).items()} == {1: [10, 30]}
    with pytest.raises(InputError, match=r"interactions\.parquet row 1 has no action"):
        read(folder, null_action="error")
    write(folder, interactions={**EVENTS, "action": pa.nulls(5)})
    with pytest.raises(InputError, match=r"interactions\.parquet row 0 has no action"):
        read(folder, null_action="error")
    with pytest.raises(InputError, match="no users"):
        read(folder, null_action="drop")


@pytest.mark.parametrize("codes", [[0, 1, 2, 0, 2], ["train", "valid", "test", "train", "test"]])
def test_split_column(tmp_path: Path, codes: list[Any]) -> None:
    data = read(write(tmp_path / "raw", items=ITEMS, interactions={**EVENTS, "split": codes}))
    assert data.split("test").target_items.tolist() == [2, 0]
    assert data.split("valid").target_items.tolist() == [1]
    assert data.train_end.tolist() == [1, 4]
    own = read(tmp_path / "raw", split=SplitConfig(protocol="leave-last-out"))
    assert own.split("valid").target_items.tolist() == [1]


def test_a_split_column_alone_leaves_events_without_order(tmp_path: Path) -> None:
    events = {"user_id": [1, 1, 1, 1], "item_id": [10, 20, 30, 40], "split": [2, 0, 1, 2]}
    data = read(write(tmp_path / "raw", items=ITEMS, interactions=events))
    assert [event[0] for event in histories(data)[1]] == [20, 30, 10, 40]
    assert data.split("test").target_items.tolist() == [0, 3]
    assert data.split("test").end.tolist() == [1]


def test_columns_become_fields_if_their_values_are_shared(tmp_path: Path) -> None:
    items = {
        "item_id": ["a", "b", "c", "d"],
        "title": ["same", "same", None, "same"],
        "text": ["same"] * 4,
        "raw_id": [1, 1, 1, 1],
        "brand": ["X", None, "X", "X"],
        "shop": [7, 8, 7, 8],
        "unique": [1, 2, 3, 4],
        "mostly": [1, 1, 2, 3],
        "price": [1.0, 1.0, 1.0, 1.0],
        "adult": [True, False, True, True],
        "nothing": pa.nulls(4),
        "tags": [["p", "q"], [], None, ["q", "p", None]],
        "kind": pa.array(["u", "v", "u", "v"]).dictionary_encode(),
        "vector": [[1.0], [1.0], [1.0], [1.0]],
        "words": [["k"], ["l"], ["m"], ["n"]],
    }
    events = {"user_id": [1, 1], "item_id": ["a", "c"], "position": [0, 1]}
    data = read(write(tmp_path / "raw", items=items, interactions=events))
    assert data.item_fields.names == ("brand", "shop", "adult", "kind")
    assert data.item_fields.sizes == (3, 4, 4, 4)
    assert data.item_fields.values.tolist() == [[2, 2, 2, 2], [0, 3, 3, 3], [2, 2, 2, 2], [2, 3, 2, 3]]
    assert list(data.item_fields.lists) == ["tags"]
    assert data.item_fields.lists["tags"].offsets.tolist() == [0, 2, 2, 2, 4]
    assert data.item_fields.lists["tags"].values.tolist() == [2, 3, 3, 2]
    assert report(data)["items_columns_left_out"] == ["unique", "mostly", "price", "nothing", "vector", "words"]
    assert pq.read_table(tmp_path / "prepared" / "items.parquet").to_pydict() == {
        "raw_id": ["a", "b", "c", "d"],
        "title": ["same", "same", None, "same"],
    }


def test_a_user_table_brings_fields_and_users_without_events(tmp_path: Path) -> None:
    users = {"user_id": [9, 0, 2, 1, 1 << 40], "city": ["P", "R", "P", "R", "P"]}
    data = read(write(tmp_path / "raw", items=ITEMS, users=users, interactions=EVENTS))
    assert data.user_ids.tolist() == [0, 1, 2, 9, 1 << 40]
    assert np.diff(data.events.offsets).tolist() == [0, 3, 2, 0, 0]
    assert data.user_fields.values[:, 0].tolist() == [3, 3, 2, 2, 2]


def test_csv_types_come_from_all_values(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "interactions.csv").write_text('user_id,item_id,timestamp\n1,007,5\n1,"a,b",6\n2,7,\n')
    data = read(folder)
    assert data.user_ids.tolist() == [1, 2]
    assert data.item_ids.tolist() == ["007", "7", "a,b"]
    assert data.events.times.tolist() == [5, 6, TIME_MISSING]


def save(folder: Path, name: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("stored", ["float16", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_matrices_in_item_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, stored: str, order: Any
) -> None:
    monkeypatch.setattr("semid.data.table.embeddings._CHUNK_BYTES", 40)
    vectors = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    vectors[2] = 0
    folder = write(tmp_path / "raw", items=ITEMS, interactions=EVENTS)
    save(folder, "emb_82.f16.npy" if dtype is np.float16 else "emb_82.npy", np.asarray(vectors, order=order))
    data = read(folder, float_dtype=stored)
    embedding = data.embedding("82")
    assert embedding.vectors.dtype == stored
    np.testing.assert_array_equal(embedding.vectors, vectors.astype(np.float32).astype(stored))
    assert embedding.valid.tolist() == [True, True, False, True]
    assert report(data)["embeddings"]["82"] == {"zero_rows_taken_as_missing": 1, "dim": 3, "valid": 3}


def test_without_items_the_matrix_rows_are_the_items(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", interactions={"user_id": [1, 1], "item_id": [5, 2], "position": [0, 1]})
    save(folder, "emb_82.npy", np.ones((7, 2), np.float32))
    assert read(folder).item_ids.tolist() == list(range(7))


def test_keyed_vectors_join_by_id(tmp_path: Path) -> None:
    rows = {"item_id": ["40", "99", "10", "x", "20"], "emb": [[4.0, 4], [9.0, 9], [1.0, 1], None, [2.0, 2]]}
    folder = write(tmp_path / "raw", items=ITEMS, interactions=EVENTS, emb_82=rows)
    data = read(folder)
    assert data.embedding("82").valid.tolist() == [True, True, False, True]
    assert data.embedding("82").vectors[:, 0].tolist() == [1, 2, 0, 4]
    assert report(data)["embeddings"]["82"] == {"join_rate": 0.75, "dim": 2, "valid": 3}
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8), pa.float32()), 2)
    write(folder, emb_83={"item_id": [40, 30, 20, 10], "emb": fixed})
    assert read(folder, embeddings=("83",)).embedding("83").vectors[:, 0].tolist() == [6, 4, 2, 0]
    assert list(Dataset.open(tmp_path / "prepared").embeddings) == ["83"]


def test_given_queries_beside_interactions(tmp_path: Path) -> None:
    official = {
        "split": ["test", "valid", "test"],
        "user_id": [2, 1, 7],
        "history": [[40], [10, 20], [30, 30]],
        "target": [10, 30, 20],
    }
    codes = [0, 0, 1, 0, 2]
    folder = write(tmp_path / "raw", items=ITEMS, interactions={**EVENTS, "split": codes}, official_eval=official)
    data = read(folder)
    assert data.user_ids.tolist() == [1, 2, 7]
    test = data.split("test")
    assert test.users.tolist() == [1, 2]
    assert test.target_items.tolist() == [0, 1]
    assert [test.log.items[a:b].tolist() for a, b in zip(test.start, test.end, strict=True)] == [[3], [2, 2]]
    assert len(data.split("valid")) == 1
    assert data.train_end.tolist() == [2, 4, 5]


def test_samples_in_place_of_interactions(tmp_path: Path) -> None:
    samples = {
        "split": ["train", "train", "train", "train", "train", "valid", "test"],
        "user_id": [5, 5, 3, 3, 3, 9, 3],
        "history": [[10], [10, 20], [10, 20], [20, 30], [10], [40], [10, 20]],
        "target": [20, 20, 30, 40, 20, 10, 40],
    }
    data = read(write(tmp_path / "raw", items=ITEMS, samples=samples))
    assert {user: [e[0] for e in events] for user, events in histories(data).items()} == {
        3: [10, 20, 30, 40],  # a window that moved on; its last row repeats what was there
        5: [10, 20, 20],
        9: [],
    }
    assert data.train_end.tolist() == data.events.offsets[1:].tolist()
    assert data.split("test").users.tolist() == [0]
    assert data.split("valid").users.tolist() == [2]


def broken(tmp_path: Path, **tables: Any) -> Path:
    return write(tmp_path / "raw", **{"items": ITEMS, "interactions": EVENTS, **tables})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"items": {"item_id": [10, 20, 30, 20]}}, r"Item id 20 occurs twice, at .*items.parquet row 1 and .* row 3"),
        ({"items": {"item_id": ["a", "b", "a"]}}, r"Item id 'a' occurs twice, at .* row 0 and .* row 2"),
        ({"items": {"item_id": [10, None]}}, r"items.parquet row 1 has no item_id"),
        ({"items": {"id": [10]}}, r"items.parquet has no column 'item_id'; it has: id"),
        ({"items": {"item_id": pa.array([], pa.int64())}}, r"items.parquet has no rows"),
        ({"items": {"item_id": [1.5, 2.0]}}, r"items.parquet row 0 has no item_id"),
        ({"items": {"item_id": [True]}}, r"column 'item_id' has type bool: ids must be integers or strings"),
        ({"items": {"item_id": [10, 20]}}, r"row 2 has item_id 30, which is no item; unknown ids start 30, 40 and"),
        (
            {"interactions": {**EVENTS, "item_id": [10, None, 20, 20, 20]}},
            r"interactions.parquet row 1 has no item_id",
        ),
        ({"interactions": {**EVENTS, "user_id": [1, 1, 1, 2, None]}}, r"interactions.parquet row 4 has no user_id"),
        ({"interactions": {"user_id": [1], "item_id": [10]}}, "no timestamp and no position column"),
        ({"interactions": {"user_id": [1], "timestamp": [10]}}, "no column 'item_id'; it has: user_id, timestamp"),
        ({"interactions": {k: pa.array([], pa.int64()) for k in EVENTS}}, "interactions.parquet has no rows"),
        ({"interactions": {**EVENTS, "split": [0, 1, 3, 0, 0]}}, "row 2 has split 3: it must be"),
        ({"interactions": {**EVENTS, "split": ["train", "dev", "test", "x", "y"]}}, "row 1 has split 'dev'"),
        ({"interactions": {**EVENTS, "split": [0, 1, 2, None, 0]}}, "row 3 has split None"),
        ({"interactions": {**EVENTS, "action": [0.5] * 5}}, "'action' has type double"),
        ({"interactions": {**EVENTS, "position": [0, 1, None, 3, 4]}}, "row 2 has no position"),
        (
            {"interactions": {**EVENTS, "timestamp": ["5", "6", "x", "7", "8"]}},
            "row 2 has timestamp 'x', which is not",
        ),
        ({"interactions": {**EVENTS, "timestamp": ["x"] * 5}}, "row 0 has timestamp 'x', which is not"),
        (
            {"interactions": {**EVENTS, "timestamp": [None, "2020-01-02", "7 May", None, "2020-01-03"]}},
            "row 2 has timestamp '7 May', which is not",
        ),
        ({"interactions": {**EVENTS, "timestamp": ["5", "2020-01-02", "7", "8", "9"]}}, "row 1 has timestamp '2020-"),
        ({"interactions": {**EVENTS, "timestamp": ["2020-01-02", "7", "8", "9", "9"]}}, "row 1 has timestamp '7'"),
        ({"interactions": {**EVENTS, "timestamp": [[1]] * 5}}, "'timestamp' has type list.*integers are needed"),
        (
            {"users": {"user_id": ["u"]}, "interactions": EVENTS},
            "User ids of the events are int64 but those .* are string",
        ),
        ({"emb_82": {"item_id": [10, 20], "emb": [[1.0, 2.0], [1.0]]}}, "row 1 has an embedding of 1 values after 2"),
        ({"emb_82": {"item_id": [10, 20], "emb": [[1.0], [float("nan")]]}}, r"emb_82.parquet row 1 has NaN or inf"),
        (
            {"emb_82": {"item_id": [10, 20], "emb": pa.array([None, [None]], pa.list_(pa.float32()))}},
            r"emb_82.parquet row 1 has NaN or infinity",
        ),
        ({"emb_82": {"item_id": [10, 10], "emb": [[1.0], [2.0]]}}, "Embedding 82 has item row 0 more than once"),
        ({"emb_82": {"item_id": [10], "emb": pa.nulls(1, pa.list_(pa.float32()))}}, "has no vectors"),
        ({"emb_82": {"item_id": [10], "emb": [1.0]}}, "'emb' has type double: it must hold lists"),
        ({"emb_82": {"item_id": [10], "emb": [["a"]]}}, "'emb' has type list.*: it must hold lists"),
        (
            {"emb_82": {"item_id": [7, 8, 10], "emb": [[1.0]] * 3}},
            r"a rate of 0.333 below 0.5: its ids \(7, .*10, 20",
        ),
        ({"samples": None, "interactions": None}, "has no layout semid knows: expected seq"),
    ],
)
def test_mistakes_are_one_clear_sentence(tmp_path: Path, tables: dict[str, Any], message: str) -> None:
    folder = broken(tmp_path, **tables)
    with pytest.raises(InputError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": [[40], []]}, r"row 1 gives user 1 an empty history"),
        ({"history": [None, [10]]}, r"row 0 gives user 2 an empty history"),
        ({"history": [[40, 77], [10]]}, r"row 0 has history item 77, which is no item; items start 10, 20, 30"),
        ({"history": [40, 10]}, r"'history' has type int64"),
        ({"target": [10, 77]}, r"row 1 has target 77, which is no item"),
        ({"split": ["test", "train"]}, r"row 1 is of split train"),
        ({"user_id": ["a", "b"]}, "User ids of the events are int64 but those .* are string"),
    ],
)
def test_mistakes_in_given_queries(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    official = {"split": ["test", "valid"], "user_id": [2, 1], "history": [[40], [10]], "target": [10, 30]} | change
    with pytest.raises(InputError, match=message):
        read(broken(tmp_path, official_eval=official))


def test_samples_need_items_and_training_rows(tmp_path: Path) -> None:
    samples = {"split": ["test"], "user_id": [1], "history": [[10]], "target": [20]}
    with pytest.raises(InputError, match=r"samples.parquet needs an items table"):
        read(write(tmp_path / "raw", samples=samples))
    with pytest.raises(InputError, match=r"samples.parquet has no rows of split train"):
        read(write(tmp_path / "raw", samples=samples, items=ITEMS))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 2)), r"emb_82.npy has 3 rows but there are 4 items"),
        (np.ones(4), r"emb_82.npy has shape \(4,\), but an embedding is a matrix of floats"),
        (np.ones((4, 2), np.int64), "a matrix of floats"),
        (np.ones((4, 0)), "a matrix of floats"),
        (np.array([[1.0], [2.0], [np.inf], [1.0]]), r"emb_82.npy row 2 has NaN or infinity"),
        (np.array([[object()]] * 4), r"emb_82.npy is not a readable .npy file"),
        (np.array([[1.0], [2.0], [1e9], [1.0]], np.float32), "row 2 that is too large for float16"),
    ],
)
def test_bad_matrices(tmp_path: Path, array: np.ndarray, message: str) -> None:
    folder = broken(tmp_path)
    save(folder, "emb_82.npy", array)
    with pytest.raises(InputError, match=message):
        read(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, 150])
def test_truncated_matrices(tmp_path: Path, keep: int) -> None:
    folder = broken(tmp_path)
    save(folder, "emb_82.npy", np.ones((4, 8)))
    file = folder / "emb_82.npy"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"emb_82.npy is not a readable .npy file"):
        read(folder)


def test_embedding_ids_are_checked(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    save(folder, "emb_82.npy", np.ones((4, 2)))
    save(folder, "emb_85.f16.npy", np.ones((4, 2), np.float16))
    (folder / "emb_notes.txt").write_text("")
    with pytest.raises(InputError, match="no embedding '99'; it has: 82, 85"):
        read(folder, embeddings=("82", "99"))
    assert list(read(folder, embeddings=()).embeddings) == []
    save(folder, "emb_85.npy", np.ones((4, 2)))
    with pytest.raises(InputError, match="are both embedding '85'"):
        read(folder)


@pytest.mark.parametrize("name", ["interactions", "items"])
@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.9])
def test_truncated_parquet_is_named(tmp_path: Path, name: str, keep: float) -> None:
    folder = broken(tmp_path)
    file = folder / f"{name}.parquet"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(InputError, match=rf"{name}\.parquet is truncated or damaged \(.*\): get it again") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_damaged_parquet_pages_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 1 << 40, 5000) for name in ("user_id", "item_id", "timestamp")}
    folder = write(tmp_path / "raw", interactions=columns)
    file = folder / "interactions.parquet"
    data = bytearray(file.read_bytes())
    data[4:2000] = bytes(1996)
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"interactions\.parquet is truncated or damaged"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id,item_id,timestamp\n1,10,5\n1,20\n", r"interactions.csv line 3 has 2 values instead of 3"),
        (
            "user_id,item_id,timestamp\n1,10,5\n1,20,abc\n",
            r"line 3 has timestamp 'abc', which is not an integer or a date",
        ),
        ("user_id,item_id,timestamp\n1,10,5\n,20,6\n", r"interactions.csv line 3 has no user_id"),
        ("user_id,item_id,timestamp\n1,10,5\n1,99,6\n", r"interactions.csv line 3 has item_id 99"),
        ("user_id,user_id\n1,1\n", "line of distinct column names"),
        ("", "line of distinct column names"),
        ("user_id,item_id,timestamp\n", "interactions.csv has no rows"),
        ("user_id,item_id,timestamp\n1,1\xff0,5\n", r"interactions.csv is truncated or damaged \(.*UTF8"),
    ],
)
def test_bad_csv_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    folder = write(tmp_path / "raw", items=ITEMS)
    (folder / "interactions.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_a_failed_read_leaves_the_old_dataset(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", items=ITEMS, interactions=EVENTS)
    before = read(folder).artifact_or_raise.checksum
    write(folder, items={"item_id": [10]})
    with pytest.raises(InputError):
        read(folder)
    assert Dataset.open(tmp_path / "prepared").artifact_or_raise.checksum == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prepared", "raw"]


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int | None]] = {}
    folder = write(tmp_path / "raw", items=ITEMS, interactions=EVENTS)
    save(folder, "emb_82.npy", np.ones((4, 2)))
    prepare(folder, tmp_path / "d", progress=lambda what, done, total: seen.__setitem__(what, (done, total)))
    assert seen == {"interactions": (5, 5), "embedding 82": (4, 4)}


def test_settings_can_be_read_back(tmp_path: Path) -> None:
    data = read(write(tmp_path / "raw", items=ITEMS, interactions=EVENTS))
    settings = data.artifact_or_raise.settings
    assert settings["layout"] == "table"
    assert settings["split"]["protocol"] == "auto"
    json.dumps(settings)
