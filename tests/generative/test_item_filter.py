"""Oracle: sets of item rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.generative.item_filter import ItemFilter, seen_nodes
from semid.generative.trie import CodeTrie

CATALOGUES = npst.arrays(np.int32, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=st.integers(0, 2))


def rows_under(trie: CodeTrie, depth: int, node: int) -> set[int]:
    low, high = trie.first_leaf(depth, torch.tensor([node, node + 1])).tolist()
    return set(trie.items[low:high].tolist())


@settings(max_examples=100, deadline=None)
@given(data=st.data(), codes=CATALOGUES)
def test_nodes_know_what_is_allowed_and_left(data: st.DataObject, codes: np.ndarray) -> None:
    trie = CodeTrie.build(SemanticIds(codes, (3,) * codes.shape[1]))
    rows = st.integers(0, len(codes) - 1)
    sets = [data.draw(st.sets(rows)) for _ in range(2)]
    seen = [data.draw(st.lists(rows, max_size=6)) for _ in range(3)]
    which = torch.tensor([1, 0, 1])
    masks = torch.tensor([[row in items for row in range(len(codes))] for items in sets])
    made = ItemFilter.of(trie, masks) if data.draw(st.booleans()) else None
    padded = torch.tensor([[*items, *[-1] * (6 - len(items))] for items in seen])
    gone = seen_nodes(trie, padded, made, which)
    for depth, level in enumerate(trie.levels):
        nodes = torch.arange(len(level)).expand(3, -1)
        for user in range(3):
            allowed = [
                rows_under(trie, depth, node) & (sets[which[user]] if made else set(range(len(codes))))
                for node in range(len(level))
            ]
            if made:
                alive = made.alive(depth, which, nodes)[user].tolist()
                assert alive == [bool(items) for items in allowed]
            expected = [node for node, items in enumerate(allowed) if items and items <= set(seen[user])]
            found = gone[depth][user].tolist()
            assert found == sorted(found)
            assert [node for node in found if node < len(level)] == expected


@pytest.mark.parametrize(
    "mask", [torch.ones(3, dtype=torch.bool), torch.ones(2), torch.ones(1, 1, 2, dtype=torch.bool)]
)
def test_filters_of_another_shape_are_refused(mask: torch.Tensor) -> None:
    trie = CodeTrie.build(SemanticIds(np.array([[0], [1]], np.int32), (2,)))
    with pytest.raises(InputError, match="one bool for each of the 2 items"):
        ItemFilter.of(trie, mask)
