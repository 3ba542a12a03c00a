"""Rows of embeddings times one matrix for each pattern of missing embeddings, slab by slab."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from semid.tokenizers.fusion.reading import RowSource, slabs_of
from semid.tokenizers.fusion.workers import Workers

Pattern = tuple[bool, ...]


def patterns_of(valid: np.ndarray) -> list[Pattern]:
    """The different rows of (n, E) bool marks."""
    return [tuple(bool(mark) for mark in pattern) for pattern in np.unique(valid, axis=0)]


def project_rows(
    source: RowSource,
    block: slice,
    valid: np.ndarray,
    means: Sequence[torch.Tensor],
    projections: Mapping[Pattern, torch.Tensor],
    workers: Workers,
) -> np.ndarray:
    """Σ_e (x_e − mean_e) P_e of the rows at these positions, P that of their pattern.

    Args:
        source: the rows.
        block: their positions.
        valid: (n, E) bool of these rows.
        means: per embedding, (D_e,) float32.
        projections: (D_total, S) float32 of each pattern that occurs; of rows without any embedding nothing is made.
        workers: read and multiply.

    Returns:
        (n, S) float32, zero where nothing is valid.

    Raises:
        InputError: NaN or infinity in a valid row.
    """
    width = next(iter(projections.values())).shape[1]
    result = torch.zeros(len(valid), width)

    def project(slab: slice) -> None:
        patterns = [pattern for pattern in patterns_of(valid[slab]) if any(pattern)]
        chosen = [torch.from_numpy(np.flatnonzero((valid[slab] == pattern).all(axis=1))) for pattern in patterns]
        positions = slice(block.start + slab.start, block.start + slab.stop)
        for number, columns in enumerate(source.columns):
            centred = torch.empty(slab.stop - slab.start, source.dims[number])
            source.fill(number, positions, centred, means[number])
            for pattern, rows in zip(patterns, chosen, strict=True):
                part = projections[pattern][columns]
                if pattern[number] and len(rows) == len(centred):
                    result[slab].addmm_(centred, part)
                elif pattern[number]:
                    result[slab].index_add_(0, rows, centred[rows] @ part)

    workers.run(project, slabs_of(len(valid)))
    return result.numpy()
