import json
from pathlib import Path

import numpy as np
import pytest

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder
from semid.data.dataset import Dataset, ranges
from semid.data.events import EventLog
from semid.data.features import Fields
from semid.data.splits import SplitConfig
from semid.errors import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with create_artifact(tmp_path / "d", "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items = 4
        events = np.array([0, 1, 2, 3, 3, 0])
        builder.append_events(np.array([4, 2]), events, np.zeros(6, np.int8), np.arange(6))
        builder.embedding("82", 2).put(np.array([1]), np.ones((1, 2)))
        builder.finish(SplitConfig())
    return tmp_path / "d"


def test_counts_and_training_counts(path: Path) -> None:
    data = Dataset.open(path)
    assert (data.num_items, data.num_users) == (4, 2)
    np.testing.assert_array_equal(data.train_end, [2, 5])
    np.testing.assert_array_equal(data.train_counts, [1, 1, 0, 1])
    assert data.location == str(path)


def test_arrays_are_mapped_not_read(path: Path) -> None:
    data = Dataset.open(path)
    assert isinstance(data.events.items, np.memmap)
    assert isinstance(data.embedding("82").vectors, np.memmap)


def test_an_unknown_embedding_lists_the_known(path: Path) -> None:
    with pytest.raises(InputError, match=r"Unknown embedding '99' in .*; it has: 82"):
        Dataset.open(path).embedding("99")


def test_an_unknown_or_empty_split_lists_those_with_queries(path: Path) -> None:
    data = Dataset.open(path)
    assert len(data.split("test")) == 2
    with pytest.raises(InputError, match=r"no queries in split 'dev'; splits with queries: valid, test"):
        data.split("dev")


def test_a_missing_dataset_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="semid data prepare"):
        Dataset.open(tmp_path / "no")


def test_a_damaged_file_is_named(path: Path) -> None:
    file = path / "events" / "items.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"items\.npy is missing or truncated"):
        Dataset.open(path)


def test_an_unreadable_file_is_named(path: Path) -> None:
    (path / "train_end.npy").rename(path / "kept")
    (path / "train_end.npy").mkdir()
    config = json.loads((path / "config.json").read_text())
    del config["files"]["train_end.npy"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"Cannot read .*train_end\.npy \(Is a directory\): prepare the dataset again"
    ):
        Dataset.open(path)


def test_a_dataset_in_memory_has_rows_as_ids() -> None:
    log = EventLog(np.array([0, 1], np.int32), np.zeros(2, np.int8), np.zeros(2, np.int64), np.array([0, 2]))
    empty = Fields((), (), np.zeros((3, 0), np.int32))
    data = Dataset(
        events=log,
        train_end=np.array([2]),
        queries={},
        candidates=np.arange(3, dtype=np.int32),
        item_fields=empty,
        user_fields=Fields((), (), np.zeros((1, 0), np.int32)),
        embeddings={},
        action_names=(),
        action_weights=(),
    )
    assert data.item_ids.tolist() == [0, 1, 2]
    assert data.user_ids.tolist() == [0]
    assert data.location == "this dataset"
    with pytest.raises(InputError, match="lives in memory only"):
        _ = data.artifact_or_raise


def test_ranges_by_hand() -> None:
    np.testing.assert_array_equal(ranges(np.array([5, 0, 9]), np.array([2, 0, 3])), [5, 6, 9, 10, 11])
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
