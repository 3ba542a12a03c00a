from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semid.evaluation import matching
from semid.evaluation.exposure import gini, mean_of_listed, times_shown


@pytest.mark.parametrize("block", [1, 7, 1 << 17])
def test_counts_and_means_are_those_of_a_loop(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_BLOCK_PLACES", block)
    rng = np.random.default_rng(0)
    items = np.argsort(rng.random((30, 9)), axis=1)[:, :4]
    items[np.arange(4) >= rng.integers(0, 5, 30)[:, None]] = -1
    candidates = np.array([0, 2, 3, 8, 11])  # 11 is never shown, others are shown and are no candidates
    counted = Counter(items[items >= 0].tolist())
    assert times_shown(items, candidates).tolist() == [counted[item] for item in candidates.tolist()]
    values = rng.random(9)
    found, shows = mean_of_listed(items, np.append(values, 0))
    for row, mean, any_shown in zip(items, found, shows, strict=True):
        listed = [values[item] for item in row if item >= 0]
        assert any_shown == bool(listed)
        assert mean == pytest.approx(np.mean(listed) if listed else 0)


def test_gini_at_its_ends() -> None:
    assert gini(np.array([7, 7, 7])) == 0.0
    assert gini(np.array([0, 9, 0, 0])) == 0.75
    assert gini(np.array([3])) == 0.0
    assert gini(np.array([1, 3])) == 0.25  # half of |1 - 3| over all four pairs, by the mean: (4 / 4 / 2) / 2


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any))
def test_gini_is_half_the_mean_difference_over_the_mean(given_counts: list[int]) -> None:
    counts = np.array(given_counts)
    expected = np.abs(counts[:, None] - counts).mean() / counts.mean() / 2
    assert gini(counts) == pytest.approx(expected, abs=1e-12)
    assert gini(5 * counts) == pytest.approx(expected, abs=1e-12)
