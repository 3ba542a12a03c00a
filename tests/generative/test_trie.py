import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.generative import trie as module
from semid.generative.trie import CodeTrie

# Rows 1 and 3 share all codes; row 4 is alone under its first code.
SMALL = SemanticIds(np.array([[1, 0], [0, 2], [0, 1], [0, 2], [2, 2]], np.int32), (3, 4))
CATALOGUES = npst.arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.integers(0, 3))


def test_small_trie_by_hand() -> None:
    trie = CodeTrie.build(SMALL)
    first, second = trie.levels
    assert trie.items.tolist() == [2, 1, 3, 0, 4]
    assert trie.leaf_of_item.tolist() == [3, 1, 0, 2, 4]
    assert not trie.is_unique
    assert first.codes.tolist() == [0, 1, 2]
    assert first.children.tolist() == [0, 3, 4, 5]
    assert [trie.most_children(0, count) for count in (1, 2, 9)] == [3, 4, 5]
    assert first.parent(torch.arange(5)).tolist() == [0, 0, 0, 1, 2]
    assert second.codes.tolist() == [1, 2, 2, 0, 2]
    assert len(second.children) == 0
    edges = trie.edges(1, torch.tensor([2, 0, 1]))
    assert edges.offsets.tolist() == [0, 1, 4, 5]
    assert edges.owner.tolist() == [0, 1, 1, 1, 2]
    assert edges.children.tolist() == [4, 0, 1, 2, 3]
    distinct = trie.distinct(1, edges)
    assert distinct.tolist() == [True, True, True, False, True]
    assert edges.only(distinct).offsets.tolist() == [0, 1, 3, 4]
    assert edges.only(distinct).children.tolist() == [4, 0, 1, 3]


@settings(max_examples=50, deadline=None)
@given(codes=CATALOGUES)
def test_paths_of_the_trie_are_the_codes_of_the_items(codes: np.ndarray) -> None:
    trie = CodeTrie.build(SemanticIds(codes, (4,) * codes.shape[1]))

    def walk(level: int, node: int, prefix: tuple[int, ...]) -> list[tuple[int, ...]]:
        here = trie.levels[level]
        prefix = (*prefix, int(here.codes[node]))
        low, high = trie.first_leaf(level, torch.tensor([node, node + 1])).tolist()
        rows = trie.items[low:high].tolist()
        if level + 1 == codes.shape[1]:
            assert (len(rows), tuple(codes[rows[0]])) == (1, prefix)
            return [prefix]
        assert sorted(rows) == [r for r in range(len(codes)) if tuple(codes[r, : level + 1]) == prefix]
        children = list(range(*here.children[node : node + 2].tolist()))
        assert len(children) <= trie.most_children(level, 1)
        assert here.parent(torch.tensor(children)).tolist() == [node] * len(children)
        return [path for child in children for path in walk(level + 1, child, prefix)]

    paths = [path for root in range(len(trie.levels[0])) for path in walk(0, root, ())]
    assert paths == sorted(tuple(row) for row in codes.tolist())
    assert trie.is_unique == (len(set(paths)) == len(paths))
    assert trie.items.tolist() == sorted(range(len(codes)), key=lambda row: (*codes[row], row))


@settings(max_examples=50, deadline=None)
@given(codes=CATALOGUES)
def test_tables_name_the_children(codes: np.ndarray) -> None:
    trie = CodeTrie.build(SemanticIds(codes, (4,) * codes.shape[1]))
    for depth in range(1, codes.shape[1]):
        table, above = trie.table(depth), trie.levels[depth - 1]
        if table is None:
            assert depth + 1 == codes.shape[1]
            assert not trie.is_unique
            continue
        for node in range(len(above)):
            low, high = above.children[node : node + 2].tolist()
            children = trie.levels[depth].codes[low:high].tolist()
            for code, entry in enumerate(table[node].tolist()):
                lower = max(sum(child < code for child in children) - 1, 0)
                assert entry == (children.index(code) if code in children else ~lower)


def test_tables_are_kept_where_nodes_have_many_children(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).permutation(4 * 64 * 64)[:300]
    ids = SemanticIds(np.stack([codes // 4096, codes // 64 % 64, codes % 64], 1).astype(np.int32), (4, 64, 64))
    assert [table is not None for table in CodeTrie.build(ids)._tables] == [False, True, False]
    monkeypatch.setattr(module, "_MOST_CELLS", 4 * 64 - 1)
    assert CodeTrie.build(ids)._tables == (None, None, None)


def test_many_codes_and_long_keys() -> None:
    """40,000 codes do not fit two bytes, and 20 levels of them not into one integer."""
    codes = np.random.default_rng(0).integers(0, 2, (50, 20)).astype(np.int32) * 39_999
    trie = CodeTrie.build(SemanticIds(codes, (40_000,) * 20))
    assert trie.levels[0].codes.dtype == torch.int32
    node, rows = torch.arange(50), []
    for level in reversed(trie.levels):
        rows.append(level.codes[node].numpy())
        node = trie.levels[len(trie.levels) - len(rows) - 1].parent(node) if len(rows) < 20 else node
    np.testing.assert_array_equal(np.stack(rows[::-1], 1), codes[trie.items])


def test_bytes_an_item() -> None:
    """Two for the last code, those of the nodes above beside them, and four for the row."""
    codes = np.random.default_rng(0).permutation(1 << 18)
    ids = SemanticIds(np.stack([codes >> 12, codes >> 6 & 63, codes & 63], 1).astype(np.int32), (64, 64, 64))
    trie = CodeTrie.build(ids)
    bytes_of_levels = sum(level.codes.nbytes + level.children.nbytes for level in trie.levels)
    assert bytes_of_levels == 2 * (64 + 64**2 + 64**3) + 4 * (65 + 64**2 + 1)
    assert trie.items.nbytes == 4 << 18


def test_means_of_vectors_under_each_node() -> None:
    trie, vectors = CodeTrie.build(SMALL), torch.randn(5, 3)
    first, second = trie.mean_vectors(vectors)
    torch.testing.assert_close(first, torch.stack([vectors[[1, 2, 3]].mean(0), vectors[0], vectors[4]]))
    shared = vectors[[1, 3]].mean(0)
    torch.testing.assert_close(second, torch.stack([vectors[2], shared, shared, vectors[0], vectors[4]]))


def test_moving_keeps_every_tensor() -> None:
    trie = CodeTrie.build(SMALL)
    moved = trie.to("cpu")
    assert moved.device.type == "cpu"
    assert (moved.num_codes, moved.is_unique) == ((3, 4), False)
    assert torch.equal(moved.items, trie.items)
    for ours, theirs in zip(moved.levels, trie.levels, strict=True):
        assert all(torch.equal(getattr(ours, n), getattr(theirs, n)) for n in ("codes", "children"))


def test_no_items() -> None:
    with pytest.raises(InputError, match="no items"):
        CodeTrie.build(SemanticIds(np.zeros((0, 2), np.int32), (3, 4)))
