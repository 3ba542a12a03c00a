import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.generative.trie import CodeTrie

# Rows 1 and 3 share all codes; row 4 is alone under its first code.
SMALL = SemanticIds(np.array([[1, 0], [0, 2], [0, 1], [0, 2], [2, 2]], np.int32), (3, 4))


def test_small_trie_by_hand() -> None:
    trie = CodeTrie.build(SMALL)
    first, second = trie.levels
    assert trie.items.tolist() == [2, 1, 3, 0, 4]
    assert trie.leaf_of_item.tolist() == [3, 1, 0, 2, 4]
    assert first.codes.tolist() == [0, 1, 2]
    assert first.children.tolist() == [0, 2, 3, 4]
    assert first.leaves.tolist() == [0, 3, 4, 5]
    assert first.max_children == 2
    assert second.codes.tolist() == [1, 2, 0, 2]
    assert second.leaves.tolist() == [0, 1, 3, 4, 5]
    assert second.max_children == 0


def test_candidates_only() -> None:
    trie = CodeTrie.build(SMALL, np.array([4, 0, 3, 3]))
    assert trie.items.tolist() == [3, 0, 4]
    assert trie.leaf_of_item.tolist() == [1, -1, -1, 0, 2]
    assert trie.num_candidates == 3


@settings(max_examples=50, deadline=None)
@given(codes=npst.arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.integers(0, 3)))
def test_paths_of_the_trie_are_the_codes_of_the_items(codes: np.ndarray) -> None:
    trie = CodeTrie.build(SemanticIds(codes, (4,) * codes.shape[1]))

    def walk(level: int, node: int, prefix: tuple[int, ...]) -> list[tuple[int, ...]]:
        here = trie.levels[level]
        prefix = (*prefix, int(here.codes[node]))
        low, high = here.leaves[node : node + 2].tolist()
        rows = trie.items[low:high].tolist()
        assert sorted(rows) == [r for r in range(len(codes)) if tuple(codes[r, : level + 1]) == prefix]
        if level + 1 == codes.shape[1]:
            assert rows == sorted(rows)
            return [prefix] * len(rows)
        children = range(*here.children[node : node + 2].tolist())
        assert len(children) <= here.max_children
        return [path for child in children for path in walk(level + 1, child, prefix)]

    paths = [path for root in range(len(trie.levels[0])) for path in walk(0, root, ())]
    assert paths == sorted(tuple(row) for row in codes.tolist())


def test_moving_keeps_every_tensor() -> None:
    trie = CodeTrie.build(SMALL)
    moved = trie.to("cpu")
    assert moved.device.type == "cpu"
    assert moved.num_codes == (3, 4)
    assert torch.equal(moved.items, trie.items)
    assert torch.equal(moved.leaf_of_item, trie.leaf_of_item)
    for ours, theirs in zip(moved.levels, trie.levels, strict=True):
        assert len(ours) == len(theirs)
        assert ours.max_children == theirs.max_children
        assert all(torch.equal(getattr(ours, n), getattr(theirs, n)) for n in ("codes", "children", "leaves"))


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (np.zeros(0, np.int64), "no candidate items"),
        (np.array([0, 5]), "row 5 lies outside 0..4"),
        (np.array([-1, 2]), "row -1 lies outside"),
        (np.array([True, False]), "dtype bool"),
        (np.array([0.0, 1.0]), "dtype float64"),
    ],
)
def test_bad_candidates(items: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        CodeTrie.build(SMALL, items)
