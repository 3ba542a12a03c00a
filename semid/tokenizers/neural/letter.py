"""LETTER's losses during a training: the map to the side vectors, and clusters of centroids kept up to date.

Shapes: B vectors, N items, C width of the side vectors.
"""

import numpy as np
import torch
from torch import Tensor, nn

from semid.errors import InputError
from semid.tokenizers.checks import check_finite
from semid.tokenizers.clustering.balanced import fit_balanced
from semid.tokenizers.clustering.kmeans import KMeansConfig
from semid.tokenizers.neural.codebooks import Quantised, ResidualCodebooks
from semid.tokenizers.neural.losses import collaborative_loss, diversity_loss

# Steps after which the centroids have moved enough to be clustered anew, and passes of the clustering.
_CLUSTER_EVERY = 50
_CLUSTER_PASSES = 5


class CollaborativeTerm:
    """Quantised latents agree with the side vectors of their items.

    Args:
        dim: width of the latents; where the side vectors have another, a linear map is learned beside the network.
        side: (N, C) of the items; rows of zeros where there is none.
        temperature: see ``losses.py``.
        device: where to compute.
    """

    def __init__(self, dim: int, side: np.ndarray, temperature: float, device: torch.device) -> None:
        self.side = torch.tensor(side, dtype=torch.float32, device=device)
        self.temperature = temperature
        width = side.shape[1]
        self.projection = nn.Parameter(torch.eye(dim, width, device=device)) if width != dim else None

    @property
    def parameters(self) -> list[Tensor]:
        return [] if self.projection is None else [self.projection]

    def loss(self, rows: Tensor, quantised: Quantised) -> Tensor:
        """Of the (B,) rows of a batch."""
        projected = quantised.total if self.projection is None else quantised.total @ self.projection
        return collaborative_loss(projected, self.side[rows], self.temperature)


class DiversityTerm:
    """Centroids are drawn to those of their cluster and away from others, so that codes are used alike.

    Args:
        codebooks: whose centroids.
        num_clusters: clusters of each codebook, of like size.
        temperature: see ``losses.py``.
        generator: of the choice of pairs, on the CPU.
    """

    def __init__(
        self, codebooks: ResidualCodebooks, num_clusters: int, temperature: float, generator: torch.Generator
    ) -> None:
        self.codebooks = codebooks
        self.num_clusters, self.temperature, self.generator = num_clusters, temperature, generator
        self._clusters: list[Tensor] = []
        self._steps = 0

    def loss(self, quantised: Quantised) -> Tensor:
        """Mean over the levels."""
        if self._steps % _CLUSTER_EVERY == 0:
            self._clusters = [self._cluster(book) for book in self.codebooks.arrays()]
        self._steps += 1
        losses = [
            diversity_loss(book, quantised.codes[:, level], clusters, self.temperature, self.generator)
            for level, (book, clusters) in enumerate(zip(self.codebooks.books, self._clusters, strict=True))
        ]
        return torch.stack(losses).mean()

    def _cluster(self, book: np.ndarray) -> Tensor:
        num_clusters = min(self.num_clusters, len(book))
        config = KMeansConfig(num_codes=num_clusters, iterations=_CLUSTER_PASSES)
        return torch.from_numpy(fit_balanced(book, config)[1].astype(np.int64))


def check_side(side: np.ndarray | None, num_vectors: int) -> np.ndarray:
    """The side vectors.

    Raises:
        InputError: none, other rows than the vectors, NaN or infinity.
    """
    if side is None:
        raise InputError("The collaborative loss needs side vectors of the items: give some or set its weight to 0.")
    if side.ndim != 2 or len(side) != num_vectors:
        raise InputError(
            f"The side vectors have the shape {side.shape}: give one row for each of {num_vectors} items."
        )
    check_finite(side, "side vectors")
    return side
