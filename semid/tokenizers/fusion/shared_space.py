"""The fit of the shared space of several embeddings: which moment is taken, and what its components are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion.components import leading_components
from semid.tokenizers.fusion.gcca import fit_gcca
from semid.tokenizers.fusion.moments import (
    Centres,
    divisors,
    provisional_centres,
    scaled_moment,
    scales_to,
    second_moments,
)
from semid.tokenizers.fusion.precision import half_suffices
from semid.tokenizers.fusion.reading import RowSource, columns_of
from semid.tokenizers.fusion.whitening import whiten_moment, whiteners_of
from semid.tokenizers.fusion.wide import wide_components
from semid.tokenizers.fusion.workers import Workers

# Up to this width in all the moment matrix is stored: 134 MB.
_STORED_DIM = 4096


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """Components of the scaled concatenation z, with z_e = scale_e W_e (x_e − mean_e).

    Attributes:
        means: per embedding, (D_e,) float64.
        scales: (E,).
        basis: (D_total, S), W_e U_e per embedding; the W are 1 unless embeddings are whitened.
        loadings: (D_total, S) orthonormal columns U.
        variances: (S,) Λ, falling.
        energies: (E,) energy of each embedding in z.
    """

    means: list[np.ndarray]
    scales: np.ndarray
    basis: np.ndarray
    loadings: np.ndarray
    variances: np.ndarray
    energies: np.ndarray

    @property
    def explained(self) -> np.ndarray:
        """(E,) energy of each embedding that the components hold."""
        columns = columns_of([len(mean) for mean in self.means])
        return np.array([((self.loadings[block] ** 2) @ self.variances).sum() for block in columns])

    @property
    def grams(self) -> np.ndarray:
        """(E, S, S) U_eᵀ U_e."""
        columns = columns_of([len(mean) for mean in self.means])
        return np.stack([self.loadings[block].T @ self.loadings[block] for block in columns])


def fit_shared_space(
    embeddings: Sequence[Embedding],
    rows: np.ndarray | None,
    weights: np.ndarray,
    *,
    count: int,
    scale: str,
    fuse: str,
    ridge: float,
) -> SharedSpace:
    """Fit to some rows of the embeddings, or all if None.

    Up to 4096 dimensions in all the second moments are stored, and the rows are read once; beyond, they are read
    twice and components come from a random sketch.

    Raises:
        InputError: embeddings that do not fit together or have no valid row, NaN or infinity, or embeddings too wide
            to be whitened.
    """
    source = RowSource(embeddings, rows)
    wide = source.width > _STORED_DIM
    if wide and (scale == "whiten" or fuse == "gcca"):
        raise InputError(
            f"{source.width} dimensions are too many to whiten, at most {_STORED_DIM} in all: "
            "scale by energy and fuse by SVD, or leave out an embedding."
        )
    with Workers() as workers:
        shifts, energies = provisional_centres(source, workers)
        if wide:
            found = wide_components(source, shifts, weights, energies, count, workers)
            held = np.where(found.centres.energies > 0, weights, 0)
            return SharedSpace(found.centres.means, found.scales, found.basis, found.basis, found.variances, held)
        if fuse == "gcca":
            gcca = fit_gcca(source, shifts, weights, ridge, count, workers)
            ones = np.ones(len(weights))
            return SharedSpace(gcca.centres.means, ones, gcca.maps, gcca.loadings, gcca.variances, gcca.energies)
        half = half_suffices(source, shifts, scales_to(weights, energies), count, workers)
        centres, products = second_moments(source, shifts, workers, half=half)
        if scale == "whiten":
            return _whitened(source.dims, centres, products, weights, ridge, count, workers)
        return _scaled(source.dims, centres, products, weights, count, workers)


def _scaled(
    dims: Sequence[int], centres: Centres, products: np.ndarray, weights: np.ndarray, count: int, workers: Workers
) -> SharedSpace:
    scales = scales_to(weights, centres.energies)
    moment = scaled_moment(products, centres.counts, dims, scales)
    variances, basis = leading_components(moment, count, workers)
    return SharedSpace(centres.means, scales, basis, basis, variances, _energies(moment, dims))


def _whitened(
    dims: Sequence[int],
    centres: Centres,
    products: np.ndarray,
    weights: np.ndarray,
    ridge: float,
    count: int,
    workers: Workers,
) -> SharedSpace:
    ones, columns = np.ones(len(dims)), columns_of(dims)
    moment = scaled_moment(products, centres.counts, dims, ones)
    whiteners = whiteners_of([moment[block, block] for block in columns], centres.energies, ones, ridge)
    whiten_moment(moment, dims, whiteners)
    scales = scales_to(weights, _energies(moment, dims))
    moment = scaled_moment(moment, np.ones_like(divisors(centres.counts, dims)), dims, scales)
    variances, loadings = leading_components(moment, count, workers)
    basis = np.concatenate([matrix @ loadings[block] for matrix, block in zip(whiteners, columns, strict=True)])
    return SharedSpace(centres.means, scales, basis, loadings, variances, _energies(moment, dims))


def _energies(moment: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    return np.array([np.trace(moment[block, block]) for block in columns_of(dims)])
