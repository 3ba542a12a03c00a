"""In which precision matrix products are taken: float32, or bfloat16 where the machine has units for it."""

from contextlib import AbstractContextManager, nullcontext

import torch

from semid.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16")


def check_precision(precision: str) -> None:
    """Raise InputError unless it is one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}.")


def matrix_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: ``"float32"``, ``"bfloat16"``, or ``"auto"`` for the faster one here.

    bf16 is the faster one on GPUs and on CPUs with bf16 matrix or dot-product units.
    """
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16" or device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if _has_bf16_units() else torch.float32


def _has_bf16_units() -> bool:
    """Whether the CPU multiplies bf16 matrices natively; torch keeps these probes private and may rename them."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(hasattr(torch.cpu, probe) and getattr(torch.cpu, probe)() for probe in probes)


def products_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    """Take matrix products in ``dtype`` within; sums and what is not a product stay as they are."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()
