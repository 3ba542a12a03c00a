"""Optimisers, clipping and learning-rate schedule."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, SparseAdam

_BETAS = (0.9, 0.98)


class Optimizers:
    """Each weight with the optimiser that suits it, stepping together.

    Tables whose gradients are sparse take steps of Adam in the rows that a batch touched, and only there. Everything
    else has AdamW (arXiv 1711.05101). Matrices decay, stacked ones too; embedding tables, norms and biases do not.

    Args:
        model: its gradients are read.
        learning_rate: peak, of both.
        weight_decay: of matrices.
    """

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate = learning_rate
        self.names = {id(weight): name for name, weight in model.named_parameters()}
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        tables = {id(module.weight) for module in embeddings}
        by_row = {id(module.weight) for module in embeddings if module.sparse}
        matrices = [weight for weight in weights if weight.ndim >= 2 and id(weight) not in tables]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": [w for w in weights if w.ndim < 2 or id(w) in tables - by_row], "weight_decay": 0.0},
        ]
        self.parts: list[Optimizer] = [AdamW(groups, lr=learning_rate, betas=_BETAS, fused=True)]
        sparse = [weight for weight in weights if id(weight) in by_row]
        if sparse:
            self.parts.append(SparseAdam(sparse, lr=learning_rate, betas=_BETAS))

    def set_rate(self, factor: float) -> float:
        """Make the learning rate that share of its peak; returns it."""
        rate = self.learning_rate * factor
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
        return rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Change the weights by their gradients."""
        for part in self.parts:
            part.step()

    def state(self) -> dict[str, Tensor]:
        """What :meth:`load` needs to go on as if nothing had been, by weight and name."""
        return {
            f"{self.names[id(weight)]}/{key}": torch.as_tensor(value)
            for part in self.parts
            for weight, entry in part.state.items()
            for key, value in entry.items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`, for the same model."""
        entries: dict[str, dict[str, Any]] = {}
        for name, value in state.items():
            weight, _, key = name.rpartition("/")
            entries.setdefault(weight, {})[key] = value if value.is_floating_point() else value.item()
        for part in self.parts:
            weights = [weight for group in part.param_groups for weight in group["params"]]
            numbered = {
                number: entries[self.names[id(weight)]]
                for number, weight in enumerate(weights)
                if self.names[id(weight)] in entries
            }
            part.load_state_dict({**part.state_dict(), "state": numbered})


def clip_gradients(weights: Iterable[Tensor], most: float) -> Tensor:
    """Scale all gradients so that their common norm is at most ``most``; returns what it was.

    Sparse gradients count with the sum over each row's entries.
    """
    values = []
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
            values.append(weight.grad._values())
        elif weight.grad is not None:
            values.append(weight.grad)
    norm: Tensor = torch.nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def learning_rate_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    warmup = max(1, round(total_steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(1, total_steps - warmup), 1.0)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
