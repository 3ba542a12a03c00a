"""Inner products along the edges of a sparse graph, without storing a vector for every edge."""

import warnings
from typing import Any

import torch
from torch import Tensor

# Edges at a time: their vectors stay in cache.
_CHUNK = 1 << 13
# A product with so many columns costs as much as reading one of them.
DENSE = 32


class _EdgeProducts(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, columns: Tensor, offsets: Tensor, ends: Tensor) -> Tensor:
        owner = torch.arange(len(rows), device=rows.device).repeat_interleave(offsets.diff())
        products = pair_products(rows, columns, owner, ends)
        context.save_for_backward(columns, offsets, ends)
        context.num_rows = len(rows)
        return products

    @staticmethod
    def backward(context: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        columns, offsets, ends = context.saved_tensors
        size = (context.num_rows, len(columns))
        with warnings.catch_warnings():  # torch calls its CSR tensors beta
            warnings.simplefilter("ignore", UserWarning)
            gradient = torch.sparse_csr_tensor(offsets, ends, upstream[0], size, check_invariants=False)
        return gradient @ columns, None, None, None


def pair_products(rows: Tensor, columns: Tensor, owner: Tensor, ends: Tensor) -> Tensor:
    """``rows[owner[e]] · columns[ends[e]]`` for every pair e, without gradient. (E,)"""
    products = rows.new_empty(len(ends))
    for first in range(0, len(ends), _CHUNK):
        part = slice(first, first + _CHUNK)
        products[part] = torch.linalg.vecdot(rows[owner[part]], columns[ends[part]])
    return products


def products_at(rows: Tensor, columns: Tensor, places: Tensor) -> Tensor:
    """Inner products of rows (B, D) with the columns (n, D) at places (B, C), without gradient. (B, C)

    Of all columns by one matrix product, or of those places alone, where that is less work.
    """
    if len(columns) <= DENSE * places.shape[1]:
        return (rows @ columns.T).gather(1, places)
    owner = torch.arange(len(rows), device=rows.device).repeat_interleave(places.shape[1])
    return pair_products(rows, columns, owner, places.flatten()).view(places.shape)


def edge_products(rows: Tensor, columns: Tensor, offsets: Tensor, ends: Tensor) -> Tensor:
    """``rows[m] · columns[ends[e]]`` for every edge e of row m. (E,)

    Args:
        rows: (M, D) float32.
        columns: (n, D) float32; gets no gradient.
        offsets: (M + 1,) int64; the edges of row m are ``offsets[m]:offsets[m + 1]``.
        ends: (E,) int64.
    """
    products: Tensor = _EdgeProducts.apply(rows, columns, offsets, ends)  # type: ignore[no-untyped-call]
    return products
