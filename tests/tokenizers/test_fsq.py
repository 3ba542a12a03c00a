import numpy as np
import pytest

from semid.errors import InputError
from semid.tokenizers.fsq import FSQ, FSQConfig


def vectors_of(seed: int, num_rows: int = 1200) -> np.ndarray:
    """Normal, with standard deviations 4, 3.5, … of ten axes turned at random."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    return (3 + rng.standard_normal((num_rows, 10)) * np.linspace(4, 0.1, 10) @ turned).astype(np.float32)


def error(quantiser: FSQ, vectors: np.ndarray) -> float:
    decoded = quantiser.decode(quantiser.encode(vectors))
    return float(((vectors - decoded) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def test_without_training_it_is_principal_axes_and_least_squares() -> None:
    vectors = vectors_of(0).astype(np.float64)
    quantiser = FSQ(FSQConfig(levels=2, codes=(12, 16), steps=0, device="cpu")).fit(vectors.astype(np.float32))
    centred = vectors - vectors.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    parts = centred @ axes[:3].T / (spread[:3] / np.sqrt(len(vectors)))
    latents = quantiser.latents(vectors.astype(np.float32))
    np.testing.assert_allclose(np.abs(latents), np.abs(np.tanh(0.8 * parts)), atol=1e-4)
    sizes = np.array([12, 4, 4])  # the widest axis alone at the first level
    cells = np.clip(np.floor((latents + 1) / 2 * sizes), 0, sizes - 1)
    codes = quantiser.encode(vectors.astype(np.float32))
    np.testing.assert_array_equal(codes, np.column_stack([cells[:, 0], cells[:, 1] * 4 + cells[:, 2]]))
    points = (2 * cells + 1 - sizes) / sizes
    fitted = points @ np.linalg.lstsq(points, centred, rcond=None)[0]
    np.testing.assert_allclose(quantiser.decode(codes), fitted + vectors.mean(0), atol=1e-2)


def test_normal_coordinates_fill_the_cells_alike() -> None:
    vectors = vectors_of(1)
    codes = FSQ(FSQConfig(levels=3, codes=8, steps=0)).fit(vectors).encode(vectors)
    for level in range(3):
        share = np.bincount(codes[:, level], minlength=8) / len(codes)
        assert share.min() > 0.6 / 8
        assert share.max() < 1.5 / 8


def test_training_lowers_the_error() -> None:
    rng = np.random.default_rng(2)
    vectors = np.tanh(2 * rng.standard_normal((1000, 2)) @ rng.standard_normal((2, 10))).astype(np.float32)
    settings = {"levels": 2, "codes": 16, "hidden": (32,), "device": "cpu", "learning_rate": 5e-3}
    before, after = (FSQ(FSQConfig(**settings, steps=steps)).fit(vectors) for steps in (0, 300))
    assert error(after, vectors) < 0.8 * error(before, vectors)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="grid 8x8 has 64 points but a level has 256 codes"):
        FSQConfig(grid=(8, 8))
    with pytest.raises(InputError, match="cannot have 257 codes"):
        FSQConfig(codes=257)
    with pytest.raises(InputError, match="values of a coordinate is 1"):
        FSQConfig(codes=8, grid=(8, 1))
    with pytest.raises(InputError, match="at least 2 codes"):
        FSQConfig(codes=1)
    with pytest.raises(InputError, match="4 levels have 12 coordinates but the vectors only 10"):
        FSQ(FSQConfig(levels=4)).fit(vectors_of(3))
