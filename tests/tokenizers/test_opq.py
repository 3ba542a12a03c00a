import faiss
import numpy as np
import pytest

from semid.errors import InputError
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import assign
from semid.tokenizers.opq import OPQ, OPQConfig, balanced_axes, closest_rotation


def vectors_of(seed: int, num_rows: int = 2000, dim: int = 16) -> np.ndarray:
    """Correlated columns of falling variance."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((dim, dim)))[0] * 0.8 ** np.arange(dim)[:, None]
    return (1 + rng.standard_t(5, (num_rows, dim)) @ mixing).astype(np.float32)


def error(vectors: np.ndarray, decoded: np.ndarray) -> float:
    return float(((vectors - decoded) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def test_error_is_that_of_faiss() -> None:
    vectors = vectors_of(0)
    faiss.omp_set_num_threads(1)
    rotation, peer = faiss.OPQMatrix(16, 4), faiss.ProductQuantizer(16, 4, 5)
    rotation.niter, rotation.niter_pq, rotation.niter_pq_0 = 20, 2, 10
    rotation.pq = peer
    rotation.train(vectors)
    rotated = rotation.apply(vectors)
    peer.train(rotated)
    theirs = error(vectors, rotation.reverse_transform(peer.decode(peer.compute_codes(rotated))))
    ours = OPQ(OPQConfig(levels=4, codes=32, rotations=20)).fit(vectors)
    assert error(vectors, ours.decode(ours.encode(vectors))) < 1.03 * theirs


def test_rotation_lowers_the_error_of_plain_parts() -> None:
    vectors = vectors_of(1)
    plain, turned = (OPQ(OPQConfig(levels=4, codes=32, rotations=count)).fit(vectors) for count in (0, 15))
    np.testing.assert_array_equal(plain.rotation_, np.eye(16))
    np.testing.assert_allclose(turned.rotation_.T @ turned.rotation_, np.eye(16), atol=1e-5)
    errors = [error(vectors, quantiser.decode(quantiser.encode(vectors))) for quantiser in (plain, turned)]
    assert errors[1] < 0.95 * errors[0]


def test_without_rotation_it_is_k_means_in_each_part() -> None:
    """Ten columns in three parts: 4, 3 and 3."""
    vectors = vectors_of(2, dim=10)
    quantiser = OPQ(OPQConfig(levels=3, codes=(16, 8, 4), seed=7, rotations=0)).fit(vectors)
    codes = quantiser.encode(vectors)
    for level, columns in enumerate((slice(0, 4), slice(4, 7), slice(7, 10))):
        part = np.ascontiguousarray(vectors[:, columns])
        book = fit_kmeans(part, KMeansConfig(num_codes=(16, 8, 4)[level], iterations=25, seed=7 + level))
        np.testing.assert_array_equal(quantiser.parts_[level], book)
        np.testing.assert_array_equal(codes[:, level], assign(part, book)[0])
        expected = np.zeros((len(book), 10), np.float32)
        expected[:, columns] = book
        np.testing.assert_array_equal(quantiser.codebooks_[level], expected)


def test_codebooks_live_in_parts_at_right_angles() -> None:
    quantiser = OPQ(OPQConfig(levels=3, codes=8, rotations=4)).fit(vectors_of(3, dim=11))
    for level, book in enumerate(quantiser.codebooks_):
        for other in quantiser.codebooks_[level + 1 :]:
            np.testing.assert_allclose(book @ other.T, 0, atol=1e-4)


def test_axes_are_dealt_so_that_products_are_alike() -> None:
    """Variances 16, 8, 4, 2 in two parts: 16 · 2 and 8 · 4."""
    rng = np.random.default_rng(4)
    white = np.linalg.qr(rng.standard_normal((4000, 4)))[0]
    white -= white.mean(0)
    white = np.linalg.qr(white)[0] * np.sqrt(4000)
    vectors = white * np.sqrt([2.0, 16.0, 4.0, 8.0])
    axes = balanced_axes(vectors.astype(np.float32), [2, 2])
    variances = (vectors @ axes).var(0)
    np.testing.assert_allclose(variances, [16, 2, 8, 4], rtol=1e-3)


def test_rotation_that_was_applied_is_found_again() -> None:
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    vectors = rng.standard_normal((50, 6))
    np.testing.assert_allclose(closest_rotation(vectors, vectors @ rotation), rotation, atol=1e-6)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="width 16 cannot be cut into 17 levels: use at most 16"):
        OPQ(OPQConfig(levels=17, codes=4)).fit(vectors_of(6))
    with pytest.raises(InputError, match="number of rotations is -1"):
        OPQConfig(rotations=-1)
