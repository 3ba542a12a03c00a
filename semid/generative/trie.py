"""The candidate items as a trie in tensors: what beam search may generate, and which item a path ends in."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.selection import stretches


@dataclass(frozen=True, eq=False)
class TrieLevel:
    """The n nodes of one level: distinct code prefixes, in the order of their codes.

    Attributes:
        codes: (n,) int32 last code of each prefix.
        children: (n + 1,) int32; the children of node i are nodes ``children[i]:children[i + 1]`` of the next
            level. Empty for the last level.
        leaves: (n + 1,) int32; under node i lie leaves ``leaves[i]:leaves[i + 1]``.
        max_children: largest number of children of one node, 0 for the last level.
    """

    codes: Tensor
    children: Tensor
    leaves: Tensor
    max_children: int

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class CodeTrie:
    """A frozen catalogue of C candidates with L codes each.

    A *leaf* is a place in the list of candidates sorted by codes, items with equal codes by row. Items that
    share all their codes are neighbouring leaves under one node of the last level.

    Attributes:
        levels: L levels, coarse to fine.
        items: (C,) int32 item row of each leaf.
        leaf_of_item: (N,) int32 leaf of each item row, -1 for items that are no candidates.
        num_codes: K per level.
    """

    levels: tuple[TrieLevel, ...]
    items: Tensor
    leaf_of_item: Tensor
    num_codes: tuple[int, ...]

    @property
    def num_candidates(self) -> int:
        return len(self.items)

    @property
    def device(self) -> torch.device:
        return self.items.device

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

    def children_of(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes of level ``depth`` >= 1 under each of ``nodes`` (M,) of the level above.

        Returns:
            (M + 1,) offsets and (E,) children; those of ``nodes[i]`` are ``children[offsets[i]:offsets[i + 1]]``.
        """
        first = self.levels[depth - 1].children
        start = first[nodes].long()
        count = first[nodes + 1].long() - start
        return F.pad(count.cumsum(0), (1, 0)), stretches(start, count)[1]

    def mean_vectors(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Per level the mean (n, D) of the item vectors (N, D) under each node."""
        leaves = vectors[self.items.long()]
        means = []
        for level in self.levels:
            count = level.leaves.diff()
            owner = torch.arange(len(level), device=self.device).repeat_interleave(count)
            sums = leaves.new_zeros(len(level), leaves.shape[1]).index_add(0, owner, leaves)
            means.append(sums / count[:, None])
        return tuple(means)

    @staticmethod
    def build(
        semantic_ids: SemanticIds, items: np.ndarray | None = None, device: torch.device | str = "cpu"
    ) -> "CodeTrie":
        """Sort the candidates by their codes and note the ranges of every prefix.

        Args:
            items: (C,) candidate item rows; all items if None. Repeated rows count once.

        Raises:
            InputError: no candidates, or rows outside the catalogue.
        """
        rows = _checked_rows(semantic_ids, items)
        rows = rows[np.argsort(semantic_ids.keys(semantic_ids.codes[rows]), kind="stable")]
        leaf_of_item = np.full(semantic_ids.num_items, -1, np.int32)
        leaf_of_item[rows] = np.arange(len(rows), dtype=np.int32)
        codes = semantic_ids.codes[rows]
        starts = _prefix_starts(codes)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array.astype(np.int32)).to(device)

        levels = []
        for level, first in enumerate(starts):
            leaves = np.append(first, len(rows))
            is_last = level + 1 == len(starts)
            children = np.zeros(0, np.int32) if is_last else np.searchsorted(starts[level + 1], leaves)
            max_children = 0 if is_last else int(np.diff(children).max())
            levels.append(TrieLevel(tensor(codes[first, level]), tensor(children), tensor(leaves), max_children))
        return CodeTrie(tuple(levels), tensor(rows), tensor(leaf_of_item), semantic_ids.num_codes)

    def to(self, device: torch.device | str) -> "CodeTrie":
        """The same trie on another device."""
        levels = tuple(
            TrieLevel(lv.codes.to(device), lv.children.to(device), lv.leaves.to(device), lv.max_children)
            for lv in self.levels
        )
        return CodeTrie(levels, self.items.to(device), self.leaf_of_item.to(device), self.num_codes)


def _checked_rows(semantic_ids: SemanticIds, items: np.ndarray | None) -> np.ndarray:
    rows = np.arange(semantic_ids.num_items) if items is None else np.unique(items)
    if not len(rows):
        raise InputError("There are no candidate items to generate: give at least one item row.")
    if not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"Candidate items have dtype {rows.dtype}: give integer item rows, not a mask or floats.")
    if rows[0] < 0 or rows[-1] >= semantic_ids.num_items:
        wrong = rows[0] if rows[0] < 0 else rows[-1]
        raise InputError(
            f"Candidate item row {wrong} lies outside 0..{semantic_ids.num_items - 1}: "
            "use candidates of the dataset the semantic IDs were made for."
        )
    return rows.astype(np.int64)


def _prefix_starts(codes: np.ndarray) -> list[np.ndarray]:
    """First leaf of every distinct prefix of 1..L codes, for codes sorted by row."""
    starts = []
    differs = np.zeros(len(codes), bool)
    differs[0] = True
    for level in range(codes.shape[1]):
        differs[1:] |= codes[1:, level] != codes[:-1, level]
        starts.append(np.flatnonzero(differs))
    return starts
