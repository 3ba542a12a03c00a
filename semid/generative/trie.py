"""The catalogue as a trie in tensors: which codes continue which prefix, and which items a path ends in.

Codes are packed into integers and sorted once; the nodes of each level are numbered in that order, so that the
children of a node are a range of the next level and an edge needs no more than its child. Three levels of 2048 codes
take 3.3 bytes an item and 4 for its row.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.selection import stretches

# A table is worth its while from one child in so many codes, and up to so many cells.
_SPARSE = 8
_MOST_CELLS = 1 << 25


@dataclass(frozen=True, eq=False)
class Edges:
    """E edges from M nodes to their children.

    Attributes:
        offsets: (M + 1,) int64; the edges of node m are ``offsets[m]:offsets[m + 1]``.
        owner: (E,) int64 m of each edge.
        children: (E,) int64 nodes of the next level.
    """

    offsets: Tensor
    owner: Tensor
    children: Tensor

    def only(self, wanted: Tensor) -> "Edges":
        """Those that are wanted (E,) bool."""
        return Edges(F.pad(wanted.cumsum(0), (1, 0))[self.offsets], self.owner[wanted], self.children[wanted])


@dataclass(frozen=True, eq=False)
class TrieLevel:
    """The n nodes of one level: distinct code prefixes, in the order of their codes; of the last level the leaves.

    Attributes:
        codes: (n,) int16, or int32 above 32,768 codes: the last code of each.
        children: (n + 1,) int32; the children of node i are nodes ``children[i]:children[i + 1]`` of the next level.
            Empty for the last level.
    """

    codes: Tensor
    children: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def parent(self, children: Tensor) -> Tensor:
        """The nodes (...) int64 above nodes (...) of the next level."""
        return torch.searchsorted(self.children, children.to(torch.int32), right=True) - 1


@dataclass(frozen=True, eq=False)
class CodeTrie:
    """A frozen catalogue of N items with L codes each.

    A *leaf* is a place in the list of items sorted by codes, items with equal codes by row: items that share all
    their codes are neighbouring leaves.

    Attributes:
        levels: L levels, coarse to fine.
        items: (N,) int32 item row of each leaf.
        num_codes: K per level.
        is_unique: whether no two items share all their codes.
    """

    levels: tuple[TrieLevel, ...]
    items: Tensor
    num_codes: tuple[int, ...]
    is_unique: bool

    @property
    def num_items(self) -> int:
        return len(self.items)

    @property
    def device(self) -> torch.device:
        return self.items.device

    @property
    def nbytes(self) -> int:
        """Of the levels and the items; tables and masks are made of them."""
        return self.items.nbytes + sum(level.codes.nbytes + level.children.nbytes for level in self.levels)

    @cached_property
    def leaf_of_item(self) -> Tensor:
        """(N,) int32 leaf of each item row."""
        leaves = torch.arange(self.num_items, dtype=torch.int32, device=self.device)
        return torch.empty_like(self.items).index_copy_(0, self.items.long(), leaves)

    @cached_property
    def _edges(self) -> tuple[Tensor, ...]:
        """Per level the sorted keys ``parent · K + code`` of its nodes, (n,) int64."""
        edges = [self.levels[0].codes.long()]
        for above, level, size in zip(self.levels, self.levels[1:], self.num_codes[1:], strict=False):
            parents = torch.arange(len(above), device=self.device).repeat_interleave(above.children.diff())
            edges.append(parents * size + level.codes)
        return tuple(edges)

    def step(self, depth: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """Nodes of level ``depth`` reached by ``codes`` (...) from ``nodes`` (...) of the level above.

        At depth 0 ``nodes`` is not read. Meaningless, but in range, where there is no such child.
        """
        keys = codes if depth == 0 else nodes * self.num_codes[depth] + codes
        return torch.searchsorted(self._edges[depth], keys.contiguous()).clamp(max=len(self.levels[depth]) - 1)

    def most_children(self, depth: int, count: int) -> int:
        """How many children ``count`` different nodes of level ``depth`` have at most."""
        if (depth, count) not in self._most:
            counts = self.levels[depth].children.diff()
            self._most[depth, count] = int(counts.topk(min(count, len(counts)), sorted=False).values.sum())
        return self._most[depth, count]

    @cached_property
    def _most(self) -> dict[tuple[int, int], int]:
        return {}

    def edges(self, depth: int, nodes: Tensor) -> Edges:
        """From nodes (M,) of level ``depth`` - 1 to all their children."""
        first = self.levels[depth - 1].children
        start = first[nodes].long()
        count = first[nodes + 1].long() - start
        owner, children = stretches(start, count)
        return Edges(F.pad(count.cumsum(0), (1, 0)), owner, children)

    def distinct(self, depth: int, edges: Edges) -> Tensor | None:
        """Which of the edges (E,) to level ``depth`` lead to other codes than the one before; None if all do."""
        if self.is_unique or depth + 1 < len(self.levels):
            return None
        codes = self.levels[depth].codes[edges.children]
        differs = F.pad(codes[1:] != codes[:-1], (1, 0), value=True)
        return differs.index_fill(0, edges.offsets[:-1], True)

    def table(self, depth: int) -> Tensor | None:
        """(n, K) int16: as which child each code continues the nodes of level ``depth`` - 1.

        Negative where it does not: ``~entry`` is then the child with the next lower code. None where rows of whole
        codebooks would be more work than lists of children.
        """
        return self._tables[depth]

    def mask(self, depth: int) -> Tensor:
        """(n, K) float32 to be added to logits where there is a :meth:`table`: 0 for children, -inf for others."""
        return self._masks[depth]

    @cached_property
    def _masks(self) -> tuple[Tensor, ...]:
        nothing = torch.zeros(0, device=self.device)
        return tuple(nothing if table is None else mask_of(table >= 0) for table in self._tables)

    @cached_property
    def _tables(self) -> tuple[Tensor | None, ...]:
        return (None, *(self._made_table(depth) for depth in range(1, len(self.levels))))

    def _made_table(self, depth: int) -> Tensor | None:
        above, level, size = self.levels[depth - 1], self.levels[depth], self.num_codes[depth]
        counts = above.children.diff().long()
        # Beams go where many items are: the mean over children of how many siblings there are.
        branching = float(counts.square().sum()) / len(level)
        repeats = depth + 1 == len(self.levels) and not self.is_unique
        if repeats or branching * _SPARSE < size or len(above) * size > _MOST_CELLS or size > 1 << 15:
            return None
        edges = self.edges(depth, torch.arange(len(above), device=self.device))
        exists = torch.zeros(len(above), size, dtype=torch.bool, device=self.device)
        exists[edges.owner, level.codes.long()] = True
        last = exists.cumsum(1, dtype=torch.int16) - 1
        return torch.where(exists, last, ~last.clamp(min=0))

    def first_leaf(self, depth: int, nodes: Tensor) -> Tensor:
        """First leaf under nodes (...) of level ``depth``; of the node after the last, the number of leaves."""
        for level in self.levels[depth:-1]:
            nodes = level.children[nodes].long()
        return nodes

    def mean_vectors(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Per level the mean (n, D) of the item vectors (N, D) under each node; leaves of equal codes share one."""
        leaves = vectors[self.items.long()]
        means = []
        for depth, level in enumerate(self.levels[:-1]):
            means.append(_means(leaves, self.first_leaf(depth, torch.arange(len(level) + 1, device=self.device))))
        if not self.is_unique:
            codes = self.levels[-1].codes
            begins = F.pad(codes[1:] != codes[:-1], (1, 1), value=True)
            if len(self.levels) > 1:
                begins[self.levels[-2].children.long()] = True
            first = begins.nonzero()[:, 0]
            leaves = _means(leaves, first).repeat_interleave(first.diff(), dim=0)
        return (*means, leaves)

    @staticmethod
    def build(semantic_ids: SemanticIds, device: torch.device | str = "cpu") -> "CodeTrie":
        """Sort the items by their codes and number the distinct prefixes.

        Raises:
            InputError: no items.
        """
        if not semantic_ids.num_items:
            raise InputError("There are no items to generate: give semantic IDs of at least one item.")
        keys, rows = semantic_ids.sorted_rows()
        is_unique = bool((keys[1:] != keys[:-1]).all())
        levels: list[TrieLevel] = []
        children = np.zeros(0, np.int32)
        for depth in reversed(range(semantic_ids.num_levels)):
            keys, codes = semantic_ids.split(keys, depth + 1)
            kind = np.int16 if semantic_ids.num_codes[depth] <= 1 << 15 else np.int32
            pointers = torch.from_numpy(children).to(device)
            levels.append(TrieLevel(torch.from_numpy(codes.astype(kind)).to(device), pointers))
            first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            children, keys = np.append(first, len(keys)).astype(np.int32), keys[first]
        items = torch.from_numpy(rows.astype(np.int32)).to(device)
        return CodeTrie(tuple(reversed(levels)), items, semantic_ids.num_codes, is_unique)

    def to(self, device: torch.device | str) -> "CodeTrie":
        """The same trie on another device."""
        levels = tuple(TrieLevel(level.codes.to(device), level.children.to(device)) for level in self.levels)
        return CodeTrie(levels, self.items.to(device), self.num_codes, self.is_unique)


def mask_of(wanted: Tensor) -> Tensor:
    """0 where wanted, -inf elsewhere, float32: on CPUs adding it is several times faster than choosing by a bool."""
    return torch.full(wanted.shape, -torch.inf, device=wanted.device).masked_fill_(wanted, 0.0)


def _means(values: Tensor, first: Tensor) -> Tensor:
    """Means (m, D) of the groups ``first[i]:first[i + 1]`` of values (N, D)."""
    count = first.diff()
    owner = torch.arange(len(count), device=values.device).repeat_interleave(count)
    return values.new_zeros(len(count), values.shape[1]).index_add(0, owner, values) / count[:, None]
