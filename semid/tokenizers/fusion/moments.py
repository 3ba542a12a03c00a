"""Second moments of several embeddings, partly missing, in one streamed pass.

Sums are taken of y = x − s, where the shift s is the mean of some rows spread over the catalogue, and corrected to
the true mean afterwards: one reading of the data instead of two, and no cancellation for vectors far from the origin.
Products of blocks are float32, or bfloat16 where that costs no captured energy, and are added up in float64. Only the
upper triangle is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semid.errors import InputError
from semid.tokenizers.fusion.reading import RowSource, columns_of, slabs_of, spread_rows
from semid.tokenizers.fusion.workers import Workers

_SPREAD_ROWS = 1024
_PANEL = 128
_PANEL_LENGTH = 1024


@dataclass(frozen=True, eq=False)
class Centres:
    """What is known of each embedding alone.

    Attributes:
        means: per embedding, (D_e,) float64 mean of the rows that have it.
        counts: (E, E) rows that have both embeddings, the diagonal those that have one.
        energies: (E,) mean squared length after centring; zero for a constant embedding.
    """

    means: list[np.ndarray]
    counts: np.ndarray
    energies: np.ndarray


class Sums:
    """Sums of y, and of y yᵀ, over the rows that have an embedding or both of two."""

    def __init__(self, dims: Sequence[int]) -> None:
        self.columns = columns_of(dims)
        width = sum(dims)
        self.products = np.zeros((width, width))
        self.totals = np.zeros((len(dims), width))
        self.counts = np.zeros((len(dims), len(dims)))
        self._rounded = torch.empty(0, width, dtype=torch.bfloat16)
        self._panels = [
            (slice(row, min(row + _PANEL, width)), slice(first, min(first + _PANEL_LENGTH, width)))
            for row in range(0, width, _PANEL)
            for first in range(row, width, _PANEL_LENGTH)
        ]

    def add(self, block: torch.Tensor, marks: np.ndarray, workers: Workers, *, half: bool = False) -> None:
        """Add rows.

        Args:
            block: (n, width) float32, zero where an embedding is missing.
            marks: (n, E) 1 where it is not; with weights of rows, both times their root.
            workers: compute the panels.
            half: multiply in bfloat16.
        """
        weights = torch.from_numpy(marks.astype(np.float32))
        products = torch.from_numpy(self.products)
        factor = self._to_bfloat16(block, workers) if half else block

        def panel(task: tuple[slice, slice]) -> None:
            rows, columns = task
            product = factor[:, rows].T @ factor[:, columns]
            products[rows, columns] += product
            if columns.start == rows.start:
                self.totals[:, rows] += (weights.T @ block[:, rows]).numpy()

        workers.run(panel, self._panels)
        self.counts += marks.T.astype(np.float64) @ marks.astype(np.float64)

    def _to_bfloat16(self, block: torch.Tensor, workers: Workers) -> torch.Tensor:
        if len(self._rounded) < len(block):  # kept, for fresh memory costs more than the rounding
            self._rounded = torch.empty(block.shape, dtype=torch.bfloat16)
        rounded = self._rounded[: len(block)]

        def round_rows(slab: slice) -> None:
            rounded[slab].copy_(block[slab])

        workers.run(round_rows, slabs_of(len(block)))
        return rounded

    def centred(self, offsets: Sequence[np.ndarray]) -> np.ndarray:
        """The products of y − offset; the sums are used up. (width, width)"""
        products, pairs = self.products, list(enumerate(zip(self.columns, offsets, strict=True)))
        for rows, columns in self._panels:
            products[columns, rows] = products[rows, columns].T
        for one, (rows, offset) in pairs:
            for other, (columns, other_offset) in pairs:
                block = products[rows, columns]
                block -= np.outer(offset, self.totals[one, columns])
                block -= np.outer(self.totals[other, rows] - self.counts[one, other] * offset, other_offset)
        return products


def provisional_centres(source: RowSource, workers: Workers) -> tuple[list[torch.Tensor], np.ndarray]:
    """Means, (D_e,) float32 each, and (E,) energies over some rows spread over the catalogue.

    Raises:
        InputError: an embedding that no row has, or NaN or infinity in a valid row.
    """
    means, energies = [], []
    for number, embedding in enumerate(source.embeddings):
        some = RowSource([embedding], spread_rows(source, number, _SPREAD_ROWS))
        parts = [part.double() for part, _ in some.centred([torch.zeros(embedding.dim)], workers)]
        mean = torch.stack([part.sum(0) for part in parts]).sum(0) / len(some)
        means.append(mean.float())
        energies.append(sum(float((part - mean).square().sum()) for part in parts) / len(some))
    return means, np.array(energies)


def second_moments(
    source: RowSource, shifts: Sequence[torch.Tensor], workers: Workers, *, half: bool = False
) -> tuple[Centres, np.ndarray]:
    """One reading of all rows of the source.

    Args:
        source: the rows.
        shifts: provisional means.
        workers: read and compute.
        half: multiply in bfloat16.

    Returns:
        The centres, and (D_total, D_total) float64 sums of centred products over the rows that have both embeddings.

    Raises:
        InputError: NaN or infinity in a valid row, or numbers too large to multiply.
    """
    sums = Sums(source.dims)
    for part, valid in source.centred(shifts, workers):
        sums.add(part, valid, workers, half=half)
    squares = np.array([np.trace(sums.products[block, block]) for block in source.columns])
    centres = centres_of(source, shifts, sums.totals, sums.counts, squares)
    return centres, sums.centred(offsets_of(sums))


def offsets_of(sums: Sums) -> list[np.ndarray]:
    """Mean of y of each embedding, over the rows that have it."""
    counts = np.diag(sums.counts)
    return [sums.totals[number, block] / counts[number] for number, block in enumerate(sums.columns)]


def centres_of(
    source: RowSource, shifts: Sequence[torch.Tensor], totals: np.ndarray, counts: np.ndarray, squares: np.ndarray
) -> Centres:
    """From sums of shifted vectors to means and energies.

    Args:
        source: where the sums are from.
        shifts: per embedding, (D_e,) float32.
        totals: (E, D_total) sums of y over the rows that have an embedding.
        counts: (E, E) rows that have both.
        squares: (E,) sums of ‖y_e‖².

    Raises:
        InputError: squares have overflowed.
    """
    means, energies = [], []
    for number, (columns, shift) in enumerate(zip(source.columns, shifts, strict=True)):
        if not np.isfinite(squares[number]):
            name = source.embeddings[number].name
            raise InputError(f"Embedding {name!r} has numbers too large for float32: scale it down.")
        offset = totals[number, columns] / counts[number, number]
        mean = shift.numpy().astype(np.float64) + offset
        energy = squares[number] / counts[number, number] - offset @ offset
        means.append(mean)
        energies.append(energy if energy > 1e-12 * (mean @ mean + energy) else 0.0)
    return Centres(means, counts, np.array(energies))


def divisors(counts: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    """What each block of summed products is divided by. (E, E)

    Where two embeddings have n rows in common out of the m of the rarer one, that is n + (1 − n/m)·min(D_e, D_f)
    instead of n: taken from a handful of rows the block would be mostly noise.
    """
    own, widths = np.diag(counts), np.array(dims)
    rarer = np.minimum(own[:, None], own[None, :])
    narrower = np.minimum(widths[:, None], widths[None, :])
    return np.asarray(np.maximum(counts + (1 - counts / rarer) * narrower, 1))


def scaled_moment(products: np.ndarray, counts: np.ndarray, dims: Sequence[int], scales: np.ndarray) -> np.ndarray:
    """The moment S of the scaled concatenation, in the place of the centred products. (D_total, D_total)"""
    parts, columns = divisors(counts, dims), columns_of(dims)
    for one, rows in enumerate(columns):
        for other, others in enumerate(columns):
            products[rows, others] *= scales[one] * scales[other] / parts[one, other]
    return products


def scales_to(weights: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Factors that give embeddings of these mean energies the energies ``weights``; zero for constant ones."""
    some = energies > 0
    return np.where(some, np.sqrt(weights / np.where(some, energies, 1)), 0)


def _to_bfloat16(block: torch.Tensor, workers: Workers) -> torch.Tensor:
    rounded = torch.empty(block.shape, dtype=torch.bfloat16)

    def round_rows(slab: slice) -> None:
        rounded[slab].copy_(block[slab])

    workers.run(round_rows, slabs_of(len(block)))
    return rounded
