"""Rows of embeddings times one matrix for each pattern of missing embeddings, slab by slab."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from semid.tokenizers.fusion.reading import SLAB_ROWS, RowSource, slabs_of
from semid.tokenizers.fusion.workers import Workers


class Projector:
    """Σ_e (x_e − mean_e) P_e of rows, with the P of what is missing in each.

    Args:
        source: the rows.
        means: per embedding, (D_e,) float32.
        projection: the (D_total, S) float32 matrix of a pattern, (E,) bool: which embeddings there are.
        width: S.
    """

    def __init__(
        self,
        source: RowSource,
        means: Sequence[np.ndarray],
        projection: Callable[[np.ndarray], np.ndarray],
        width: int,
    ) -> None:
        self._source, self._projection, self._width = source, projection, width
        self._means = [torch.from_numpy(mean) for mean in means]
        self._matrices: dict[bytes, torch.Tensor] = {}
        self._buffers: list[torch.Tensor] = []

    def rows(self, block: slice, valid: np.ndarray) -> np.ndarray:
        """Project the rows at these positions.

        Args:
            block: positions in the source.
            valid: (n, E) bool of these rows.

        Returns:
            (n, S) float32, zero where nothing is valid.

        Raises:
            InputError: NaN or infinity in a valid row.
        """
        for pattern in _patterns(valid):
            if pattern.tobytes() not in self._matrices:
                self._matrices[pattern.tobytes()] = torch.from_numpy(self._projection(pattern))
        result = torch.zeros(len(valid), self._width)

        def project(slab: slice) -> None:
            self._slab(slice(block.start + slab.start, block.start + slab.stop), valid[slab], result[slab])

        with Workers() as workers:
            workers.run(project, slabs_of(len(valid)))
        return result.numpy()

    def _slab(self, positions: slice, valid: np.ndarray, result: torch.Tensor) -> None:
        patterns = [pattern for pattern in _patterns(valid) if pattern.any()]
        chosen = [torch.from_numpy(np.flatnonzero((valid == pattern).all(axis=1))) for pattern in patterns]
        for number, columns in enumerate(self._source.columns):
            with self._buffer(len(valid), self._source.dims[number]) as centred:
                self._source.fill(number, positions, centred, self._means[number])
                for pattern, rows in zip(patterns, chosen, strict=True):
                    part = self._matrices[pattern.tobytes()][columns]
                    if pattern[number] and len(rows) == len(valid):
                        result.addmm_(centred, part)
                    elif pattern[number]:
                        result.index_add_(0, rows, centred[rows] @ part)

    @contextmanager
    def _buffer(self, num_rows: int, dim: int) -> Iterator[torch.Tensor]:
        """Memory that one thread has to itself; fresh memory would cost nearly as much as the product."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = torch.empty(SLAB_ROWS * max(self._source.dims))
        yield buffer[: num_rows * dim].view(num_rows, dim)
        self._buffers.append(buffer)


def _patterns(valid: np.ndarray) -> np.ndarray:
    """The different rows; most often there is one, which is seen sooner than sorted."""
    alike = len(valid) and bool((valid == valid[0]).all())
    return valid[:1] if alike else np.unique(valid, axis=0)
