"""What every quantiser of the family offers, so that collisions, reports and the tokenizer need to know no more."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from semid.progress import Progress


class Quantiser(Protocol):
    """Vectors to L codes each, and back.

    All members of the family are *additive* in a latent space of their own: the codes of a vector stand for the sum
    of one centroid a level there. k-means has the vectors themselves as latents, an auto-encoder the output of its
    encoder; the centroids of a product quantiser are zero outside their own part of the space.

    Attributes:
        codebooks_: L arrays (K_l, d) float32 in the latent space.
    """

    codebooks_: list[np.ndarray]

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        ...

    def fit(
        self, vectors: np.ndarray, *, side: np.ndarray | None = None, progress: Progress | None = None
    ) -> "Quantiser":
        """Fit to (N, D) float32 vectors.

        Args:
            vectors: what to quantise, all in memory.
            side: (N, C) float32 vectors of the same items from behaviour, for those that use them; rows of zeros
                where there is none.
            progress: told where the fit stands.

        Raises:
            InputError: fewer vectors than codes at a level, or a setting that the vectors do not fit.
        """
        ...

    def latents(self, vectors: np.ndarray) -> np.ndarray:
        """(N, d) float32 points that the centroids approximate."""
        ...

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of (N, D) float32 vectors, not made unique: (N, L) int32."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (N, D) float32 vectors that (N, L) codes stand for; columns beyond the L levels add nothing."""
        ...

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The fitted state; the class reads it back with ``from_arrays(config, arrays)``."""
        ...

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Quantiser":
        """Take over the state that :meth:`to_arrays` of a quantiser with the same configuration gave."""
        ...
