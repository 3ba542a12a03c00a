import numpy as np
from sklearn.decomposition import PCA

from semid.tokenizers.clustering.principal import principal_axes, screen_width


def vectors_of(rank: int, tail: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((3000, rank)) @ rng.standard_normal((rank, 200))
    return (latent + tail * rng.standard_normal((3000, 200)) + 5).astype(np.float32)


def test_axes_agree_with_sklearn() -> None:
    vectors = vectors_of(20, 0.5)
    axes = principal_axes(vectors)
    theirs = PCA(20).fit(vectors)
    np.testing.assert_allclose(axes.energy[:20], theirs.explained_variance_ * 2999 / 3000, rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(axes.axes[:, :20].T * theirs.components_, 1)), 1, atol=1e-3)
    share = axes.energy[:20].sum() / axes.energy.sum()
    assert axes.width_for(float(share) - 1e-6) == 20


def test_the_screen_is_as_wide_as_the_vectors_need() -> None:
    rng = np.random.default_rng(1)
    narrow, full = vectors_of(25, 0.01), vectors_of(200, 1.0)
    width = screen_width(principal_axes(narrow), narrow, narrow[rng.choice(3000, 300)], 32)
    assert width == 32
    assert screen_width(principal_axes(full), full, full[rng.choice(3000, 300)], 96) == 200
