"""Losses: full softmax over the catalogue in chunks, sampled softmax with log-q correction, action.

P positions, N items or bank entries, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Rows of the logits held at one time: about 16 MB of float32, small enough to stay in cache.
_CHUNK_ELEMENTS = 1 << 22


class _FullSoftmax(torch.autograd.Function):
    """Σ_p w_p · −log softmax(scale · h_p · Eᵀ)[target_p], without ever storing P × N logits.

    The gradient of a chunk is formed while its softmax is at hand, so backward only multiplies by a number.
    """

    @staticmethod
    def forward(
        context: Any,
        states: Tensor,
        items: Tensor,
        scale: Tensor,
        targets: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        rows = max(_CHUNK_ELEMENTS // len(items), 1)
        scaled, columns = (states * scale).to(dtype), items.to(dtype)
        total = torch.zeros((), dtype=states.dtype, device=states.device)
        state_gradient = torch.empty_like(scaled)
        item_gradient = torch.zeros_like(items)
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            logits = (scaled[part] @ columns.T).to(states.dtype)
            own = logits.gather(1, targets[part, None])
            peak = logits.amax(dim=1, keepdim=True)
            mass = logits.sub_(peak).exp_().sum(dim=1, keepdim=True)
            total += (weights[part, None] * (mass.log() + peak - own)).sum()
            probability = logits.mul_(weights[part, None] / mass)
            probability.scatter_add_(1, targets[part, None], -weights[part, None])
            probability = probability.to(dtype)
            torch.mm(probability, columns, out=state_gradient[part])
            item_gradient += (probability.T @ scaled[part]).to(items.dtype)
        state_gradient = state_gradient.to(states.dtype)
        context.save_for_backward(
            state_gradient * scale, item_gradient, (state_gradient * states).sum().to(scale.dtype)
        )
        return total

    @staticmethod
    def backward(context: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        states, items, scale = context.saved_tensors
        return upstream[0] * states, upstream[0] * items, upstream[0] * scale, None, None, None


def full_softmax_loss(
    states: Tensor,
    items: Tensor,
    scale: Tensor,
    targets: Tensor,
    weights: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Mean cross-entropy of each target among all items, computed in chunks.

    Args:
        states: (P, D) unit vectors.
        items: (N, D) unit vectors.
        scale: scalar, one over the temperature.
        targets: (P,) int64 rows of ``items``.
        weights: (P,) weight of each position; the result is divided by their sum.
        dtype: of the matrix products; that of ``states`` by default.
    """
    arguments = (states, items, scale, targets, weights, dtype or states.dtype)
    total: Tensor = _FullSoftmax.apply(*arguments)  # type: ignore[no-untyped-call]
    return total / weights.sum()


def sampled_softmax_loss(
    states: Tensor,
    targets: Tensor,
    bank: Tensor,
    bank_rows: Tensor,
    log_expected: Tensor,
    scale: Tensor,
    weights: Tensor,
    *,
    histories: Tensor | None = None,
    bank_histories: Tensor | None = None,
) -> Tensor:
    """Softmax over a bank of sampled items, corrected for how they were sampled (Yi et al., RecSys 2019).

    Each negative's logit has the logarithm of the expected number of times its item stands in the bank taken
    off, which makes the bank an unbiased stand-in for the catalogue whatever mixture of proposals filled it.
    The positive is there for certain, so nothing is taken off it (arXiv 2507.09331). Entries that are the
    target itself, or that come from the same history, do not count as negatives.

    Args:
        states: (P, D) unit vectors; position p's positive is bank entry p.
        targets: (P,) int64 item rows.
        bank: (M, D) unit vectors, the P positives first.
        bank_rows: (M,) int64 item rows of the bank.
        log_expected: (M,) log of the expected count of each entry's item.
        scale: scalar, one over the temperature.
        weights: (P,).
        histories, bank_histories: (P,) and (M,) history numbers, -1 for entries of none.
    """

    def part_of_total(part: slice) -> Tensor:
        logits = (states[part] @ bank.T).float() * scale
        own = (states[part] * bank[: len(states)][part]).sum(-1, keepdim=True).float() * scale
        excluded = bank_rows[None, :] == targets[part, None]
        if histories is not None and bank_histories is not None:
            excluded |= bank_histories[None, :] == histories[part, None]
        logits = (logits - log_expected).masked_fill(excluded, -torch.inf)
        losses = torch.logsumexp(torch.cat([own, logits], dim=1), dim=1) - own[:, 0]
        return (losses * weights[part]).sum()

    # Each chunk is computed again for its gradient, so positions × bank is never stored.
    rows = max(_CHUNK_ELEMENTS // len(bank), 1)
    chunks = [slice(first, first + rows) for first in range(0, len(states), rows)]
    total = torch.stack([checkpoint(part_of_total, chunk, use_reentrant=False) for chunk in chunks]).sum()
    return total / weights.sum()


def action_loss(logits: Tensor, actions: Tensor) -> Tensor:
    """Mean cross-entropy of the next action over the positions where it is known.

    Args:
        logits: (P, A).
        actions: (P,) int64, 0 where unknown, otherwise action + 1.
    """
    known = actions > 0
    losses = F.cross_entropy(logits.float(), (actions - 1).clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
