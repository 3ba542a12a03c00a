import numpy as np
import pytest

from semid.data.features import Embedding
from semid.tokenizers.fusion import moments, reading
from semid.tokenizers.fusion.components import leading_components
from semid.tokenizers.fusion.moments import provisional_centres, scaled_moment, second_moments
from semid.tokenizers.fusion.reading import RowSource
from semid.tokenizers.fusion.wide import WideFit, wide_components
from semid.tokenizers.fusion.workers import Workers

WEIGHTS = np.array([1.0, 0.5, 2.0])
COUNT = 8


def views(coverage: float, num_rows: int = 1500) -> list[Embedding]:
    """Three embeddings of very different size that see 12 shared directions of falling strength, and noise."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((num_rows, 12)) * 0.8 ** np.arange(12)
    given = []
    for name, dim, size in (("a", 60, 1.0), ("b", 90, 300.0), ("c", 40, 0.01)):
        view = latent @ rng.standard_normal((12, dim)) + 0.3 * rng.standard_normal((num_rows, dim)) + 5
        given.append(Embedding(name, (view * size).astype(np.float32), rng.random(num_rows) < coverage))
    return given


def fit(given: list[Embedding]) -> tuple[WideFit, np.ndarray, np.ndarray]:
    """The sketch, and the stored moment of the same rows with its eigenvalues."""
    source = RowSource(given)
    with Workers() as workers:
        shifts, energies = provisional_centres(source, workers)
        found = wide_components(source, shifts, WEIGHTS, energies, COUNT, workers)
        centres, products = second_moments(source, shifts, workers)
        moment = scaled_moment(products, centres.counts, source.dims, found.scales)
        variances, _ = leading_components(moment, COUNT, workers)
    np.testing.assert_allclose(found.centres.energies, centres.energies, rtol=1e-4)
    np.testing.assert_allclose(np.concatenate(found.centres.means), np.concatenate(centres.means), rtol=1e-4)
    np.testing.assert_array_equal(found.centres.counts, centres.counts)
    return found, moment, variances


@pytest.mark.parametrize("coverage", [1.0, 0.6])
def test_two_passes_come_close_to_the_stored_moment(coverage: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(moments, "_SPREAD_ROWS", 32)  # shifts are far from the means then
    found, moment, variances = fit(views(coverage))
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(COUNT), atol=1e-6)
    captured = np.trace(found.basis.T @ moment @ found.basis)
    assert captured > 0.998 * variances.sum()
    np.testing.assert_allclose(found.variances[:4], variances[:4], rtol=5e-3)
    np.testing.assert_allclose(found.variances, np.diag(found.basis.T @ moment @ found.basis), rtol=0.03)
    assert found.variances.sum() < variances.sum() * (1 + 1e-4)


def test_low_rank_is_found_exactly() -> None:
    rng = np.random.default_rng(0)
    flat = (rng.standard_normal((400, 3)) @ rng.standard_normal((3, 80))).astype(np.float32)
    given = [Embedding(name, flat * size, np.ones(400, bool)) for name, size in (("a", 1), ("b", 2), ("c", 0))]
    found, moment, variances = fit(given)
    assert len(found.variances) == 3
    assert found.scales[2] == 0
    np.testing.assert_allclose(found.variances, variances, rtol=1e-4)
    assert np.trace(found.basis.T @ moment @ found.basis) > (1 - 1e-5) * np.trace(moment)


def test_nothing_but_constants() -> None:
    given = [Embedding(name, np.full((50, 9), 4, np.float16), np.ones(50, bool)) for name in "abc"]
    found, _, _ = fit(given)
    np.testing.assert_array_equal(found.variances, [0])
    assert found.basis.shape == (27, 1)
