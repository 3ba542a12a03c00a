import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("policy", ["optimal", "nearest"])
def test_all_near_codes_are_taken(policy: str) -> None:
    """Free codes are far beyond those compared first; the newcomers fill them from the near end."""
    books = [np.arange(100, dtype=np.float32)[:, None], np.array([[0.0], [0.25]], np.float32)]
    taken = np.array([[upper, lower] for upper in range(90) for lower in range(2)], np.int32)
    wanted, vectors = np.zeros((6, 2), np.int32), np.zeros((6, 1), np.float32)
    placed = place(taken, wanted, vectors, books, policy=policy)
    assert sorted(map(tuple, placed.codes.tolist())) == [(u, low) for u in (90, 91, 92) for low in (0, 1)]


@pytest.mark.parametrize("policy", ["optimal", "nearest", "random-k", "extra", "none"])
def test_nobody_to_place_and_nobody_there(policy: str) -> None:
    nobody = np.empty((0, 2), np.int32)
    assert place(nobody, nobody, np.empty((0, 1), np.float32), BOOKS, policy=policy).codes.shape[0] == 0
    alone = place(nobody, np.array([[1, 2]], np.int32), np.zeros((1, 1), np.float32), BOOKS, policy=policy)
    np.testing.assert_array_equal(alone.codes[:, :2], [[1, 2]])


class OnDisk:
    """Rows that remember how many of them were fetched at once."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors, self.shape, self.most = vectors, vectors.shape, 0

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        found = self.vectors[rows]
        self.most = max(self.most, len(found))
        return found


def test_vectors_are_fetched_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semid.tokenizers.collisions.placement._FETCHED", 64)
    monkeypatch.setattr("semid.tokenizers.collisions.paths._FETCHED", 64)
    rng = np.random.default_rng(0)
    books = [rng.standard_normal((12, 2)).astype(np.float32), rng.standard_normal((40, 2)).astype(np.float32)]
    wanted = np.column_stack([rng.integers(12, size=300), rng.integers(40, size=300)]).astype(np.int32)
    vectors = books[0][wanted[:, 0]] + books[1][wanted[:, 1]] + 0.1 * rng.standard_normal((300, 2)).astype(np.float32)
    rows = OnDisk(vectors)
    nobody = np.empty((0, 2), np.int32)
    blocks = place(nobody, wanted, rows, books, policy="optimal").codes
    assert rows.most == 64
    monkeypatch.undo()
    np.testing.assert_array_equal(blocks, place(nobody, wanted, vectors, books, policy="optimal").codes)


def test_threads_change_nothing() -> None:
    rng = np.random.default_rng(1)
    books = [rng.standard_normal((32, 8)).astype(np.float32) for _ in range(3)]
    wanted = rng.integers(32, size=(4000, 3), dtype=np.int32) // [8, 4, 1]
    vectors = sum(book[wanted[:, level]] for level, book in enumerate(books))
    vectors = (vectors + 0.2 * rng.standard_normal(vectors.shape)).astype(np.float32)
    nobody, found, before = np.empty((0, 3), np.int32), [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(place(nobody, wanted.astype(np.int32), vectors, books, policy="optimal").codes)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
