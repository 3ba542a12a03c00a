"""Categorical columns as vectors: one embedding a value, the mean over the values of a multi-value column.

Shapes: M rows asked for, D width.
"""

import torch
from torch import Tensor, nn

from semid.generative.catalogue import ListColumn
from semid.generative.layers import EmbeddingTables
from semid.selection import stretches

MAX_FIELD_ROWS = 1 << 18
# From so many rows on, a step costs by the rows that it looks at.
SPARSE_FIELD_ROWS = 1 << 14


class FieldsEncoder(nn.Module):
    """One vector a column.

    Args:
        sparse: whether large tables have gradients in the rows that were looked up alone.
    """

    def __init__(
        self, sizes: tuple[int, ...], list_sizes: tuple[int, ...], width: int, *, sparse: bool = False
    ) -> None:
        super().__init__()
        sparse_from = SPARSE_FIELD_ROWS if sparse else None
        self.single = EmbeddingTables([min(size, MAX_FIELD_ROWS) for size in sizes], width, sparse_from=sparse_from)
        self.lists = EmbeddingTables(
            [min(size, MAX_FIELD_ROWS) for size in list_sizes], width, sparse_from=sparse_from
        )

    def __len__(self) -> int:
        return len(self.single) + len(self.lists)

    def forward(self, values: Tensor, lists: tuple[ListColumn, ...], rows: Tensor) -> list[Tensor]:
        """Vectors (M, D), one a column, of ``rows`` (M,) of the (R, F) values and the list columns."""
        chosen = values[rows]
        parts = [self.single.column(index, chosen[:, index]) for index in range(len(self.single))]
        return parts + [self._mean(index, column, rows) for index, column in enumerate(lists)]

    def _mean(self, index: int, column: ListColumn, rows: Tensor) -> Tensor:
        start = column.offsets[rows]
        length = column.offsets[rows + 1] - start
        owner, place = stretches(start, length)
        values = self.lists.column(index, column.values[place])
        sums = values.new_zeros(len(rows), values.shape[1]).index_add(0, owner, values)
        return sums / length.clamp(min=1)[:, None]


class HashedIds(nn.Module):
    """Id embeddings; above MAX_ID_ROWS ids, rows of two tables are shared by remainders of two primes.

    That is the way of OnePiece (arXiv 2512.07424): two ids rarely share both.
    """

    MAX_ID_ROWS = 1 << 20
    PRIMES = (1_048_573, 1_048_559)

    def __init__(self, count: int, width: int, *, sparse: bool) -> None:
        super().__init__()
        sizes = self.PRIMES if count > self.MAX_ID_ROWS else (count,)
        self.tables = EmbeddingTables(sizes, width, sparse_from=0 if sparse else None)

    def forward(self, rows: Tensor) -> Tensor:
        """(M,) ids at least 0. (M, D)"""
        result: Tensor = self.tables([rows] * len(self.tables))
        return result


def dropped(count: int, rate: float, device: torch.device) -> Tensor:
    """(count,) bool, True at random with the given rate."""
    return torch.rand(count, device=device) < rate
