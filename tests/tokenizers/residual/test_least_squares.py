import numpy as np
import pytest

from semid.tokenizers.residual import least_squares as module
from semid.tokenizers.residual.least_squares import RIDGE, solve_codebooks

SIZES = (6, 4, 5)


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((400, 7)) + 4).astype(np.float32)
    codes = np.stack([rng.integers(size, size=400) for size in SIZES], 1)
    return vectors, codes, [np.zeros((size, 7), np.float32) for size in SIZES]


def one_hot(codes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.eye(size)[codes[:, level]] for level, size in enumerate(SIZES)], 1)


def decoded(codes: np.ndarray, books: list[np.ndarray]) -> np.ndarray:
    return sum(book[codes[:, level]] for level, book in enumerate(books))


@pytest.mark.parametrize("dense", [6144, 0])
def test_without_ridge_the_fit_is_that_of_dense_least_squares(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RIDGE", 1e-6)
    monkeypatch.setattr(module, "_DENSE", dense)
    vectors, codes, books = problem()
    marks = one_hot(codes)
    solution = np.linalg.lstsq(marks, vectors.astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(decoded(codes, solve_codebooks(vectors, codes, books)), marks @ solution, atol=1e-4)


@pytest.mark.parametrize("dense", [6144, 0])
def test_ridge_is_that_of_the_textbook(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RIDGE more rows at the mean for every centroid, alone, are the same as the ridge."""
    monkeypatch.setattr(module, "_DENSE", dense)
    monkeypatch.setattr(module, "_SWEEPS", 100)
    vectors, codes, books = problem(1)
    marks, mean = one_hot(codes), vectors.mean(0, dtype=np.float64)
    rows = np.concatenate([marks, np.sqrt(RIDGE) * np.eye(sum(SIZES))])
    targets = np.concatenate([vectors - mean, np.zeros((sum(SIZES), 7))])
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    expected = mean + marks @ solution
    np.testing.assert_allclose(decoded(codes, solve_codebooks(vectors, codes, books)), expected, atol=1e-4)


def test_later_levels_add_nothing_on_average() -> None:
    vectors, codes, books = problem(2)
    solved = solve_codebooks(vectors, codes, books)
    for level, book in enumerate(solved[1:], start=1):
        np.testing.assert_allclose(book[codes[:, level]].mean(0), 0, atol=1e-6)


def test_a_code_without_vectors_is_finite() -> None:
    vectors, codes, books = problem(3)
    codes[codes[:, 1] == 2, 1] = 3
    assert all(np.isfinite(book).all() for book in solve_codebooks(vectors, codes, books))
