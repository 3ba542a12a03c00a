from dataclasses import replace

import numpy as np
import pytest

from semid.codes import SemanticIds
from semid.tokenizers.collisions.placement import place
from semid.tokenizers.lifecycle.append import CollisionPolicy
from semid.tokenizers.lifecycle.labels import relabel
from semid.tokenizers.lifecycle.refit import KEEP_TOLERANCE, Inherited, Kept, fit_from_codes, keep_codes
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

CONFIG = RQKMeansConfig(levels=3, codes=16, rounds=4, iterations=10, beam=4)
NOBODY = np.empty((0, 3), np.int32)


def embedded(num_items: int, seed: int = 0) -> np.ndarray:
    """Items without clusters: whatever the seed of a fit, its error is the same within a few percent."""
    return (np.random.default_rng(seed).standard_normal((num_items, 8)) * 0.8 ** np.arange(8)).astype(np.float32)


def fitted(vectors: np.ndarray, seed: int = 0) -> tuple[RQKMeans, SemanticIds]:
    quantiser = RQKMeans(replace(CONFIG, seed=seed)).fit(vectors)
    codes = place(NOBODY, quantiser.encode(vectors), vectors, quantiser.codebooks_).codes
    return quantiser, SemanticIds(codes, (16, 16, 16))


def error(vectors: np.ndarray, codes: np.ndarray, quantiser: RQKMeans) -> float:
    return float(((vectors - quantiser.decode(codes)) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def refitted(
    vectors: np.ndarray,
    old: SemanticIds,
    tolerance: float = KEEP_TOLERANCE,
    how: CollisionPolicy | None = None,
    known: np.ndarray | None = None,
) -> Kept:
    """Refit to vectors whose first rows have old codes."""
    known = np.ones(len(vectors), bool) if known is None else known
    codes = np.full((len(vectors), 3), -1, np.int32)
    codes[: old.num_items] = old.codes[:, :3]
    warm = fit_from_codes(vectors[known], codes[known], CONFIG)
    plain = relabel(RQKMeans(CONFIG).fit(vectors[known]), vectors[known], codes[known])
    items = Inherited(vectors=vectors, known=known, rows=np.arange(old.num_items), codes=old)
    kept = keep_codes(items, warm, plain, how or CollisionPolicy(), tolerance=tolerance)
    np.testing.assert_array_equal(kept.nearest, kept.quantiser.encode(vectors))
    return kept


def changed_share(kept: Kept, old: SemanticIds) -> float:
    return float((kept.ids.codes[: old.num_items] != old.codes).any(axis=1).mean())


def test_the_same_data_changes_nothing_and_costs_nothing() -> None:
    vectors = embedded(1000)
    quantiser, old = fitted(vectors)
    kept = refitted(vectors, old)
    np.testing.assert_array_equal(kept.ids.codes, old.codes)
    assert error(vectors, old.codes, kept.quantiser) <= error(vectors, old.codes, quantiser)
    assert kept.plain_changed == 0
    assert kept.over_plain is not None
    assert kept.over_plain <= 1.05


def test_a_tenth_of_new_items_changes_far_fewer_codes_than_a_plain_refit() -> None:
    vectors = embedded(990)
    _, old = fitted(vectors[:900])
    plain, ids = fitted(vectors)
    kept = refitted(vectors, old)
    assert kept.ids.is_unique
    assert changed_share(kept, old) < 0.1
    assert kept.plain_changed / 900 > 0.8
    assert error(vectors, kept.ids.codes, kept.quantiser) < 1.05 * error(vectors, ids.codes, plain)


def test_a_new_cluster_far_away_gets_codes_of_its_own() -> None:
    vectors = embedded(900)
    far = 6 + 0.5 * np.random.default_rng(5).standard_normal((90, 8)).astype(np.float32)
    quantiser, old = fitted(vectors)
    both = np.concatenate([vectors, far])
    kept = refitted(both, old)
    before = ((far - quantiser.decode(quantiser.encode(far))) ** 2).sum(1).mean()
    after = ((far - kept.quantiser.decode(kept.ids.codes[900:])) ** 2).sum(1).mean()
    plain, ids = fitted(both)
    assert after < 0.1 * before
    assert error(both, kept.ids.codes, kept.quantiser) < 1.08 * error(both, ids.codes, plain)
    assert changed_share(kept, old) < 0.2
    assert kept.plain_changed / 900 > 0.9


def test_the_error_allowed_is_kept_to_and_buys_codes() -> None:
    vectors = embedded(900)
    vectors[720:] += 1.5
    _, old = fitted(vectors[:720])
    results = {tolerance: refitted(vectors, old, tolerance) for tolerance in (0.0, 0.05, 5.0)}
    shares = [changed_share(kept, old) for kept in results.values()]
    assert shares[0] > shares[1] > shares[2] == 0
    assert all(kept.over_plain is not None and kept.over_plain <= 1.08 * (1 + t) for t, kept in results.items())


def test_items_without_embedding_keep_their_codes_and_cost_nothing() -> None:
    vectors = embedded(600)
    _, old = fitted(vectors)
    known = np.arange(600) % 9 != 0
    noisy = np.where(known[:, None], vectors, 50 * vectors[::-1]).astype(np.float32)
    kept = refitted(noisy, old, tolerance=0.0, known=known)
    np.testing.assert_array_equal(kept.ids.codes[~known], old.codes[~known])
    assert error(vectors[known], kept.ids.codes[known], kept.quantiser) < 0.2


@pytest.mark.parametrize("policy", ["optimal", "nearest", "extra", "none"])
def test_every_policy_with_identical_items(policy: str) -> None:
    vectors = embedded(700)
    vectors[600:] = vectors[:100]
    quantiser = RQKMeans(CONFIG).fit(vectors[:600])
    wanted = quantiser.encode(vectors[:600])
    codes = place(NOBODY, wanted, vectors[:600], quantiser.codebooks_, policy=policy).codes
    sizes = (16, 16, 16, *([int(codes[:, -1].max()) + 1] if policy == "extra" else []))
    old = SemanticIds(codes, sizes)
    kept = refitted(vectors, old, 0.3, CollisionPolicy(policy=policy))
    assert kept.ids.is_unique == (policy != "none")
    np.testing.assert_array_equal(kept.ids.codes[:600], old.codes)


def test_the_same_seed_gives_the_same_codes() -> None:
    vectors = embedded(800)
    vectors[700:] += 2
    _, old = fitted(vectors[:700])
    one, other = refitted(vectors, old, 0.01), refitted(vectors, old, 0.01)
    np.testing.assert_array_equal(one.ids.codes, other.ids.codes)
    for book, same in zip(one.quantiser.codebooks_, other.quantiser.codebooks_, strict=True):
        np.testing.assert_array_equal(book, same)
