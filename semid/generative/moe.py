"""Mixture of experts as in DeepSeek-V3 (arXiv 2412.19437, §2.1.2): shared and routed SwiGLU experts.

Scores are sigmoids; each token takes the top k experts by score + bias, weighted by the scores alone. The
bias is not learned: after each step it moves by ``bias_rate`` towards the experts that got too few tokens.

Shapes: B rows, S tokens of a row, T = B · S tokens, D width, E experts, k of them for a token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semid.errors import InputError
from semid.generative.experts import Experts, count_choices
from semid.generative.layers import SwiGLU


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Experts of one feed-forward layer.

    Attributes:
        num_experts: routed experts E.
        experts_per_token: k.
        hidden: width inside each routed expert.
        shared_hidden: width inside the shared expert that sees every token; 0 for none.
        routed_scale: factor on the normalised weights of the routed experts.
        bias_rate: step of the load-balancing bias; 0 leaves the load as it falls.
        sequence_loss: α of the loss that evens out the load within each sequence, where it is wanted beside the
            bias; DeepSeek-V3 has 1e-4.
    """

    num_experts: int = 8
    experts_per_token: int = 2
    hidden: int = 256
    shared_hidden: int = 256
    routed_scale: float = 1.0
    bias_rate: float = 1e-3
    sequence_loss: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise InputError(
                f"experts_per_token={self.experts_per_token} must be between 1 and num_experts={self.num_experts}."
            )
        if self.hidden < 1 or self.shared_hidden < 0:
            raise InputError(
                f"hidden={self.hidden} must be at least 1, and shared_hidden={self.shared_hidden} at least 0."
            )
        if not 0 < self.routed_scale < math.inf:
            raise InputError(f"routed_scale={self.routed_scale} must be above 0 and finite.")
        for name in ("bias_rate", "sequence_loss"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0 and finite.")


class MoE(nn.Module):
    """Routed experts plus a shared one, over (..., S, D).

    Attributes:
        balance_loss: of the last forward pass, ready to be added to the loss; None in evaluation and where
            ``sequence_loss`` is 0.
        bias: (E,) what the choice of experts adds to their scores.
        load: (E,) int64, choices of each expert in training since the last :meth:`balance`.
    """

    bias: Tensor
    load: Tensor
    epoch_load: Tensor

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(width, config.num_experts, bias=False)
        self.experts = Experts(width, config.hidden, config.num_experts)
        self.shared = SwiGLU(width, config.shared_hidden) if config.shared_hidden else None
        self.balance_loss: Tensor | None = None
        self.register_buffer("bias", torch.zeros(config.num_experts))
        nothing = torch.zeros(config.num_experts, dtype=torch.int64)
        self.register_buffer("load", nothing, persistent=False)
        self.register_buffer("epoch_load", nothing.clone())  # a training that goes on within an epoch has it

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """The experts' sum for each token, of the shape of x.

        Args:
            x: (..., S, D).
            segments: (..., S) integers, equal among neighbours of one sequence, negative on padding, which counts
                neither as load nor in the loss. Without it each row is a sequence.
        """
        tokens = x.reshape(-1, x.shape[-1])
        score_TE = self._scores(tokens)
        expert_Tk, weight_Tk = self._choose(score_TE)
        if self.training:
            self._count(expert_Tk, segments)
        self.balance_loss = None
        if self.training and self.config.sequence_loss:
            rows = x.new_zeros(x.shape[:-1], dtype=torch.int64) if segments is None else segments
            loss = sequence_balance_loss(score_TE, rows.reshape(-1, x.shape[-2]), self.config.experts_per_token)
            self.balance_loss = self.config.sequence_loss * loss
        if torch.is_autocast_enabled(x.device.type):  # once for all products
            tokens = tokens.to(torch.get_autocast_dtype(x.device.type))
        result: Tensor = self.experts(tokens, expert_Tk, weight_Tk)
        if self.shared is not None:
            result = result + self.shared(tokens)
        return result.to(x.dtype).view_as(x)

    def route(self, tokens_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Experts (T, k) of each token and their weights (T, k), in float32 whatever the autocast dtype."""
        return self._choose(self._scores(tokens_TD))

    def _scores(self, tokens_TD: Tensor) -> Tensor:
        dtype = torch.promote_types(tokens_TD.dtype, torch.float32)
        with torch.autocast(tokens_TD.device.type, enabled=False):
            return torch.sigmoid(tokens_TD.to(dtype) @ self.router.weight.to(dtype).T)

    def _choose(self, score_TE: Tensor) -> tuple[Tensor, Tensor]:
        expert_Tk = (score_TE + self.bias).topk(self.config.experts_per_token, dim=-1).indices
        weight_Tk = score_TE.gather(1, expert_Tk)
        weight_Tk = weight_Tk / (weight_Tk.sum(-1, keepdim=True) + 1e-20) * self.config.routed_scale
        return expert_Tk, weight_Tk

    @torch.no_grad()
    def _count(self, expert_Tk: Tensor, segments: Tensor | None) -> None:
        real = None if segments is None else (segments.reshape(-1, 1) >= 0).expand_as(expert_Tk).flatten()
        counts = count_choices(expert_Tk.flatten(), self.config.num_experts, real)
        self.load += counts
        self.epoch_load += counts

    @torch.no_grad()
    def balance(self) -> None:
        """Move the bias by the sign of each expert's shortfall since the last call; call after a step."""
        load = self.load.float()
        self.bias += self.config.bias_rate * torch.sign(load.mean() - load)
        self.load.zero_()

    def take_load(self) -> Tensor:
        """Choices of each expert in training since the last call, (E,) int64; they are forgotten here."""
        taken = self.epoch_load.clone()
        self.epoch_load.zero_()
        return taken


def sequence_balance_loss(score_TE: Tensor, segments_BS: Tensor, k: int) -> Tensor:
    """Mean over sequences of Σ_e f_e · P_e (arXiv 2412.19437, formulas 17 to 20); 1 where the load is even.

    f_e is the share of a sequence's tokens among whose k best scores e is, times E / k, without the bias and without
    a gradient; P_e is the mean of e's share in the sum of a token's scores.

    Args:
        score_TE: scores of the experts, above 0; T = B · S.
        segments_BS: as :meth:`MoE.forward` takes it.
        k: experts of a token.
    """
    num_tokens, num_experts = score_TE.shape
    begins = torch.ones_like(segments_BS, dtype=torch.bool)
    begins[:, 1:] = segments_BS[:, 1:] != segments_BS[:, :-1]
    sequence = begins.flatten().cumsum(0) - 1
    real = (segments_BS.reshape(-1, 1) >= 0).to(score_TE.dtype)
    best = torch.zeros_like(score_TE).scatter_(1, score_TE.topk(k, dim=-1).indices, 1.0)
    share = score_TE / (score_TE.sum(-1, keepdim=True) + 1e-20)
    columns = torch.cat([best * real, share * real, real], dim=-1)
    # There are at most as many sequences as tokens: how many exactly, only the device knows.
    sums = columns.new_zeros(num_tokens, columns.shape[1]).index_add(0, sequence, columns)
    chosen, probability, length = torch.split(sums, [num_experts, num_experts, 1], dim=-1)
    losses = (chosen * probability).sum(-1) * num_experts / (k * length[:, 0].clamp(min=1) ** 2)
    mean: Tensor = losses.sum() / (length > 0).sum().clamp(min=1)
    return mean


def load_facts(loads: Sequence[Tensor]) -> dict[str, Any]:
    """What a training log holds about the load (E,) of each layer.

    Returns:
        By layer: ``expert_share``, E shares of the choices; ``max_violation``, by how much the busiest expert
        exceeds the mean load, over the mean (MaxVio of arXiv 2408.15664): 0 where the load is even, E / k − 1 at
        worst; ``dead_experts``, how many had no token.
    """
    shares = [load.double() / load.sum().clamp(min=1) for load in loads]
    return {
        "expert_share": [[round(value, 4) for value in share.tolist()] for share in shares],
        "max_violation": [round(max(float(share.max()) * len(share) - 1, 0.0), 4) for share in shares],
        "dead_experts": [int((load == 0).sum()) for load in loads],
    }


def dead_experts_warning(loads: Sequence[Tensor]) -> str | None:
    """A sentence on the experts of each layer that had no token, or None if all had some."""
    dead = {layer: (load == 0).nonzero()[:, 0].tolist() for layer, load in enumerate(loads)}
    named = [f"{', '.join(map(str, experts))} of layer {layer}" for layer, experts in dead.items() if experts]
    if not named:
        return None
    return f"No token was routed to experts {'; '.join(named)}: raise bias_rate, or use fewer experts."
