"""Counts and ages against loops over the events; and that none of them knows what is not earlier."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from semid.data import timeline as module
from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.timeline import (
    AGE_MISSING,
    AGE_NEVER,
    COUNT_MISSING,
    NUM_AGE_BUCKETS,
    NUM_COUNT_BUCKETS,
    POPULARITY_SIZES,
    Timeline,
    popularity_features,
)
from semid.errors import InputError

MakeDataset = Callable[..., Dataset]
Statistic = Callable[[Dataset, np.ndarray, np.ndarray], np.ndarray]
LeakingEvents = Callable[[Statistic, Dataset], np.ndarray]
NUM_ITEMS = 5
START = 1_700_000_000
TIMES = st.one_of(st.integers(0, 12), st.just(TIME_MISSING))
HISTORIES = st.lists(st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), TIMES), max_size=8), min_size=1, max_size=5)
# Seconds between two neighbouring times: of the second, all do not fit in 32 bits.
UNITS = st.sampled_from([1, 1 << 30])


def at(time: int, unit: int) -> int:
    return TIME_MISSING if time == TIME_MISSING else START + time * unit


def training_events(dataset: Dataset) -> list[tuple[int, int]]:
    """Items and times, one after the other, of those with a time."""
    log, starts = dataset.events, dataset.events.offsets[:-1]
    rows = chain.from_iterable(range(start, end) for start, end in zip(starts, dataset.train_end, strict=True))
    return [(int(log.items[row]), int(log.times[row])) for row in rows if log.times[row] != TIME_MISSING]


def count_by_loop(events: list[tuple[int, int]], item: int, time: int, seconds: int | None) -> int:
    earlier = [when for other, when in events if other == item and when < time != TIME_MISSING]
    return sum(seconds is None or when >= time - seconds for when in earlier)


def age_by_loop(events: list[tuple[int, int]], item: int, time: int) -> int:
    return min((time - when for other, when in events if other == item and when < time != TIME_MISSING), default=-1)


@settings(max_examples=200, deadline=None)
@given(histories=HISTORIES, held_out=st.integers(0, 2), unit=UNITS, block=st.sampled_from([1, 4, 1 << 20]))
def test_counts_and_ages_are_those_of_a_loop(
    make_dataset: MakeDataset, histories: list[list[tuple[int, int]]], held_out: int, unit: int, block: int
) -> None:
    items = [[item for item, _ in history] for history in histories]
    times = [[at(time, unit) for _, time in history] for history in histories]
    dataset = make_dataset(items, NUM_ITEMS, held_out, times)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        timeline = Timeline.of(dataset)
    events = training_events(dataset)
    asked_items = np.arange(-1, NUM_ITEMS)[:, None]
    asked_times = np.array([TIME_MISSING, *(at(time, unit) for time in range(-2, 15))])
    for seconds in (None, 1, 3 * unit, 100 * unit):
        found = timeline.counts(asked_items, asked_times, seconds)
        assert found.dtype == np.int64
        assert found.tolist() == [
            [count_by_loop(events, int(item), int(time), seconds) for time in asked_times]
            for item in asked_items[:, 0]
        ]
    assert timeline.last_seen(asked_items, asked_times).tolist() == [
        [age_by_loop(events, int(item), int(time)) for time in asked_times] for item in asked_items[:, 0]
    ]


@settings(max_examples=50, deadline=None)
@given(histories=HISTORIES, rows=st.permutations(range(NUM_ITEMS)), gone=st.integers(0, NUM_ITEMS))
def test_in_another_catalogue_counts_are_those_of_the_same_items(
    make_dataset: MakeDataset, histories: list[list[tuple[int, int]]], rows: list[int], gone: int
) -> None:
    items = [[item for item, _ in history] for history in histories]
    times = [[at(time, 1) for _, time in history] for history in histories]
    timeline = Timeline.of(make_dataset(items, NUM_ITEMS, 0, times))
    there = np.array([*rows[gone:], -1, -1])
    carried = timeline.carried(there)
    asked = np.array([at(time, 1) for time in range(-2, 15)])
    places = np.arange(len(there))[:, None]
    for found, expected in (
        (carried.counts(places, asked, 3), timeline.counts(there[:, None], asked, 3)),
        (carried.last_seen(places, asked), timeline.last_seen(there[:, None], asked)),
    ):
        np.testing.assert_array_equal(found, expected)


def test_more_users_than_one_block_holds(make_dataset: MakeDataset) -> None:
    rng = np.random.default_rng(0)
    items, times = rng.integers(0, 50, 70_000), rng.integers(0, 10**6, 70_000)
    timeline = Timeline.of(make_dataset(items[:, None].tolist(), 50, 0, times[:, None].tolist()))
    order = np.lexsort((times, items))
    assert np.array_equal(timeline.times + timeline.first, times[order])
    assert np.array_equal(np.diff(timeline.offsets), np.bincount(items, minlength=50))


def test_times_take_four_bytes_where_they_fit(make_dataset: MakeDataset) -> None:
    for span, dtype in (((1 << 32) - 1, np.uint32), (1 << 32, np.int64)):
        timeline = Timeline.of(make_dataset([[0, 0, 0]], 1, 0, [[-5, 7, span - 5]]))
        assert timeline.times.dtype == dtype
        assert timeline.times.tolist() == [0, 12, span]
        assert timeline.counts(np.array([0]), np.array([span - 5])).tolist() == [2]
        assert timeline.counts(np.array([0]), np.array([np.iinfo(np.int64).max - 5])).tolist() == [3]


def test_held_out_events_are_never_counted(make_dataset: MakeDataset) -> None:
    timeline = Timeline.of(make_dataset([[0, 1], [1, 0]], 2, 1, [[10, 11], [12, 13]]))
    assert timeline.counts(np.array([0, 1]), np.array([99, 99])).tolist() == [1, 1]
    assert timeline.last_seen(np.array([0, 1]), np.array([99, 99])).tolist() == [89, 87]


@pytest.mark.parametrize("unit", [1, 1 << 30])
def test_equal_after_writing_and_reading(make_dataset: MakeDataset, unit: int) -> None:
    timeline = Timeline.of(make_dataset([[0, 2], [2]], 3, 0, [[at(1, unit), at(9, unit)], [at(4, unit)]]))
    again = Timeline.from_arrays(load(save(timeline.to_arrays())))
    assert again.first == timeline.first
    for name in ("offsets", "times"):
        assert np.array_equal(getattr(again, name), getattr(timeline, name))
        assert getattr(again, name).dtype == getattr(timeline, name).dtype
    asked = np.arange(3), np.full(3, at(10, unit))
    assert again.counts(*asked).tolist() == [1, 0, 2]
    assert again.last_seen(*asked).tolist() == [9 * unit, -1, unit]


@pytest.mark.parametrize("times", [[[]], [[TIME_MISSING, TIME_MISSING]]])
def test_without_a_time_there_is_no_event(make_dataset: MakeDataset, times: list[list[int]]) -> None:
    timeline = Timeline.of(make_dataset([[0] * len(times[0])], 2, 0, times))
    asked = np.array([0, 1]), np.array([START, TIME_MISSING])
    assert timeline.counts(*asked).tolist() == [0, 0]
    assert timeline.last_seen(*asked).tolist() == [-1, -1]
    never, missing = [0, 0, 0, 0, AGE_NEVER], [COUNT_MISSING] * 4 + [AGE_MISSING]
    assert popularity_features(timeline, *asked).tolist() == [never, missing]


def test_mistakes_are_named(make_dataset: MakeDataset) -> None:
    timeline = Timeline.of(make_dataset([[0]], 1))
    with pytest.raises(InputError, match="A window of 0 seconds holds no events"):
        timeline.counts(np.array([0]), np.array([1]), seconds=0)
    with pytest.raises(InputError, match="cannot be seconds"):
        Timeline.of(make_dataset([[0, 0]], 1, 0, [[-(1 << 62), 1 << 62]]))


def test_buckets_by_hand(make_dataset: MakeDataset) -> None:
    """Before START + 7 days item 0 was taken a second, 30 minutes, 2 hours, 6 days and 8 days ago."""
    now = START + 7 * 86_400
    ago = [8 * 86_400, 6 * 86_400, 7200, 1800, 1]
    timeline = Timeline.of(make_dataset([[0] * 5 + [1]], 3, 0, [[*(now - seconds for seconds in ago), now]]))
    # 2, 3, 4 and 5 events: log2 of 3, 4, 5 and 6 rounded down. One second: log2 of 2.
    found = popularity_features(
        timeline, np.array([0, 1, 1, 2, -1, 0]), np.array([now, now, now + 1, now, now, TIME_MISSING])
    )
    assert found.tolist() == [
        [1, 2, 2, 2, 1],
        [0, 0, 0, 0, AGE_NEVER],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 0, AGE_NEVER],
        [*[COUNT_MISSING] * 4, AGE_MISSING],
        [*[COUNT_MISSING] * 4, AGE_MISSING],
    ]
    assert popularity_features(timeline, np.zeros((2, 3), np.int64), np.array([START])).shape == (2, 3, 5)


def test_a_window_takes_in_its_first_second_and_not_its_end(make_dataset: MakeDataset) -> None:
    timeline = Timeline.of(make_dataset([[0]], 1, 0, [[START]]))
    for column, seconds in enumerate((3600, 86_400, 604_800)):
        found = popularity_features(timeline, np.zeros(4, np.int32), START + np.array([0, 1, seconds, seconds + 1]))
        assert found[:, column].tolist() == [0, 1, 1, 0]


def test_buckets_are_exact_and_end_at_the_last(make_dataset: MakeDataset) -> None:
    values = np.array([0, *(power for bits in range(1, 50) for power in ((1 << bits) - 2, (1 << bits) - 1))])
    expected = [min((int(value) + 1).bit_length() - 1, NUM_AGE_BUCKETS - 1) for value in values]
    assert module._bucket(values, NUM_AGE_BUCKETS).tolist() == expected
    assert POPULARITY_SIZES == (NUM_COUNT_BUCKETS + 1,) * 4 + (NUM_AGE_BUCKETS + 2,)
    timeline = Timeline.of(make_dataset([[0]], 1, 0, [[0]]))
    assert popularity_features(timeline, np.array([0]), np.array([1 << 60]))[0, -1] == NUM_AGE_BUCKETS - 1


@pytest.fixture(scope="module")
def log(make_dataset: MakeDataset) -> Dataset:
    """Ten days of 70 events, many at the same time as others, some without; the last one of each user is held out."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 11)
    times = [np.sort(START + rng.integers(0, 120, length) * 7200) for length in lengths]
    for user in times:
        user[rng.random(len(user)) < 0.1] = TIME_MISSING
    histories = [rng.integers(0, NUM_ITEMS, length).tolist() for length in lengths]
    return make_dataset(histories, NUM_ITEMS, 1, [user.tolist() for user in times])


def features(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return popularity_features(Timeline.of(dataset), items, times)


def day(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return Timeline.of(dataset).counts(items, times, 86_400)


def ever(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return Timeline.of(dataset).counts(items, times)


def age(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return Timeline.of(dataset).last_seen(items, times)


@pytest.mark.parametrize("statistic", [features, day, ever, age])
def test_nothing_leaks(leaking_events: LeakingEvents, log: Dataset, statistic: Statistic) -> None:
    assert leaking_events(statistic, log).tolist() == []


def test_the_event_itself_would_be_found(leaking_events: LeakingEvents, log: Dataset) -> None:
    """A count up to and including the moment: of every training event it counts the event itself."""

    def up_to(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        return ever(dataset, items, times + 1)

    rows = np.concatenate(list(log.training_rows()))
    timed = rows[log.events.times[rows] != TIME_MISSING]
    assert set(timed) <= set(leaking_events(up_to, log))


def whole_log(dataset: Dataset, items: np.ndarray, _: np.ndarray) -> np.ndarray:
    return dataset.train_counts[items]


def next_day(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return day(dataset, items, times + 86_400)


def held_out(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return ever(replace(dataset, train_end=dataset.events.offsets[1:]), items, times)


def without_a_time(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    log = dataset.events
    timed = replace(log, times=np.where(log.times == TIME_MISSING, 0, log.times))
    return ever(replace(dataset, events=timed), items, times)


@pytest.mark.parametrize("statistic", [whole_log, next_day, held_out, without_a_time])
def test_other_leaks_would_be_found(leaking_events: LeakingEvents, log: Dataset, statistic: Statistic) -> None:
    assert len(leaking_events(statistic, log))
