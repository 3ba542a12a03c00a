"""How long answers take, one query alone and many at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semid.errors import InputError

_WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of a call.

    Attributes:
        median, p99: over the calls; with few calls the 99th percentile is the slowest of them.
        calls: how many were timed.
    """

    median: float
    p99: float
    calls: int


def latency(
    answer: Callable[[np.ndarray], object],
    num_queries: int,
    batch: int,
    *,
    most_calls: int = 100,
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time calls for ``batch`` queries each, the ones after the others, round and round.

    Args:
        answer: recommends for queries (batch,) and returns when the result is there.
        num_queries: how many there are to ask.
        batch: queries of a call; all there are if they are fewer.
        most_calls: that are timed.
        seconds: after which no more calls are made, though at least three.

    Raises:
        InputError: no queries.
    """
    if not num_queries:
        raise InputError("There are no queries to take the time of: name at least one.")
    size = min(batch, num_queries)
    taken: list[float] = []
    began = clock()
    for call in range(_WARM_UP + most_calls):
        rows = (np.arange(size) + call * size) % num_queries
        start = clock()
        answer(rows)
        end = clock()
        if call >= _WARM_UP:
            taken.append(1000 * (end - start))
        if len(taken) >= 3 and end - began > seconds:
            break
    return Latency(median=float(np.median(taken)), p99=float(np.percentile(taken, 99)), calls=len(taken))
