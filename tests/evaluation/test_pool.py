import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semid.errors import InputError
from semid.evaluation.pool import Pool


def members(counts: list[int]) -> dict[str, list[int]]:
    slices = Pool(train_counts=np.array(counts)).slices
    return {name: np.flatnonzero(inside).tolist() for name, inside in slices.items()}


def test_slices_by_hand() -> None:
    assert members([5, 50, 0, 30, 10, 5]) == {"Cold": [2], "Tail": [0, 4, 5], "Head": [1, 3]}
    # 4 + 2 + 2 of 10 events reach 80 %: all items with 2 events are as popular as the last of these.
    assert members([2, 2, 4, 2, 0]) == {"Cold": [4], "Tail": [], "Head": [0, 1, 2, 3]}
    assert members([81, 19]) == {"Cold": [], "Tail": [1], "Head": [0]}
    assert members([80, 20]) == {"Cold": [], "Tail": [1], "Head": [0]}
    assert members([79, 21]) == {"Cold": [], "Tail": [], "Head": [0, 1]}
    assert members([0, 0]) == {"Cold": [0, 1], "Tail": [], "Head": []}
    assert members([]) == {"Cold": [], "Tail": [], "Head": []}


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30).filter(any))
def test_the_head_is_the_smallest_that_makes_four_fifths(given_counts: list[int]) -> None:
    counts = np.array(given_counts)
    slices = Pool(train_counts=counts).slices
    assert (sum(inside.astype(int) for inside in slices.values()) == 1).all()
    head = counts[slices["Head"]]
    assert head.sum() >= 0.8 * counts.sum() - 1e-9
    assert counts[counts > head.min()].sum() < 0.8 * counts.sum() - 1e-9
    assert (counts[slices["Tail"]] < head.min()).all()


def test_information_by_hand() -> None:
    information = Pool(train_counts=np.array([3, 1, 0, 0])).information
    assert information is not None
    # (3 + 1) / 8, (1 + 1) / 8, (0 + 1) / 8, (0 + 1) / 8
    assert information.tolist() == [1.0, 2.0, 3.0, 3.0, 0.0]


@pytest.mark.parametrize("width", [3, 2**16])  # five levels of 2^16 codes do not fit into one integer as they are
def test_prefixes_are_equal_where_codes_are(width: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (40, 5)) * (width - 1) // 2
    prefixes = Pool(codes=codes).prefixes
    assert len(prefixes) == 4
    for level, names in enumerate(prefixes, 1):
        assert names[-1] == -1
        same = (codes[:, None, :level] == codes[None, :, :level]).all(axis=2)
        assert ((names[:-1, None] == names[None, :-1]) == same).all()
        assert names[:-1].min() >= 0


def test_what_is_not_known_is_left_out() -> None:
    pool = Pool()
    assert pool.slices == {}
    assert pool.information is None
    assert pool.prefixes == ()
    pool.require(np.array([10**9]), "A list names")


def test_candidates_are_counted_once() -> None:
    assert Pool(candidates=np.array([4, 1, 4])).candidates.tolist() == [1, 4]  # type: ignore[union-attr]


def test_bad_facts() -> None:
    with pytest.raises(InputError, match="no candidate items"):
        Pool(candidates=np.zeros(0, np.int64))
    with pytest.raises(InputError, match="codes of 2 items but training events of 3"):
        Pool(train_counts=np.ones(3), codes=np.ones((2, 2), int))
    with pytest.raises(InputError, match="A list names item 3 but there are 3 items"):
        Pool(train_counts=np.ones(3)).require(np.array([[0, 3]]), "A list names")
    with pytest.raises(InputError, match="A target is item 5 but there are 2 items"):
        Pool(codes=np.ones((2, 2), int)).require(np.array([5]), "A target is")
