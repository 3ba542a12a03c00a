"""What every quantiser of the family must do, whatever it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from semid.errors import InputError
from semid.tokenizers.collisions.resolution import bucket_sizes, resolve
from semid.tokenizers.family import FAMILY, make_quantiser
from semid.tokenizers.quantiser import Quantiser
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

NUM_ROWS, DIM = 400, 12
SMALL: dict[str, dict[str, Any]] = {
    "rq-kmeans": {},
    "rq-kmeans+": {"hidden": (16,), "steps": 60, "device": "cpu"},
    "rq-vae": {"hidden": (32,), "dim": 8, "steps": 120, "batch": 128, "learning_rate": 1e-2, "device": "cpu"},
    "opq": {"rotations": 3},
    "fsq": {"hidden": (16,), "steps": 60, "device": "cpu"},
}


def new(name: str, **settings: Any) -> Quantiser:
    return make_quantiser(name, **{"levels": 3, "codes": 8, **SMALL[name], **settings})


def vectors_of(seed: int, num_rows: int = NUM_ROWS) -> np.ndarray:
    """Clusters within clusters, off the origin, the same for any seed."""
    centres = np.random.default_rng(99).standard_normal((3, 6, DIM))
    rng = np.random.default_rng(seed)
    total = 3 + rng.standard_normal((num_rows, DIM)) * 0.2
    for size, level in zip((2.0, 1.0, 0.5), centres, strict=True):
        total += size * level[rng.integers(6, size=num_rows)]
    return total.astype(np.float32)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return vectors_of(0)


@pytest.fixture(scope="module", params=list(FAMILY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fitted(name: str, vectors: np.ndarray) -> Quantiser:
    """Fitted once; tests only read it."""
    return new(name).fit(vectors)


def test_every_member_is_tried() -> None:
    assert set(SMALL) == set(FAMILY)


def test_shapes_types_and_ranges(name: str, vectors: np.ndarray) -> None:
    quantiser = new(name, codes=(8, 4, 6))
    assert quantiser.num_codes == (8, 4, 6)
    quantiser = quantiser.fit(vectors)
    codes, latents = quantiser.encode(vectors), quantiser.latents(vectors)
    width = latents.shape[1]
    assert [book.shape for book in quantiser.codebooks_] == [(8, width), (4, width), (6, width)]
    assert {book.dtype for book in quantiser.codebooks_} == {np.dtype(np.float32)}
    assert (codes.shape, codes.dtype) == ((NUM_ROWS, 3), np.int32)
    assert (latents.shape, latents.dtype) == ((NUM_ROWS, width), np.float32)
    decoded = quantiser.decode(codes)
    assert (decoded.shape, decoded.dtype) == ((NUM_ROWS, DIM), np.float32)
    assert (codes >= 0).all()
    assert (codes < [8, 4, 6]).all()


def test_codes_sum_up_near_the_latents(fitted: Quantiser, vectors: np.ndarray) -> None:
    """At least as near as the centroids that are nearest level by level, and never nearer than the best of all."""
    codes, latents = fitted.encode(vectors), fitted.latents(vectors).astype(np.float64)
    books = [book.astype(np.float64) for book in fitted.codebooks_]
    own = ((latents - sum(book[codes[:, level]] for level, book in enumerate(books))) ** 2).sum(1)
    greedy = latents
    for book in books:
        greedy = greedy - book[((greedy[:, None] - book) ** 2).sum(2).argmin(1)]
    assert own.sum() <= (greedy**2).sum() * 1.001
    sums = (books[0][:, None, None] + books[1][None, :, None] + books[2]).reshape(-1, latents.shape[1])
    best = ((latents[:, None] - sums) ** 2).sum(2).min(1)
    assert (own >= best - 1e-4).all()
    assert own.sum() < 0.5 * ((latents - latents.mean(0)) ** 2).sum()


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "rq-kmeans"])
def test_codes_are_the_nearest_centroids_level_by_level(name: str, vectors: np.ndarray) -> None:
    fitted = new(name).fit(vectors)
    codes, residuals = fitted.encode(vectors), fitted.latents(vectors).astype(np.float64)
    before = (residuals**2).sum()
    for level, book in enumerate(fitted.codebooks_):
        distances = ((residuals[:, None] - book[None].astype(np.float64)) ** 2).sum(2)
        chosen = distances[np.arange(NUM_ROWS), codes[:, level]]
        np.testing.assert_allclose(chosen, distances.min(1), rtol=1e-4, atol=1e-5)
        residuals -= book[codes[:, level]]
    assert (residuals**2).sum() < 0.5 * before


def test_decoded_vectors_are_near(fitted: Quantiser, vectors: np.ndarray) -> None:
    def error(decoded: np.ndarray) -> float:
        return float(((vectors - decoded) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())

    rng = np.random.default_rng(1)
    spread, mean = vectors.std(0) / np.sqrt(3), vectors.mean(0)
    blind = RQKMeans(RQKMeansConfig(levels=3, codes=8))
    blind.codebooks_ = [(mean / 3 + spread * rng.standard_normal((8, DIM))).astype(np.float32) for _ in range(3)]
    own = error(fitted.decode(fitted.encode(vectors)))
    assert own < 0.5
    assert own < 0.7 * error(blind.decode(blind.encode(vectors)))


def test_further_columns_of_codes_add_nothing(fitted: Quantiser, vectors: np.ndarray) -> None:
    codes = fitted.encode(vectors[:50])
    wide = np.column_stack([codes, np.arange(50)])
    np.testing.assert_array_equal(fitted.decode(wide), fitted.decode(codes))


def test_a_seed_gives_the_same_whatever_the_threads(name: str, fitted: Quantiser, vectors: np.ndarray) -> None:
    with threads(2):
        again = new(name).fit(vectors)
        codes = again.encode(vectors)
    arrays = again.to_arrays()
    for key, array in fitted.to_arrays().items():
        np.testing.assert_array_equal(arrays[key], array, err_msg=key)
    with threads(1):
        np.testing.assert_array_equal(fitted.encode(vectors), codes)


def test_another_seed_gives_others(name: str, fitted: Quantiser, vectors: np.ndarray) -> None:
    other = new(name, seed=1).fit(vectors).to_arrays()
    assert any(not np.array_equal(array, other[key]) for key, array in fitted.to_arrays().items())


def test_vectors_given_are_left_alone_in_any_layout(name: str, fitted: Quantiser, vectors: np.ndarray) -> None:
    given = np.asfortranarray(vectors)
    given.flags.writeable = False
    quantiser = new(name).fit(given)
    np.testing.assert_array_equal(quantiser.encode(given), fitted.encode(vectors))
    quantiser.latents(given)
    np.testing.assert_array_equal(given, vectors)


def test_state_survives_a_file(name: str, fitted: Quantiser, vectors: np.ndarray) -> None:
    codes = fitted.encode(vectors)
    read = new(name).from_arrays(load(save(fitted.to_arrays())))
    np.testing.assert_array_equal(read.encode(vectors), codes)
    np.testing.assert_array_equal(read.latents(vectors), fitted.latents(vectors))
    np.testing.assert_array_equal(read.decode(codes), fitted.decode(codes))
    for own, other in zip(read.codebooks_, fitted.codebooks_, strict=True):
        np.testing.assert_array_equal(own, other)


def test_collisions_are_resolved_in_the_space_of_the_latents(fitted: Quantiser, vectors: np.ndarray) -> None:
    codes = fitted.encode(vectors)
    assert bucket_sizes(codes).max() > 1
    resolved = resolve(codes, fitted.latents(vectors), fitted.codebooks_).codes
    assert resolved.shape == codes.shape
    assert bucket_sizes(resolved).max() == 1


def test_one_level_and_one_code(name: str, vectors: np.ndarray) -> None:
    quantiser = new(name, levels=2, codes=(1, 8)).fit(vectors)
    codes = quantiser.encode(vectors)
    assert set(codes[:, 0]) == {0}
    assert len(set(codes[:, 1])) > 3
    assert new(name, levels=1).fit(vectors).encode(vectors).shape == (NUM_ROWS, 1)


def test_single_rows_and_none(fitted: Quantiser, vectors: np.ndarray) -> None:
    codes = fitted.encode(vectors)
    for row in (0, 17, NUM_ROWS - 1):
        np.testing.assert_array_equal(fitted.encode(vectors[row : row + 1]), codes[row : row + 1])
    none = fitted.encode(vectors[:0])
    assert (none.shape, none.dtype) == ((0, 3), np.int32)
    assert fitted.decode(none).shape == (0, DIM)


def test_new_vectors_are_encoded_too(fitted: Quantiser) -> None:
    new_vectors = vectors_of(1)
    codes = fitted.encode(new_vectors)
    error = ((fitted.decode(codes) - new_vectors) ** 2).sum() / ((new_vectors - new_vectors.mean(0)) ** 2).sum()
    assert error < 0.7


def test_equal_vectors_have_equal_codes(name: str) -> None:
    distinct = vectors_of(2, 5)
    repeated = distinct[np.arange(60) % 5]
    quantiser = new(name).fit(repeated)
    codes = quantiser.encode(repeated)
    np.testing.assert_array_equal(codes, codes[np.arange(60) % 5])
    assert len(np.unique(codes, axis=0)) == 5
    assert np.isfinite(quantiser.decode(codes)).all()


def test_constant_vectors_decode_to_themselves(name: str) -> None:
    constant = np.full((40, DIM), 2.5, np.float32)
    quantiser = new(name).fit(constant)
    codes = quantiser.encode(constant)
    assert len(np.unique(codes, axis=0)) == 1
    np.testing.assert_allclose(quantiser.decode(codes), constant, rtol=0.05)


def test_progress_rises_to_the_end(name: str, vectors: np.ndarray) -> None:
    told: list[tuple[str, int, int]] = []
    new(name).fit(vectors, progress=lambda *step: told.append(step))
    done = [step for _, step, _ in told]
    assert done == sorted(done)
    assert {total for _, _, total in told} == {done[-1]}


def test_mistakes_are_named(name: str, fitted: Quantiser, vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="8 codes from 7 vectors"):
        new(name).fit(vectors[:7])
    broken = vectors.copy()
    broken[31, 2] = np.nan
    with pytest.raises(InputError, match="Row 31 "):
        new(name).fit(broken)
    with pytest.raises(InputError, match="Row 31 "):
        fitted.encode(broken)
    with pytest.raises(InputError, match=rf"\({NUM_ROWS}, 11\).* {DIM}"):
        fitted.encode(vectors[:, 1:])
    with pytest.raises(InputError, match="number of levels is 0"):
        new(name, levels=0)
    with pytest.raises(InputError, match="number of codes is 0"):
        new(name, codes=0)
    with pytest.raises(InputError, match="2 codebook sizes were given for 3 levels"):
        new(name, codes=(8, 8))
