import itertools

import numpy as np
import pytest

from semid.tokenizers.residual import beam as module
from semid.tokenizers.residual.beam import beam_encode, search_paths


def books_of(seed: int, sizes: tuple[int, ...], dim: int, offset: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [offset + rng.standard_normal((size, dim)).astype(np.float32) for size in sizes]


def vectors_of(seed: int, num_rows: int, dim: int, offset: float = 0.0) -> np.ndarray:
    return 2 * offset + 2 * np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)


def all_errors(vectors: np.ndarray, books: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Every path, and the squared errors of all vectors on it: (N, paths) float64."""
    paths = np.array(list(itertools.product(*(range(len(book)) for book in books))))
    sums = sum(book.astype(np.float64)[paths[:, level]] for level, book in enumerate(books))
    return paths, ((vectors[:, None].astype(np.float64) - sums) ** 2).sum(2)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (3, 20, 7), (17, 2), (9,)])
def test_a_beam_of_all_paths_finds_the_best(sizes: tuple[int, ...]) -> None:
    books, vectors = books_of(0, sizes, 4), vectors_of(1, 80, 4)
    paths, errors = all_errors(vectors, books)
    found = beam_encode(vectors, books, int(np.prod(sizes[:-1])))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, paths[errors.argmin(1)])


def test_paths_come_with_their_errors_best_first() -> None:
    books, vectors = books_of(2, (4, 6, 5), 3), vectors_of(3, 50, 3)
    _, errors = all_errors(vectors, books)
    seen = np.zeros(50, bool)

    def take(rows: slice, paths: np.ndarray, found: np.ndarray) -> None:
        np.testing.assert_allclose(found, np.sort(errors[rows], axis=1)[:, :24], rtol=1e-4, atol=1e-4)
        number = np.ravel_multi_index(np.moveaxis(paths, 2, 0), (4, 6, 5))
        np.testing.assert_allclose(np.take_along_axis(errors[rows], number, 1), found, rtol=1e-4, atol=1e-4)
        seen[rows] = True

    search_paths(vectors, books, 24, take)
    assert seen.all()


def test_one_path_is_the_nearest_centroid_of_every_residual() -> None:
    books, vectors = books_of(4, (30, 20, 40), 6, offset=5), vectors_of(5, 300, 6, offset=7)
    residuals, expected = vectors.astype(np.float64), []
    for book in books:
        expected.append(((residuals[:, None] - book) ** 2).sum(2).argmin(1))
        residuals = residuals - book[expected[-1]]
    np.testing.assert_array_equal(beam_encode(vectors, books, 1), np.stack(expected, 1))


def test_wider_beams_find_better_paths_on_average() -> None:
    books, vectors = books_of(6, (40, 40, 40), 8), vectors_of(7, 400, 8)

    def error(beam: int) -> float:
        codes = beam_encode(vectors, books, beam)
        return float(((vectors - sum(book[codes[:, level]] for level, book in enumerate(books))) ** 2).sum())

    errors = [error(beam) for beam in (1, 2, 4, 16, 64)]
    assert all(wider < narrower for narrower, wider in itertools.pairwise(errors))


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    books, vectors = books_of(8, (33, 20), 5), vectors_of(9, 700, 5)
    whole = beam_encode(vectors, books, 4)
    monkeypatch.setattr(module, "_TILE_ELEMENTS", 1)
    np.testing.assert_array_equal(beam_encode(vectors, books, 4), whole)


def test_no_vectors() -> None:
    assert beam_encode(np.empty((0, 3), np.float32), books_of(0, (4, 4), 3), 3).shape == (0, 2)
