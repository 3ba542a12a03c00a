"""What is written piece by piece is what ``pickle`` reads."""

import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from semid.data.formats.pickle_writing import PickleStream


def test_nested_maps(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    numbers = np.array([0, -1, 255, 2**40, -(2**63), 2**63 - 1])
    with PickleStream(path, dict) as stream:
        stream.open_map("u")
        stream.put_texts(["a", "é" * 300], np.array([1, 2]))
        stream.put_texts(["c"], np.array([3]))
        stream.close_map()
        stream.open_map("f")
        stream.open_map("100")
        stream.put_integers(numbers, numbers[::-1])
        stream.close_map()
        stream.open_map("101")
        stream.close_map()
        stream.close_map()
    assert pickle.loads(path.read_bytes()) == {
        "u": {"a": 1, "é" * 300: 2, "c": 3},
        "f": {"100": dict(zip(numbers.tolist(), numbers[::-1].tolist(), strict=True)), "101": {}},
    }


def test_vectors_keep_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    vectors = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    with PickleStream(path, dict) as stream:
        stream.put_vectors(np.array([7, 10**11, 9]), vectors)
    read = pickle.loads(path.read_bytes())
    assert list(read) == [7, 10**11, 9]
    np.testing.assert_array_equal(np.array(list(read.values()), np.float32), vectors)


def test_a_list(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    with PickleStream(path, list) as stream:
        stream.append_integers([1, 2])
        stream.append_integers([])
        stream.append_integers(np.array([2**50]))
    assert pickle.loads(path.read_bytes()) == [1, 2, 2**50]


def test_an_interrupted_pickle_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    with suppress(KeyboardInterrupt), PickleStream(path, list) as stream:
        stream.append_integers([1])
        raise KeyboardInterrupt
    with pytest.raises(EOFError):
        pickle.loads(path.read_bytes())
