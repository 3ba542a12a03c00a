"""When an event happened, as columns of small numbers: calendar and gap (``time``), its place in request, session and
visit (``session``), and how popular its item was then (``popularity``).

A *request* is events of equal time, a *session* ends with a gap of half an hour, a *visit* with the day (UTC). All
columns look back within a stretch of events only, popularity at all training events before the moment; the last value
of each means *not given*.
"""

import numpy as np

from semid.data.events import TIME_MISSING, EventLog
from semid.data.timeline import POPULARITY_SIZES

SESSION_GAP = 30 * 60
_DAY = 86_400
_NUM_LOG_BUCKETS = 32
_MOST_COUNTED = 31
_GAP, _HOUR, _WEEKDAY, _COUNT = _NUM_LOG_BUCKETS, 24, 7, _MOST_COUNTED + 1
_UNITS = ("request", "session", "visit")
# By group the number of values of each of its columns, in their order: gap, hour, weekday; of each unit how many of
# its events precede, how long ago it began, and how many units came before.
SIZES: dict[str, tuple[int, ...]] = {
    "time": (_GAP + 1, _HOUR + 1, _WEEKDAY + 1),
    "session": (_COUNT + 1, _GAP + 1, _COUNT + 1) * len(_UNITS),
    "popularity": POPULARITY_SIZES,
}


def columns_of(group: str) -> range:
    """Where the columns of a group lie."""
    before = list(SIZES)[: list(SIZES).index(group)]
    first = sum(len(SIZES[name]) for name in before)
    return range(first, first + len(SIZES[group]))


def clock_columns(log: EventLog, event: np.ndarray, *, starts: np.ndarray) -> np.ndarray:
    """The columns of ``time`` and ``session`` for events that lie one after the other in stretches. (M, C) int64

    Args:
        event: (M,) rows of the log.
        starts: (M,) bool, where a stretch begins; nothing before it is looked at.
    """
    time = log.times[event]
    given = time != TIME_MISSING
    before = np.roll(time, 1)
    paired = given & (before != TIME_MISSING) & ~starts
    gap = np.where(paired, time - np.where(paired, before, 0), 0).clip(min=0)
    safe = np.where(given, time, 0)
    day = safe // _DAY
    columns = [
        np.where(paired, _log_bucket(gap), _GAP),
        np.where(given, safe // 3600 % 24, _HOUR),
        np.where(given, (day + 3) % 7, _WEEKDAY),  # 1 January 1970 was a Thursday
    ]
    ends = {"request": gap > 0, "session": gap >= SESSION_GAP, "visit": day != np.roll(day, 1)}
    for unit in _UNITS:
        columns += _within(safe, given, ends[unit] | ~paired, starts)
    return np.stack(columns, axis=1)


def _within(time: np.ndarray, given: np.ndarray, opened: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each event: how many precede it in its unit, how long ago that began, how many units came before."""
    row = np.arange(len(time))
    first = np.maximum.accumulate(np.where(opened, row, 0))
    units = np.cumsum(opened)
    number = units - units[np.maximum.accumulate(np.where(starts, row, 0))]
    age = (time - time[first]).clip(min=0)
    return (
        np.where(given, (row - first).clip(max=_MOST_COUNTED), _COUNT),
        np.where(given, _log_bucket(age), _GAP),
        np.where(given, number.clip(max=_MOST_COUNTED), _COUNT),
    )


def _log_bucket(seconds: np.ndarray) -> np.ndarray:
    bucket: np.ndarray = np.log2(seconds + 1.0).astype(np.int64).clip(max=_NUM_LOG_BUCKETS - 1)
    return bucket
