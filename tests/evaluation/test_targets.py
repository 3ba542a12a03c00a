from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semid.data.events import EventLog, Queries
from semid.errors import InputError
from semid.evaluation.targets import Targets

EXPOSURE, CLICK, CONVERSION = 0, 1, 2
WEIGHTS = (0.0, 1.0, 2.5)


def queries(targets: Sequence[Sequence[tuple[int, int]]]) -> Queries:
    """Queries with the given (item, action) targets."""
    flat = [pair for row in targets for pair in row]
    nothing = np.zeros(0, np.int64)
    return Queries(
        log=EventLog(nothing, nothing, nothing, np.zeros(1, np.int64)),
        users=np.arange(len(targets), dtype=np.int32),
        start=np.zeros(len(targets), np.int64),
        end=np.zeros(len(targets), np.int64),
        target_items=np.array([item for item, _ in flat], np.int32),
        target_actions=np.array([action for _, action in flat], np.int8),
        target_offsets=np.cumsum([0, *(len(row) for row in targets)]),
    )


def test_target_met_twice_counts_once_with_its_larger_weight() -> None:
    targets = Targets.of(queries([[(4, CLICK), (4, CONVERSION), (1, CLICK), (4, EXPOSURE)]]), WEIGHTS)
    assert targets.items.tolist() == [4, 1]
    assert targets.weights.tolist() == [2.5, 1.0]


def test_unknown_actions_weigh_one() -> None:
    assert Targets.of(queries([[(4, -1), (5, CONVERSION)]]), WEIGHTS).weights.tolist() == [2.5, 1.0]
    assert Targets.of(queries([[(4, -1), (5, CONVERSION)]])).weights.tolist() == [1.0, 1.0]
    assert Targets.of(queries([[(4, -1)], [(5, EXPOSURE)]]), WEIGHTS).weights.tolist() == [1.0, 0.0]


@given(
    asked=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 2)), min_size=1, max_size=6), min_size=1, max_size=5
    ),
    weights=st.sampled_from([None, WEIGHTS, (0.5, 1.0, 1.0), (0.0, 0.0, 0.0), (3.0, 0.25, 1e-9)]),
)
def test_equals_a_loop_over_queries(
    asked: list[list[tuple[int, int]]], weights: tuple[float, float, float] | None
) -> None:
    found = Targets.of(queries(asked), weights)
    assert len(found) == len(asked)
    for query, targets in enumerate(asked):
        heaviest: dict[int, float] = {}
        for item, action in targets:
            weight = 1.0 if weights is None or action < 0 else weights[action]
            heaviest[item] = max(heaviest.get(item, 0.0), weight)
        rows = slice(found.offsets[query], found.offsets[query + 1])
        expected = sorted(heaviest.items(), key=lambda pair: (-pair[1], pair[0]))
        assert list(zip(found.items[rows].tolist(), found.weights[rows].tolist(), strict=True)) == expected
        assert found.rows[rows].tolist() == [query] * len(expected)
        assert found.ranks[rows].tolist() == list(range(len(expected)))
        assert found.query_weights[query] == pytest.approx(sum(heaviest.values()))


def test_values_of_targets_as_one_a_query() -> None:
    targets = Targets.of(queries([[(4, CLICK), (1, CLICK)], [(2, CLICK)]]))
    assert targets.reduce(np.add, np.array([1.0, 2.0, 5.0])).tolist() == [3.0, 5.0]
    assert targets.reduce(np.minimum, np.array([7, 3, 9])).tolist() == [3, 9]
    assert targets.reduce(np.logical_or, np.array([False, True, False])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("target", "weights", "words"),
    [
        ([[(1, CLICK)], []], WEIGHTS, "Query 1 has no target"),
        ([[(1, 3)]], WEIGHTS, "action 3 but there are weights for 3"),
        ([[(1, 0)]], (-1.0,), "not negative"),
        ([[(1, 0)]], (np.nan,), "finite"),
        ([[(-1, 0)]], None, "A target is item -1"),
    ],
)
def test_bad_targets(target: Any, weights: Sequence[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Targets.of(queries(target), weights)
