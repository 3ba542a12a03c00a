"""Generalised canonical correlation analysis: components that as many embeddings as possible agree on.

MAX-VAR form (Kettenring 1971) with missing rows (van de Velden and Bijmolt 2006): of all G the one that minimises
Σ_e w_e Σ_i ‖g_i − A_eᵀ x_ie‖² over the rows i that have embedding e, with the rows of G orthonormal when counted
k_i = Σ_e w_e [i has e] times. With Z the rows' weighted whitened concatenations, zero where missing, and C = Zᵀ K⁻¹ Z
= V Λ Vᵀ, the solution is G = K⁻¹ Z V Λ^(−1/2): an item's vector is the mean of what its embeddings each say. The
eigenvalues lie between 0 and 1, where 1 is full agreement; two embeddings of correlation ρ have (1 + ρ) / 2. A ridge
regularises the whitening.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.fusion.components import leading_components
from semid.tokenizers.fusion.moments import Centres, Sums, centres_of, offsets_of
from semid.tokenizers.fusion.reading import RowSource, columns_of
from semid.tokenizers.fusion.whitening import whiten_moment, whiteners_of
from semid.tokenizers.fusion.workers import Workers


@dataclass(frozen=True, eq=False)
class GccaFit:
    """The solution, with components scaled so that their mean square over items, counted k_i times, is Λ.

    Attributes:
        centres: means, counts and energies.
        variances: (S,) Λ, falling.
        loadings: (D_total, S) V.
        maps: (D_total, S): Σ_e (x_e − mean_e) maps_e is the vector of an item that has every embedding; divided by
            its k and multiplied by the sum of weights, that of any other.
        energies: (E,) what C holds of each embedding.
    """

    centres: Centres
    variances: np.ndarray
    loadings: np.ndarray
    maps: np.ndarray
    energies: np.ndarray


def fit_gcca(
    source: RowSource,
    shifts: Sequence[torch.Tensor],
    weights: np.ndarray,
    ridge: float,
    count: int,
    workers: Workers,
) -> GccaFit:
    """Fit to the rows of the source, read once.

    Args:
        source: the rows.
        shifts: provisional means.
        weights: (E,) w_e.
        ridge: share of an embedding's mean variance to add to each.
        count: components wanted.
        workers: read and compute.
    """
    plain, shared = Sums(source.dims), Sums(source.dims)
    for part, valid in source.centred(shifts, workers):
        plain.add(part, valid, workers)
        counted = valid @ weights
        roots = np.where(counted > 0, 1 / np.sqrt(np.where(counted > 0, counted, 1)), 0)
        part *= torch.from_numpy(roots.astype(np.float32))[:, None]
        shared.add(part, valid * roots[:, None], workers)
    squares = np.array([np.trace(plain.products[block, block]) for block in source.columns])
    centres = centres_of(source, shifts, plain.totals, plain.counts, squares)
    offsets = offsets_of(plain)
    return _solve(
        source.dims, centres, plain.centred(offsets), shared.centred(offsets), weights, ridge, count, workers
    )


def _solve(
    dims: Sequence[int],
    centres: Centres,
    products: np.ndarray,
    agreement: np.ndarray,
    weights: np.ndarray,
    ridge: float,
    count: int,
    workers: Workers,
) -> GccaFit:
    columns, rows_of = columns_of(dims), np.diag(centres.counts)
    blocks = [products[block, block] / num_rows for block, num_rows in zip(columns, rows_of, strict=True)]
    whiteners = whiteners_of(blocks, centres.energies, np.sqrt(weights / rows_of), ridge)
    whiten_moment(agreement, dims, whiteners)
    variances, loadings = leading_components(agreement, count, workers)
    scale = np.sqrt(weights @ rows_of) / weights.sum()
    maps = np.concatenate([matrix @ loadings[block] for matrix, block in zip(whiteners, columns, strict=True)])
    energies = np.array([np.trace(agreement[block, block]) for block in columns])
    return GccaFit(centres, variances, loadings, maps * scale, energies)
