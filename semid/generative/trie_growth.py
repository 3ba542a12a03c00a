"""New items in a trie that stands: insertions into its sorted lists instead of a sort of everything.

Shapes: M new items in the order of their codes, n nodes of a level.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.generative.trie import CodeTrie, TrieLevel


def with_items(trie: CodeTrie, codes: np.ndarray) -> CodeTrie:
    """The trie of a catalogue that has M more items, as if it had been built of all.

    Args:
        codes: (M, L) integers, of item rows N, N + 1 and so on.

    Raises:
        InputError: codes of another shape or outside their codebooks.
    """
    added = SemanticIds(np.asarray(codes, np.int32), trie.num_codes)
    if not added.num_items:
        return trie
    rows = torch.from_numpy(added.order).to(trie.device)
    low, high = torch.zeros_like(rows), torch.full_like(rows, len(trie.levels[0]))
    fresh = torch.zeros_like(rows, dtype=torch.bool)  # whether the prefix is another than that of the row before
    fresh[0] = True
    levels: list[TrieLevel] = []
    parents, counts = torch.zeros_like(rows), torch.zeros(0, dtype=torch.int32, device=trie.device)
    for depth, level in enumerate(trie.levels):
        column = torch.from_numpy(added.codes[:, depth]).to(rows)[rows]
        fresh[1:] |= column[1:] != column[:-1]
        is_last = depth + 1 == len(trie.levels)
        place = _bisect(level.codes, column, low, high, after=is_last)
        known = _has(level.codes, place - int(is_last), low, high, column)
        new = torch.ones_like(fresh) if is_last else fresh & ~known
        if levels:
            added_children = torch.bincount(parents[new], minlength=len(counts))
            levels[-1] = _with_children(levels[-1], counts + added_children)
        levels.append(TrieLevel(_insert(level.codes, place[new], column[new]), level.children))
        if is_last:
            break
        parents = place + new.cumsum(0) - (~known).long()
        counts = _insert(level.children.diff(), place[new], torch.zeros_like(place[new]))
        low = level.children[place].long()
        high = torch.where(known, level.children[(place + 1).clamp(max=len(level))].long(), low)
    items = _insert(trie.items, place, rows + trie.num_items)
    return CodeTrie(tuple(levels), items, trie.num_codes, trie.is_unique and bool((fresh & ~known).all()))


def _with_children(level: TrieLevel, counts: Tensor) -> TrieLevel:
    return TrieLevel(level.codes, F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0)))


def _has(codes: Tensor, place: Tensor, low: Tensor, high: Tensor, wanted: Tensor) -> Tensor:
    inside = (place >= low) & (place < high)
    return inside & (codes[place.clamp(0, len(codes) - 1)] == wanted)


def _bisect(codes: Tensor, wanted: Tensor, low: Tensor, high: Tensor, *, after: bool) -> Tensor:
    """The first place in ``codes[low:high]`` of a code at least as high as wanted, or ``after`` all equal ones."""
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) // 2
        here = codes[middle.clamp(max=len(codes) - 1)]
        beyond = (low < high) & (here <= wanted if after else here < wanted)
        low, high = torch.where(beyond, middle + 1, low), torch.where(beyond, high, middle)
    return low


def _insert(values: Tensor, places: Tensor, added: Tensor) -> Tensor:
    """Values (n + M,) where ``added`` stand before the ones that were at rising ``places``."""
    where = places + torch.arange(len(places), device=places.device)
    kept = torch.ones(len(values) + len(places), dtype=torch.bool, device=values.device).index_fill_(0, where, False)
    result = values.new_empty(len(kept)).masked_scatter_(kept, values)
    return result.index_copy_(0, where, added.to(values.dtype))
