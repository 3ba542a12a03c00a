"""Components of embeddings too wide for a moment matrix: a randomised range in two streamed passes.

The moment S of 6 × 4096 dimensions would take 4.8 GB. Instead the first pass takes S Ω for a random Ω of three times
as many columns as components are wanted, and the second Z = S Q for an orthonormal basis Q of that; the components
are those of the Nyström approximation Z (Qᵀ Z)⁺ Zᵀ (Halko, Martinsson and Tropp 2011, §5.5), which comes as close as
a third pass of subspace iteration would. Blocks of S are over the rows that have both embeddings, as in a stored
matrix, so the products with each embedding's part of Ω or Q are summed apart where some rows lack some.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.fusion.components import sorted_components
from semid.tokenizers.fusion.moments import Centres, centres_of, divisors, scales_to
from semid.tokenizers.fusion.reading import RowSource, slabs_of, stretches
from semid.tokenizers.fusion.workers import Workers

# Columns of Ω to a component.
_SKETCH = 3
_COLUMNS = 128
# Relative to the largest Ritz value; below, float32 sums are mostly rounding.
_SMALLEST = 1e-5


@dataclass(frozen=True, eq=False)
class WideFit:
    """What two passes find.

    Attributes:
        centres: means, counts and energies.
        scales: (E,) factors after centring.
        variances: (S,) float64, falling, never above the true ones.
        basis: (D_total, S) float64 orthonormal columns.
    """

    centres: Centres
    scales: np.ndarray
    variances: np.ndarray
    basis: np.ndarray


def wide_components(
    source: RowSource,
    shifts: Sequence[torch.Tensor],
    weights: np.ndarray,
    energies: np.ndarray,
    count: int,
    workers: Workers,
) -> WideFit:
    """Leading components of embeddings scaled to the energies ``weights``.

    Args:
        source: the rows, read twice.
        shifts: provisional means.
        weights: (E,) energies wanted.
        energies: (E,) provisional energies, to draw Ω to scale.
        count: components wanted.
        workers: read and compute.

    Raises:
        InputError: NaN or infinity in a valid row, or numbers too large to multiply.
    """
    shape = source.width, min(_SKETCH * count, source.width)
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    first = _Pass(source, shifts, drawn * np.repeat(scales_to(weights, energies), source.dims)[:, None], workers)
    centres = first.centres()
    scales = scales_to(weights, centres.energies)
    basis = np.linalg.qr(first.image(scales))[0]
    means = [torch.from_numpy(mean.astype(np.float32)) for mean in centres.means]
    second = _Pass(source, means, basis * np.repeat(scales, source.dims)[:, None], workers)
    return WideFit(centres, scales, *_nystrom(basis, second.image(scales), count))


class _Pass:
    """One reading: S times a thin matrix, blocks over the rows that have both embeddings."""

    def __init__(self, source: RowSource, shifts: Sequence[torch.Tensor], thin: np.ndarray, workers: Workers) -> None:
        self.source, self.shifts, self.workers = source, shifts, workers
        self.thin = torch.from_numpy(np.ascontiguousarray(thin, np.float32))
        self.totals = np.zeros((len(source.dims), source.width))
        self.counts = np.zeros((len(source.dims), len(source.dims)))
        self.squares = np.zeros(len(source.dims))
        complete = all(bool(np.asarray(source.valid(block)).all()) for block in stretches(len(source), 1 << 16))
        # Where every row has everything the sums over all embeddings are enough.
        self.groups = [list(range(len(source.dims)))] if complete else [[n] for n in range(len(source.dims))]
        self.images = [torch.zeros(self.thin.shape) for _ in self.groups]
        for part, valid in source.centred(shifts, workers):
            self._add(part, valid)

    def _add(self, block: torch.Tensor, valid: np.ndarray) -> None:
        columns, marks = self.source.columns, torch.from_numpy(valid.astype(np.float32))
        projected = [torch.zeros(len(block), self.thin.shape[1]) for _ in self.groups]

        def project(task: tuple[int, slice]) -> None:
            group, some = task
            for member in self.groups[group]:
                projected[group][:, some].addmm_(block[:, columns[member]], self.thin[columns[member], some])

        def collect(rows: slice) -> None:
            turned = block[:, rows].T
            for image, part in zip(self.images, projected, strict=True):
                image[rows].addmm_(turned, part)
            self.totals[:, rows] += (turned @ marks).T.numpy()

        thin = list(stretches(self.thin.shape[1], _COLUMNS))
        self.workers.run(project, [(group, some) for group in range(len(self.groups)) for some in thin])
        self.workers.run(collect, slabs_of(self.source.width))
        self.counts += valid.T.astype(np.float64) @ valid.astype(np.float64)
        self.squares += [float(block[:, own].square().sum(dtype=torch.float64)) for own in columns]

    def centres(self) -> Centres:
        return centres_of(self.source, self.shifts, self.totals, self.counts, self.squares)

    def image(self, scales: np.ndarray) -> np.ndarray:
        """The scaled moment times the scaled thin matrix. (D_total, W) float64"""
        result = np.zeros(self.thin.shape)
        parts = divisors(self.counts, self.source.dims)
        for group, summed in zip(self.groups, self.images, strict=True):
            for one, rows in enumerate(self.source.columns):
                own = summed[rows].numpy().astype(np.float64)
                offset = self._offset(one)
                for other in group:
                    thin = self.thin[self.source.columns[other]].numpy().astype(np.float64)
                    far = self.totals[other, rows] - self.counts[one, other] * offset
                    own -= np.outer(offset, self.totals[one, self.source.columns[other]] @ thin)
                    own -= np.outer(far, self._offset(other) @ thin)
                result[rows] += own * (scales[one] / parts[one, group[0]])
        return result

    def _offset(self, number: int) -> np.ndarray:
        mean: np.ndarray = self.totals[number, self.source.columns[number]] / self.counts[number, number]
        return mean


def _nystrom(basis: np.ndarray, image: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and vectors of Z (Qᵀ Z)⁺ Zᵀ, leaving out what is not positive."""
    core = basis.T @ image
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    kept = values > _SMALLEST * max(values[-1], 0)
    if not kept.any():
        return sorted_components(values[-1:] * 0, basis[:, :1])
    root = image @ (vectors[:, kept] / np.sqrt(values[kept]))
    left, strength, _ = np.linalg.svd(root, full_matrices=False)
    return sorted_components(strength[:count] ** 2, left[:, :count])
