from pathlib import Path

import numpy as np
import pytest

from semid.data.building.arrays import ArrayWriter, allocate_array, write_array
from semid.data.building.row_file import BlockReader, RowFile, release


@pytest.mark.parametrize("row_shape", [(), (3,)])
@pytest.mark.parametrize("parts", [[], [0], [4], [1, 0, 5]])
def test_appended_rows_load_as_one_array(tmp_path: Path, parts: list[int], row_shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 100, (count, *row_shape)) for count in parts]
    with ArrayWriter(tmp_path / "deep" / "a.npy", np.int32, row_shape) as writer:
        for piece in pieces:
            writer.append(piece)
    expected = np.concatenate([np.zeros((0, *row_shape)), *pieces]).astype(np.int32)
    loaded = np.load(tmp_path / "deep" / "a.npy", allow_pickle=False)
    assert loaded.dtype == np.int32
    np.testing.assert_array_equal(loaded, expected)


def test_a_failing_body_does_not_finish_the_file(tmp_path: Path) -> None:
    def fail() -> None:
        with ArrayWriter(tmp_path / "a.npy", np.int32) as writer:
            writer.append([1, 2])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(ValueError):
        np.load(tmp_path / "a.npy", allow_pickle=False)


def test_write_array_makes_folders(tmp_path: Path) -> None:
    write_array(tmp_path / "x" / "y.npy", np.arange(3))
    np.testing.assert_array_equal(np.load(tmp_path / "x" / "y.npy"), [0, 1, 2])


def test_allocated_arrays_start_at_zero_and_take_writes(tmp_path: Path) -> None:
    array = allocate_array(tmp_path / "a.npy", np.float16, (4, 2))
    assert not array.any()
    array[2] = 5
    array.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), [[0, 0], [0, 0], [5, 5], [0, 0]])


def test_a_full_disk_is_an_error_before_anything_is_mapped(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        allocate_array(tmp_path / "a.npy", np.float32, (1 << 40, 1 << 10))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_rows_written_in_any_order(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semid.data.building.row_file._TOUCHED_BYTES", step * 4096)
    expected = np.zeros((50, 3), np.float32)
    file = RowFile(tmp_path / "a.npy", np.float32, expected.shape)
    rng = np.random.default_rng(0)
    rows = rng.permutation(50)[:40]
    values = rng.random((40, 3), np.float32)
    expected[rows] = values
    file.put(rows[:13], values[:13])
    file.put(rows[13:], values[13:])
    np.testing.assert_array_equal(file.get(np.arange(50)), expected)
    file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_row_files_without_values(tmp_path: Path, shape: tuple[int, int]) -> None:
    file = RowFile(tmp_path / "a.npy", np.int32, shape)
    file.put(np.arange(shape[0]), np.zeros(shape, np.int32))
    assert file.get(np.arange(shape[0])).shape == shape
    file.close()
    assert np.load(tmp_path / "a.npy").shape == shape


def test_blocks_are_read_without_mapping(tmp_path: Path) -> None:
    array = np.arange(30, dtype=np.int16).reshape(10, 3)
    write_array(tmp_path / "a.npy", array)
    reader = BlockReader(tmp_path / "a.npy")
    assert len(reader) == 10
    np.testing.assert_array_equal(reader.read(2, 5), array[2:5])
    np.testing.assert_array_equal(reader.read(8, 99), array[8:])
    assert reader.read(4, 4).shape == (0, 3)


def test_release_keeps_written_values(tmp_path: Path) -> None:
    array = allocate_array(tmp_path / "a.npy", np.int64, (1000,))
    array[:] = np.arange(1000)
    release(array)
    np.testing.assert_array_equal(array, np.arange(1000))
    release(np.zeros(3))
