import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from semid.errors import InputError
from semid.retrieval.combining import Candidates, fit_weights, rank


def drawn(seed: int, queries: int = 400, count: int = 12) -> Candidates:
    """Candidates with three kinds of evidence; some rows end early."""
    rng = np.random.default_rng(seed)
    items = np.sort(np.array([rng.choice(50, count, replace=False) for _ in range(queries)]), axis=1)
    items[: queries // 4, -3:] = -1
    return Candidates(items=items, evidence={name: rng.standard_normal(items.shape) for name in "abc"})


def test_rank_by_hand() -> None:
    items = np.array([[2, 5, 9, -1], [1, 3, 4, 7]])
    evidence = {"a": np.array([[1.0, 2, 0, 9], [0, 0, 0, 1]]), "b": np.array([[0.0, -2, 1, 9], [3, 0, 3, 0]])}
    found = rank(Candidates(items=items, evidence=evidence), {"a": 1.0, "b": 0.5}, 3)
    assert found.items.tolist() == [[2, 5, 9], [1, 4, 7]]
    np.testing.assert_allclose(found.scores, [[1, 1, 0.5], [1.5, 1.5, 1]])
    assert rank(Candidates(items=items, evidence=evidence), {"a": 1.0}, 5).items[0].tolist() == [5, 2, 9, -1, -1]


def test_items_the_decoder_holds_impossible_go_last_but_stay() -> None:
    items, chance = np.array([[1, 2, 3]]), np.array([[-np.inf, -9.0, -np.inf]])
    found = rank(
        Candidates(items=items, evidence={"a": chance, "b": np.array([[1.0, 0, 2]])}), {"a": 0.5, "b": 1.0}, 3
    )
    assert found.items.tolist() == [[2, 3, 1]]
    assert np.isfinite(found.scores).all()


def test_no_candidates() -> None:
    empty = Candidates(items=np.zeros((2, 0), np.int64), evidence={"a": np.zeros((2, 0))})
    assert rank(empty, {"a": 1.0}, 2).items.tolist() == [[-1, -1], [-1, -1]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_fitted_weights_have_no_slope(seed: int) -> None:
    """The posterior, written out anew in float64, is flat at the weights found, or rises beyond a bound."""
    candidates = drawn(seed, queries=60)
    rng = np.random.default_rng(seed + 1)
    targets = np.stack([np.arange(60), candidates.items[np.arange(60), rng.integers(9, size=60)]], 1)
    prior = {"a": 0.5, "b": 0.0, "c": 0.2}
    found = fit_weights(candidates, targets, prior, positive=("a", "c"))

    def loss(weights: np.ndarray) -> float:
        total = 0.0
        for query, item in targets:
            real = candidates.items[query] >= 0
            scores = sum(w * candidates.evidence[n][query] for n, w in zip(prior, weights, strict=True))
            chances = log_softmax(np.asarray(scores)[real])
            total -= chances[candidates.items[query][real] == item][0]
        return total + 0.5 * float(np.square(weights - list(prior.values())).sum())

    at = np.array(list(found.values()))
    slope = np.array([(loss(at + step) - loss(at - step)) / 2e-5 for step in 1e-5 * np.eye(3)])
    for name, weight, rise in zip(prior, at, slope, strict=True):
        if name in ("a", "c") and weight == 0:
            assert rise > -1e-2
        else:
            assert abs(rise) < 1e-2


def test_planted_weights_are_found() -> None:
    candidates = drawn(3, queries=6000)
    wanted = {"a": 1.5, "b": -2.0, "c": 0.0}
    gumbel = np.random.default_rng(5).gumbel(size=candidates.items.shape)
    chosen = (candidates.scores(wanted) + gumbel).argmax(1)
    targets = np.stack([np.arange(6000), candidates.items[np.arange(6000), chosen]], 1)
    found = fit_weights(candidates, targets, dict.fromkeys("abc", 0.0))
    for name, weight in wanted.items():
        assert found[name] == pytest.approx(weight, abs=0.1)


def test_without_targets_the_prior_is_answered() -> None:
    candidates = drawn(0, queries=5)
    prior = {"a": 1.0, "b": -0.5}
    for targets in (np.empty((0, 2), np.int64), np.array([[0, 99], [3, 77]])):  # none, or none among the candidates
        assert fit_weights(candidates, targets, prior) == pytest.approx(prior)


def test_bad_input() -> None:
    items = np.array([[1, 2, -1]])
    with pytest.raises(InputError, match=r"dense has shape \(1, 2\)"):
        Candidates(items=items, evidence={"dense": np.zeros((1, 2))})
    with pytest.raises(InputError, match="dense of item 2 for query 0 is nan"):
        Candidates(items=items, evidence={"dense": np.array([[0.0, np.nan, np.nan]])})
    with pytest.raises(InputError, match="at least 1"):
        rank(Candidates(items=items, evidence={"dense": np.zeros((1, 3))}), {"dense": 1.0}, 0)
