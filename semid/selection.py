"""Top k with ties broken by position, and the arithmetic of filtering out what a query has already seen.

Both searches build on it: the beam over the trie and the blocked exact search. Positions stand for places in
some fixed order (sorted leaves, sorted item rows, popularity), so "lowest position first" is a total order.
Everything is batched over rows; what takes tensors works on any device.
"""

import numpy as np
import torch
from torch import Tensor


def best_positions(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Positions of the ``count`` best scores of each row, in increasing order of position.

    Of equal scores the lowest positions are taken, except among -inf, where the choice is free.

    Args:
        scores: (B, M) floats without NaN, ``count <= M``.

    Returns:
        positions (B, count) int64, and the best score that was left out (B,), -inf where none was.
    """
    width = scores.shape[1]
    if count >= width:
        everything = torch.arange(width, device=scores.device).expand(len(scores), -1)
        return everything, scores.new_full((len(scores),), -torch.inf)
    top = scores.topk(count + 1, dim=1)
    last, cut = top.values[:, count - 1], top.values[:, count]
    positions = top.indices[:, :count].sort(dim=1).values
    # ``topk`` promises no order among equals: where a tie crosses the border, choose again by position.
    tied = (last == cut) & (cut > -torch.inf)
    if bool(tied.any()):
        positions[tied] = _lowest_of_ties(scores[tied], last[tied, None], count)
    return positions, cut


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


def seen_before(seen: Tensor, positions: Tensor) -> Tensor:
    """How many seen positions lie below each of ``positions``: (B, S), (B, M) -> (B, M) int64."""
    return torch.searchsorted(seen, positions.contiguous())


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
