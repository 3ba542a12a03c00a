"""Several embeddings, partly missing, as one short vector an item: centre, scale, concatenate, truncated SVD.

Each embedding e is centred on its valid rows and scaled so that its mean energy (squared length) is its weight. With
z the concatenation, S = E[z zᵀ] = U Λ Uᵀ and t = Uᵀ z the leading components. S is taken block by block over the rows
that have both embeddings, in one streamed pass, so rows lacking some still count. Where two embeddings have n rows in
common out of the m of the rarer one, their block is shrunk by n / (n + (1 − n/m)·min(D_e, D_f)): taken from a handful
of rows it would be mostly noise.

An item lacking some embeddings is projected from those it has. The model is z_e = U_e t + noise_e, with t ~ N(0, Λ')
and noise_e ~ N(0, ψ_e I), where ψ_e is what the components leave of the energy of e: probabilistic PCA (Tipping and
Bishop 1999) with one noise level an embedding. The absent part of t = Σ_e U_eᵀ z_e takes its conditional mean

    t = U_oᵀ z_o + U_mᵀ U_m (U_oᵀ Ψ_o⁻¹ U_o + Λ'⁻¹)⁻¹ U_oᵀ Ψ_o⁻¹ z_o

over observed o and missing m: a ridge-regularised least squares in the shared space, and plain Uᵀ z when nothing is
missing. An item without any embedding gets a random draw from N(0, Λ), fixed by its row, so that such items spread
over all codes instead of filling one; it is marked as not known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from semid.data.features import Embedding
from semid.errors import InputError

_ROWS = 8192
_DRAWN_ROWS = 1024
_FULL_DECOMPOSITION_DIM = 1024
_OVERSAMPLING = 32
_SUBSPACE_PASSES = 10
# Relative to the largest: moments are summed from float32 products.
_RANK_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessorConfig:
    """How to turn embeddings into vectors.

    Attributes:
        svd: components to keep; fewer are kept where the embeddings have a lower rank.
        weights: mean energy of each embedding, in their order; None for 1 each.
        whiten: component j is divided by its standard deviation to this power: 0 keeps the variances, 1 makes them 1.
        sample: most rows to take the moments from; None for all.
        seed: of the sample and of the vectors of items without any embedding.
    """

    svd: int = 128
    weights: tuple[float, ...] | None = None
    whiten: float = 0.0
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.svd < 1:
            raise InputError(f"The number of SVD components is {self.svd} but must be at least 1.")
        if self.weights is not None and not all(np.isfinite(w) and w > 0 for w in self.weights):
            raise InputError(f"Embedding weights must be positive numbers, not {self.weights}.")
        if not 0 <= self.whiten <= 1:
            raise InputError(f"The whitening exponent is {self.whiten} but must lie between 0 and 1.")
        if self.sample is not None and self.sample < 2:
            raise InputError(f"A sample of {self.sample} rows is too small: use at least 2.")


class Preprocessor:
    """Fits and applies the projection of embeddings to vectors.

    Attributes:
        means_: per embedding, (D_e,) float32.
        scales_: (E,) float32 factor after centring.
        basis_: (D_total, S) float32 orthonormal columns U, blocks in the order of the embeddings.
        variances_: (S,) float32, Λ of the components, falling.
        noise_: (E,) float32, ψ_e per dimension.
        captured_: share of the energy that the components hold.
        shares_: (E,) float32, the same of each embedding alone.
    """

    means_: list[np.ndarray]
    scales_: np.ndarray
    basis_: np.ndarray
    variances_: np.ndarray
    noise_: np.ndarray
    captured_: float
    shares_: np.ndarray

    def __init__(self, config: PreprocessorConfig) -> None:
        self.config = config

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each embedding."""
        return tuple(len(mean) for mean in self.means_)

    @property
    def num_components(self) -> int:
        """S, the width of the vectors."""
        return len(self.variances_)

    def fit(self, embeddings: Sequence[Embedding]) -> "Preprocessor":
        """Fit to the rows of one catalogue.

        Raises:
            InputError: no embedding, unequal numbers of rows or weights, an embedding without a valid row, or NaN or
                infinity in a valid row.
        """
        _check_shapes(embeddings)
        weights = self._weights(embeddings)
        rows = self._sample_rows(len(embeddings[0].vectors))
        means, energies = zip(*(_mean_and_energy(embedding, rows) for embedding in embeddings), strict=True)
        self.means_ = [mean.astype(np.float32) for mean in means]
        scales = [np.sqrt(w / energy) if energy > 0 else 0.0 for w, energy in zip(weights, energies, strict=True)]
        self.scales_ = np.array(scales, np.float32)
        moment = self._moment(embeddings, rows)
        energy = np.array([np.trace(moment[block, block]) for block in self._blocks()])
        variances, basis = _leading_components(moment, self.config.svd)
        self.basis_, self.variances_ = basis.astype(np.float32), variances.astype(np.float32)
        self.captured_ = float(variances.sum() / energy.sum()) if energy.sum() > 0 else 1.0
        explained = np.array([((basis[block] ** 2) @ variances).sum() for block in self._blocks()])
        self.noise_ = self._noise(energy, explained)
        self.shares_ = np.where(energy > 0, explained / np.where(energy > 0, energy, 1), 1).astype(np.float32)
        return self

    def captured_by(self, names: Sequence[str]) -> dict[str, float]:
        """Share of the energy of each embedding that the components hold, by the names of the embeddings."""
        return {name: float(share) for name, share in zip(names, self.shares_, strict=True)}

    def transform(self, embeddings: Sequence[Embedding], *, first_row: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of the rows of ``embeddings``, which come in the order of the fit.

        Args:
            embeddings: one row an item.
            first_row: what row 0 counts as where vectors are drawn at random: the size of the catalogue for items
                that are appended to it, so that they do not repeat the draws of its first rows.

        Returns:
            (N, S) float32 vectors, and (N,) bool whether the item has any embedding; if not, its vector is random.

        Raises:
            InputError: other embeddings or dimensions than fitted, or NaN or infinity in a valid row.
        """
        num_rows = len(embeddings[0].vectors) if embeddings else 0
        vectors = np.empty((num_rows, self.num_components), np.float32)
        known = np.empty(num_rows, bool)
        for block, part, part_known in self.blocks(embeddings, first_row=first_row):
            vectors[block], known[block] = part, part_known
        return vectors, known

    def blocks(
        self, embeddings: Sequence[Embedding], rows: np.ndarray | None = None, *, first_row: int = 0
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """The same, block by block: nothing grows with the number of items.

        Args:
            embeddings: one row an item; mapped files are read in order and their pages let go of.
            rows: the (M,) rows wanted, best in rising order; None for all.
            first_row: what row 0 counts as where vectors are drawn at random.

        Yields:
            The block's slice of ``rows`` (of all rows if None), its (B, S) float32 vectors and (B,) bool known.

        Raises:
            InputError: as :meth:`transform`.
        """
        _check_shapes(embeddings)
        self._check_fitted_dims(embeddings)
        rows = np.arange(len(embeddings[0].vectors)) if rows is None else rows
        projections: dict[tuple[bool, ...], np.ndarray] = {}
        for first in range(0, len(rows), _ROWS):
            within = rows[first : first + _ROWS]
            vectors, known = self._block(embeddings, within, first_row, projections)
            yield slice(first, first + len(within)), vectors, known

    def _block(
        self,
        embeddings: Sequence[Embedding],
        rows: np.ndarray,
        first_row: int,
        projections: dict[tuple[bool, ...], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = self._centred(embeddings, rows)
        valid = np.stack([np.asarray(embedding.valid[rows]) for embedding in embeddings], axis=1)
        vectors = np.empty((len(rows), self.num_components), np.float32)
        patterns, pattern_of = np.unique(valid, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            key = tuple(pattern.tolist())
            if key not in projections:
                projections[key] = self._projection(pattern)
            chosen = np.flatnonzero(pattern_of.reshape(-1) == number)
            vectors[chosen] = _matmul(parts[chosen], projections[key])
        known = np.asarray(valid.any(axis=1))
        unknown = np.flatnonzero(~known)
        vectors[unknown] = self._random_vectors(first_row + rows[unknown])
        return vectors * self._whitening(), known

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The fitted state as arrays, for :meth:`from_arrays`."""
        arrays = {f"mean.{number}": mean for number, mean in enumerate(self.means_)}
        return arrays | {
            "scales": self.scales_,
            "basis": self.basis_,
            "variances": self.variances_,
            "noise": self.noise_,
            "shares": self.shares_,
            "captured": np.array([self.captured_]),
        }

    @staticmethod
    def from_arrays(config: PreprocessorConfig, arrays: Mapping[str, np.ndarray]) -> "Preprocessor":
        """A fitted preprocessor from what :meth:`to_arrays` gave."""
        fitted = Preprocessor(config)
        fitted.scales_ = arrays["scales"]
        fitted.means_ = [arrays[f"mean.{number}"] for number in range(len(fitted.scales_))]
        fitted.basis_, fitted.variances_ = arrays["basis"], arrays["variances"]
        fitted.noise_, fitted.shares_ = arrays["noise"], arrays["shares"]
        fitted.captured_ = float(arrays["captured"][0])
        return fitted

    def _weights(self, embeddings: Sequence[Embedding]) -> tuple[float, ...]:
        weights = self.config.weights
        if weights is None:
            return (1.0,) * len(embeddings)
        if len(weights) != len(embeddings):
            raise InputError(f"{len(weights)} weights were given for {len(embeddings)} embeddings: give one each.")
        return weights

    def _sample_rows(self, num_rows: int) -> np.ndarray:
        if self.config.sample is None or self.config.sample >= num_rows:
            return np.arange(num_rows)
        rng = np.random.default_rng(self.config.seed)
        return np.sort(rng.choice(num_rows, self.config.sample, replace=False))

    def _blocks(self) -> list[slice]:
        ends = np.cumsum(self.dims)
        return [slice(int(end - dim), int(end)) for end, dim in zip(ends, self.dims, strict=True)]

    def _centred(self, embeddings: Sequence[Embedding], rows: np.ndarray) -> np.ndarray:
        """Rows of the concatenation z, zero where an embedding is missing. (len(rows), D_total) float32"""
        parts = []
        for embedding, mean, scale in zip(embeddings, self.means_, self.scales_, strict=True):
            part = (read_rows(embedding, rows) - mean) * scale
            part[~np.asarray(embedding.valid[rows])] = 0
            parts.append(part)
        return np.concatenate(parts, axis=1)

    def _moment(self, embeddings: Sequence[Embedding], rows: np.ndarray) -> np.ndarray:
        """S, each block over the rows that have both embeddings; zero where none has. (D_total, D_total) float64"""
        width = sum(self.dims)
        total = torch.zeros(width, width, dtype=torch.float64)
        pairs: np.ndarray = np.zeros((len(embeddings), len(embeddings)))
        for first in range(0, len(rows), _ROWS):
            block = rows[first : first + _ROWS]
            part = torch.from_numpy(self._centred(embeddings, block))
            total += part.T @ part
            valid = np.stack([embedding.valid[block] for embedding in embeddings], axis=1).astype(np.float64)
            pairs += valid.T @ valid
        moment: np.ndarray = total.numpy()
        blocks = self._blocks()
        for one, one_block in enumerate(blocks):
            for other, other_block in enumerate(blocks):
                common, rarer = pairs[one, other], min(pairs[one, one], pairs[other, other])
                narrower = min(self.dims[one], self.dims[other])
                moment[one_block, other_block] /= max(common + (1 - common / rarer) * narrower, 1)
        return moment

    def _noise(self, energy: np.ndarray, explained: np.ndarray) -> np.ndarray:
        # At least a thousandth of the energy, so that the posterior exists for embeddings of full rank too.
        left: np.ndarray = np.maximum(energy - explained, 1e-3 * energy)
        return np.array(left / np.array(self.dims), np.float32)

    def _projection(self, present: np.ndarray) -> np.ndarray:
        """The matrix that takes z, zero at missing embeddings, to t. (D_total, S) float32"""
        if present.all() or not present.any():
            return self.basis_
        basis = self.basis_.astype(np.float64)
        has_noise = np.repeat(self.noise_ > 0, self.dims)
        inverse_noise = np.where(has_noise, 1 / np.repeat(np.where(self.noise_ > 0, self.noise_, 1), self.dims), 0)
        seen = np.repeat(present, self.dims)
        leaked = (basis**2 * np.repeat(self.noise_, self.dims)[:, None]).sum(0)
        variances = self.variances_.astype(np.float64)
        prior = np.maximum(variances - leaked, _RANK_TOLERANCE * variances[0])
        weighted = basis * (inverse_noise * seen)[:, None]
        posterior = np.linalg.solve(weighted.T @ basis + np.diag(1 / prior), weighted.T)
        missing = basis[~seen].T @ basis[~seen]
        projection: np.ndarray = (basis * seen[:, None]).T + missing @ posterior
        return np.ascontiguousarray(projection.T, np.float32)

    def _random_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Draws from N(0, Λ) that depend on the seed and the row alone. (len(rows), S) float32"""
        drawn = np.empty((len(rows), self.num_components), np.float32)
        pages = rows // _DRAWN_ROWS
        for page in np.unique(pages):
            rng = np.random.default_rng([self.config.seed, int(page)])
            whole = rng.standard_normal((_DRAWN_ROWS, self.num_components), np.float32)
            drawn[pages == page] = whole[rows[pages == page] % _DRAWN_ROWS]
        return drawn * np.sqrt(self.variances_)

    def _whitening(self) -> np.ndarray:
        return np.where(self.variances_ > 0, self.variances_, 1) ** np.float32(-self.config.whiten / 2)

    def _check_fitted_dims(self, embeddings: Sequence[Embedding]) -> None:
        if len(embeddings) != len(self.dims):
            raise InputError(f"{len(embeddings)} embeddings were given but {len(self.dims)} were fitted.")
        for embedding, dim in zip(embeddings, self.dims, strict=True):
            if embedding.dim != dim:
                raise InputError(
                    f"Embedding {embedding.name!r} has {embedding.dim} dimensions but was fitted with {dim}."
                )


def read_rows(embedding: Embedding, rows: np.ndarray) -> np.ndarray:
    """Rows as float32; those not valid are zero.

    Raises:
        InputError: NaN or infinity in a valid row.
    """
    vectors = np.asarray(embedding.vectors[rows]).astype(np.float32)
    valid = np.asarray(embedding.valid[rows])
    vectors[~valid] = 0
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(rows[np.argmin(finite)])
        raise InputError(
            f"Embedding {embedding.name!r} has NaN or infinity in row {row}: correct or leave out that row."
        )
    return vectors


def _check_shapes(embeddings: Sequence[Embedding]) -> None:
    if not embeddings:
        raise InputError("No embedding was given: name at least one.")
    for embedding in embeddings:
        if embedding.vectors.ndim != 2 or embedding.dim < 1:
            shape = embedding.vectors.shape
            raise InputError(f"Embedding {embedding.name!r} has shape {shape}, expected (items, dimensions).")
        num_rows, wanted = len(embedding.vectors), len(embeddings[0].vectors)
        if num_rows != wanted or len(embedding.valid) != num_rows:
            raise InputError(
                f"Embedding {embedding.name!r} has {num_rows} rows and {len(embedding.valid)} validity marks, "
                f"but {embeddings[0].name!r} has {wanted} rows: all need one row an item."
            )


def _mean_and_energy(embedding: Embedding, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of the valid rows, (D,) float64, and the mean squared length after centring."""
    rows = rows[np.asarray(embedding.valid)[rows]]
    if not len(rows):
        raise InputError(f"Embedding {embedding.name!r} has no valid row: leave it out.")
    # Squares are summed around the first block's mean: around zero, vectors far from it would cancel.
    around = read_rows(embedding, rows[:_ROWS]).mean(0, dtype=np.float64)
    total, squares = np.zeros(embedding.dim), 0.0
    for first in range(0, len(rows), _ROWS):
        difference = read_rows(embedding, rows[first : first + _ROWS]) - around
        total += difference.sum(0)
        squares += float((difference * difference).sum())
    offset = total / len(rows)
    energy = squares / len(rows) - float(offset @ offset)
    scale = float(around @ around) + squares / len(rows)
    return around + offset, energy if energy > 1e-12 * scale else 0.0


def _leading_components(moment: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues, falling, and their vectors with the largest entry positive. At least one is kept."""
    width = len(moment)
    count = min(count, width)
    if width <= _FULL_DECOMPOSITION_DIM or 4 * count > width:
        variances, basis = scipy.linalg.eigh(moment, subset_by_index=[width - count, width - 1])
    else:
        variances, basis = _subspace_iteration(moment, count)
    order = np.argsort(-variances, kind="stable")
    variances, basis = variances[order], basis[:, order]
    rank = max(1, int((variances > _RANK_TOLERANCE * max(variances[0], 0)).sum()))
    variances, basis = np.maximum(variances[:rank], 0), basis[:, :rank]
    peaks = basis[np.abs(basis).argmax(0), np.arange(rank)]
    return variances, basis * np.where(peaks < 0, -1.0, 1.0)


def _subspace_iteration(moment: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues and vectors of a wide matrix, to the accuracy that a projection needs.

    Halko, Martinsson and Tropp 2011, "Finding structure with randomness". A Lanczos solver would spend most of its
    time on telling apart the nearly equal eigenvalues of noise.
    """
    matrix = torch.from_numpy(moment)
    start = np.random.default_rng(0).standard_normal((len(moment), count + _OVERSAMPLING))
    basis = torch.from_numpy(start)
    for _ in range(_SUBSPACE_PASSES):
        basis = torch.linalg.qr(matrix @ basis)[0]
    variances, rotation = torch.linalg.eigh(basis.T @ matrix @ basis)
    return variances[-count:].numpy(), (basis @ rotation[:, -count:]).numpy()


def _matmul(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    product: np.ndarray = (torch.from_numpy(np.ascontiguousarray(left)) @ torch.from_numpy(right)).numpy()
    return product
