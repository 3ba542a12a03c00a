"""Vectors by row, in memory or on disk, of which only those looked at are fetched."""

from typing import Protocol

import numpy as np


class Rows(Protocol):
    """(N, D) float32 vectors by row, possibly on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray | slice, /) -> np.ndarray: ...


class ChosenRows:
    """Some rows of vectors, looked at as vectors of their own.

    Args:
        vectors: (N, D) float32.
        rows: (n,) those meant.
    """

    def __init__(self, vectors: Rows, rows: np.ndarray) -> None:
        self._vectors, self._rows = vectors, rows
        self.shape = (len(rows), vectors.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray | slice, /) -> np.ndarray:
        return self._vectors[self._rows[rows]]
