"""Constrained beam search: the most probable items of a catalogue under a decoder of codes.

An item's probability is the product of its code probabilities. Only children that exist compete, all children of all
beams of a user at once, and nothing is renormalised, so that the scores of two items are comparable whatever path led
to them. Legend: B users, W beams, M = B · W, K codes, E edges, k results, S seen items.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.errors import InputError
from semid.generative.beam_steps import Beams, CodeScorer, first_beams, next_beams
from semid.generative.code_search import CodeSearch
from semid.generative.graphed_search import Inputs, SearchGraphs
from semid.generative.item_filter import Allowed, ItemFilter
from semid.generative.trie import CodeTrie
from semid.ranking import Ranking
from semid.selection import rank_by_score


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


@torch.no_grad()
def beam_search(
    decoder: CodeScorer,
    state: Tensor,
    trie: CodeTrie,
    *,
    beam: int,
    k: int,
    allowed: ItemFilter | None = None,
    which: Tensor | None = None,
    seen: Tensor | None = None,
    graphs: SearchGraphs | None = None,
) -> BeamResult:
    """The k most probable items of each user found by a beam of the given width.

    Every level keeps the best of all beams' children that still have an allowed, unseen item below them; of equal
    scores those with the lower codes. With ``beam`` at least the number of nodes of every level but the last the
    search is exhaustive.

    Args:
        decoder: of the items of ``trie``.
        state: (B, D), passed to ``decoder.first``.
        beam: W; may exceed the catalogue.
        k: results per user, ``k <= beam``.
        allowed: which items may be found; all without it.
        which: (B,) int64, whose turn it is of several filters; the first without it.
        seen: (B, S) item rows never to return, padded with -1.
        graphs: on a GPU, those to capture the search in, of a decoder that is a :class:`CodeSearch`.

    Raises:
        InputError: beam or k out of range, ``seen`` of another shape or outside the catalogue, or the decoder gives
            NaN or something that is not a log-probability.
    """
    _check_sizes(beam, k)
    limits = Allowed.of(trie, len(state), allowed, which, seen)
    if not len(state):
        none = state.new_zeros(0, k)
        return BeamResult(none.long(), none, none[:, 0])
    if graphs is not None and isinstance(decoder, CodeSearch) and state.is_cuda:
        beams = graphs.run(partial(_last_beams, beam=beam, k=k), Inputs(decoder, state, limits), (beam, k))
    else:
        beams = _last_beams(decoder, state, limits, beam, k)
    if bool(beams.broken.any()):  # looked at once, at the end
        raise InputError(
            "The decoder gave NaN or a positive log-probability: the model's weights or its input are broken."
        )
    order = rank_by_score(beams.scores)
    leaves, scores = beams.nodes.gather(1, order), beams.scores.gather(1, order)
    items = trie.items[leaves].long().masked_fill(scores == -torch.inf, -1)
    missing = (0, k - items.shape[1])
    return BeamResult(F.pad(items, missing, value=-1), F.pad(scores, missing, value=-torch.inf), beams.cut)


@torch.no_grad()
def exact_beam_search(
    decoder: CodeScorer,
    state: Tensor,
    trie: CodeTrie,
    *,
    k: int,
    allowed: ItemFilter | None = None,
    which: Tensor | None = None,
    seen: Tensor | None = None,
    beam: int = 50,
) -> BeamResult:
    """The provably most probable k items: the beam doubles for the users whose list is not yet proven.

    The worst case, a decoder that knows nothing, widens to the whole catalogue.

    Args and errors: as in :func:`beam_search`; ``beam`` is the width to start from.
    """
    beam = max(beam, k)
    result = beam_search(decoder, state, trie, beam=beam, k=k, allowed=allowed, which=which, seen=seen)
    items, scores, bound = result.items, result.scores, result.bound
    open_rows = (~result.exact).nonzero()[:, 0]
    widest = max(len(level) for level in trie.levels)
    while len(open_rows) and beam < widest:
        beam *= 2
        turn, known = (None if values is None else values[open_rows] for values in (which, seen))
        part = beam_search(decoder, state[open_rows], trie, beam=beam, k=k, allowed=allowed, which=turn, seen=known)
        items[open_rows], scores[open_rows], bound[open_rows] = part.items, part.scores, part.bound
        open_rows = open_rows[~part.exact]
    return BeamResult(items, scores, bound)


def _last_beams(decoder: CodeScorer, state: Tensor, limits: Allowed, beam: int, k: int) -> Beams:
    """The k best leaves; nothing here waits for a GPU."""
    levels = len(limits.trie.levels)
    widths = [*[beam] * (levels - 1), k]  # of the leaves only the k best matter
    log_probs, cache = decoder.first(state)
    beams = first_beams(log_probs, limits, widths[0])
    for depth in range(1, levels):
        cache = decoder.next(cache, beams.parents, beams.nodes)
        beams = next_beams(decoder, cache, depth, beams, widths[depth], limits)
    return beams


def _check_sizes(beam: int, k: int) -> None:
    if beam < 1:
        raise InputError(f"The beam is {beam} wide: it must be at least 1.")
    if k < 1:
        raise InputError(f"{k} results per user were asked for: k must be at least 1.")
    if beam < k:
        raise InputError(f"A beam of {beam} cannot find {k} items: use beam >= k.")
