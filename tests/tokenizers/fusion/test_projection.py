import numpy as np
import pytest

from semid.tokenizers.fusion.projection import noise_levels, regression

DIMS = (6, 9, 4)


@pytest.mark.parametrize("present", [(True, False, False), (True, False, True), (False, True, True)])
def test_turns_give_the_conditional_mean(present: tuple[bool, ...]) -> None:
    """Against Gaussian conditioning of the absent part of z on the present one, written out in full."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((19, 3)))[0]
    variances, noise = np.array([5.0, 3, 2]), np.array([0.05, 0.02, 0.1])
    blocks = np.split(basis, np.cumsum(DIMS)[:-1])
    levels, mask = np.repeat(noise, DIMS), np.repeat(present, DIMS)
    prior = np.diag(variances - (basis**2 * levels[:, None]).sum(0))
    joint = basis @ prior @ basis.T + np.diag(levels)
    z = rng.standard_normal(19)
    latent = prior @ basis[mask].T @ np.linalg.solve(joint[np.ix_(mask, mask)], z[mask])
    expected = basis[mask].T @ z[mask] + basis[~mask].T @ (basis[~mask] @ latent)
    turns = regression(np.stack([b.T @ b for b in blocks]), variances, noise, np.array(present))
    parts = np.split(z, np.cumsum(DIMS)[:-1])
    found = sum(part @ block @ turn for part, block, turn in zip(parts, blocks, turns, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert not turns[~np.array(present)].any()


def test_nothing_is_turned_where_nothing_is_missing() -> None:
    turns = regression(np.ones((2, 3, 3)), np.ones(3), np.ones(2), np.array([True, True]))
    np.testing.assert_array_equal(turns, [np.eye(3)] * 2)


def test_constant_embeddings_say_nothing() -> None:
    grams = np.stack([np.eye(2), np.zeros((2, 2))])
    turns = regression(grams, np.ones(2), np.array([0.1, 0]), np.array([False, True]))
    np.testing.assert_array_equal(turns[1], np.eye(2))


def test_noise_is_what_is_left_but_never_nothing() -> None:
    found = noise_levels(np.array([2.0, 2.0, 0]), np.array([1.0, 2.0, 0]), (4, 2, 3))
    np.testing.assert_allclose(found, [0.25, 0.001, 0])
