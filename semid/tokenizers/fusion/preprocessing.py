"""Several embeddings, partly missing, as one short vector an item: centre, scale, concatenate, truncated SVD.

Each embedding e is centred on its valid rows and scaled so that its mean energy (squared length) is its weight, or
whitened first. With z the concatenation, S = E[z zᵀ] = U Λ Uᵀ and t = Uᵀ z the leading components. Blocks of S are
taken over the rows that have both embeddings, in one streamed pass, so rows lacking some still count. Instead,
generalised canonical correlation looks for what the embeddings agree on.

An item lacking some embeddings is projected from those it has by regression in the shared space. An item without any
gets a random draw from N(0, Λ), fixed by its row, so that such items spread over all codes instead of filling one; it
is marked as not known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion.applying import Projector
from semid.tokenizers.fusion.projection import noise_levels, regression
from semid.tokenizers.fusion.reading import SLAB_ROWS, RowSource, stretches
from semid.tokenizers.fusion.shared_space import fit_shared_space

SCALES = ("energy", "whiten")
FUSIONS = ("svd", "gcca")
FILLS = ("regression", "mean")
_ARRAYS = ("scales", "basis", "variances", "grams", "noise", "votes", "rotation", "shares")
_DRAWN_ROWS = 1024
# Of one block of vectors, and of what is mapped to make it.
_VECTOR_BYTES = 8 << 20
_MAPPED_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessorConfig:
    """How to turn embeddings into vectors.

    Attributes:
        svd: components to keep; fewer are kept where the embeddings have a lower rank.
        weights: mean energy of each embedding, in their order, or its vote in ``gcca``; None for 1 each.
        scale: ``energy`` multiplies each embedding by a number, ``whiten`` first gives all its directions the same
            variance.
        fuse: ``svd`` keeps the directions of most energy, ``gcca`` those that most embeddings agree on.
        ridge: in whitening, and so in ``gcca``: share of an embedding's mean variance added to each direction's.
        missing: absent embeddings of an item are made up for by ``regression`` on those it has (in ``gcca``, by the
            mean of what they say), or taken as their ``mean``.
        whiten: component j is divided by its standard deviation to this power: 0 keeps the variances, 1 makes them 1.
        rotate: turn the components at random, so that all have the same variance: for product and scalar quantisers.
        sample: most rows to take the moments from; None for all.
        seed: of the sample, the rotation and the vectors of items without any embedding.
    """

    svd: int = 128
    weights: tuple[float, ...] | None = None
    scale: str = "energy"
    fuse: str = "svd"
    ridge: float = 0.01
    missing: str = "regression"
    whiten: float = 0.0
    rotate: bool = False
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.svd < 1:
            raise InputError(f"The number of SVD components is {self.svd} but must be at least 1.")
        if self.weights is not None and not all(np.isfinite(w) and w > 0 for w in self.weights):
            raise InputError(f"Embedding weights must be positive numbers, not {self.weights}.")
        for name, value, choices in (
            ("scale", self.scale, SCALES),
            ("fuse", self.fuse, FUSIONS),
            ("missing", self.missing, FILLS),
        ):
            if value not in choices:
                raise InputError(f"Unknown value {value!r} of {name!r}: use one of {', '.join(choices)}.")
        if self.fuse == "gcca" and self.scale != "energy":
            raise InputError("Fusion by 'gcca' whitens every embedding itself: leave 'scale' at 'energy'.")
        if not 0 <= self.ridge < np.inf:
            raise InputError(f"The ridge is {self.ridge} but must be a number of at least 0.")
        if not 0 <= self.whiten <= 1:
            raise InputError(f"The whitening exponent is {self.whiten} but must lie between 0 and 1.")
        if self.sample is not None and self.sample < 2:
            raise InputError(f"A sample of {self.sample} rows is too small: use at least 2.")


class Preprocessor:
    """Fits and applies the projection of embeddings to vectors.

    Attributes:
        means_: per embedding, (D_e,) float32.
        scales_: (E,) float32 factor after centring.
        basis_: (D_total, S) float32, blocks in the order of the embeddings: the components of an item that has all
            are Σ_e scale_e (x_e − mean_e) basis_e. Orthonormal columns, unless embeddings are whitened.
        variances_: (S,) float32, Λ of the components, falling.
        grams_: (E, S, S) float32, products of each embedding's part of the orthonormal columns.
        noise_: (E,) float32, ψ_e per dimension, of ``projection``.
        votes_: (E,) float32 weights.
        rotation_: (S, S) float32 orthogonal, or (0, 0) for none.
        captured_: share of the energy that the components hold.
        shares_: (E,) float32, the same of each embedding alone.
    """

    means_: list[np.ndarray]
    scales_: np.ndarray
    basis_: np.ndarray
    variances_: np.ndarray
    grams_: np.ndarray
    noise_: np.ndarray
    votes_: np.ndarray
    rotation_: np.ndarray
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

        Files are read once, block by block, and memory does not grow with the number of items: some 60 MB, and three
        times D_total² float64 for the moment. With more than 4096 dimensions in all they are read twice instead, and
        no moment is stored: 6 × 4096 dimensions to 128 components take 0.6 GB, or 1.1 GB where items lack some.

        Raises:
            InputError: no embedding, unequal numbers of rows or weights, an embedding without a valid row, NaN or
                infinity in a valid row, or more than 4096 dimensions in all to whiten.
        """
        config = self.config
        weights = self._weights(embeddings)
        rows = self._sample_rows(len(embeddings[0].valid)) if embeddings else None
        space = fit_shared_space(
            embeddings,
            rows,
            weights,
            count=config.svd,
            scale=config.scale,
            fuse=config.fuse,
            ridge=config.ridge,
        )
        energies, explained = space.energies, space.explained
        self.means_ = [mean.astype(np.float32) for mean in space.means]
        self.scales_, self.votes_ = space.scales.astype(np.float32), weights.astype(np.float32)
        self.basis_, self.variances_ = space.basis.astype(np.float32), space.variances.astype(np.float32)
        self.grams_ = space.grams.astype(np.float32)
        self.noise_ = noise_levels(energies, explained, self.dims).astype(np.float32)
        self.rotation_ = _rotation(self.num_components if config.rotate else 0, config.seed)
        self.captured_ = float(space.variances.sum() / energies.sum()) if energies.sum() > 0 else 1.0
        self.shares_ = np.where(energies > 0, explained / np.where(energies > 0, energies, 1), 1).astype(np.float32)
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
        num_rows = len(embeddings[0].valid) if embeddings else 0
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
        source = RowSource(embeddings, rows)
        self._check_fitted_dims(embeddings)
        numbers = np.arange(len(source)) if rows is None else rows
        projector = Projector(source, self.means_, self._projection, self.num_components)
        for block in stretches(len(source), self._block_rows(embeddings)):
            source.prefetch(slice(block.stop, 2 * block.stop - block.start))
            valid = source.valid(block)
            vectors = projector.rows(block, valid)
            source.release()
            known = np.asarray(valid.any(axis=1))
            vectors[~known] = self._random_vectors(first_row + numbers[block][~known])
            yield block, vectors, known

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The fitted state as arrays, for :meth:`from_arrays`."""
        arrays = {f"mean.{number}": mean for number, mean in enumerate(self.means_)}
        return (
            arrays | {name: getattr(self, f"{name}_") for name in _ARRAYS} | {"captured": np.array([self.captured_])}
        )

    @staticmethod
    def from_arrays(config: PreprocessorConfig, arrays: Mapping[str, np.ndarray]) -> "Preprocessor":
        """A fitted preprocessor from what :meth:`to_arrays` gave."""
        fitted = Preprocessor(config)
        for name in _ARRAYS:
            setattr(fitted, f"{name}_", arrays[name])
        fitted.means_ = [arrays[f"mean.{number}"] for number in range(len(fitted.scales_))]
        fitted.captured_ = float(arrays["captured"][0])
        return fitted

    def _weights(self, embeddings: Sequence[Embedding]) -> np.ndarray:
        weights = self.config.weights
        if weights is None:
            return np.ones(len(embeddings))
        if len(weights) != len(embeddings):
            raise InputError(f"{len(weights)} weights were given for {len(embeddings)} embeddings: give one each.")
        return np.array(weights, float)

    def _sample_rows(self, num_rows: int) -> np.ndarray | None:
        if self.config.sample is None or self.config.sample >= num_rows:
            return None
        rng = np.random.default_rng(self.config.seed)
        return np.sort(rng.choice(num_rows, self.config.sample, replace=False, shuffle=False))

    def _block_rows(self, embeddings: Sequence[Embedding]) -> int:
        mapped = sum(embedding.vectors.dtype.itemsize * embedding.dim for embedding in embeddings)
        size = min(_VECTOR_BYTES // (4 * self.num_components), _MAPPED_BYTES // mapped)
        return max(1, size // SLAB_ROWS) * SLAB_ROWS

    def _projection(self, present: np.ndarray) -> np.ndarray:
        """The matrix that takes x − mean, zero at missing embeddings, to an item's vector. (D_total, S) float32"""
        turns = self._turns(present) @ self._output()
        scales, ends = self.scales_.astype(np.float64), np.cumsum(self.dims)[:-1]
        parts = zip(np.split(self.basis_.astype(np.float64), ends), turns, scales, strict=True)
        return np.concatenate([part @ turn * scale for part, turn, scale in parts]).astype(np.float32)

    def _turns(self, present: np.ndarray) -> np.ndarray:
        """(E, S, S): by what each embedding's share is multiplied, given which ones there are."""
        identities = np.tile(np.eye(self.num_components), (len(present), 1, 1))
        if self.config.missing == "mean" or present.all() or not present.any():
            return identities
        if self.config.fuse == "gcca":
            return identities * float(self.votes_.sum() / self.votes_[present].sum())
        grams, noise = self.grams_.astype(np.float64), self.noise_.astype(np.float64)
        return regression(grams, self.variances_.astype(np.float64), noise, present)

    def _output(self) -> np.ndarray:
        """Whitening and rotation of the components. (S, S) float64"""
        variances = self.variances_.astype(np.float64)
        whitening = np.diag(np.where(variances > 0, variances, 1) ** (-self.config.whiten / 2))
        return whitening @ self.rotation_ if self.config.rotate else whitening

    def _random_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of components drawn from N(0, Λ), by the seed and the row alone. (len(rows), S) float32"""
        drawn = np.empty((len(rows), self.num_components), np.float32)
        pages = rows // _DRAWN_ROWS
        for page in np.unique(pages):
            rng = np.random.default_rng([self.config.seed, int(page)])
            whole = rng.standard_normal((_DRAWN_ROWS, self.num_components), np.float32)
            drawn[pages == page] = whole[rows[pages == page] % _DRAWN_ROWS]
        return np.asarray(drawn * np.sqrt(self.variances_) @ self._output().astype(np.float32))

    def _check_fitted_dims(self, embeddings: Sequence[Embedding]) -> None:
        if len(embeddings) != len(self.dims):
            raise InputError(f"{len(embeddings)} embeddings were given but {len(self.dims)} were fitted.")
        for embedding, dim in zip(embeddings, self.dims, strict=True):
            if embedding.dim != dim:
                raise InputError(
                    f"Embedding {embedding.name!r} has {embedding.dim} dimensions but was fitted with {dim}."
                )


def _rotation(width: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix. (width, width) float32"""
    drawn = np.random.default_rng([seed, 1]).standard_normal((width, width))
    basis, upper = np.linalg.qr(drawn)
    return (basis * np.sign(np.diag(upper))).astype(np.float32)
