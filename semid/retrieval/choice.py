"""Which index a catalogue gets: exact search while that is quick, then inverted lists."""

import math

import numpy as np
import torch

from semid.retrieval.ann import AnnIndex
from semid.retrieval.exact_index import EXACT, ExactIndex
from semid.retrieval.item_index import ItemIndex

AUTO = "auto"
EXACT_UNTIL = 50_000
_EXACT_ON_GPU_UNTIL = 10_000_000


def auto_factory(num_items: int, width: int, device: str | torch.device = "cpu") -> str:
    """The factory for a catalogue of this size, of vectors this wide.

    Beyond what is searched exactly, inverted lists. On a CPU their vectors have four bits a number, looked up in
    registers ("fast scan": André et al., arXiv 1812.09162), and the best are compared again in float16.
    """
    on_cpu = torch.device(device).type == "cpu"
    if num_items <= (EXACT_UNTIL if on_cpu else _EXACT_ON_GPU_UNTIL):
        return EXACT
    return f"IVF{num_lists(num_items)}," + (f"PQ{width}x4fs,Refine(SQfp16)" if on_cpu else "SQfp16")


def num_lists(num_items: int) -> int:
    """Inverted lists for so many items: about four times their square root, as Faiss's guide has it."""
    return 1 << round(math.log2(4 * math.sqrt(num_items)))


def build_index(
    vectors: np.ndarray,
    item_rows: np.ndarray | None = None,
    factory: str = AUTO,
    device: str | torch.device = "cpu",
) -> ItemIndex:
    """An index of item vectors.

    Args:
        vectors: (C, D) floats; normalise for cosine.
        item_rows: (C,) distinct item rows; ``0..C-1`` if None.
        factory: ``"exact"``, a Faiss factory string such as ``"HNSW32"``, or ``"auto"`` to choose by C.
        device: where to search.

    Raises:
        InputError: see :meth:`ExactIndex.build` and :meth:`AnnIndex.build`.
    """
    if factory == AUTO:
        factory = auto_factory(len(vectors), np.shape(vectors)[-1], device)
    if factory == EXACT:
        return ExactIndex.build(vectors, item_rows, device)
    return AnnIndex.build(vectors, item_rows, factory, str(device))
