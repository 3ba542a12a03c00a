import numpy as np
import pytest
import scipy.linalg
from sklearn.cross_decomposition import CCA

from semid.data.features import Embedding
from semid.tokenizers.fusion.gcca import GccaFit, fit_gcca
from semid.tokenizers.fusion.moments import provisional_centres
from semid.tokenizers.fusion.preprocessing import Preprocessor, PreprocessorConfig
from semid.tokenizers.fusion.reading import RowSource
from semid.tokenizers.fusion.workers import Workers


def views(num_rows: int = 300, dims: tuple[int, ...] = (5, 8, 4), seed: int = 0) -> list[np.ndarray]:
    """Three shared directions seen by all, and loud directions of each one's own."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((num_rows, 3))
    found = []
    for dim in dims:
        own = rng.standard_normal((num_rows, dim)) * 3
        found.append(latent @ rng.standard_normal((3, dim)) + own @ rng.standard_normal((dim, dim)) * 0.3 + 2)
    return found


def given(arrays: list[np.ndarray], valid: np.ndarray) -> list[Embedding]:
    return [
        Embedding(name, np.where(mask[:, None], array, 0).astype(np.float32), mask)
        for name, array, mask in zip("abc", arrays, valid, strict=False)
    ]


def fit(embeddings: list[Embedding], weights: np.ndarray, count: int, ridge: float = 0) -> GccaFit:
    source = RowSource(embeddings)
    with Workers() as workers:
        shifts, _ = provisional_centres(source, workers)
        return fit_gcca(source, shifts, weights, ridge, count, workers)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 0.5, 1.0)])
def test_against_the_eigenproblem_of_the_items(missing: float, weights: tuple[float, ...]) -> None:
    """N × N: K^(−1/2) (Σ w_e K_e P_e K_e) K^(−1/2), with P_e the projection on the columns of the rows with e."""
    arrays = views()
    valid = np.random.default_rng(1).random((3, 300)) >= missing
    valid[0] |= ~valid.any(0)
    embeddings = given(arrays, valid)
    counted = np.asarray(weights) @ valid
    agreement = np.zeros((300, 300))
    for weight, embedding in zip(weights, embeddings, strict=True):
        rows = np.flatnonzero(embedding.valid)
        centred = embedding.vectors[rows].astype(np.float64)
        basis = scipy.linalg.orth(centred - centred.mean(0))
        agreement[np.ix_(rows, rows)] += weight * basis @ basis.T
    agreement /= np.sqrt(np.outer(counted, counted))
    values, vectors = np.linalg.eigh(agreement)
    shared = vectors[:, ::-1][:, :3] / np.sqrt(counted)[:, None]
    found = fit(embeddings, np.array(weights), 3)
    np.testing.assert_allclose(found.variances, values[::-1][:3], rtol=1e-3)
    config = PreprocessorConfig(svd=3, weights=weights, fuse="gcca", ridge=0, whiten=1)
    vectors, _ = Preprocessor(config).fit(embeddings).transform(embeddings)
    expected = shared * np.sqrt(counted.sum())
    np.testing.assert_allclose(vectors, expected * np.sign((vectors * expected).sum(0)), atol=0.02)


def test_two_views_give_canonical_correlations() -> None:
    arrays = views(num_rows=2000, dims=(5, 8))
    embeddings = given(arrays, np.ones((2, 2000), bool))
    one, two = CCA(3, max_iter=5000, tol=1e-10).fit_transform(arrays[0], arrays[1])
    correlations = np.array([np.corrcoef(one[:, j], two[:, j])[0, 1] for j in range(3)])
    found = fit(embeddings, np.ones(2), 3)
    np.testing.assert_allclose(2 * found.variances - 1, correlations, atol=2e-3)
    config = PreprocessorConfig(svd=3, fuse="gcca", ridge=0)
    vectors, _ = Preprocessor(config).fit(embeddings).transform(embeddings)
    for j in range(3):
        between = np.corrcoef(vectors[:, j], one[:, j] / one[:, j].std() + two[:, j] / two[:, j].std())[0, 1]
        assert abs(between) > 0.999


def test_agreement_is_preferred_to_energy() -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((3000, 1))
    arrays = []
    for dim in (6, 7, 5):
        loud = 10 * rng.standard_normal((3000, dim))
        quiet = shared @ rng.standard_normal((1, dim)) + 0.01 * rng.standard_normal((3000, dim))
        arrays.append(np.concatenate([loud, quiet], axis=1))
    embeddings = given(arrays, np.ones((3, 3000), bool))

    def correlation(fuse: str) -> float:
        vectors, _ = Preprocessor(PreprocessorConfig(svd=1, fuse=fuse)).fit(embeddings).transform(embeddings)
        return abs(float(np.corrcoef(vectors[:, 0], shared[:, 0])[0, 1]))

    assert correlation("gcca") > 0.99
    assert correlation("svd") < 0.2


def test_ridge_shrinks_what_noise_agrees_on() -> None:
    """With nearly as many dimensions as items everything agrees by chance, unless it is regularised."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((120, 50)) for _ in range(2)]
    embeddings = given(arrays, np.ones((2, 120), bool))
    free, ridged = (fit(embeddings, np.ones(2), 1, ridge).variances[0] for ridge in (0, 1))
    assert free > 0.9
    assert ridged < 0.8 * free


def test_constant_embeddings_do_not_vote_noise() -> None:
    arrays = views(dims=(5, 8))
    everywhere = np.ones((3, 300), bool)
    plain = fit(given(arrays, everywhere[:2]), np.ones(2), 3)
    beside = fit(given([*arrays, np.full((300, 4), 0.1)], everywhere), np.ones(3), 3)
    np.testing.assert_allclose(beside.variances, plain.variances * 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(beside.loadings[:13], plain.loadings, atol=1e-3)
