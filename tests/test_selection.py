import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.selection import best_positions, nth_unseen, rank_by_score, sorted_seen, stretches

FEW_VALUES = st.sampled_from([-np.inf, -3.0, -1.0, -0.5, 0.0])


@settings(deadline=None)
@given(
    scores=npst.arrays(np.float64, st.tuples(st.just(3), st.integers(1, 40)), elements=FEW_VALUES | st.floats(-9, 0)),
    count=st.integers(1, 11),
    least=st.sampled_from([1, 2, 8]),
    by_keys=st.booleans(),
)
def test_best_positions_break_ties_by_position(scores: np.ndarray, count: int, least: int, by_keys: bool) -> None:
    width = scores.shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semid.selection._LEAST_GROUP", least)
        if by_keys:
            scores = scores.astype(np.float32)
            patch.setattr("semid.selection._LOOKED_INTO", ())
        positions, values, cut = best_positions(torch.from_numpy(scores), count)
    for row, found, of_found, left in zip(scores, positions.tolist(), values.tolist(), cut.tolist(), strict=True):
        order = sorted(range(width), key=lambda i: (-row[i], i))
        best = sorted(i for i in order[:count] if row[i] > -np.inf)
        missing = min(count, width) - len(best)
        assert found == best + [width - 1] * missing
        assert of_found == [row[i] for i in best] + [-np.inf] * missing
        assert left == (row[order[count]] if count < width else -np.inf)


@pytest.mark.parametrize("looked_into", [("cpu",), ()])
def test_nan_is_above_all_and_both_zeros_are_equal(
    monkeypatch: pytest.MonkeyPatch, looked_into: tuple[str, ...]
) -> None:
    monkeypatch.setattr("semid.selection._LOOKED_INTO", looked_into)
    scores = torch.tensor([[0.0, -0.0, 5.0, -torch.nan, torch.inf, -1e-38]])
    assert best_positions(scores, 2)[0].tolist() == [[3, 4]]
    assert best_positions(scores[:, [1, 0, 5]], 1)[0].tolist() == [[0]]


def test_rank_by_score_keeps_positions_of_equals_in_order() -> None:
    assert rank_by_score(torch.tensor([[0.0, 2.0, 0.0, 2.0, -1.0]])).tolist() == [[1, 3, 0, 2, 4]]


@settings(deadline=None)
@given(positions=npst.arrays(np.int64, (2, 7), elements=st.integers(-1, 12)), limit=st.integers(1, 12))
def test_seen_arithmetic_equals_sets(positions: np.ndarray, limit: int) -> None:
    seen = sorted_seen(torch.from_numpy(positions), limit)
    for row, given_row in zip(seen, positions, strict=True):
        truth = sorted({p for p in given_row.tolist() if 0 <= p < limit})
        unseen = [p for p in range(limit) if p not in truth]
        assert nth_unseen(row[None], torch.arange(len(unseen))[None])[0].tolist() == unseen


def test_no_seen_items_leave_everything_unseen() -> None:
    seen = sorted_seen(torch.zeros(2, 0, dtype=torch.int64), 5)
    assert nth_unseen(seen, torch.arange(5).expand(2, -1)).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_stretches_by_hand() -> None:
    owner, place = stretches(torch.tensor([5, 9, 2]), torch.tensor([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert place.tolist() == [5, 6, 2, 3, 4]
