import itertools

import numpy as np
import pytest

from semid.errors import InputError
from semid.tokenizers.clustering.kmeans import KMeansConfig
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig, decode


def vectors_of(seed: int, num_rows: int = 1500, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)


def test_codes_are_the_nearest_centroids_of_the_residuals() -> None:
    vectors = vectors_of(0)
    quantiser = RQKMeans(RQKMeansConfig(levels=3, codes=(16, 8, 4))).fit(vectors)
    assert [codebook.shape for codebook in quantiser.codebooks_] == [(16, 8), (8, 8), (4, 8)]
    codes = quantiser.encode(vectors)
    assert codes.dtype == np.int32
    residuals = vectors.astype(np.float64)
    for level, codebook in enumerate(quantiser.codebooks_):
        distances = ((residuals[:, None] - codebook[None]) ** 2).sum(2)
        np.testing.assert_array_equal(codes[:, level], distances.argmin(1))
        residuals = residuals - codebook[codes[:, level]]
    np.testing.assert_allclose(quantiser.decode(codes), vectors - residuals, atol=1e-5)


def test_each_level_lowers_the_error_towards_zero() -> None:
    vectors = vectors_of(1)
    quantiser = RQKMeans(RQKMeansConfig(levels=4, codes=32)).fit(vectors)
    codes = quantiser.encode(vectors)
    errors = [((vectors - decode(codes[:, :d], quantiser.codebooks_[:d])) ** 2).mean() for d in range(1, 5)]
    assert all(later < 0.75 * earlier for earlier, later in itertools.pairwise(errors))


def test_wide_beam_finds_the_best_of_all_paths() -> None:
    vectors = vectors_of(2, 60, 4)
    quantiser = RQKMeans(RQKMeansConfig(levels=3, codes=5)).fit(vectors)
    paths = np.array(list(itertools.product(range(5), repeat=3)))
    distances = ((vectors[:, None].astype(np.float64) - quantiser.decode(paths)[None]) ** 2).sum(2)
    best = quantiser.encode(vectors, beam=125)
    np.testing.assert_array_equal(best, paths[distances.argmin(1)])


def test_beam_is_better_than_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = vectors_of(3)
    quantiser = RQKMeans(RQKMeansConfig(levels=3, codes=16)).fit(vectors)

    def error(codes: np.ndarray) -> float:
        return float(((vectors - quantiser.decode(codes)) ** 2).sum())

    beam = quantiser.encode(vectors, beam=8)
    assert error(beam) < error(quantiser.encode(vectors))
    monkeypatch.setattr("semid.tokenizers.rq_kmeans._BEAM_ELEMENTS", 1000)
    np.testing.assert_array_equal(quantiser.encode(vectors, beam=8), beam)


def test_engine_is_replaceable() -> None:
    asked: list[KMeansConfig] = []

    def first_rows(residuals: np.ndarray, config: KMeansConfig) -> np.ndarray:
        asked.append(config)
        return residuals[: config.num_codes].copy()

    vectors = vectors_of(4, 50)
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=(7, 3), iterations=9), engine=first_rows).fit(vectors)
    assert [config.num_codes for config in asked] == [7, 3]
    assert {config.iterations for config in asked} == {9}
    np.testing.assert_array_equal(quantiser.codebooks_[0], vectors[:7])


def test_seed_and_sample() -> None:
    vectors = vectors_of(5)

    def books(**changes: int) -> list[np.ndarray]:
        return RQKMeans(RQKMeansConfig(levels=2, codes=16, **changes)).fit(vectors).codebooks_

    np.testing.assert_array_equal(books(seed=1)[1], books(seed=1)[1])
    assert not np.array_equal(books(seed=1)[1], books(seed=2)[1])
    assert not np.array_equal(books(seed=1)[0], books(seed=1, sample=400)[0])


def test_progress_tells_the_error_left() -> None:
    vectors, seen = vectors_of(6), []
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=16)).fit(vectors, progress=lambda *step: seen.append(step))
    codes = quantiser.encode(vectors)
    expected = [((vectors - decode(codes[:, :d], quantiser.codebooks_[:d])) ** 2).sum(1).mean() for d in (1, 2)]
    assert [level for level, _ in seen] == [1, 2]
    np.testing.assert_allclose([error for _, error in seen], expected, rtol=1e-5)


def test_no_vectors_give_no_codes() -> None:
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=4)).fit(vectors_of(7))
    for beam in (1, 3):
        assert quantiser.encode(np.empty((0, 8), np.float32), beam=beam).shape == (0, 2)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="number of levels is 0"):
        RQKMeansConfig(levels=0)
    with pytest.raises(InputError, match="2 codebook sizes were given for 3 levels"):
        RQKMeansConfig(levels=3, codes=(4, 4))
    with pytest.raises(InputError, match="number of codes is 0"):
        RQKMeansConfig(codes=0)
    with pytest.raises(InputError, match="256 codes from 100 vectors"):
        RQKMeans(RQKMeansConfig()).fit(vectors_of(0, 100))
