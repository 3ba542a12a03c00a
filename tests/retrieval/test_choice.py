"""What a catalogue gets, and that Faiss can make it."""

from typing import Any

import numpy as np
import pytest

from semid.retrieval.ann import AnnIndex
from semid.retrieval.choice import EXACT_UNTIL, auto_factory, build_index, num_lists
from semid.retrieval.exact_index import ExactIndex


@pytest.mark.parametrize(
    ("count", "lists"), [(1, 4), (10_000, 512), (65_536, 1024), (1_000_000, 4096), (10_000_000, 16384)]
)
def test_lists_are_a_power_of_two_near_four_times_the_root(count: int, lists: int) -> None:
    assert num_lists(count) == lists
    assert 2**-0.5 <= lists / (4 * count**0.5) <= 2**0.5


def test_small_catalogues_are_searched_exactly_and_large_ones_by_lists() -> None:
    assert auto_factory(EXACT_UNTIL, 64) == "exact"
    assert auto_factory(EXACT_UNTIL + 1, 64).startswith(f"IVF{num_lists(EXACT_UNTIL + 1)},")
    assert auto_factory(1_000_000, 64) == "IVF4096,PQ64x4fs,Refine(SQfp16)"
    assert auto_factory(1_000_000, 64, "cuda") == "exact"
    assert auto_factory(100_000_000, 64, "cuda") == "IVF32768,SQfp16"  # Faiss has no fast scan on GPUs


@pytest.mark.parametrize("count", [EXACT_UNTIL + 1, 1_000_000, 100_000_000])
def test_faiss_knows_what_is_chosen(count: int) -> None:
    faiss: Any = pytest.importorskip("faiss")
    assert faiss.index_factory(64, auto_factory(count, 64), faiss.METRIC_INNER_PRODUCT).d == 64


def test_kinds() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert isinstance(build_index(vectors), ExactIndex)
    assert isinstance(build_index(vectors, factory="exact"), ExactIndex)
    assert isinstance(build_index(vectors, factory="HNSW4"), AnnIndex)
    for factory in ("auto", "exact", "HNSW4"):
        found = build_index(vectors, np.array([7, 5, 9, 3]), factory).search(vectors[2:3], 1)
        assert found.items.tolist() == [[9]]
