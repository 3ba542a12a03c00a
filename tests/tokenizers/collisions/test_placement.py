import numpy as np
import pytest

from semid.errors import InputError
from semid.tokenizers.collisions.packing import bucket_sizes
from semid.tokenizers.collisions.placement import place

BOOKS = [np.array([[0.0], [10.0]], np.float32), np.array([[0.0], [1.0], [3.0]], np.float32)]


def test_newcomers_move_nobody() -> None:
    taken = np.array([[0, 0], [1, 2]], np.int32)
    wanted = np.array([[0, 0], [0, 0], [1, 1]], np.int32)
    vectors = np.array([[0.9], [0.1], [11.0]], np.float32)
    placed = place(taken, wanted, vectors, BOOKS)
    np.testing.assert_array_equal(placed.codes, [[0, 2], [0, 1], [1, 1]])  # the closer one of the first two chooses
    assert placed.overflowed == 0


def test_digits_go_on_after_those_that_are_taken() -> None:
    taken = np.array([[0, 0, 0], [0, 0, 3], [1, 1, 0]], np.int32)
    wanted = np.array([[0, 0], [0, 0], [0, 2]], np.int32)
    vectors = np.array([[0.9], [0.1], [3.0]], np.float32)
    placed = place(taken, wanted, vectors, BOOKS, policy="extra")
    np.testing.assert_array_equal(placed.codes, [[0, 0, 5], [0, 0, 4], [0, 2, 0]])


def test_more_newcomers_than_free_codes() -> None:
    taken = np.array([[0, 0], [0, 1], [0, 2], [1, 0]], np.int32)
    wanted = np.zeros((2, 2), np.int32)
    vectors = np.zeros((2, 1), np.float32)
    placed = place(taken, wanted, vectors, BOOKS)
    assert (bucket_sizes(np.concatenate([taken, placed.codes])) == 1).all()
    assert placed.overflowed == 2
    with pytest.raises(InputError, match="7 items do not fit into the 6"):
        place(taken, np.zeros((3, 2), np.int32), np.zeros((3, 1), np.float32), BOOKS)
