"""One step of beam search: the best children of all beams of a user, among those that exist and are allowed.

Shapes: B users, W beams, M = B · W, K codes, E edges, S seen items.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from semid.errors import InputError
from semid.generative.item_filter import Allowed
from semid.generative.trie import CodeTrie, Edges
from semid.selection import best_positions

# log_softmax may come out above 0 by rounding; more than this is no log-probability.
_ROUNDING = 1e-2
# Edges of some users at a time, so that memory stays bounded however many children nodes have.
MOST_EDGES = 1 << 22


class CodeScorer(Protocol):
    """What beam search asks of a decoder: log-probabilities (natural) of the codes that continue each beam."""

    def first(self, state: Tensor) -> tuple[Tensor, Any]:
        """State (B, D) -> log-probabilities (B, K) of the first code, and a cache with one beam a user."""

    def next(self, cache: Any, parents: Tensor, nodes: Tensor) -> Any:
        """Extend the beams by the codes just chosen.

        Args:
            cache: of the step before.
            parents: (B, W) int64, which beam of the step before each beam continues; all 0 after ``first``.
            nodes: (B, W) int64, the trie node that it has reached.

        Returns:
            The cache of these W beams.
        """

    def log_probs(self, cache: Any) -> Tensor:
        """(M, K) of all codes, -inf for those that no item goes on with."""

    def edge_log_probs(self, cache: Any, beams: slice, edges: Edges) -> Tensor:
        """(E,) of the codes that lead from some of the M beams to all their children."""


@dataclass(frozen=True, eq=False)
class Beams:
    """The beams of one level, in the order of their nodes, dead ones last.

    Attributes:
        nodes: (B, W) int64; of a dead beam any node at least as high as all others.
        parents: (B, W) int64 index into the beams of the level before.
        scores: (B, W) log-probabilities, -inf where the beam is dead.
        cut: (B,) best score left out at any level so far.
        broken: (B,) bool, whether the decoder gave something that is no log-probability.
    """

    nodes: Tensor
    parents: Tensor
    scores: Tensor
    cut: Tensor
    broken: Tensor

    @staticmethod
    def start(users: int, trie: CodeTrie) -> "Beams":
        """One beam a user at the root."""
        scores = torch.zeros(users, 1, device=trie.device)
        nodes = torch.zeros_like(scores, dtype=torch.int64)
        return Beams(nodes, nodes, scores, scores[:, 0] - torch.inf, scores[:, 0] > 0)

    def users(self, part: slice) -> "Beams":
        """Those of some users."""
        return Beams(*(values[part] for values in vars(self).values()))

    @staticmethod
    def concatenate(parts: "list[Beams]") -> "Beams":
        """Those of consecutive users as one."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return parts[0] if len(parts) == 1 else Beams(*map(torch.cat, columns))

    def children_scores(self, step: Tensor, owner: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores of steps (B, W, K), or (E,) from beams ``owner`` (E,); and whether one is too high to be real.

        At least float32: sums of bfloat16 would tie where the model does not. None rises above the score of its
        prefix, so that what was cut bounds everything below it. Dead beams have dead children.
        """
        known = self.scores[..., None] if owner is None else self.scores.flatten()[owner]
        step = step if step.dtype == torch.float64 else step.float()
        scores, alive = torch.minimum(known + step, known), known > -torch.inf
        if alive.device.type != "cpu" or not bool(alive.all()):
            scores = torch.where(alive, scores, -torch.inf)
        return scores, step.amax() > _ROUNDING

    def extended(self, nodes: Tensor, parents: Tensor, scores: Tensor, cut: Tensor, broken: Tensor) -> "Beams":
        """Beams (B, W) that continue ``parents``, and the best score left out (B,)."""
        broken = self.broken | broken | scores.isnan().any(1)  # NaN would be among the best
        return Beams(nodes, parents, scores, torch.maximum(self.cut, cut), broken)


def first_beams(log_probs: Tensor, limits: Allowed, count: int) -> Beams:
    """The ``count`` best nodes of the first level, from (B, K)."""
    _check_codes(log_probs, limits.trie, 0)
    level = limits.trie.levels[0]
    root = Beams.start(len(log_probs), limits.trie)
    scores, broken = root.children_scores(log_probs[:, None, level.codes.long()])
    nodes = torch.arange(len(level), device=scores.device).expand(len(scores), -1)
    scores = _without(scores[:, 0], limits, 0, nodes)
    if limits.gone is not None:
        scores = _marked(scores, limits.gone[0], limits.gone[0] < len(level))
    kept, best, cut = best_positions(scores, count)
    return root.extended(kept, torch.zeros_like(kept), best, cut, broken)


def next_beams(decoder: CodeScorer, cache: Any, depth: int, beams: Beams, count: int, limits: Allowed) -> Beams:
    """The ``count`` best children of all beams, of level ``depth``."""
    by_rows = limits.trie.table(depth) is not None
    return (_by_rows if by_rows else _by_edges)(decoder, cache, depth, beams, count, limits)


def _by_rows(decoder: CodeScorer, cache: Any, depth: int, beams: Beams, count: int, limits: Allowed) -> Beams:
    """Best children of all beams, looked for among the whole codebooks."""
    table = limits.trie.table(depth)
    assert table is not None
    step = decoder.log_probs(cache)
    _check_codes(step, limits.trie, depth)
    scores, broken = beams.children_scores(step.view(*beams.nodes.shape, -1))
    if limits.filter is not None:
        scores = scores + limits.filter.mask(depth, limits.which, beams.nodes)
    scores = scores.flatten(1)
    if limits.gone is not None:
        _, at, there = _places(limits, depth, beams)
        code = limits.trie.levels[depth].codes[limits.gone[depth].clamp(max=len(limits.trie.levels[depth]) - 1)]
        scores = _marked(scores, at * table.shape[1] + code, there)
    kept, best, cut = best_positions(scores, count)
    parents, codes = kept // table.shape[1], kept % table.shape[1]
    on = beams.nodes.gather(1, parents)
    nodes = limits.trie.levels[depth - 1].children[on] + _ordinal(table[on, codes])
    return beams.extended(nodes, parents, best, cut, broken)


def _by_edges(decoder: CodeScorer, cache: Any, depth: int, beams: Beams, count: int, limits: Allowed) -> Beams:
    """Best children of all beams, looked for among them alone, some users at a time."""
    users, width = beams.nodes.shape
    above = limits.trie.levels[depth - 1].children
    most = int((above[beams.nodes + 1] - above[beams.nodes]).sum(1).max())
    size, found = max(1, MOST_EDGES // most), []
    for first in range(0, users, size):
        part = slice(first, min(first + size, users))
        edges = limits.trie.edges(depth, beams.nodes[part].flatten())
        step = decoder.edge_log_probs(cache, slice(part.start * width, part.stop * width), edges)
        found.append(_best_edges(step, edges, depth, beams.users(part), count, limits.users(part), most))
    return Beams.concatenate(found)


def _best_edges(
    step: Tensor, edges: Edges, depth: int, beams: Beams, count: int, limits: Allowed, most: int
) -> Beams:
    """Best of the (E,) children of beams, of which no user has more than ``most``."""
    users, width = beams.nodes.shape
    starts = edges.offsets[:-1].view(users, width)
    user = edges.owner // width
    place = user * most + torch.arange(len(step), device=step.device) - starts[user, 0]
    starts = starts - starts[:, :1]
    values, broken = beams.children_scores(step, edges.owner)
    scores = values.new_full((users * most,), -torch.inf).index_copy_(0, place, values).view(users, most)
    if limits.filter is not None:
        children = edges.children.new_zeros(users * most).index_copy_(0, place, edges.children)
        scores = _without(scores, limits, depth, children.view(users, most))
    above = limits.trie.levels[depth - 1].children
    if limits.gone is not None:
        parents, at, there = _places(limits, depth, beams)
        scores = _marked(scores, starts.gather(1, at) + limits.gone[depth] - above[parents], there)
    kept, best, cut = best_positions(scores, count)
    parents = torch.searchsorted(starts, kept, right=True) - 1
    on = beams.nodes.gather(1, parents)
    nodes = torch.minimum(above[on] + kept - starts.gather(1, parents), above[on + 1] - 1)
    return beams.extended(nodes, parents, best, cut, broken)


def _without(scores: Tensor, limits: Allowed, depth: int, nodes: Tensor) -> Tensor:
    """Scores (B, M) of nodes (B, M), -inf where no allowed item lies below."""
    if limits.filter is None:
        return scores
    return scores.masked_fill(~limits.filter.alive(depth, limits.which, nodes), -torch.inf)


def _places(limits: Allowed, depth: int, beams: Beams) -> tuple[Tensor, Tensor, Tensor]:
    """Of the gone nodes (B, S): their parents, at which beam these are, and whether they are at one at all."""
    assert limits.gone is not None
    above, size = limits.trie.levels[depth - 1], len(limits.trie.levels[depth])
    parents = above.parent(limits.gone[depth].clamp(max=size - 1))
    at = torch.searchsorted(beams.nodes, parents).clamp(max=beams.nodes.shape[1] - 1)
    there = (beams.nodes.gather(1, at) == parents) & (limits.gone[depth] < size)
    return parents, at, there


def _marked(scores: Tensor, positions: Tensor, there: Tensor) -> Tensor:
    """Scores (B, M) with -inf at positions (B, S) where they are ``there``."""
    marks = torch.where(there, -torch.inf, torch.inf).to(scores.dtype)
    return scores.scatter_reduce(1, torch.where(there, positions, 0), marks, "amin")


def _ordinal(entries: Tensor) -> Tensor:
    """Which child an entry of :meth:`CodeTrie.table` is, for codes that are none that of the next lower code."""
    return (entries ^ (entries >> 15)).long()


def _check_codes(log_probs: Tensor, trie: CodeTrie, depth: int) -> None:
    if log_probs.shape[-1] != trie.num_codes[depth]:
        raise InputError(
            f"The decoder scores {log_probs.shape[-1]} codes at level {depth + 1} but the semantic IDs have "
            f"{trie.num_codes[depth]}: use the tokenizer the model was trained with."
        )
