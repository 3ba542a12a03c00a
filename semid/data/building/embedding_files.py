"""Writes embeddings: one vector an item in any order, and which items have one."""

from pathlib import Path
from typing import Any

import numpy as np

from semid.data.building.row_file import RowFile
from semid.errors import InputError


class EmbeddingBuilder:
    """One embedding being written; rows never put stay missing.

    Attributes:
        num_valid: rows put so far.
    """

    def __init__(self, folder: Path, name: str, num_rows: int, dim: int, dtype: Any) -> None:
        self.name = name
        self.dim = dim
        self.num_valid = 0
        self._dtype = np.dtype(dtype)
        self._vectors = RowFile(folder / f"{name}.npy", dtype, (num_rows, dim))
        self._valid = RowFile(folder / f"{name}.valid.npy", np.bool_, (num_rows,))

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Set the vectors (n, D) of the item rows (n,), each row once, in any order.

        Raises:
            InputError: another width, NaN or infinity, a value too large for the stored type, or a row twice.
        """
        rows = np.asarray(rows, np.int64)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise InputError(
                f"Embedding {self.name} mixes dimensions: {vectors.shape[-1]} after {self.dim}; "
                "give every item a vector of the same length."
            )
        with np.errstate(over="ignore"):
            stored = vectors.astype(self._dtype, copy=False)
        self._check_finite(rows, vectors, stored)
        ordered = np.sort(rows)
        twice = rows[self._valid.get(rows)]
        twice = np.concatenate([twice, ordered[1:][np.diff(ordered) == 0]])
        if len(twice):
            raise InputError(
                f"Embedding {self.name} has item row {twice[0]} more than once: keep one vector per item."
            )
        self._vectors.put(rows, stored)
        self._valid.put(rows, np.ones(len(rows), np.bool_))
        self.num_valid += len(rows)

    def _check_finite(self, rows: np.ndarray, vectors: np.ndarray, stored: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if not len(bad):
            return
        row = rows[bad[0]]
        if np.isfinite(vectors[bad[0]]).all():
            raise InputError(
                f"Embedding {self.name} has a value at item row {row} that is too large for {self._dtype}: "
                "store it as float32."
            )
        raise InputError(
            f"Embedding {self.name} has NaN or infinity at item row {row}: "
            "correct the vector, or leave the item out so that it counts as missing."
        )

    def close(self) -> None:
        self._vectors.close()
        self._valid.close()


def check_join(
    name: str, joined: int, num_rows: int, num_items: int, min_rate: float, row_examples: str, item_examples: str
) -> float:
    """Share of the smaller side, embedding rows or items, that found its partner.

    Args:
        joined: embedding rows whose id is an item's.
        row_examples, item_examples: some ids of either side, for the message.

    Raises:
        InputError: the share is below ``min_rate``: the two sides use different ids.
    """
    rate = joined / max(1, min(num_rows, num_items))
    if rate < min_rate:
        raise InputError(
            f"Embedding {name} joins {joined} of its {num_rows} rows to {num_items} items, a rate of {rate:.3f} "
            f"below {min_rate}: its ids ({row_examples}) and the items' ({item_examples}) must be of one kind."
        )
    return rate
