import numpy as np
import pytest

from semid.errors import InputError
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig
from semid.tokenizers.rq_kmeans_plus import RQKMeansPlus, RQKMeansPlusConfig


def vectors_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((600, 3)) @ rng.standard_normal((3, 10))
    return (0.07 * np.tanh(2 * latents) + 5).astype(np.float32)


def error(vectors: np.ndarray, decoded: np.ndarray) -> float:
    return float(((vectors - decoded) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def test_without_training_it_is_rq_kmeans_to_the_bit() -> None:
    """Also in units that are small and far from the origin."""
    vectors = vectors_of(0)
    plain = RQKMeans(RQKMeansConfig(levels=3, codes=16, seed=5, rounds=0, beam=1)).fit(vectors)
    plus = RQKMeansPlus(RQKMeansPlusConfig(levels=3, codes=16, seed=5, steps=0, hidden=(8,))).fit(vectors)
    codes = plain.encode(vectors)
    np.testing.assert_array_equal(plus.encode(vectors), codes)
    np.testing.assert_allclose(plus.decode(codes), plain.decode(codes), rtol=1e-6)
    scale = plus.network_.scale.numpy()[0]
    assert scale == 2.0 ** np.round(np.log2(scale))
    np.testing.assert_array_equal(plus.codebooks_[0] * scale, plain.codebooks_[0])


def test_training_lowers_the_error() -> None:
    vectors = vectors_of(1)
    settings = {"levels": 2, "codes": 16, "hidden": (32,), "learning_rate": 5e-3, "device": "cpu"}
    before = RQKMeansPlus(RQKMeansPlusConfig(**settings, steps=0)).fit(vectors)
    after = RQKMeansPlus(RQKMeansPlusConfig(**settings, steps=300)).fit(vectors)
    start = error(vectors, before.decode(before.encode(vectors)))
    assert error(vectors, after.decode(after.encode(vectors))) < 0.9 * start


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="Unknown gradient 'magic': use one of straight-through, rotation"):
        RQKMeansPlusConfig(gradient="magic")
    with pytest.raises(InputError, match="commitment is -1"):
        RQKMeansPlusConfig(commitment=-1)
    with pytest.raises(InputError, match="width of a hidden layer is 0"):
        RQKMeansPlusConfig(hidden=(4, 0))
    fitted = RQKMeansPlus(RQKMeansPlusConfig(levels=2, codes=4, steps=0, hidden=(8,))).fit(vectors_of(2))
    with pytest.raises(InputError, match="not that of a quantiser with these settings"):
        RQKMeansPlus(RQKMeansPlusConfig(levels=3, codes=4, hidden=(8,))).from_arrays(fitted.to_arrays())
