"""A residual vector quantiser inside a network: nearest centroids level by level, their losses, dead ones revived.

Shapes: B vectors, L levels, K centroids, d width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from semid.tokenizers.neural.gradients import pass_through


@dataclass(frozen=True, slots=True)
class Quantised:
    """A batch after the codebooks.

    Attributes:
        codes: (B, L) int64.
        total: (B, d) sum of the centroids, differentiable with respect to the latents.
        loss: mean over the batch of Σ_l ‖sg(r) − e‖² + β ‖r − sg(e)‖², over d.
    """

    codes: Tensor
    total: Tensor
    loss: Tensor


class Bottleneck(nn.Module, ABC):
    """Turns latents into codes and the points they stand for."""

    @abstractmethod
    def forward(self, latents: Tensor) -> Quantised:
        """Quantise (B, d) latents."""

    @abstractmethod
    def arrays(self) -> list[np.ndarray]:
        """A copy of the codebooks: L arrays (K_l, d) float32."""


class ResidualCodebooks(Bottleneck):
    """L codebooks, each of the residuals that those before it leave (arXiv 2203.01941, as in TIGER, 2305.05065).

    Args:
        num_codes: K of each level.
        dim: d.
        commitment: β, how much the latents are drawn to their centroids.
        gradient: see ``gradients.py``.
    """

    def __init__(self, num_codes: Sequence[int], dim: int, *, commitment: float, gradient: str) -> None:
        super().__init__()
        self.books = nn.ParameterList(torch.zeros(size, dim) for size in num_codes)
        self.commitment = commitment
        self.gradient = gradient
        self._used = [torch.zeros(size, dtype=torch.bool) for size in num_codes]

    def set(self, books: Sequence[np.ndarray]) -> None:
        """Take L arrays (K_l, d) as codebooks."""
        with torch.no_grad():
            for own, book in zip(self.books, books, strict=True):
                own.copy_(torch.from_numpy(book))

    def arrays(self) -> list[np.ndarray]:
        """A copy of the codebooks: L arrays (K_l, d) float32."""
        return [book.detach().cpu().numpy().copy() for book in self.books]

    def forward(self, latents: Tensor) -> Quantised:
        """Quantise (B, d) latents."""
        total = torch.zeros_like(latents).detach()
        loss = latents.new_zeros(())
        codes = []
        for book, used in zip(self.books, self._used, strict=True):
            residuals = latents - total
            nearest = nearest_centroids(residuals.detach(), book.detach())
            used[nearest.cpu()] = True
            centroids = nn.functional.embedding(nearest, book)
            to_codebook = (residuals.detach() - centroids).square().mean(1).mean()
            to_latents = (residuals - centroids.detach()).square().mean(1).mean()
            loss = loss + to_codebook + self.commitment * to_latents
            total = total + centroids.detach()
            codes.append(nearest)
        return Quantised(torch.stack(codes, 1), pass_through(latents, total, self.gradient), loss)

    @torch.no_grad()
    def restart(self, latents: Tensor, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> int:
        """Put each centroid that no latent was nearest to since the last call onto a random residual of its level.

        Args:
            latents: (B, d) to take the residuals from.
            optimiser: forgets what it knew of these centroids.
            generator: of the choice, on the CPU.

        Returns:
            How many centroids were moved.
        """
        residuals, moved = latents, 0
        for book, used in zip(self.books, self._used, strict=True):
            dead = torch.nonzero(~used).flatten()
            rows = torch.randint(len(latents), (len(dead),), generator=generator)
            book[dead.to(book.device)] = residuals[rows.to(book.device)]
            for moment in optimiser.state[book].values():
                if moment.shape == book.shape:
                    moment[dead.to(book.device)] = 0
            used.zero_()
            moved += len(dead)
            residuals = residuals - book[nearest_centroids(residuals, book)]
        return moved


def nearest_centroids(vectors: Tensor, book: Tensor) -> Tensor:
    """The nearest of (K, d) centroids to each of (B, d) vectors: (B,) int64."""
    return torch.addmm(book.square().sum(1), vectors, book.T, alpha=-2).argmin(1)
