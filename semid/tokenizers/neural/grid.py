"""A fixed grid as codebooks: every latent coordinate rounds to one of a few values (FSQ, arXiv 2309.15505).

Shapes: B vectors, L levels, d coordinates, each of one level.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from math import log2, prod

import numpy as np
import torch
from torch import Tensor

from semid.errors import InputError
from semid.tokenizers.neural.codebooks import Bottleneck, Quantised

# Values of one coordinate, at most; and what they best are, by the paper's advice of at least five.
_MOST, _BEST = 16, 6


class GridCodebooks(Bottleneck):
    """Latents within (−1, 1), cut into cells of equal width; a coordinate of n values has (2 i + 1 − n) / n, i < n.

    Args:
        grids: the values of each coordinate, level by level.
    """

    sizes: Tensor

    def __init__(self, grids: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.grids = [tuple(grid) for grid in grids]
        sizes = list(itertools.chain.from_iterable(self.grids))
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.float32), persistent=False)

    def forward(self, latents: Tensor) -> Quantised:
        """Round (B, d) latents to the middle of their cells; the gradient passes straight through."""
        cells = torch.floor((latents.detach() + 1) / 2 * self.sizes).clamp_min(0)
        cells = torch.minimum(cells, self.sizes - 1)
        points = (2 * cells + 1 - self.sizes) / self.sizes
        total = latents + (points - latents).detach()
        return Quantised(self._codes(cells.long()), total, latents.new_zeros(()))

    def _codes(self, cells: Tensor) -> Tensor:
        codes, first = [], 0
        for grid in self.grids:
            code = torch.zeros_like(cells[:, 0])
            for size in grid:
                code = code * size + cells[:, first]
                first += 1
            codes.append(code)
        return torch.stack(codes, 1)

    def arrays(self) -> list[np.ndarray]:
        """The points of each level's grid, zero in the coordinates of others: L arrays (K_l, d) float32."""
        books, first = [], 0
        for grid in self.grids:
            book = np.zeros((prod(grid), len(self.sizes)), np.float32)
            axes = [(2 * np.arange(size) + 1 - size) / size for size in grid]
            points = list(itertools.product(*axes))
            book[:, first : first + len(grid)] = np.array(points).reshape(len(book), len(grid))
            books.append(book)
            first += len(grid)
        return books


@lru_cache
def grid_of(num_codes: int) -> tuple[int, ...]:
    """Values of each coordinate, falling, with K as their product: 8, 8, 4 for 256.

    Raises:
        InputError: K is no product of numbers up to 16.
    """
    grids = list(_factorisations(num_codes, _MOST))
    if not grids:
        better = next(size for size in range(num_codes - 1, 0, -1) if any(_factorisations(size, _MOST)))
        raise InputError(
            f"A grid cannot have {num_codes} codes, which is no product of numbers up to {_MOST}: use {better}."
        )
    return min(grids, key=lambda grid: sum(abs(log2(size / _BEST)) for size in grid))


def _factorisations(number: int, most: int) -> list[tuple[int, ...]]:
    """All ways to write a number as a product of numbers from 2 to ``most``, each falling."""
    if number == 1:
        return [()]
    return [
        (first, *rest)
        for first in range(min(most, number), 1, -1)
        if number % first == 0
        for rest in _factorisations(number // first, first)
    ]
