"""Mixture of experts as in DeepSeek-V3 (arXiv 2412.19437, §2.1.2): shared and routed SwiGLU experts.

Scores are sigmoids; each token takes the top k experts by score + bias, weighted by the scores alone. The
bias is not learned: after each step it moves by ``bias_rate`` towards the experts that got too few tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semid.errors import InputError
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
        bias_rate: step of the load-balancing bias.
    """

    num_experts: int = 8
    experts_per_token: int = 2
    hidden: int = 256
    shared_hidden: int = 256
    routed_scale: float = 1.0
    bias_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise InputError(
                f"experts_per_token={self.experts_per_token} must be between 1 and num_experts={self.num_experts}."
            )


class MoE(nn.Module):
    """Routed experts plus a shared one, over (..., D)."""

    bias: Tensor
    load: Tensor

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(width, config.num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(width, config.hidden) for _ in range(config.num_experts))
        self.shared = SwiGLU(width, config.shared_hidden) if config.shared_hidden else None
        self.register_buffer("bias", torch.zeros(config.num_experts))
        self.register_buffer("load", torch.zeros(config.num_experts), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        expert_Tk, weight_Tk = self.route(tokens)
        # Tokens sorted by expert: each expert is one dense product over its own rows.
        order = expert_Tk.flatten().argsort(stable=True)
        counts = torch.bincount(expert_Tk.flatten(), minlength=self.config.num_experts)
        if self.training:
            self.load += counts
        source = order // self.config.experts_per_token
        parts = torch.split(tokens[source], counts.tolist())
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        weighted = outputs * weight_Tk.flatten()[order, None].to(outputs.dtype)
        result = torch.zeros_like(tokens, dtype=weighted.dtype).index_add(0, source, weighted)
        if self.shared is not None:
            result = result + self.shared(tokens)
        return result.to(x.dtype).view_as(x)

    def route(self, tokens_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Experts (T, k) of each token and their weights (T, k), in float32 whatever the autocast dtype."""
        with torch.autocast(tokens_TD.device.type, enabled=False):
            score_TE = torch.sigmoid(tokens_TD.float() @ self.router.weight.float().T)
        expert_Tk = (score_TE + self.bias).topk(self.config.experts_per_token, dim=-1).indices
        weight_Tk = score_TE.gather(1, expert_Tk)
        weight_Tk = weight_Tk / (weight_Tk.sum(-1, keepdim=True) + 1e-20) * self.config.routed_scale
        return expert_Tk, weight_Tk

    @torch.no_grad()
    def balance(self) -> None:
        """Move the bias by the sign of each expert's shortfall since the last call; call after a step."""
        self.bias += self.config.bias_rate * torch.sign(self.load.mean() - self.load)
        self.load.zero_()
