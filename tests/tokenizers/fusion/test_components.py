import numpy as np
import pytest
import scipy.linalg

from semid.tokenizers.fusion import components
from semid.tokenizers.fusion.components import leading_components
from semid.tokenizers.fusion.workers import Workers


def symmetric(eigenvalues: np.ndarray, seed: int = 0) -> np.ndarray:
    basis = scipy.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues), len(eigenvalues))))[0]
    return (basis * eigenvalues) @ basis.T


SPECTRA = {
    "geometric": 0.97 ** np.arange(300),
    "power": 1 / np.arange(1, 301),
    "step": np.r_[np.full(16, 5.0), np.full(284, 0.01)],
    "flat": np.ones(300),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("direct", [300, 1])
def test_energy_of_leading_components_is_the_largest(name: str, direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_DIRECT_DIM", direct)
    moment = symmetric(SPECTRA[name])
    with Workers() as workers:
        variances, basis = leading_components(moment, 16, workers)
    best = np.sort(scipy.linalg.eigvalsh(moment))[::-1][:16].sum()
    assert np.trace(basis.T @ moment @ basis) > best - 1e-6 * np.trace(moment)
    assert variances.sum() == pytest.approx(best, abs=1e-6 * np.trace(moment))
    np.testing.assert_allclose(basis.T @ basis, np.eye(16), atol=1e-10)
    assert (np.diff(variances) <= 0).all()
    assert (basis[np.abs(basis).argmax(0), np.arange(16)] > 0).all()


def test_both_solvers_agree_where_eigenvalues_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = symmetric(SPECTRA["geometric"])
    with Workers() as workers:
        variances, basis = leading_components(moment, 8, workers)
        monkeypatch.setattr(components, "_DIRECT_DIM", 300)
        exact_variances, exact_basis = leading_components(moment, 8, workers)
    np.testing.assert_allclose(variances, exact_variances, rtol=1e-6)
    np.testing.assert_allclose(basis, exact_basis, atol=1e-3)


def test_no_components_beyond_the_rank() -> None:
    moment = symmetric(np.r_[[3.0, 2, 1], np.zeros(37)])
    with Workers() as workers:
        assert len(leading_components(moment, 10, workers)[0]) == 3
        variances, basis = leading_components(np.zeros((5, 5)), 4, workers)
        assert leading_components(moment, 100, workers)[1].shape == (40, 3)
    np.testing.assert_array_equal(variances, [0])
    assert basis.shape == (5, 1)
