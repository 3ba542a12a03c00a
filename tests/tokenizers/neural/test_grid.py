import itertools
from math import prod

import numpy as np
import pytest
import torch

from semid.errors import InputError
from semid.tokenizers.neural.grid import GridCodebooks, grid_of


def test_grids_multiply_to_the_codes() -> None:
    assert grid_of(256) == (8, 8, 4)
    assert grid_of(1024) == (8, 8, 4, 4)
    assert grid_of(64) == (8, 8)
    assert grid_of(1) == ()
    for size in (2, 5, 12, 100, 240, 1000, 4096, 8192, 65536):
        grid = grid_of(size)
        assert prod(grid) == size
        assert max(grid) <= 16


def test_sizes_that_no_grid_has_are_refused_with_the_next_that_one_has() -> None:
    with pytest.raises(InputError, match=r"cannot have 257 codes.*: use 256"):
        grid_of(257)
    with pytest.raises(InputError, match=r"cannot have 34 codes.*: use 33"):
        grid_of(34)


def test_points_worked_by_hand() -> None:
    first, second = GridCodebooks([(2, 3), (4,)]).arrays()
    third = np.float32(2 / 3)
    expected = [[a, b, 0] for a, b in itertools.product([-0.5, 0.5], [-third, 0, third])]
    np.testing.assert_allclose(first, expected, atol=1e-7)
    np.testing.assert_allclose(second, [[0, 0, -0.75], [0, 0, -0.25], [0, 0, 0.25], [0, 0, 0.75]])


def test_rounding_takes_the_nearest_point_and_its_code() -> None:
    codebooks = GridCodebooks([(5, 3), (4,)])
    latents = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents.requires_grad_()
    quantised = codebooks(latents)
    residuals = latents.detach().numpy().astype(np.float64)
    total = np.zeros_like(residuals)
    for level, book in enumerate(codebooks.arrays()):
        nearest = ((residuals[:, None] - book[None]) ** 2).sum(2).argmin(1)
        np.testing.assert_array_equal(quantised.codes[:, level].numpy(), nearest)
        total += book[nearest]
    np.testing.assert_allclose(quantised.total.detach().numpy(), total, atol=1e-6)
    assert float(quantised.loss) == 0
    quantised.total.sum().backward()
    torch.testing.assert_close(latents.grad, torch.ones(500, 3))


def test_the_ends_of_the_range_stay_in_the_last_cells() -> None:
    codebooks = GridCodebooks([(4,)])
    assert codebooks(torch.tensor([[-1.0], [1.0]])).codes.tolist() == [[0], [3]]
