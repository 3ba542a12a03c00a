import numpy as np
import pytest
import torch

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion import moments, reading
from semid.tokenizers.fusion.moments import (
    Centres,
    Sums,
    divisors,
    provisional_centres,
    scaled_moment,
    scales_to,
    second_moments,
)
from semid.tokenizers.fusion.reading import RowSource
from semid.tokenizers.fusion.workers import Workers


def partial(seed: int = 0, num_rows: int = 900) -> list[Embedding]:
    """Three embeddings far from the origin, each missing in some rows, the middle one correlated with the first."""
    rng = np.random.default_rng(seed)
    one = rng.standard_normal((num_rows, 5)) @ rng.standard_normal((5, 5)) + 30
    two = one[:, :3] @ rng.standard_normal((3, 7)) + rng.standard_normal((num_rows, 7)) - 9
    three = 100 * rng.standard_normal((num_rows, 2))
    return [
        Embedding(name, view.astype(np.float32), rng.random(num_rows) < share)
        for name, view, share in zip("abc", (one, two, three), (0.9, 0.5, 0.3), strict=True)
    ]


def by_hand(given: list[Embedding]) -> tuple[list[np.ndarray], np.ndarray]:
    """Means, and sums of centred products over the rows that have both, in float64."""
    means = [e.vectors[e.valid].mean(0, dtype=np.float64) for e in given]
    centred = [np.where(e.valid[:, None], e.vectors - mean, 0) for e, mean in zip(given, means, strict=True)]
    side = np.concatenate(centred, axis=1)
    return means, side.T @ side


def fit(given: list[Embedding], half: bool = False) -> tuple[Centres, np.ndarray]:
    source = RowSource(given)
    with Workers() as workers:
        shifts, _ = provisional_centres(source, workers)
        return second_moments(source, shifts, workers, half=half)


@pytest.mark.parametrize("panel", [3, 128])
def test_one_pass_gives_the_moments(panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(moments, "_PANEL", panel)
    monkeypatch.setattr(moments, "_PANEL_LENGTH", panel)
    monkeypatch.setattr(moments, "_SPREAD_ROWS", 32)  # shifts are far from the means then
    given = partial()
    means, products = by_hand(given)
    centres, found = fit(given)
    np.testing.assert_allclose(np.concatenate(centres.means), np.concatenate(means), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(found, products, atol=3e-6 * np.abs(products).max())
    np.testing.assert_allclose(found, found.T, rtol=1e-12)
    valid = np.stack([e.valid for e in given]).astype(int)
    np.testing.assert_array_equal(centres.counts, valid @ valid.T)
    energies = [
        np.trace(products[b, b]) / e.valid.sum() for b, e in zip(RowSource(given).columns, given, strict=True)
    ]
    np.testing.assert_allclose(centres.energies, energies, rtol=1e-5)


def test_the_order_of_rows_costs_no_accuracy() -> None:
    """Sorted by a column, the first rows say nothing of the rest."""
    given = partial()[0]
    order = np.argsort(given.vectors[:, 0])
    in_order = Embedding("a", given.vectors[order] * 1000, given.valid[order])
    means, products = by_hand([in_order])
    centres, found = fit([in_order])
    np.testing.assert_allclose(found, products, atol=3e-6 * np.abs(products).max())
    np.testing.assert_allclose(centres.means[0], means[0], rtol=1e-6)


def test_half_precision_products_are_close() -> None:
    given = partial(num_rows=5000)
    _, products = by_hand(given)
    _, found = fit(given, half=True)
    scale = np.sqrt(np.outer(np.diag(products), np.diag(products)))
    assert not np.array_equal(found, fit(given)[1])
    np.testing.assert_allclose(found / scale, products / scale, atol=2 * 2**-8)


def test_constant_embeddings_have_no_energy() -> None:
    for constant in (
        np.full((500, 3), 0.1, np.float32),
        np.full((500, 3), 12345.678),
        np.zeros((500, 3), np.float16),
    ):
        centres, _ = fit([Embedding("a", constant, np.ones(500, bool))])
        assert centres.energies[0] == 0
        np.testing.assert_allclose(centres.means[0], constant[0], rtol=1e-6)


def test_overflow_is_named() -> None:
    huge = (np.random.default_rng(0).standard_normal((500, 3)) * 1e25).astype(np.float32)
    with pytest.raises(InputError, match="'a' has numbers too large for float32"):
        fit([Embedding("a", huge, np.ones(500, bool))])


def test_weighted_rows() -> None:
    rng = np.random.default_rng(0)
    block, weights = rng.standard_normal((400, 6)).astype(np.float32), rng.random(400)
    sums, roots = Sums([6]), np.sqrt(weights)
    with Workers() as workers:
        sums.add(torch.from_numpy(block * roots[:, None].astype(np.float32)), roots[:, None], workers)
    offset = (weights @ block) / weights.sum()
    np.testing.assert_allclose(sums.totals[0], weights @ block, rtol=1e-4)
    expected = (block - offset).T @ ((block - offset) * weights[:, None])
    np.testing.assert_allclose(sums.centred([offset]), expected, atol=1e-3)


def test_blocks_of_few_common_rows_are_shrunk() -> None:
    """Worked by hand: 10 common rows, 40 of the rarer one, 3 dimensions of the narrower."""
    counts = np.array([[100, 10, 0], [10, 40, 40], [0, 40, 40]])
    found = divisors(counts, [3, 5, 8])
    np.testing.assert_allclose(found[0, 1], 10 + 0.75 * 3)
    np.testing.assert_allclose(found[0, 2], 3)
    np.testing.assert_array_equal(np.diag(found), [100, 40, 40])
    assert found[1, 2] == 40
    moment = scaled_moment(np.ones((16, 16)), counts, [3, 5, 8], np.array([2, 3, 0]))
    np.testing.assert_allclose(moment[0, 4], 6 / 12.25)
    np.testing.assert_allclose(scales_to(np.array([4, 1]), np.array([1, 0])), [2, 0])


def test_the_number_of_threads_changes_no_bit() -> None:
    given, before = partial(num_rows=3000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        _, one = fit(given)
        torch.set_num_threads(3)
        _, three = fit(given)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one, three)
