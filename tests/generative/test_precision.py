import pytest
import torch

from semid.errors import InputError
from semid.generative import precision
from semid.generative.precision import check_precision, matrix_dtype, products_in


@pytest.mark.parametrize("fast", [False, True])
def test_precision(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(precision.torch.cpu, probe, lambda: fast, raising=False)
    assert matrix_dtype("auto", cpu) == (torch.bfloat16 if fast else torch.float32)
    assert matrix_dtype("auto", gpu) == torch.bfloat16
    assert matrix_dtype("float32", gpu) == torch.float32
    assert matrix_dtype("bfloat16", cpu) == torch.bfloat16


def test_an_unknown_precision_is_refused() -> None:
    check_precision("bfloat16")
    with pytest.raises(InputError, match="precision='half' must be auto, float32 or bfloat16"):
        check_precision("half")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_nothing_else_are_taken_in_it(dtype: torch.dtype) -> None:
    x = torch.randn(4, 4)
    with products_in(dtype, torch.device("cpu")):
        assert (x @ x).dtype == dtype
        assert (x + x).dtype == torch.float32
