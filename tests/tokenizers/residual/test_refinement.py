import itertools

import numpy as np
import pytest

from semid.tokenizers.residual import least_squares
from semid.tokenizers.residual import refinement as module
from semid.tokenizers.residual.beam import beam_encode
from semid.tokenizers.residual.least_squares import solve_codebooks
from semid.tokenizers.residual.refinement import Refinement, reconsider, refine


def vectors_of(seed: int, num_rows: int = 900, dim: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((num_rows, dim)) * np.arange(1, dim + 1) ** -0.5 + 1).astype(np.float32)


def start_of(vectors: np.ndarray, sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(size, size=len(vectors)) for size in sizes], 1).astype(np.int32)
    return codes, [np.zeros((size, vectors.shape[1]), np.float32) for size in sizes]


def error(vectors: np.ndarray, codes: np.ndarray, books: list[np.ndarray]) -> float:
    sums = sum(book.astype(np.float64)[codes[:, level]] for level, book in enumerate(books))
    return float(((vectors - sums) ** 2).sum())


def how(**changes: object) -> Refinement:
    return Refinement(**{"rounds": 8, "beam": 4, "noise": 0.0, "leave_one_out": False, **changes})  # type: ignore[arg-type]


def test_every_round_without_noise_lowers_the_error() -> None:
    vectors = vectors_of(0)
    codes, books = start_of(vectors, (12, 12))
    errors = []
    for rounds in range(1, 6):
        found, at = refine(vectors, codes, books, how(rounds=rounds, beam=12), np.random.default_rng(0))
        errors.append(error(vectors, at, found))
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


def test_what_is_returned_was_solved_for_the_codes() -> None:
    vectors = vectors_of(1)
    codes, books = start_of(vectors, (10, 6, 4))
    found, at = refine(vectors, codes, books, how(noise=1.0, leave_one_out=True), np.random.default_rng(0))
    for book, solved in zip(found, solve_codebooks(vectors, at, found), strict=True):
        np.testing.assert_allclose(book, solved, atol=1e-5)


def test_a_vector_moves_where_that_lowers_the_error_with_codebooks_solved_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one level the joint rule is Hartigan's, exactly; ridge is left out of both."""
    monkeypatch.setattr(module, "RIDGE", 1e-9)
    monkeypatch.setattr(least_squares, "RIDGE", 1e-9)
    vectors = vectors_of(2, 60, 6)
    codes = (np.arange(60) % 15).astype(np.int32)[:, None]
    books = solve_codebooks(vectors, codes, [np.zeros((15, 6), np.float32)])
    found = reconsider(vectors, codes, books, 15)
    for row in range(60):
        errors = []
        for code in range(15):
            moved = codes.copy()
            moved[row] = code
            errors.append(error(vectors, moved, solve_codebooks(vectors, moved, books)))
        assert found[row, 0] == np.argmin(errors)
    assert (found != codes).mean() > (beam_encode(vectors, books, 15) != codes).mean()


def test_joint_rule_foretells_the_error_of_a_move_over_two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves that the rule takes one at a time lower the error nearly always; plain comparison misses most of them."""
    vectors = vectors_of(3, 240, 12)
    codes, books = start_of(vectors, (20, 20))
    for _ in range(4):
        books = solve_codebooks(vectors, codes, books)
        codes = beam_encode(vectors, books, 20)
    monkeypatch.setattr(least_squares, "RIDGE", 1e-6)
    books = solve_codebooks(vectors, codes, books)
    before = error(vectors, codes, books)
    found = reconsider(vectors, codes, books, 20)
    moving = np.flatnonzero((found != codes).any(1))
    lowered = 0
    for row in moving:
        moved = codes.copy()
        moved[row] = found[row]
        lowered += error(vectors, moved, solve_codebooks(vectors, moved, books)) < before
    assert len(moving) >= 10
    assert lowered > 0.9 * len(moving)


def test_leaving_out_the_vector_ends_at_less_error() -> None:
    vectors = vectors_of(4, 900, 24)
    codes, books = start_of(vectors, (64, 64))

    def ends(leave_one_out: bool) -> float:
        found, _ = refine(vectors, codes, books, how(leave_one_out=leave_one_out), np.random.default_rng(0))
        return error(vectors, beam_encode(vectors, found, 8), found)

    assert ends(True) < 0.95 * ends(False)


def test_every_code_is_put_to_use() -> None:
    vectors = vectors_of(5)
    codes, books = start_of(vectors, (16, 16))
    codes[:] = codes[:, :1] % 2
    _, at = refine(vectors, codes, books, how(), np.random.default_rng(0))
    assert [len(np.unique(at[:, level])) for level in range(2)] == [16, 16]


def test_rounds_are_told_and_a_seed_repeats() -> None:
    vectors, rounds = vectors_of(6), []
    codes, books = start_of(vectors, (8, 8))

    def run() -> list[np.ndarray]:
        return refine(
            vectors, codes, books, how(noise=1.0), np.random.default_rng(3), progress=lambda: rounds.append(1)
        )[0]

    first, second = run(), run()
    assert len(rounds) == 16
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
