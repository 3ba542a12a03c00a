from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder, default_action_weights
from semid.data.building.embedding_files import check_join
from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.splits import SplitConfig
from semid.errors import InputError


def build(
    path: Path, fill: Callable[[DatasetBuilder], None], *, num_items: int = 5, split: SplitConfig | None = None
) -> Dataset:
    with create_artifact(path, "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items = num_items
        fill(builder)
        builder.finish(split or SplitConfig())
    return Dataset.open(path)


def append(builder: DatasetBuilder, lengths: list[int], items: list[int], times: list[int] | None = None) -> None:
    times = list(range(len(items))) if times is None else times
    builder.append_events(np.array(lengths), np.array(items), np.zeros(len(items), np.int8), np.array(times))


def test_a_whole_dataset_by_hand(tmp_path: Path) -> None:
    def fill(builder: DatasetBuilder) -> None:
        builder.action_names = ("exposure", "click", "conversion", "share")
        builder.append_events(
            np.array([3, 0]), np.array([0, 1, 2]), np.array([0, 1, -1]), np.array([5, 5, TIME_MISSING])
        )
        builder.append_events(np.array([2]), np.array([4, 4]), np.array([2, 3]), np.array([1, 9]))
        builder.fields("items", ("brand", "shop"), 5).put(np.array([4, 1]), np.array([[2, 7], [3, 0]]))
        builder.raw_ids("items", pa.string(), titles=True).append(list("abcde"), ["A", None, "C", "D", "E"])
        users = builder.raw_ids("users", pa.int64())
        users.append(np.array([10, 20]))
        users.append(np.array([30]))
        builder.set_candidates(np.array([4, 0, 4]))
        builder.report["null_actions"] = 1

    data = build(tmp_path / "d", fill)
    np.testing.assert_array_equal(data.events.offsets, [0, 3, 3, 5])
    np.testing.assert_array_equal(data.events.items, [0, 1, 2, 4, 4])
    np.testing.assert_array_equal(data.events.actions, [0, 1, -1, 2, 3])
    np.testing.assert_array_equal(data.events.times, [5, 5, TIME_MISSING, 1, 9])
    assert data.item_fields.names == ("brand", "shop")
    assert data.item_fields.sizes == (4, 8)
    np.testing.assert_array_equal(data.item_fields.values, [[0, 0], [3, 0], [0, 0], [0, 0], [2, 7]])
    assert data.user_fields.values.shape == (3, 0)
    np.testing.assert_array_equal(data.candidates, [0, 4])
    assert data.item_ids.tolist() == list("abcde")
    assert data.user_ids.tolist() == [10, 20, 30]
    assert data.action_weights == (0.0, 1.0, 2.5, 1.0)
    assert pq.read_table(tmp_path / "d" / "items.parquet")["title"].to_pylist() == ["A", None, "C", "D", "E"]
    details = data.artifact_or_raise.details
    assert details["counts"] == {
        "users": 3, "items": 5, "events": 5, "candidates": 2, "train_events": 2, "valid": 0, "test": 2,
    }  # fmt: skip
    assert details["report"]["null_actions"] == 1
    assert not (tmp_path / "d" / "spool").exists()


def test_raw_ids_default_to_rows(tmp_path: Path) -> None:
    data = build(tmp_path / "d", lambda builder: append(builder, [2, 1], [0, 1, 2]))
    assert data.item_ids.tolist() == [0, 1, 2, 3, 4]
    assert data.user_ids.tolist() == [0, 1]


def test_default_weights_go_by_name() -> None:
    assert default_action_weights(["click", "exposure", "like", "conversion"]) == (1.0, 0.0, 1.0, 2.5)


def test_given_weights_are_kept(tmp_path: Path) -> None:
    def fill(builder: DatasetBuilder) -> None:
        builder.action_names, builder.action_weights = ("view", "order"), (0.5, 4.0)
        append(builder, [2], [0, 1])

    assert build(tmp_path / "d", fill).action_weights == (0.5, 4.0)


def test_times_in_milliseconds_are_refused(tmp_path: Path) -> None:
    def fill(builder: DatasetBuilder) -> None:
        builder.name_user = lambda row: repr(f"u{row}")
        append(builder, [1, 2], [0, 0, 0], [95_999_999_999, 5, 1_700_000_000_000])

    with pytest.raises(InputError, match=r"user 'u1' .* has time 1700000000000, .*: these look like milliseconds"):
        build(tmp_path / "d", fill)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("piece", [1, 2, 7])
def test_times_that_go_back_name_the_user(tmp_path: Path, piece: int) -> None:
    users = [[1, 5], [], [7, TIME_MISSING, 6], [0]]

    def fill(builder: DatasetBuilder) -> None:
        builder.name_user = lambda row: repr(f"u{row}")
        for first in range(0, len(users), piece):
            times = [t for user in users[first : first + piece] for t in user]
            append(builder, [len(u) for u in users[first : first + piece]], [0] * len(times), times)

    with pytest.raises(InputError, match=r"user 'u2' \(row 2\) go back in time, from 7 to 6: sort"):
        build(tmp_path / "d", fill)
    assert not (tmp_path / "d").exists()


def test_times_may_fall_between_users_and_skip_missing_ones(tmp_path: Path) -> None:
    times = [5, 9, 1, TIME_MISSING, 1]
    data = build(tmp_path / "d", lambda builder: append(builder, [2, 3], [0] * 5, times))
    np.testing.assert_array_equal(data.events.times, times)


@pytest.mark.parametrize("row", [-1, 5])
def test_item_rows_out_of_range_name_the_user(tmp_path: Path, row: int) -> None:
    with pytest.raises(InputError, match=f"user row 1 has item row {row}, but there are only 5"):
        build(tmp_path / "d", lambda builder: append(builder, [1, 2], [0, 1, row]))


def test_no_items_or_users_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no items"):
        build(tmp_path / "d", lambda builder: None, num_items=0)
    with pytest.raises(InputError, match="no users"):
        build(tmp_path / "d", lambda builder: None)


def test_embedding_rows_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 6)).astype(np.float32)

    def fill(builder: DatasetBuilder) -> None:
        append(builder, [2], [0, 1])
        embedding = builder.embedding("82", 6, np.float32)
        embedding.put(np.array([4, 0]), vectors[[4, 0]])
        embedding.put(np.array([2]), vectors[[2]])
        embedding.put(np.zeros(0, np.int64), np.zeros((0, 6)))

    data = build(tmp_path / "d", fill)
    embedding = data.embedding("82")
    np.testing.assert_array_equal(embedding.valid, [True, False, True, False, True])
    np.testing.assert_array_equal(embedding.vectors, np.where(embedding.valid[:, None], vectors, 0))
    assert embedding.vectors.dtype == np.float32
    assert data.artifact_or_raise.details["report"]["embeddings"]["82"] == {"dim": 6, "valid": 3}


@pytest.mark.parametrize(
    ("rows", "vectors", "message"),
    [
        ([3], [[1.0, np.nan]], "Embedding 82 has NaN or infinity at item row 3"),
        ([3, 4], [[1.0, 2.0], [np.inf, 0.0]], "Embedding 82 has NaN or infinity at item row 4"),
        ([3], [[1.0, 1e6]], "row 3 that is too large for float16: store it as float32"),
        ([3], [[1.0, 2.0, 3.0]], "Embedding 82 mixes dimensions: 3 after 2"),
        ([1], [[1.0, 2.0]], "item row 1 more than once"),
        ([3, 3], [[1.0, 2.0], [1.0, 2.0]], "item row 3 more than once"),
    ],
)
def test_bad_vectors_are_refused(tmp_path: Path, rows: list[int], vectors: list[list[float]], message: str) -> None:
    def fill(builder: DatasetBuilder) -> None:
        embedding = builder.embedding("82", 2)
        embedding.put(np.array([1]), np.ones((1, 2), np.float32))
        embedding.put(np.array(rows), np.array(vectors, np.float32))

    with pytest.raises(InputError, match=message):
        build(tmp_path / "d", fill)


def test_join_rate_is_of_the_smaller_side() -> None:
    assert check_join("82", 4, 100, 5, 0.5, "1", "2") == 0.8
    assert check_join("82", 4, 5, 100, 0.5, "1", "2") == 0.8
    with pytest.raises(InputError, match=r"joins 1 of its 5 rows to 100 items, a rate of 0.200 below 0.5: .*'x9'.*7"):
        check_join("82", 1, 5, 100, 0.5, "'x9'", "7")


@pytest.mark.parametrize("ordered", [True, False])
def test_list_columns_in_any_order_of_rows(tmp_path: Path, ordered: bool) -> None:
    rng = np.random.default_rng(1)
    expected = [rng.integers(2, 50, size).tolist() for size in (2, 0, 3, 1, 0)]
    order = np.array([0, 2, 3] if ordered else [3, 0, 2])

    def fill(builder: DatasetBuilder) -> None:
        append(builder, [2], [0, 1])
        fields = builder.fields("items", (), 5)
        fields.add_list("empty")
        for part in (order[:2], order[2:]):
            values = [value for row in part for value in expected[row]]
            fields.put_list("tags", part, np.array([len(expected[row]) for row in part]), np.array(values))
        fields.list_sizes["tags"] = 99

    tags = build(tmp_path / "d", fill).item_fields.lists["tags"]
    assert [tags.values[tags.offsets[r] : tags.offsets[r + 1]].tolist() for r in range(5)] == expected
    assert tags.size == 99
    empty = Dataset.open(tmp_path / "d").item_fields.lists["empty"]
    np.testing.assert_array_equal(empty.offsets, np.zeros(6))
    assert empty.size == 2
    assert sorted(p.name for p in (tmp_path / "d" / "item_fields").iterdir()) == [
        "empty.offsets.npy", "empty.values.npy", "single.npy", "tags.offsets.npy", "tags.values.npy",
    ]  # fmt: skip


def test_given_queries_have_a_log_of_their_own(tmp_path: Path) -> None:
    def fill(builder: DatasetBuilder) -> None:
        append(builder, [2, 2], [0, 1, 2, 3])
        for user, history, target in ((1, [4, 4], 0), (0, [3], 2)):
            builder.append_given(
                "test",
                users=np.array([user]),
                lengths=np.array([len(history)]),
                items=np.array(history),
                actions=np.zeros(len(history), np.int8),
                times=np.arange(len(history)),
                target_counts=np.array([1]),
                target_items=np.array([target]),
                target_actions=np.array([-1]),
            )

    data = build(tmp_path / "d", fill)
    test = data.split("test")
    assert test.log is not data.events
    assert [test.log.items[a:b].tolist() for a, b in zip(test.start, test.end, strict=True)] == [[4, 4], [3]]
    assert test.users.tolist() == [1, 0]
    assert test.target_items.tolist() == [0, 2]
    # The input names no validation: the last training event of each user is held out.
    valid = data.split("valid")
    assert valid.log is data.events
    assert valid.target_items.tolist() == [1, 3]
    assert data.train_end.tolist() == [1, 3]
    other = build(tmp_path / "o", fill, split=SplitConfig(protocol="leave-last-out"))
    assert other.split("test").log is other.events


def test_given_histories_are_checked(tmp_path: Path) -> None:
    def fill(builder: DatasetBuilder) -> None:
        append(builder, [2], [0, 1])
        one = np.array([1])
        none = np.array([0], np.int8)
        builder.append_given("test", none, one, np.array([9]), none, none, one, none, none)

    with pytest.raises(InputError, match="An event of test query 0 has item row 9"):
        build(tmp_path / "d", fill)
