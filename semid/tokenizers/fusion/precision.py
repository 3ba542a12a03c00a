"""Whether second moments may be taken in bfloat16: tried on a few rows, judged by the energy that is captured."""

from collections.abc import Sequence

import numpy as np
import torch

from semid.tokenizers.clustering.screening import has_half_precision
from semid.tokenizers.fusion.components import leading_components
from semid.tokenizers.fusion.moments import Sums, offsets_of, scaled_moment
from semid.tokenizers.fusion.reading import RowSource, spread_rows
from semid.tokenizers.fusion.workers import Workers

# Share of the energy that components from bfloat16 products may miss.
TOLERANCE = 1e-5
_TRIED_ROWS = 2048
# Below this many times the rows tried, trying costs more than it can gain.
_WORTHWHILE = 8


def half_suffices(
    source: RowSource, shifts: Sequence[torch.Tensor], scales: np.ndarray, count: int, workers: Workers
) -> bool:
    """Whether components from bfloat16 products capture as much energy as those from float32 ones, but for TOLERANCE.

    Both are taken from the same rows, spread over the catalogue, and judged by the float32 moment. Rounding errors of
    further rows are of the same relative size and average out.

    Args:
        source: the rows.
        shifts: provisional means.
        scales: (E,) factors after centring.
        count: components wanted.
        workers: read and compute.
    """
    if not has_half_precision() or len(source) < _WORTHWHILE * _TRIED_ROWS:
        return False
    rows = spread_rows(source, _densest(source), _TRIED_ROWS)
    tried = RowSource(source.embeddings, rows)
    exact, rounded = Sums(source.dims), Sums(source.dims)
    for part, valid in tried.centred(shifts, workers):
        exact.add(part, valid, workers)
        rounded.add(part, valid, workers, half=True)
    if not exact.counts.diagonal().all():
        return False
    moments = [_moment(sums, scales, source.dims) for sums in (exact, rounded)]
    return missed_energy(moments[0], moments[1], count, workers) <= TOLERANCE


def missed_energy(exact: np.ndarray, rounded: np.ndarray, count: int, workers: Workers) -> float:
    """Share of the energy that the components of another moment miss and those of the exact one hold."""
    best = leading_components(exact, count, workers)[0].sum()
    basis = leading_components(rounded, count, workers)[1]
    return float((best - np.einsum("ds,ds->", basis, exact @ basis)) / np.trace(exact))


def _moment(sums: Sums, scales: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    return scaled_moment(sums.centred(offsets_of(sums)), sums.counts, dims, scales)


def _densest(source: RowSource) -> int:
    """The embedding that most items have."""
    return int(np.argmax([np.count_nonzero(embedding.valid) for embedding in source.embeddings]))
