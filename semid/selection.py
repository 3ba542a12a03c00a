"""Top k with ties broken by position, and the arithmetic of filtering out what a query has already seen.

Both searches build on it: the beam over the trie and the blocked exact search. Positions stand for places in
some fixed order (sorted leaves, sorted item rows, popularity), so "lowest position first" is a total order.
Everything is batched over rows; what takes tensors works on any device.
"""

import math

import numpy as np
import torch
from torch import Tensor

# Rows so long that the members of a group are at least so many are searched group by group.
_LEAST_GROUP = 8
_LOW = (1 << 32) - 1
# Devices whose values can be looked at without waiting.
_LOOKED_INTO = ("cpu",)


def best_positions(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the ``count`` best scores of each row, in increasing order of position.

    Of equal scores the lowest positions are taken. Those of -inf go last, at the last position of all.

    Args:
        scores: (B, M) floats, NaN counting as the highest.

    Returns:
        positions (B, W) int64 and their scores, W being the lower of ``count`` and M; and the best score left out
        (B,), -inf where none was.
    """
    width = scores.shape[1]
    if count >= width:
        values, cut = scores, scores.new_full((len(scores),), -torch.inf)
        places = torch.arange(width, device=scores.device).expand(len(scores), -1)
    elif scores.device.type not in _LOOKED_INTO and scores.dtype == torch.float32:
        places = width - 1 - (_top(_keys(scores), count + 1)[0] & _LOW)
        values = scores.gather(1, places)
        values, places, cut = values[:, :count], places[:, :count], values[:, count]
    else:
        values, places = _top(scores, count + 1)
        last, cut = values[:, count - 1], values[:, count]
        values, places = values[:, :count], places[:, :count]
        # ``topk`` promises no order among equals: where a tie crosses the border, choose again by position.
        tied = (last == cut) & (cut > -torch.inf)
        if bool(tied.any()):
            places[tied] = _lowest_of_ties(scores[tied], last[tied, None], count)
            values[tied] = scores[tied].gather(1, places[tied])
    positions, order = places.masked_fill(values == -torch.inf, width).sort(dim=1, stable=True)
    return positions.clamp_(max=width - 1), values.gather(1, order), cut


def _keys(scores: Tensor) -> Tensor:
    """Integers (B, M) that order like float32 scores, the lowest position first of equals, NaN above all.

    Bits of floats order like integers, those of negative ones the other way round. All keys are different, so that
    nobody has to look whether a tie crosses the border, which would wait for a GPU.
    """
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    rising = torch.where(scores.isnan(), torch.iinfo(torch.int32).max, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    backwards = torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    return (rising.long() << 32) | backwards


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` best of each row (B, M), best first, and their positions.

    Long rows in two stages: the best are in the groups whose best are best. Finding those takes one fast pass.
    """
    size = math.isqrt(scores.shape[1] // count)
    groups = scores.shape[1] // max(size, 1)
    if size < _LEAST_GROUP:
        values, places = scores.topk(count, dim=1)
        return values, places
    whole = scores[:, : groups * size]
    best = whole.view(len(scores), size, groups).amax(1).topk(count, dim=1).indices
    rest = torch.arange(groups * size, scores.shape[1], device=scores.device).expand(len(scores), -1)
    members = (best[:, None] + torch.arange(size, device=scores.device)[:, None] * groups).flatten(1)
    members = torch.cat([members, rest], dim=1)
    values, places = scores.gather(1, members).topk(count, dim=1)
    return values, members.gather(1, places)


def _lowest_of_ties(scores: Tensor, last: Tensor, count: int) -> Tensor:
    """As :func:`best_positions`, given the ``count``-th best score of each row: (B, M), (B, 1) -> (B, count)."""
    above = scores > last
    equal = scores == last
    room = count - above.sum(dim=1, keepdim=True)
    keep = above | (equal & (equal.cumsum(dim=1) <= room))
    return keep.nonzero()[:, 1].view(len(scores), count)


def rank_by_score(scores: Tensor) -> Tensor:
    """Order of each row, best first, equal scores by position. (B, M) -> (B, M) int64"""
    return scores.sort(dim=1, descending=True, stable=True).indices


def sorted_seen(positions: Tensor, limit: int) -> Tensor:
    """Seen positions as the functions below want them: increasing, each once, the rest behind the end.

    Args:
        positions: (B, S) int64; anything outside ``0..limit-1`` is padding.
    """
    seen = torch.where((positions < 0) | (positions >= limit), limit, positions).sort(dim=1).values
    repeated = torch.zeros_like(seen, dtype=torch.bool)
    repeated[:, 1:] = seen[:, 1:] == seen[:, :-1]
    seen = torch.where(repeated, limit, seen).sort(dim=1).values
    # Padding at limit + index keeps ``seen - index`` increasing, which nth_unseen relies on.
    index = torch.arange(seen.shape[1], device=seen.device)
    return torch.where(seen == limit, limit + index, seen).contiguous()


def nth_unseen(seen: Tensor, ranks: Tensor) -> Tensor:
    """Position of the ``rank``-th (from 0) position that is not seen: (B, S), (B, M) -> (B, M) int64.

    The i-th seen position s has s - i unseen ones before it, so the answer is the rank plus the number of seen
    positions with s - i <= rank.
    """
    unseen_before = seen - torch.arange(seen.shape[1], device=seen.device)
    return ranks + torch.searchsorted(unseen_before, ranks.contiguous(), right=True)


def stretches(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The stretches ``start : start + count`` one after the other: which one (E,) and where (E,) each element is."""
    owner = torch.repeat_interleave(count)
    return owner, torch.arange(len(owner), device=count.device) + (start - (count.cumsum(0) - count))[owner]


def is_in(items: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Whether each item is in the set of its own row: (Q, M), (Q, S) -> (Q, M) bool."""
    # One sorted array of (row, item) pairs, so that memory does not grow with M * S.
    highest = int(max(items.max(initial=0), sets.max(initial=0))) + 2
    offset = np.arange(len(items), dtype=np.int64)[:, None] * highest + 1  # -1 becomes the first of its row
    return np.isin(items + offset, sets + offset)
