"""Products along edges against a dense product in float64."""

import pytest
import torch

from semid.generative import edges
from semid.generative.edges import edge_products


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_values_and_gradient_agree_with_the_dense_product(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(edges, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    columns = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    counts = torch.tensor([2, 0, 7, 1, 3])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    ends = torch.cat([torch.randperm(7, generator=generator)[:count].sort().values for count in counts.tolist()])
    owner = torch.arange(5).repeat_interleave(counts)
    weights = torch.randn(len(ends), dtype=torch.float64, generator=generator)

    products = edge_products(rows, columns, offsets, ends)
    (gradient,) = torch.autograd.grad((products * weights).sum(), rows)
    dense = (rows @ columns.T)[owner, ends]
    (expected,) = torch.autograd.grad((dense * weights).sum(), rows)
    torch.testing.assert_close(products, dense)
    torch.testing.assert_close(gradient, expected)
    assert not gradient[1].any()
