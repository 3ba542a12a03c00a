"""All vectors in the coordinates of a screen, computed once and used by start and passes alike.

Shapes: N vectors, D width, d dimensions of the head.
"""

from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.clustering.screening import Frame, Points, make_frame, project
from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

_TILE_ROWS = 2048
# Vectors that show shift and scale.
_PROBES = 1024


@dataclass(frozen=True, slots=True)
class Projection:
    """N vectors and the frame they are in."""

    frame: Frame
    points: Points

    @property
    def heads(self) -> np.ndarray:
        """(N, d) float32: along the leading axes, scaled, about a point near the mean."""
        heads: np.ndarray = self.points.head.numpy()
        return heads

    def restore(self, heads: np.ndarray) -> np.ndarray:
        """The (n, D) float32 vectors with these heads and no tails."""
        moved = torch.from_numpy(np.ascontiguousarray(heads, np.float32))
        if self.frame.basis is not None:
            moved = moved @ self.frame.basis.T
        restored: np.ndarray = ((moved + self.frame.shift) / self.frame.scale).numpy()
        return restored


def project_all(
    vectors: np.ndarray, centroids: np.ndarray | None, basis: np.ndarray | None, half: bool
) -> Projection:
    """All (N, D) float32 vectors in one frame.

    Args:
        vectors: (N, D) float32.
        centroids: (K, D) float32 to compare with, if known: their mean is the shift, else that of some vectors.
        basis: (D, d) orthonormal columns that hold nearly all of the vectors' energy; None for all dimensions.
        half: take products in bfloat16.
    """
    probes = vectors[:: len(vectors) // _PROBES + 1]
    frame = make_frame(probes, probes if centroids is None else centroids, basis, half)
    width = vectors.shape[1] if basis is None else basis.shape[1]
    tail, tau = (None, None) if basis is None else (torch.empty(len(vectors)), torch.empty(len(vectors)))
    whole = Points(torch.empty(len(vectors), width), torch.empty(len(vectors)), tail, tau)

    def fill(rows: slice) -> None:
        part = project(frame, vectors[rows])
        for name in ("head", "size") if basis is None else ("head", "size", "tail", "tau"):
            getattr(whole, name)[rows] = getattr(part, name)

    run_tiles(fill, row_tiles(len(vectors), _TILE_ROWS))
    return Projection(frame, whole)
