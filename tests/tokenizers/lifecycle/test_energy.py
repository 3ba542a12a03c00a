from collections.abc import Sequence

import numpy as np
import pytest

from semid.data.features import Embedding
from semid.tokenizers.fusion.preprocessing import PreprocessorConfig
from semid.tokenizers.lifecycle.energy import Energy, unseen_energies

RNG = np.random.default_rng(0)
# Old items lie in the first 4 of 12 dimensions, but for a little noise; new ones half in others.
PLANE = np.concatenate([RNG.standard_normal((500, 4)), 0.1 * RNG.standard_normal((500, 8))], axis=1)
NEW = np.arange(500) >= 400
CONFIG = PreprocessorConfig(svd=4)


def energies(
    vectors: np.ndarray, valid: Sequence[bool] | np.ndarray | None = None, config: PreprocessorConfig = CONFIG
) -> tuple[Energy, Energy] | None:
    has = np.ones(500, bool) if valid is None else np.asarray(valid)
    embedding = Embedding("a", np.where(has[:, None], vectors, 0).astype(np.float32), has)
    return unseen_energies(config, [embedding], NEW, np.random.default_rng(1))


def test_items_of_the_same_kind_have_the_same_share() -> None:
    found = energies(PLANE)
    assert found is not None
    truth = 4.04 / (4.04 + 0.04)
    assert found[0].share == pytest.approx(truth, abs=0.01)
    assert found[1].share == pytest.approx(truth, abs=0.01)


def test_old_items_that_were_held_out_are_no_better_off_than_new_ones() -> None:
    """Noise in as many dimensions as there are items: components hold nearly all of what they were fitted to."""
    noise = np.random.default_rng(2).standard_normal((500, 400))
    found = energies(noise, config=PreprocessorConfig(svd=100))
    assert found is not None
    assert found[0].share == pytest.approx(found[1].share, abs=0.03)
    assert found[0].share < 0.4


def test_new_directions_are_lost() -> None:
    turned = PLANE.copy()
    turned[NEW] = PLANE[NEW][:, [0, 1, 6, 7, 4, 5, 2, 3, 8, 9, 10, 11]]
    found = energies(turned)
    assert found is not None
    assert found[0].share > 0.97
    assert found[1].share == pytest.approx(0.5, abs=0.08)


def test_only_items_with_every_embedding_count() -> None:
    assert energies(PLANE, NEW | (np.arange(500) < 40)) is None
    assert energies(PLANE, ~NEW) is None
    assert energies(PLANE, config=PreprocessorConfig(svd=4, scale="whiten")) is None


def test_spread_of_the_share_by_resampling() -> None:
    rng = np.random.default_rng(3)
    whole = rng.gamma(3.0, size=400)
    energy = Energy(whole=whole, held=whole * rng.uniform(0.2, 1.0, 400))
    rows = rng.integers(400, size=(3000, 400))
    shares = energy.held[rows].sum(1) / whole[rows].sum(1)
    assert np.sqrt(energy.variance) == pytest.approx(shares.std(), rel=0.05)
    assert Energy(whole=np.zeros(3), held=np.zeros(3)).share == 1.0
