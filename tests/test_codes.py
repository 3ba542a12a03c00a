import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semid.codes import SemanticIds
from semid.errors import InputError


def test_keys_by_hand() -> None:
    ids = SemanticIds(np.array([[1, 2, 3], [0, 0, 1]], np.int32), (2, 3, 5))
    np.testing.assert_array_equal(ids.keys(), [1 * 15 + 2 * 5 + 3, 1])
    np.testing.assert_array_equal(ids.keys(levels=2), [1 * 3 + 2, 0])
    np.testing.assert_array_equal(ids.keys(np.array([[1, 0, 0]])), [15])
    assert (ids.num_items, ids.num_levels) == (2, 3)


@given(arrays(np.int32, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(0, 3)))
def test_order_and_look_up_agree_with_python(codes: np.ndarray) -> None:
    ids = SemanticIds(codes, (4, 4, 4))
    rows = [tuple(row) for row in codes.tolist()]
    assert [rows[i] for i in ids.order] == sorted(rows)
    assert ids.is_unique == (len(set(rows)) == len(rows))
    space = np.array(np.meshgrid(*[range(4)] * 3)).reshape(3, -1).T
    expected = [rows.index(tuple(c)) if tuple(c) in rows else -1 for c in space.tolist()]
    np.testing.assert_array_equal(ids.items_of(space), expected)


def test_shared_codes_answer_with_the_lowest_row() -> None:
    ids = SemanticIds(np.array([[1, 1], [0, 0], [1, 1]], np.int32), (2, 2))
    assert not ids.is_unique
    np.testing.assert_array_equal(ids.items_of(np.array([[1, 1], [0, 1]])), [0, -1])


@pytest.mark.parametrize(
    ("codes", "sizes", "message"),
    [
        (np.zeros(3, np.int32), (2,), "expected"),
        (np.zeros((3, 2), np.int32), (2,), "expected"),
        (np.array([[2]], np.int32), (2,), "outside"),
        (np.array([[-1]], np.int32), (2,), "outside"),
    ],
)
def test_impossible_codes_are_refused(codes: np.ndarray, sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticIds(codes, sizes)


@given(arrays(np.int32, st.tuples(st.integers(1, 30), st.just(20)), elements=st.integers(0, 2)), st.integers(1, 20))
def test_long_codes_agree_with_python(digits: np.ndarray, levels: int) -> None:
    """20 levels of 256: 2^160 codes."""
    codes = digits * 127
    codes[:, :8] = codes[0, :8]  # long common prefixes
    ids = SemanticIds(codes, (256,) * 20)
    rows = [tuple(row) for row in codes.tolist()]
    assert [rows[i] for i in ids.order] == sorted(rows)
    assert ids.is_unique == (len(set(rows)) == len(rows))
    other = codes.copy()
    other[:, levels - 1] += 1
    asked = np.concatenate([codes, other, np.roll(codes, 1, axis=1)])
    expected = [rows.index(tuple(row)) if tuple(row) in rows else -1 for row in asked.tolist()]
    np.testing.assert_array_equal(ids.items_of(asked), expected)
    beginnings = [row[:levels] for row in rows]
    ranks = {beginning: rank for rank, beginning in enumerate(sorted(set(beginnings)))}
    found = np.unique(ids.keys(levels=levels), return_inverse=True)[1]
    assert found.tolist() == [ranks[beginning] for beginning in beginnings]
