"""Which items may be generated, known at every node of the trie, so that no beam is spent on a dead end.

Shapes: F filters, N items, n nodes of a level, B users, S seen items.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.errors import InputError
from semid.generative.trie import CodeTrie, mask_of


@dataclass(frozen=True, eq=False)
class ItemFilter:
    """F sets of items over one trie, made once and used for any number of searches.

    Attributes:
        trie: the catalogue.
        before: per level (F, n + 1) int32, how many nodes before each have an allowed item below them.
    """

    trie: CodeTrie
    before: tuple[Tensor, ...]

    @staticmethod
    def of(trie: CodeTrie, allowed: Tensor) -> "ItemFilter":
        """From (N,) or (F, N) bool by item row.

        Raises:
            InputError: another shape or dtype.
        """
        masks = allowed if allowed.ndim == 2 else allowed[None]
        if masks.dtype != torch.bool or masks.ndim != 2 or masks.shape[1] != trie.num_items:
            raise InputError(
                f"The allowed items have shape {tuple(allowed.shape)} and {allowed.dtype}: give one bool for each of "
                f"the {trie.num_items} items."
            )
        alive = _taken(masks.to(trie.device), trie.items)
        before = [_counts_before(alive)]
        for level in reversed(trie.levels[:-1]):
            alive = before[-1].index_select(1, level.children).diff(dim=1) > 0
            before.append(_counts_before(alive))
        return ItemFilter(trie, tuple(reversed(before)))

    def mask(self, depth: int, which: Tensor, nodes: Tensor) -> Tensor:
        """(B, W, K) to be added to scores of the children of nodes (B, W): 0 for those alive, -inf for others.

        Where the trie has a table.
        """
        masks = self._masks[depth]
        return masks[(which * (len(masks) // len(self.before[0])))[:, None] + nodes]

    @cached_property
    def _masks(self) -> tuple[Tensor, ...]:
        """Per level (F · n, K)."""
        return tuple(self._mask(depth) for depth in range(len(self.before)))

    def _mask(self, depth: int) -> Tensor:
        table = self.trie.table(depth)
        if table is None:
            return torch.zeros(0, device=self.trie.device)
        children = (self.trie.levels[depth - 1].children[:-1, None] + table.clamp(min=0)).flatten()
        alive = (self.before[depth].diff(dim=1) > 0)[:, children] & (table >= 0).flatten()
        return mask_of(alive).view(-1, table.shape[1])

    def alive(self, depth: int, which: Tensor, nodes: Tensor) -> Tensor:
        """Whether nodes (B, M) of level ``depth`` have an item below them that filter ``which`` (B,) allows."""
        first = (which * (len(self.trie.levels[depth]) + 1))[:, None] + nodes
        counts = self.before[depth].flatten()
        return counts[first + 1] > counts[first]

    def alive_children(self, depth: int, which: Tensor, nodes: Tensor) -> Tensor:
        """How many children of nodes (B, M) of level ``depth`` are alive. (B, M) int64"""
        level = self.trie.levels[depth]
        counts, offset = self.before[depth + 1].flatten(), (which * (len(self.trie.levels[depth + 1]) + 1))[:, None]
        return (counts[offset + level.children[nodes + 1]] - counts[offset + level.children[nodes]]).long()


def _taken(masks: Tensor, items: Tensor) -> Tensor:
    """The columns of (F, N) bool at items (N,); NumPy takes them twice as fast on a CPU."""
    if masks.device.type != "cpu":
        return masks.index_select(1, items)
    return torch.from_numpy(masks.numpy().view(np.uint8).take(items.numpy(), axis=1).view(bool))


def _counts_before(alive: Tensor) -> Tensor:
    """(F, n + 1) int32, how many of (F, n) bool before each place are True; NumPy is four times as fast on a CPU."""
    if alive.device.type != "cpu":
        return F.pad(alive.cumsum(1, dtype=torch.int32), (1, 0))
    counts = np.zeros((alive.shape[0], alive.shape[1] + 1), np.int32)
    np.cumsum(alive.numpy(), axis=1, dtype=np.int32, out=counts[:, 1:])
    return torch.from_numpy(counts)


def seen_nodes(trie: CodeTrie, seen: Tensor, allowed: ItemFilter | None, which: Tensor) -> tuple[Tensor, ...]:
    """Per level the nodes that have no item left but seen ones, (B, S) int64 rising, padded with what is no node.

    Args:
        seen: (B, S) item rows, padded with -1.
        allowed: what may be generated at all.
        which: (B,) of its filters.

    Raises:
        InputError: rows outside the catalogue, or not integers.
    """
    if seen.ndim != 2 or seen.is_floating_point():
        raise InputError(f"Seen items have shape {tuple(seen.shape)} and {seen.dtype}: give (users, S) item rows.")
    seen = seen.to(trie.device).long()
    if seen.numel() and (int(seen.min()) < -1 or int(seen.max()) >= trie.num_items):
        raise InputError(f"Seen items must be item rows 0..{trie.num_items - 1}, or -1 for padding.")
    leaves = trie.leaf_of_item[seen.clamp(min=0)].long()
    there = seen >= 0
    if allowed is not None:
        there &= allowed.alive(len(trie.levels) - 1, which, leaves)
    dead = _once(leaves, there, trie.num_items)
    found = [dead]
    for depth in reversed(range(len(trie.levels) - 1)):
        level = trie.levels[depth]
        there = dead < len(trie.levels[depth + 1])
        parents = level.parent(dead.clamp(max=len(trie.levels[depth + 1]) - 1)).masked_fill(~there, len(level))
        gone = torch.searchsorted(parents, parents, right=True) - torch.searchsorted(parents, parents)
        nodes = parents.clamp(max=len(level) - 1)
        if allowed is None:
            left = (level.children[nodes + 1] - level.children[nodes]).long()
        else:
            left = allowed.alive_children(depth, which, nodes)
        dead = _once(parents, there & (gone == left), len(level))
        found.append(dead)
    return tuple(reversed(found))


def _once(nodes: Tensor, wanted: Tensor, padding: int) -> Tensor:
    """The wanted ones of each row, rising, each once, then padding."""
    rising = nodes.masked_fill(~wanted, padding).sort(dim=1).values
    repeated = F.pad(rising[:, 1:] == rising[:, :-1], (1, 0))
    return rising.masked_fill(repeated, padding).sort(dim=1).values


@dataclass(frozen=True, eq=False)
class Allowed:
    """What each of B users may be given.

    Attributes:
        trie: the catalogue.
        filter: of candidates; None allows all items.
        which: (B,) int64, whose turn it is of its filters.
        gone: per level (B, S) nodes with no item left but seen ones, rising; None without seen items.
    """

    trie: CodeTrie
    filter: ItemFilter | None
    which: Tensor
    gone: tuple[Tensor, ...] | None

    @staticmethod
    def of(
        trie: CodeTrie, users: int, allowed: ItemFilter | None, which: Tensor | None, seen: Tensor | None
    ) -> "Allowed":
        if allowed is not None and allowed.trie is not trie:
            raise InputError("The filter is of another catalogue: make it from the trie that is searched.")
        turn = torch.zeros(users, dtype=torch.int64, device=trie.device) if which is None else which.to(trie.device)
        if seen is not None and len(seen) != users:
            raise InputError(f"Seen items are given for {len(seen)} users, but there are {users}.")
        return Allowed(trie, allowed, turn, None if seen is None else seen_nodes(trie, seen, allowed, turn))

    def users(self, part: slice) -> "Allowed":
        """Those of some users."""
        gone = None if self.gone is None else tuple(nodes[part] for nodes in self.gone)
        return Allowed(self.trie, self.filter, self.which[part], gone)
