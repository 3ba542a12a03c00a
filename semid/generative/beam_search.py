"""Constrained beam search: the most probable items of a catalogue under a decoder of codes.

An item's probability is the product of its code probabilities. Children that are not in the trie are never
scored, and nothing is renormalised, so that the scores of two items are comparable whatever path led to them.
Legend: B users, W beams, C children per node at most, K codes, k results, S seen items.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from semid.errors import InputError
from semid.generative.trie import CodeTrie, TrieLevel
from semid.ranking import Ranking
from semid.selection import best_positions, nth_unseen, rank_by_score, seen_before, sorted_seen

# log_softmax may come out above 0 by rounding; more than this is no log-probability.
_MAX_LOG_PROBABILITY = 1e-2


class CodeScorer(Protocol):
    """What beam search asks of a decoder: log-probabilities over the full codebook of each level."""

    def first(self, state: Tensor) -> tuple[Tensor, Any]:
        """State (B, D) -> log-probabilities (B, K_1) of the first code, and a cache with one beam a user."""

    def next(self, cache: Any, parents: Tensor, codes: Tensor) -> tuple[Tensor, Any]:
        """Extend the beams by the codes just chosen.

        Args:
            cache: as returned by the step before.
            parents: (B, W) int64, which beam of the step before each beam continues; all 0 after ``first``.
            codes: (B, W) int64, the code it has just been given.

        Returns:
            log-probabilities (B, W, K) of the next code, and the cache of these W beams.
        """


@dataclass(frozen=True, eq=False)
class BeamResult:
    """The best items found, best first.

    Attributes:
        items: (B, k) int64 item rows, -1 where fewer than k were found.
        scores: (B, k) log-probabilities, -inf where items is -1.
        bound: (B,) the most that a candidate not listed may score.
    """

    items: Tensor
    scores: Tensor
    bound: Tensor

    @property
    def exact(self) -> Tensor:
        """(B,) bool; True proves that no other candidate has a higher score than those listed."""
        return self.bound <= self.scores[:, -1]

    def ranking(self) -> Ranking:
        """As plain arrays."""
        return Ranking(self.items.cpu().numpy(), self.scores.float().cpu().numpy(), self.bound.float().cpu().numpy())


@dataclass(frozen=True, eq=False)
class _Beams:
    """The beams of one level, in the order of their nodes.

    Attributes:
        nodes: (B, W) int64; of a dead beam any valid node.
        parents: (B, W) int64 index into the beams of the level before.
        scores: (B, W) log-probabilities, -inf where the beam is dead.
        cut: (B,) best score left out at any level so far.
    """

    nodes: Tensor
    parents: Tensor
    scores: Tensor
    cut: Tensor


@torch.no_grad()
def beam_search(
    decoder: CodeScorer, state: Tensor, trie: CodeTrie, *, beam: int, k: int, seen: Tensor | None = None
) -> BeamResult:
    """The k most probable candidates of each user found by a beam of the given width.

    Every level keeps the best of all beams' children that still have an unseen item below them; of equal
    scores those with the lower codes. With ``beam`` at least the number of nodes of every level the search is
    exhaustive.

    Args:
        decoder: gives log-probabilities (natural logarithm).
        state: (B, D), passed to ``decoder.first``.
        beam: W; may exceed the catalogue.
        k: results per user, ``k <= beam``.
        seen: (B, S) item rows never to return, padded with -1; rows that are no candidates are ignored.

    Raises:
        InputError: beam or k out of range, ``seen`` of another shape or outside the catalogue, or the decoder
            gives NaN or something that is not a log-probability.
    """
    _check_sizes(beam, k)
    seen_leaves = None if seen is None else _seen_leaves(trie, seen)
    log_probs, cache = decoder.first(state)
    _check_shapes(log_probs, trie, 0, seen)
    beams, wrong = _first_beams(log_probs, trie, beam, seen_leaves)
    for depth in range(1, len(trie.levels)):
        codes = trie.levels[depth - 1].codes[beams.nodes].long()
        log_probs, cache = decoder.next(cache, beams.parents, codes)
        _check_shapes(log_probs, trie, depth, seen)
        beams, wrong_here = _next_beams(log_probs, trie, depth, beams, beam, seen_leaves)
        wrong = wrong | wrong_here
    if bool(wrong):  # looked at once, at the end
        raise InputError(
            "The decoder gave NaN or a positive log-probability: the model's weights or its input are broken."
        )
    return _results(trie, beams, k, seen_leaves)


@torch.no_grad()
def score_items(decoder: CodeScorer, state: Tensor, codes: Tensor) -> Tensor:
    """log p(codes | state) of C given items each: state (B, D), codes (B, C, L) → (B, C) float32."""
    batch, count, levels = codes.shape
    log_probs, cache = decoder.first(state)
    total = log_probs.gather(1, codes[:, :, 0])
    parents = torch.zeros(batch, count, dtype=torch.int64, device=state.device)
    for level in range(1, levels):
        log_probs, cache = decoder.next(cache, parents, codes[:, :, level - 1])
        total = total + log_probs.gather(2, codes[:, :, level, None])[..., 0]
        parents = torch.arange(count, device=state.device).expand(batch, -1)
    return total


@torch.no_grad()
def exact_beam_search(
    decoder: CodeScorer, state: Tensor, trie: CodeTrie, *, k: int, seen: Tensor | None = None, beam: int = 50
) -> BeamResult:
    """The provably most probable k candidates: the beam doubles for the users whose list is not yet proven.

    The worst case, a decoder that knows nothing, widens to the whole catalogue.

    Args and errors: as in :func:`beam_search`; ``beam`` is the width to start from.
    """
    beam = max(beam, k)
    result = beam_search(decoder, state, trie, beam=beam, k=k, seen=seen)
    items, scores, bound = result.items, result.scores, result.bound
    open_rows = (~result.exact).nonzero()[:, 0]
    widest = max(len(level) for level in trie.levels)
    while len(open_rows) and beam < widest:
        beam *= 2
        part = beam_search(
            decoder, state[open_rows], trie, beam=beam, k=k, seen=None if seen is None else seen[open_rows]
        )
        items[open_rows], scores[open_rows], bound[open_rows] = part.items, part.scores, part.bound
        open_rows = open_rows[~part.exact]
    return BeamResult(items, scores, bound)


def _first_beams(log_probs: Tensor, trie: CodeTrie, beam: int, seen: Tensor | None) -> tuple[_Beams, Tensor]:
    """Best nodes of the first level; also whether any score used was no log-probability."""
    level = trie.levels[0]
    nodes = torch.arange(len(level), device=trie.device).expand(len(log_probs), -1)
    step = log_probs[:, level.codes.long()]
    scores, wrong = _alive(step, _live_leaves(level, nodes, seen) > 0)
    kept, cut = best_positions(scores, min(beam, len(level)))
    beams = _Beams(nodes.gather(1, kept), torch.zeros_like(kept), scores.gather(1, kept), cut)
    return beams, wrong


def _next_beams(
    log_probs: Tensor, trie: CodeTrie, depth: int, beams: _Beams, beam: int, seen: Tensor | None
) -> tuple[_Beams, Tensor]:
    """Best children of all beams together; log_probs (B, W, K)."""
    above, level = trie.levels[depth - 1], trie.levels[depth]
    offset = torch.arange(above.max_children, device=trie.device)
    nodes = above.children[beams.nodes][..., None].long() + offset  # (B, W, C), in node order as beams are
    real = nodes < above.children[beams.nodes + 1][..., None]
    nodes = nodes.clamp(max=len(level) - 1)
    step = log_probs.gather(2, level.codes[nodes].long())
    nodes, real = nodes.flatten(1), real & (beams.scores > -torch.inf)[..., None]
    step, wrong = _alive(step.flatten(1), real.flatten(1) & (_live_leaves(level, nodes, seen) > 0))
    scores = beams.scores.repeat_interleave(above.max_children, dim=1) + step
    kept, cut = best_positions(scores, min(beam, len(level)))
    parents = kept // above.max_children
    cut = torch.maximum(beams.cut, cut)
    return _Beams(nodes.gather(1, kept), parents, scores.gather(1, kept), cut), wrong


def _alive(step: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities with -inf where not real, and whether a real one is NaN or no log-probability.

    At least float32, as sums of bfloat16 would tie where the model does not; at most 0, so that no score ever
    rises above the score of its prefix and what was cut bounds everything below it.
    """
    sound = step <= _MAX_LOG_PROBABILITY  # false for NaN too
    wrong = (real & ~sound).any()
    step = step if step.dtype == torch.float64 else step.float()
    return step.clamp(max=0).masked_fill(~(real & sound), -torch.inf), wrong


def _live_leaves(level: TrieLevel, nodes: Tensor, seen: Tensor | None) -> Tensor:
    """Unseen leaves under each node: (B, M) -> (B, M)."""
    low, high = level.leaves[nodes].long(), level.leaves[nodes + 1].long()
    if seen is None:
        return high - low
    return high - low - (seen_before(seen, high) - seen_before(seen, low))


def _results(trie: CodeTrie, beams: _Beams, k: int, seen: Tensor | None) -> BeamResult:
    """The first k unseen leaves under the final beams, best beam first, leaves of one beam by row."""
    order = rank_by_score(beams.scores)
    nodes, scores = beams.nodes.gather(1, order), beams.scores.gather(1, order)
    live = _live_leaves(trie.levels[-1], nodes, seen) * (scores > -torch.inf)
    until = live.cumsum(dim=1)  # results up to and with each beam
    slots = torch.arange(k, device=trie.device).expand(len(nodes), -1).contiguous()
    found = slots < until[:, -1:]
    source = torch.searchsorted(until, slots, right=True).clamp(max=nodes.shape[1] - 1)
    within = slots - (until - live).gather(1, source)
    first_leaf = trie.levels[-1].leaves[nodes.gather(1, source)].long()
    if seen is None:
        leaves = first_leaf + within
    else:
        leaves = nth_unseen(seen, first_leaf - seen_before(seen, first_leaf) + within)
    items = trie.items[leaves.clamp(max=trie.num_candidates - 1)].long()
    scores = scores.gather(1, source).masked_fill(~found, -torch.inf)
    more = until[:, -1] > k  # those below the last one listed
    bound = torch.where(more, torch.maximum(beams.cut, scores[:, -1]), beams.cut)
    return BeamResult(items.masked_fill(~found, -1), scores, bound)


def _seen_leaves(trie: CodeTrie, seen: Tensor) -> Tensor:
    num_items = len(trie.leaf_of_item)
    if seen.ndim != 2 or seen.is_floating_point():
        raise InputError(f"Seen items have shape {tuple(seen.shape)} and {seen.dtype}: give (users, S) item rows.")
    seen = seen.to(trie.device).long()
    if seen.numel() and (int(seen.min()) < -1 or int(seen.max()) >= num_items):
        raise InputError(f"Seen items must be item rows 0..{num_items - 1}, or -1 for padding.")
    leaves = trie.leaf_of_item[seen.clamp(min=0)].long()
    return sorted_seen(leaves.masked_fill(seen < 0, -1), trie.num_candidates)


def _check_sizes(beam: int, k: int) -> None:
    if beam < 1:
        raise InputError(f"The beam is {beam} wide: it must be at least 1.")
    if k < 1:
        raise InputError(f"{k} results per user were asked for: k must be at least 1.")
    if beam < k:
        raise InputError(f"A beam of {beam} cannot find {k} items: use beam >= k.")


def _check_shapes(log_probs: Tensor, trie: CodeTrie, depth: int, seen: Tensor | None) -> None:
    if log_probs.shape[-1] != trie.num_codes[depth]:
        raise InputError(
            f"The decoder scores {log_probs.shape[-1]} codes at level {depth + 1} but the semantic IDs have "
            f"{trie.num_codes[depth]}: use the tokenizer the model was trained with."
        )
    if seen is not None and len(seen) != len(log_probs):
        raise InputError(f"Seen items are given for {len(seen)} users, but there are {len(log_probs)}.")
