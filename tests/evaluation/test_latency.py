import numpy as np
import pytest

from semid.errors import InputError
from semid.evaluation.latency import latency


class Clock:
    """Time that passes only where somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_medians_of_calls_after_the_warm_up() -> None:
    clock, asked = Clock(), []
    seconds = iter([9.0, 9.0, 0.001, 0.003, 0.002, 0.004, 0.101])

    def answer(rows: np.ndarray) -> None:
        asked.append(rows.tolist())
        clock.now += next(seconds)

    found = latency(answer, 3, 2, most_calls=5, seconds=1e9, clock=clock)
    assert asked == [[0, 1], [2, 0], [1, 2], [0, 1], [2, 0], [1, 2], [0, 1]]
    assert (found.median, found.calls) == (pytest.approx(3), 5)
    assert found.p99 == pytest.approx(np.percentile([1, 3, 2, 4, 101], 99))


def test_no_more_calls_when_time_is_up_though_at_least_three() -> None:
    clock = Clock()

    def answer(rows: np.ndarray) -> None:
        clock.now += 2.0
        assert len(rows) == 5

    assert latency(answer, 5, 64, seconds=3.0, clock=clock).calls == 3
    clock.now = 0
    assert latency(answer, 5, 64, seconds=15.0, clock=clock).calls == 6


def test_no_queries() -> None:
    with pytest.raises(InputError, match="no queries to take the time of"):
        latency(lambda rows: None, 0, 1)
