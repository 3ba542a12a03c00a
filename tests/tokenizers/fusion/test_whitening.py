import numpy as np
import scipy.linalg

from semid.tokenizers.fusion.whitening import whiten_moment, whitener, whiteners_of


def covariance(seed: int, dim: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((dim, dim))
    return factor @ factor.T


def test_whitener_is_the_inverse_root() -> None:
    sigma = covariance(0, 6)
    expected = scipy.linalg.inv(scipy.linalg.sqrtm(sigma))
    np.testing.assert_allclose(whitener(sigma, 0), expected, atol=1e-9)
    ridged = sigma + 0.1 * np.trace(sigma) / 6 * np.eye(6)
    np.testing.assert_allclose(whitener(sigma, 0.1), scipy.linalg.inv(scipy.linalg.sqrtm(ridged)), atol=1e-9)


def test_directions_without_variance_stay_so() -> None:
    sigma = np.diag([4.0, 1, 0])
    np.testing.assert_allclose(whitener(sigma, 0), np.diag([0.5, 1, 0]))
    one, two = whiteners_of([sigma, sigma], np.array([5.0, 0]), np.array([2.0, 1]), 0)
    np.testing.assert_allclose(one, np.diag([1, 2, 0]))
    assert not two.any()


def test_moment_of_whitened_vectors() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((500, 7)) @ rng.standard_normal((7, 7))
    maps = [rng.standard_normal((4, 4)), rng.standard_normal((3, 3))]
    maps = [part + part.T for part in maps]
    moment = vectors.T @ vectors
    whiten_moment(moment, (4, 3), maps)
    turned = vectors @ scipy.linalg.block_diag(*maps)
    np.testing.assert_allclose(moment, turned.T @ turned)
