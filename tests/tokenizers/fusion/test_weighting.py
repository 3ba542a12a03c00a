import numpy as np
import pytest

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion.weighting import WeightingConfig, search_weights

NUM_ITEMS = 1200


def embeddings(*noise: float, dim: int = 8, seed: int = 0) -> tuple[list[Embedding], np.ndarray]:
    """Views of items in 60 clusters under this much noise, and pairs of items of one cluster."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(60, size=NUM_ITEMS)
    centres = rng.standard_normal((60, dim))
    given = []
    for number, level in enumerate(noise):
        view = centres[cluster] @ rng.standard_normal((dim, dim)) + level * rng.standard_normal((NUM_ITEMS, dim))
        given.append(Embedding(f"e{number}", (view * 10.0**number).astype(np.float32), np.ones(NUM_ITEMS, bool)))
    pairs = rng.integers(NUM_ITEMS, size=(60_000, 2))
    return given, pairs[cluster[pairs[:, 0]] == cluster[pairs[:, 1]]]


def by_hand(given: list[Embedding], pairs: np.ndarray, weights: tuple[float, ...]) -> float:
    """Mean gain over all pairs among all items, in float64."""
    fused = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for embedding, weight in zip(given, weights, strict=True):
        z = embedding.vectors.astype(np.float64)
        z = z - z.mean(0)
        z *= np.sqrt(weight / (z**2).sum(1).mean())
        lengths = (z**2).sum(1)
        fused += lengths[:, None] + lengths - 2 * z @ z.T
    np.fill_diagonal(fused, np.inf)
    ranks = (fused[pairs[:, 0]] < fused[pairs[:, 0], pairs[:, 1]][:, None]).sum(1) + 1
    return float((10 / (9 + ranks)).mean())


def test_agreement_is_the_mean_gain_of_the_ranks() -> None:
    given, pairs = embeddings(1.0, 3.0)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    found = search_weights(given, pairs, WeightingConfig(queries=5000, candidates=5000, partners=1000))
    # That is on the half of the queries held out, this on all of them.
    assert found.equal == pytest.approx(by_hand(given, pairs, (1, 1)), rel=0.04)
    assert found.agreement == pytest.approx(by_hand(given, pairs, found.weights), rel=0.04)
    for number, weights in enumerate(((1.0, 0.0), (0.0, 1.0))):
        assert found.alone[number] == pytest.approx(by_hand(given, pairs, weights), rel=0.04)


def test_noise_gets_little_weight() -> None:
    given, pairs = embeddings(0.5, 50.0, 0.5)
    found = search_weights(given, pairs)
    assert found.weights[1] < 0.1 * min(found.weights[0], found.weights[2])
    assert sum(found.weights) == pytest.approx(3)
    assert found.agreement > found.equal
    assert found.agreement >= max(found.alone) - 0.02
    assert found.alone[1] < 0.5 * found.alone[0]
    assert search_weights(given, pairs).weights == found.weights


def test_equal_embeddings_get_like_weights() -> None:
    given, pairs = embeddings(2.0, 2.0)
    one, two = search_weights(given, pairs).weights
    assert 0.5 <= one / two <= 2


def test_weights_are_equal_where_pairs_say_nothing() -> None:
    given, _ = embeddings(1.0, 1.0)
    pairs = np.random.default_rng(5).integers(NUM_ITEMS, size=(400, 2))
    found = search_weights(given, pairs)
    assert found.agreement >= found.equal
    if found.agreement == found.equal:
        assert found.weights == (1, 1)


def test_absent_embeddings_say_nothing() -> None:
    """Random vectors that hardly any item has are no reason to distrust them, nor to trust them."""
    given, pairs = embeddings(0.5, 0.5)
    few = Embedding("few", np.random.default_rng(0).standard_normal((NUM_ITEMS, 3)), np.arange(NUM_ITEMS) < 40)
    none = Embedding("none", np.zeros((NUM_ITEMS, 2), np.float16), np.zeros(NUM_ITEMS, bool))
    found = search_weights([*given, few, none], pairs)
    alone = search_weights(given, pairs)
    assert np.isfinite(found.weights).all()
    assert found.equal == pytest.approx(alone.equal, rel=0.05)
    assert found.alone[3] < 0.4 * found.alone[0]


def test_the_sample_depends_on_the_seed_alone() -> None:
    given, pairs = embeddings(1.0, 2.0)
    config = WeightingConfig(queries=100, candidates=300, partners=2, seed=1)
    assert search_weights(given, pairs, config) == search_weights(given, pairs[::-1], config)
    other = WeightingConfig(queries=100, candidates=300, partners=2, seed=2)
    assert search_weights(given, pairs, config).equal != search_weights(given, pairs, other).equal


def test_mistakes_are_named() -> None:
    given, pairs = embeddings(1.0, 1.0)
    with pytest.raises(InputError, match="Only 0 items"):
        search_weights(given, pairs[:0])
    with pytest.raises(InputError, match="rows up to 1200"):
        search_weights(given, pairs + np.array([0, NUM_ITEMS - pairs[:, 1].max()]))
    with pytest.raises(InputError, match="queries is 0"):
        WeightingConfig(queries=0)
    given[1].vectors[5, 2] = np.nan
    with pytest.raises(InputError, match="'e1' has NaN or infinity in row 5"):
        search_weights(given, pairs, WeightingConfig(candidates=5000))
