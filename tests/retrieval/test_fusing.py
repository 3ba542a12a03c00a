import numpy as np
import pytest

from semid.errors import InputError
from semid.retrieval.combining import Candidates
from semid.retrieval.fusing import by_reciprocal_rank, fuse

ITEMS = np.array([[2, 5, 9, -1], [1, 3, 4, 7]])
EVIDENCE = {
    "codes": np.array([[-1.0, -3, -2, 9], [-4, -1, -4, -np.inf]]),
    "cosine": np.array([[0.1, 0.9, 0.5, 9], [0.8, 0.2, 0.8, 0.4]]),
}


def test_reciprocal_ranks_by_hand() -> None:
    """Equal values share the best rank they could have; padding has no rank."""
    ranked = by_reciprocal_rank(Candidates(items=ITEMS, evidence=EVIDENCE), {"codes": 1.0, "cosine": 1.0}).evidence
    np.testing.assert_allclose(1 / ranked["codes"][0, :3] - 60, [1, 3, 2])
    np.testing.assert_allclose(1 / ranked["cosine"][0, :3] - 60, [3, 1, 2])
    np.testing.assert_allclose(1 / ranked["codes"][1] - 60, [2, 1, 2, 4])
    np.testing.assert_allclose(1 / ranked["cosine"][1] - 60, [1, 4, 1, 3])


def test_fused_by_reciprocal_rank() -> None:
    found = fuse(Candidates(items=ITEMS, evidence=EVIDENCE), "rrf", {"codes": 1.0, "cosine": 1.0}, 3)
    # 1/61 + 1/63 for items 2 and 5, 2/62 for item 9; 1/61 + 1/62 for items 1 and 4, 1/61 + 1/64 for item 3.
    assert found.items.tolist() == [[2, 5, 9], [1, 4, 3]]
    np.testing.assert_allclose(found.scores[0], [1 / 61 + 1 / 63, 1 / 61 + 1 / 63, 2 / 62], rtol=1e-6)
    weighed = fuse(Candidates(items=ITEMS, evidence=EVIDENCE), "rrf", {"codes": 1.0, "cosine": 3.0}, 1)
    assert weighed.items[:, 0].tolist() == [5, 1]


def test_ranks_equal_counting() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (30, 17)).astype(float)
    items = np.tile(np.arange(17), (30, 1))
    items[:10, 12:] = -1
    ranked = by_reciprocal_rank(Candidates(items=items, evidence={"a": values}), {"a": 1.0}).evidence["a"]
    for row, column in np.argwhere(items >= 0):
        higher = (values[row] > values[row, column]) & (items[row] >= 0)
        assert 1 / ranked[row, column] == pytest.approx(61 + higher.sum())


def test_weighted_sums_are_those_of_the_evidence() -> None:
    for rule in ("learned", "linear"):
        found = fuse(Candidates(items=ITEMS, evidence=EVIDENCE), rule, {"codes": 0.1, "cosine": 1.0}, 2)
        assert found.items.tolist() == [[5, 9], [1, 4]]


def test_an_unknown_rule() -> None:
    with pytest.raises(InputError, match="Unknown rule of fusion 'max': use one of learned, linear, rrf"):
        fuse(Candidates(items=ITEMS, evidence=EVIDENCE), "max", {}, 1)
