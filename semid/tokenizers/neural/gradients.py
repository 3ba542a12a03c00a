"""How a gradient gets past the choice of the nearest centroid, which has none of its own.

Shapes: B vectors, d width. ``quantised`` carries no gradient; the result has its value.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Gradient = Literal["straight-through", "rotation"]
GRADIENTS: tuple[str, ...] = get_args(Gradient)


def pass_through(latents: Tensor, quantised: Tensor, gradient: str) -> Tensor:
    """The quantised vectors, differentiable with respect to the latents. (B, d)"""
    return rotated(latents, quantised) if gradient == "rotation" else straight_through(latents, quantised)


def straight_through(latents: Tensor, quantised: Tensor) -> Tensor:
    """The gradient of the quantised vector is that of the latent (arXiv 1308.3432). (B, d)"""
    return latents + (quantised - latents).detach()


def rotated(latents: Tensor, quantised: Tensor) -> Tensor:
    """The gradient turns and shrinks with the vector: the rotation trick (arXiv 2410.06424). (B, d)

    quantised = s R latents, where R is the rotation within the plane of the two and s the ratio of their lengths;
    both count as constants, so the gradient is s Rᵀ times that of the quantised vector. A vector that points against
    its latent has no such plane and gets the straight-through gradient.
    """
    constant = latents.detach()
    source, target = F.normalize(constant, dim=1), F.normalize(quantised, dim=1)
    middle = F.normalize(source + target, dim=1)
    scale = quantised.norm(dim=1, keepdim=True) / constant.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def along(direction: Tensor) -> Tensor:
        return (latents * direction).sum(1, keepdim=True)

    turned = scale * (latents - 2 * middle * along(middle) + 2 * target * along(source))
    plane = ((source + target).norm(dim=1, keepdim=True) > 1e-3) & (scale > 0)
    passed = torch.where(plane, turned, latents)
    return passed + (quantised - passed).detach()
