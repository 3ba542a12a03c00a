"""Leading eigenvectors of a moment matrix: direct where it is small, else by subspace iteration."""

import numpy as np
import torch

from semid.tokenizers.fusion.reading import slabs_of
from semid.tokenizers.fusion.workers import Workers

_DIRECT_DIM = 256
_OVERSAMPLING = 32
_MOST_ITERATIONS = 40
# Share of the whole energy that one more iteration adds when they stop.
_CONVERGED = 1e-8
# Relative to the largest: moments are summed from float32 products.
RANK_TOLERANCE = 1e-6


def leading_components(moment: np.ndarray, count: int, workers: Workers) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues and their vectors.

    Args:
        moment: (D, D) float64, symmetric.
        count: how many; fewer are returned where the rank is lower, at least one.
        workers: multiply.

    Returns:
        (S,) float64 eigenvalues, falling, none negative, and (D, S) orthonormal columns whose largest entry is
        positive.
    """
    width = len(moment)
    count = min(count, width)
    matrix = torch.from_numpy(moment)
    if width <= _DIRECT_DIM or 4 * count > width:
        variances, basis = torch.linalg.eigh(matrix)
    else:
        variances, basis = _subspace_iteration(matrix, count, workers)
    return sorted_components(variances[-count:].numpy(), basis[:, -count:].numpy())


def sorted_components(variances: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Falling, without those below rounding, and with the sign that makes the largest entry positive."""
    order = np.argsort(-variances, kind="stable")
    variances, basis = variances[order], basis[:, order]
    rank = max(1, int((variances > RANK_TOLERANCE * max(variances[0], 0)).sum()))
    variances, basis = np.maximum(variances[:rank], 0), basis[:, :rank]
    peaks = basis[np.abs(basis).argmax(0), np.arange(rank)]
    return variances, basis * np.where(peaks < 0, -1.0, 1.0)


def _subspace_iteration(matrix: torch.Tensor, count: int, workers: Workers) -> tuple[torch.Tensor, torch.Tensor]:
    """Ritz values, rising, and vectors.

    Halko, Martinsson and Tropp 2011, "Finding structure with randomness". A Lanczos solver would spend most of its
    time on telling apart the nearly equal eigenvalues of noise, which hold the same energy in any rotation.
    """
    width, energy = len(matrix), float(torch.trace(matrix))
    start = np.random.default_rng(0).standard_normal((width, count + _OVERSAMPLING))
    basis = torch.linalg.qr(torch.from_numpy(start))[0]
    image = torch.empty_like(basis)
    held = -np.inf
    for _ in range(_MOST_ITERATIONS):
        _multiply(matrix, basis, image, workers)
        variances, rotation = torch.linalg.eigh(basis.T @ image)
        before, held = held, float(variances[-count:].sum())
        if held - before <= _CONVERGED * abs(energy):
            break
        basis = torch.linalg.qr(image)[0]
    return variances, basis @ rotation


def _multiply(matrix: torch.Tensor, thin: torch.Tensor, result: torch.Tensor, workers: Workers) -> None:
    def rows_of_it(rows: slice) -> None:
        torch.mm(matrix[rows], thin, out=result[rows])

    workers.run(rows_of_it, slabs_of(len(matrix)))
