"""Whitening of each embedding by itself: the linear map that gives all its directions the same variance."""

from collections.abc import Sequence

import numpy as np
import torch

from semid.tokenizers.fusion.components import RANK_TOLERANCE
from semid.tokenizers.fusion.reading import columns_of


def whitener(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """(Σ + r I)^(−1/2), zero where Σ has no variance, with r the ridge times the mean variance. (D, D) float64

    Args:
        covariance: Σ, (D, D) float64.
        ridge: share of the mean variance that is added to each; directions with less than that stay small.
    """
    variances, basis = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(covariance)))
    some = variances > RANK_TOLERANCE * max(variances[-1], 0)
    added = ridge * np.maximum(variances, 0).mean()
    factors = np.where(some, 1 / np.sqrt(np.where(some, variances, 1) + added), 0)
    whitened: np.ndarray = (basis * factors) @ basis.T
    return whitened


def whiteners_of(
    covariances: Sequence[np.ndarray], energies: np.ndarray, factors: np.ndarray, ridge: float
) -> list[np.ndarray]:
    """The whitener of each embedding times its factor; zero for those of no energy."""
    return [
        whitener(covariance, ridge) * factor if energy > 0 else np.zeros_like(covariance)
        for covariance, energy, factor in zip(covariances, energies, factors, strict=True)
    ]


def whiten_moment(moment: np.ndarray, dims: Sequence[int], whiteners: Sequence[np.ndarray]) -> None:
    """Turn the moment of vectors into that of whitened ones, in place."""
    columns = columns_of(dims)
    for rows, left in zip(columns, whiteners, strict=True):
        moment[rows] = left @ moment[rows]
    for others, right in zip(columns, whiteners, strict=True):
        moment[:, others] = moment[:, others] @ right
