"""One step of beam search: the best children of all beams of a user, among those that exist and are allowed.

Shapes: B users, W beams, M = B · W, K codes, E edges, S seen items.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from semid.errors import InputError
from semid.generative.children import Children
from semid.generative.item_filter import Allowed
from semid.generative.trie import CodeTrie
from semid.selection import best_positions

# log_softmax may come out above 0 by rounding; more than this is no log-probability.
_ROUNDING = 1e-2
# Places of some users at a time, so that memory stays bounded however many children nodes have.
MOST_PLACES = 1 << 22
# Devices whose values can be looked at without waiting.
_LOOKED_INTO = ("cpu",)


@dataclass(frozen=True, eq=False)
class StepLogits:
    """What the probabilities of one step are made of.

    Attributes:
        codes: (M, K) float32, of every code.
        query, vectors: (B, D) and (n, D) float32; their inner products are added for each node of the level. None
            adds nothing.
        mass: (M,) log-sum-exp that is taken off; None takes that of the children.
    """

    codes: Tensor
    query: Tensor | None = None
    vectors: Tensor | None = None
    mass: Tensor | None = None


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

    def child_log_probs(self, cache: Any, users: slice, children: Children) -> Tensor:
        """(B, C) of the codes that lead from the beams of some users to all their children."""

    def logits(self, cache: Any) -> StepLogits | None:
        """What these are made of, for one kernel to put together; None where that is not how they are made."""


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

    def extended(self, nodes: Tensor, parents: Tensor, scores: Tensor, cut: Tensor) -> "Beams":
        """Beams (B, W) that continue ``parents``, and the best score left out (B,).

        None is above its parent but for rounding, so that what was cut bounds everything below it. One that is, or
        NaN, which would be among the best, is no sum of log-probabilities.
        """
        broken = self.broken | ~(scores <= self.scores.gather(1, parents) + _ROUNDING).all(1)
        return Beams(nodes, parents, scores, torch.maximum(self.cut, cut), broken)


def first_beams(log_probs: Tensor, limits: Allowed, count: int) -> Beams:
    """The ``count`` best nodes of the first level, from (B, K)."""
    check_codes(log_probs, limits.trie, 0)
    level = limits.trie.levels[0]
    root = Beams.start(len(log_probs), limits.trie)
    scores = _at_least_float32(log_probs[:, level.codes.long()])
    if limits.filter is not None:
        nodes = torch.arange(len(level), device=scores.device).expand(len(scores), -1)
        scores = scores.masked_fill(~limits.filter.alive(0, limits.which, nodes), -torch.inf)
    if limits.gone is not None:
        scores = _marked(scores, limits.gone[0], limits.gone[0] < len(level))
    kept, best, cut = best_positions(scores, count)
    return root.extended(kept, torch.zeros_like(kept), best, cut)


def next_beams(decoder: CodeScorer, cache: Any, depth: int, beams: Beams, count: int, limits: Allowed) -> Beams:
    """The ``count`` best children of all beams, of level ``depth``."""
    if limits.trie.device.type in _LOOKED_INTO and limits.trie.table(depth) is not None:
        return _by_rows(decoder, cache, depth, beams, count, limits)
    return _by_children(decoder, cache, depth, beams, count, limits)


def _by_rows(decoder: CodeScorer, cache: Any, depth: int, beams: Beams, count: int, limits: Allowed) -> Beams:
    """Best children of all beams, looked for among the whole codebooks."""
    table = limits.trie.table(depth)
    assert table is not None
    step = decoder.log_probs(cache)
    check_codes(step, limits.trie, depth)
    scores = beams.scores[..., None] + _at_least_float32(step).view(*beams.nodes.shape, -1)
    alive = beams.scores > -torch.inf
    if not bool(alive.all()):
        scores = scores.masked_fill(~alive[..., None], -torch.inf)
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
    return beams.extended(nodes, parents, best, cut)


def _by_children(decoder: CodeScorer, cache: Any, depth: int, beams: Beams, count: int, limits: Allowed) -> Beams:
    """Best children of all beams, looked for among them alone; on a CPU some users at a time."""
    users, width = beams.nodes.shape
    alive = beams.scores > -torch.inf
    looked_into = limits.trie.device.type in _LOOKED_INTO
    size = None if looked_into else limits.trie.most_children(depth - 1, width)
    children = Children.of(limits.trie, depth, beams.nodes, alive, size)
    found, some = [], users if size else max(1, MOST_PLACES // children.size)
    for first in range(0, users, some):
        part = slice(first, min(first + some, users))
        found.append(_best_children(decoder, cache, part, children.users(part), beams.users(part), count, limits))
    return Beams.concatenate(found)


def _best_children(
    decoder: CodeScorer, cache: Any, part: slice, children: Children, beams: Beams, count: int, limits: Allowed
) -> Beams:
    """Of the users of one part, whose children and beams these are."""
    limits, depth = limits.users(part), children.depth
    scores = _child_scores(decoder, cache, part, children, beams, limits)
    if limits.gone is not None:
        _, at, there = _places(limits, depth, beams)
        place = (children.begins - children.starts).gather(1, at) + limits.gone[depth]
        scores = _marked(scores, place, there & (beams.scores.gather(1, at) > -torch.inf))
    kept, best, cut = best_positions(scores, count)
    parents, nodes = children.at(kept)
    nodes = torch.where(best > -torch.inf, nodes, len(limits.trie.levels[depth]) - 1)
    return beams.extended(nodes, parents, best, cut)


def _child_scores(
    decoder: CodeScorer, cache: Any, part: slice, children: Children, beams: Beams, limits: Allowed
) -> Tensor:
    """Scores (B, C), -inf where there is no child or none that is allowed."""
    if beams.scores.is_cuda and importlib.util.find_spec("triton") is not None:
        logits = decoder.logits(cache)
        if logits is not None:
            from semid.generative.children_triton import fused_scores  # Triton is optional

            check_codes(logits.codes, limits.trie, children.depth)
            return fused_scores(logits, children, beams, limits)
    step = _at_least_float32(decoder.child_log_probs(cache, part, children))
    there = children.there
    if limits.filter is not None:
        there = there & limits.filter.alive(children.depth, limits.which, children.nodes)
    return (beams.scores.gather(1, children.owner) + step).masked_fill(~there, -torch.inf)


def _at_least_float32(step: Tensor) -> Tensor:
    """Sums of bfloat16 would tie where the model does not."""
    return step if step.dtype == torch.float64 else step.float()


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


def check_codes(log_probs: Tensor, trie: CodeTrie, depth: int) -> None:
    if log_probs.shape[-1] != trie.num_codes[depth]:
        raise InputError(
            f"The decoder scores {log_probs.shape[-1]} codes at level {depth + 1} but the semantic IDs have "
            f"{trie.num_codes[depth]}: use the tokenizer the model was trained with."
        )
