"""How probable given items are, whether or not a search would find them.

Shapes: B users, C items each, U different nodes above them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative.beam_steps import MOST_PLACES, CodeScorer
from semid.generative.children import Children
from semid.generative.trie import CodeTrie


@torch.no_grad()
def score_items(decoder: CodeScorer, state: Tensor, trie: CodeTrie, items: Tensor) -> Tensor:
    """log p(item | state) of C items each: state (B, D), items (B, C) rows -> (B, C).

    Prefixes that several items of a user share are gone through once.
    """
    return sum(_by_level(decoder, state, trie, items), torch.zeros(()))


@torch.no_grad()
def score_levels(decoder: CodeScorer, state: Tensor, trie: CodeTrie, items: Tensor) -> Tensor:
    """log p(code | state, codes before) of every code of the same items: (B, C, L), whose sum is their score."""
    return torch.stack(list(_by_level(decoder, state, trie, items)), dim=-1)


def _by_level(decoder: CodeScorer, state: Tensor, trie: CodeTrie, items: Tensor) -> Iterator[Tensor]:
    """Log-probabilities (B, C) of one level after the other."""
    nodes = [trie.leaf_of_item[items].long()]
    for level in reversed(trie.levels[:-1]):
        nodes.append(level.parent(nodes[-1]))
    nodes.reverse()
    log_probs, cache = decoder.first(state)
    yield log_probs.gather(1, trie.levels[0].codes[nodes[0]].long())
    before = torch.zeros_like(items[:, :1])
    for depth in range(1, len(trie.levels)):
        different, place = _different(nodes[depth - 1])
        parents = torch.zeros_like(different)
        if depth > 1:
            parents = torch.searchsorted(before, trie.levels[depth - 2].parent(different))
        cache, before = decoder.next(cache, parents, different), different
        yield _steps(decoder, cache, trie, depth, different, place, nodes[depth])


def _different(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The different nodes (B, U) of each row (B, C), rising, the last one repeated; and where each node is there."""
    rising, order = nodes.sort(dim=1)
    rank = F.pad((rising[:, 1:] != rising[:, :-1]).long(), (1, 0)).cumsum(1)
    different = rising[:, -1:].repeat(1, int(rank.max()) + 1).scatter_(1, rank, rising)
    return different, torch.empty_like(order).scatter_(1, order, rank)


def _steps(
    decoder: CodeScorer, cache: Any, trie: CodeTrie, depth: int, above: Tensor, place: Tensor, nodes: Tensor
) -> Tensor:
    """Log-probabilities (B, C) of the last step to nodes (B, C), from those at ``place`` of ``above`` (B, U)."""
    users, count = above.shape
    if trie.table(depth) is not None:
        rows = place + torch.arange(users, device=place.device)[:, None] * count
        return decoder.log_probs(cache)[rows, trie.levels[depth].codes[nodes].long()]
    children = Children.of(trie, depth, above)
    parts, size = [], max(1, MOST_PLACES // children.size)
    for first in range(0, users, size):
        part = slice(first, min(first + size, users))
        here = children.users(part)
        steps = decoder.child_log_probs(cache, part, here)
        parts.append(steps.gather(1, (here.begins - here.starts).gather(1, place[part]) + nodes[part]))
    return torch.cat(parts)
