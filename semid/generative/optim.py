"""Optimiser and learning-rate schedule."""

import math

import torch
from torch import nn
from torch.optim import AdamW


def build_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> AdamW:
    """AdamW (arXiv 1711.05101); matrices decay, embedding tables, norms and biases do not."""
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2 and id(p) not in tables]
    kept = [p for p in parameters if p.ndim < 2 or id(p) in tables]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def learning_rate_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    warmup = max(1, round(total_steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(1, total_steps - warmup), 1.0)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def matrix_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: ``"float32"``, ``"bfloat16"``, or ``"auto"`` for the faster one here.

    bf16 is the faster one on GPUs and on CPUs with bf16 matrix or dot-product units.
    """
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16" or device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if _has_bf16_units() else torch.float32


def _has_bf16_units() -> bool:
    """Whether the CPU multiplies bf16 matrices natively; torch keeps these probes private and may rename them."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(hasattr(torch.cpu, probe) and getattr(torch.cpu, probe)() for probe in probes)
