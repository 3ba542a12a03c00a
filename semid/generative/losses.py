"""Losses: softmax over a bank of items in chunks, whole catalogue or sampled with log-q correction; action.

P positions, M bank entries, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.selection import stretches

# Entries of the logits held at one time: on a CPU 8 MB of float32, small enough to stay in cache.
_CHUNK_ELEMENTS = 1 << 21
_GPU_CHUNK_ELEMENTS = 1 << 27
# With fewer positions at a time, adding to the gradient of a large bank would take longer than its products.
_LEAST_ROWS = 128

Pairs = tuple[Tensor, Tensor]


class _SoftmaxLoss(torch.autograd.Function):
    """Σ_p share_p · −log softmax over the bank of the logits of p at its own entry, each 1 where no shares are given.

    P × M logits are never stored.

    The gradient of a chunk is formed while its softmax is at hand, so backward only multiplies by a number.
    """

    @staticmethod
    def forward(
        context: Any,
        states: Tensor,
        bank: Tensor,
        scale: Tensor,
        own: Tensor,
        share: Tensor | None,
        offset: Tensor | None,
        excluded: Pairs | None,
        dtype: torch.dtype,
    ) -> Tensor:
        elements = _GPU_CHUNK_ELEMENTS if states.is_cuda else _CHUNK_ELEMENTS
        rows = max(elements // len(bank), _LEAST_ROWS)
        firsts = range(0, len(states), rows)
        bounds = _bounds(excluded, firsts, len(states))
        scaled, columns = (states * scale).to(dtype), bank.to(dtype)
        total = torch.zeros((), dtype=states.dtype, device=states.device)
        state_gradient = torch.empty_like(scaled)
        bank_gradient = torch.zeros_like(bank)
        for first, begin, end in zip(firsts, bounds[:-1], bounds[1:], strict=True):
            part = slice(first, first + rows)
            place = own[part, None]
            logits = (scaled[part] @ columns.T).to(states.dtype)
            positive = logits.gather(1, place)
            if offset is not None:
                logits -= offset
            if excluded is not None:
                pairs = (excluded[0][begin:end] - first) * len(bank) + excluded[1][begin:end]
                logits.view(-1).index_fill_(0, pairs, -torch.inf)
            logits.scatter_(1, place, positive)  # is there for certain: neither corrected nor excluded
            peak = logits.amax(dim=1, keepdim=True)
            mass = logits.sub_(peak).exp_().sum(dim=1, keepdim=True)
            lost = mass.log() + peak - positive
            total += (lost if share is None else lost * share[part, None]).sum()
            probability = logits.div_(mass)
            probability.scatter_add_(1, place, torch.full_like(peak, -1.0))
            if share is not None:
                probability *= share[part, None]
            probability = probability.to(dtype)
            torch.mm(probability, columns, out=state_gradient[part])
            bank_gradient += (probability.T @ scaled[part]).to(bank.dtype)
        state_gradient = state_gradient.to(states.dtype)
        context.save_for_backward(
            state_gradient * scale, bank_gradient, (state_gradient * states).sum().to(scale.dtype)
        )
        return total

    @staticmethod
    def backward(context: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        states, bank, scale = context.saved_tensors
        gradients = (upstream[0] * states, upstream[0] * bank, upstream[0] * scale)
        return *gradients, None, None, None, None, None


def softmax_loss(
    states: Tensor,
    bank: Tensor,
    scale: Tensor,
    own: Tensor,
    *,
    log_expected: Tensor | None = None,
    excluded: Pairs | None = None,
    weights: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Mean cross-entropy of each position's own item among a bank of items, computed in chunks.

    The bank may be the whole catalogue. Where it is a sample, each negative's logit has the logarithm of the expected
    number of times its item stands in the bank taken off (Yi et al., RecSys 2019), which makes the bank an unbiased
    stand-in for the catalogue whatever mixture of proposals filled it. The positive is there for certain, so nothing
    is taken off it (arXiv 2507.09331).

    Args:
        states: (P, D) unit vectors.
        bank: (M, D) unit vectors.
        scale: scalar, one over the temperature.
        own: (P,) int64, the bank entry of each position's positive.
        log_expected: (M,) log of the expected count of each entry's item; nothing is corrected without it.
        excluded: (E,) positions in ascending order and (E,) entries that do not count as negatives for them.
        weights: (P,) of the positions in the mean; all alike without them.
        dtype: of the matrix products; that of ``states`` by default.
    """
    share = None if weights is None else shares(weights, len(states), states)
    arguments = (states, bank, scale, own, share, log_expected, excluded)
    total: Tensor = _SoftmaxLoss.apply(*arguments, dtype or states.dtype)  # type: ignore[no-untyped-call]
    return total / len(states) if share is None else total


def shares(weights: Tensor | None, count: int, like: Tensor) -> Tensor:
    """(P,) what each position counts in a weighted mean; nothing where all weights are 0."""
    if weights is None:
        return like.new_full((count,), 1 / max(count, 1))
    return (weights / weights.sum().clamp(min=1e-12)).to(like.dtype)


def pair_loss(
    states: Tensor,
    positives: Tensor,
    negatives: Tensor,
    scale: Tensor,
    *,
    weights: Tensor | None = None,
    binary: bool = False,
) -> Tensor:
    """Mean loss where each position has a positive (P, D) and negatives (P, n, D) of its own.

    Args:
        states: (P, D).
        binary: −log σ(positive) − mean log σ(−negatives), as in SASRec (arXiv 1808.09781); otherwise softmax
            cross-entropy among the positive and its negatives.
    """
    positive = (states * positives).sum(-1, keepdim=True) * scale
    negative = (negatives @ states[:, :, None])[..., 0] * scale
    if binary:
        losses = F.softplus(-positive[:, 0]) + F.softplus(negative).mean(1)
    else:
        logits = torch.cat([positive, negative], dim=1)
        losses = torch.logsumexp(logits, dim=1) - positive[:, 0]
    return (shares(weights, len(states), losses) * losses).sum()


def _bounds(excluded: Pairs | None, firsts: range, count: int) -> list[int]:
    """Where the pairs of each chunk of positions begin, and the end of the last."""
    if excluded is None:
        return [0] * (len(firsts) + 1)
    edges = torch.tensor([*firsts, count], device=excluded[0].device)
    bounds: list[int] = torch.searchsorted(excluded[0], edges).tolist()
    return bounds


def equal_pairs(keys: Tensor, entries: Tensor) -> Pairs:
    """All pairs of a position and an entry with the same number: positions ascending (E,), entries (E,).

    Args:
        keys: (P,) int64.
        entries: (M,) int64.
    """
    values, order = torch.sort(entries)
    start = torch.searchsorted(values, keys)
    count = torch.searchsorted(values, keys, right=True) - start
    positions, places = stretches(start, count)
    return positions, order[places]


def action_loss(logits: Tensor, actions: Tensor) -> Tensor:
    """Mean cross-entropy of the next action over the positions where it is known.

    Args:
        logits: (P, A).
        actions: (P,) int64, 0 where unknown, otherwise action + 1.
    """
    known = actions > 0
    losses = F.cross_entropy(logits.float(), (actions - 1).clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
