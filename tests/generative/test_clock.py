"""Oracle: each event worked out on its own in plain Python."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.data.events import TIME_MISSING
from semid.generative.clock import SIZES, clock_columns, columns_of

UNITS = ("request", "session", "visit")
NAMES = ["gap", "hour", "weekday", *(f"{unit}_{what}" for unit in UNITS for what in ("place", "age", "number"))]
MISSING = dict(zip(NAMES, [size - 1 for group in ("time", "session") for size in SIZES[group]], strict=True))
TIMES = st.lists(
    st.integers(-(2**33), 2**35) | st.integers(1_600_000_000, 1_600_200_000) | st.just(TIME_MISSING),
    min_size=1,
    max_size=9,
)


def bucket(seconds: int) -> int:
    return min((max(seconds, 0) + 1).bit_length() - 1, 31)


def naive(times: list[int]) -> list[dict[str, int]]:
    """The columns of each event of one stretch; units are lists of the times of their events."""
    rows: list[dict[str, int]] = []
    units: dict[str, list[list[int]]] = {"request": [], "session": [], "visit": []}
    for place, time in enumerate(times):
        before = times[place - 1] if place else TIME_MISSING
        row = dict(MISSING)
        paired = TIME_MISSING not in (time, before)
        for name, found in units.items():
            gap = max(time - before, 0)
            same = {
                "request": gap == 0,
                "session": gap < 1800,
                "visit": time // 86_400 == before // 86_400,
            }
            if not (paired and same[name]):
                found.append([])
            found[-1].append(time)
            if time != TIME_MISSING:
                row[f"{name}_place"] = min(len(found[-1]) - 1, 31)
                row[f"{name}_age"] = bucket(time - found[-1][0])
                row[f"{name}_number"] = min(len(found) - 1, 31)
        if time != TIME_MISSING:
            when = datetime.fromtimestamp(time, tz=UTC)
            row |= {"hour": when.hour, "weekday": when.weekday()}
            if paired:
                row["gap"] = bucket(time - before)
        rows.append({name: row[name] for name in NAMES})
    return rows


@settings(max_examples=300, deadline=None)
@given(stretches=st.lists(TIMES, min_size=1, max_size=3))
def test_columns_of_times_of_any_age_and_order(build: Any, stretches: list[list[int]]) -> None:
    """Several stretches beside each other know nothing of each other."""
    log = build.log([list(range(len(times))) for times in stretches], stretches)
    starts = np.isin(np.arange(log.num_events), log.offsets[:-1])
    columns = clock_columns(log, np.arange(log.num_events), starts=starts)
    expected = [row for times in stretches for row in naive(times)]
    assert [dict(zip(NAMES, row, strict=True)) for row in columns.tolist()] == expected
    assert (columns <= np.array(list(MISSING.values()))).all()


def test_groups_lie_side_by_side() -> None:
    places = [columns_of(group) for group in ("time", "session", "popularity")]
    assert [(place.start, place.stop) for place in places] == [(0, 3), (3, 12), (12, 17)]


@pytest.mark.parametrize(("gap", "sessions"), [(1799, 1), (1800, 2)])
def test_a_session_ends_with_half_an_hour(build: Any, gap: int, sessions: int) -> None:
    log = build.log([[0, 1]], [[1_600_000_000, 1_600_000_000 + gap]])
    columns = clock_columns(log, np.arange(2), starts=np.array([True, False]))
    assert columns[1, NAMES.index("session_number")] == sessions - 1
