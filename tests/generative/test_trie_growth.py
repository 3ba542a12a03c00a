"""Oracle: the trie built anew."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.generative.trie import CodeTrie
from semid.generative.trie_growth import with_items


@settings(max_examples=200, deadline=None)
@given(
    codes=npst.arrays(np.int32, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=st.integers(0, 4)),
    share=st.floats(0, 1),
)
def test_a_grown_trie_is_the_one_built_of_all(codes: np.ndarray, share: float) -> None:
    sizes, first = (5,) * codes.shape[1], 1 + int(share * (len(codes) - 1))
    grown = with_items(CodeTrie.build(SemanticIds(codes[:first], sizes)), codes[first:])
    whole = CodeTrie.build(SemanticIds(codes, sizes))
    assert torch.equal(grown.items, whole.items)
    assert grown.items.dtype == whole.items.dtype
    assert (grown.num_codes, grown.is_unique) == (whole.num_codes, whole.is_unique)
    for ours, theirs in zip(grown.levels, whole.levels, strict=True):
        for name in ("codes", "children"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            assert torch.equal(mine, other)
            assert mine.dtype == other.dtype


@pytest.mark.parametrize("codes", [np.zeros((2, 3), np.int32), np.full((1, 2), 7)])
def test_impossible_codes_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(InputError):
        with_items(CodeTrie.build(SemanticIds(np.zeros((1, 2), np.int32), (4, 4))), codes)
