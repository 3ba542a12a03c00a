"""Work on independent tiles of rows, spread over threads."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Tile = TypeVar("Tile")


def run_tiles(work: Callable[[Tile], None], tiles: Iterable[Tile]) -> None:
    """Call ``work`` on every tile, several at a time, each on one thread.

    NumPy and torch release the interpreter lock in their kernels, so that whole tiles run side by side; a product
    split over threads would leave the rest of a tile's work to one of them. As many threads as torch may use are
    taken. The result does not depend on their number as long as ``work`` writes to its own tile's place only.
    """
    listed = list(tiles)
    with one_thread_each() as allowed:
        workers = min(allowed, len(listed))
        if workers <= 1:
            for tile in listed:
                work(tile)
            return
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(work, listed):  # raises what a tile raised
                pass


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Products on one thread and in true float32, whatever the caller has set; yields the threads allowed before."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if threads > 1:
        torch.set_num_threads(1)
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield threads
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)


def row_tiles(num_rows: int, size: int) -> list[slice]:
    """Slices of ``size`` rows that cover them all; the last one may be shorter."""
    return [slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size)]
