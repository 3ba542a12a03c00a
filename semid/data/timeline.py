"""When each item was taken in training: counts and ages as they stood at any moment, from earlier events alone.

A feature that counts the whole log tells a model what happens after the moment that it predicts. Here every answer
is about a moment and knows only training events *strictly* earlier: those at that very time, the one to be predicted
among them, are left out, and so are events without a time.

Legend: N items, E training events with a time, M questions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from semid.data.dataset import Dataset, ranges
from semid.data.events import TIME_MISSING
from semid.errors import InputError

HOUR, DAY, WEEK = 3600, 86_400, 7 * 86_400
POPULARITY_WINDOWS = (HOUR, DAY, WEEK)
NUM_COUNT_BUCKETS = 32
COUNT_MISSING = NUM_COUNT_BUCKETS
NUM_AGE_BUCKETS = 32
AGE_NEVER = NUM_AGE_BUCKETS
AGE_MISSING = NUM_AGE_BUCKETS + 1
# How many values each column of popularity_features has.
POPULARITY_SIZES = (*[COUNT_MISSING + 1] * (len(POPULARITY_WINDOWS) + 1), AGE_MISSING + 1)
# Events sorted at a time.
_BLOCK = 1 << 20
_SHORT_SPAN = 1 << 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Timeline:
    """The times of every item's training events, 4 bytes an event if all lie within 136 years and 8 otherwise.

    Attributes:
        offsets: (N + 1,) int64; the times of item i are ``times[offsets[i]:offsets[i + 1]]``.
        times: (E,) uint32 or int64 seconds after ``first``, rising for each item.
        first: Unix seconds of the earliest event, 0 if there is none.
    """

    offsets: np.ndarray
    times: np.ndarray
    first: int

    @staticmethod
    def of(dataset: Dataset) -> "Timeline":
        """Gather the training events of a dataset; valid and test events are never read.

        Beside the result it takes the memory of a block of users and of one of items.

        Raises:
            InputError: the times lie so far apart that they cannot be seconds.
        """
        first, last = training_period(dataset)
        counts = np.zeros(dataset.num_items, np.int64)
        for items, _ in _timed_events(dataset):
            counts += np.bincount(items, minlength=dataset.num_items)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        times = np.empty(offsets[-1], np.uint32 if last - first < _SHORT_SPAN else np.int64)
        _group(dataset, first, offsets[:-1].copy(), times)
        _sort_groups(offsets, times)
        return Timeline(offsets=offsets, times=times, first=first)

    def counts(self, items: np.ndarray, times: np.ndarray, seconds: int | None = None) -> np.ndarray:
        """How often each item was taken in the ``seconds`` before a moment, or ever before it.

        Args:
            items: (M,) item rows, -1 for none; any other shape will do.
            times: Unix seconds, of the same shape or one that broadcasts; TIME_MISSING where not known.
            seconds: length of the window ``[time - seconds, time)``; None counts everything before ``time``.

        Returns:
            (M,) int64, 0 for no item and for no time.

        Raises:
            InputError: a window of less than one second.
        """
        if seconds is not None and seconds < 1:
            raise InputError(f"A window of {seconds} seconds holds no events: count over at least 1.")
        items, moments = self._moments(items, times)
        earlier = self._num_earlier(items, moments)
        return earlier if seconds is None else earlier - self._num_earlier(items, moments - seconds)

    def last_seen(self, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Seconds from each item's latest event before a moment to that moment.

        Args:
            items, times: as in :meth:`counts`.

        Returns:
            (M,) int64, -1 where the item was not taken before, for no item and for no time.
        """
        items, moments = self._moments(items, times)
        return self._age(items, moments, self._num_earlier(items, moments))

    def carried(self, rows: np.ndarray) -> "Timeline":
        """The same for another catalogue, in which items that are not here were never taken.

        Args:
            rows: (N',) row that each of its items has here, -1 for none.
        """
        lengths = np.where(rows >= 0, np.diff(self.offsets)[rows], 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Timeline(offsets=offsets, times=self.times[ranges(self.offsets[rows], lengths)], first=self.first)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The times and what they are relative to."""
        return {"offsets": self.offsets, "times": self.times, "first": np.array([self.first], np.int64)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "Timeline":
        """What :meth:`to_arrays` gave."""
        return Timeline(offsets=arrays["offsets"], times=arrays["times"], first=int(arrays["first"][0]))

    def _moments(self, items: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items and seconds after ``first``, in one shape; 0, before which nothing lies, for no item and no time."""
        items, times = np.broadcast_arrays(items, times)
        moments = np.maximum(times, self.first) - self.first
        return np.maximum(items, 0), np.where(items >= 0, moments, 0)

    def _num_earlier(self, items: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """How many events of each item lie before the moment: binary search in all rows at once. (M,) int64"""
        start, end = self.offsets[items], self.offsets[items + 1]
        found = start
        for bit in reversed(range(int((end - start).max(initial=0)).bit_length())):
            ahead = found + (1 << bit)
            reached = np.minimum(ahead, end)
            found = np.where((ahead == reached) & (self.times[reached - 1] < moments), ahead, found)
        num_earlier: np.ndarray = found - start
        return num_earlier

    def _age(self, items: np.ndarray, moments: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        """Of the latest of the ``earlier`` events of each item, -1 where there is none. (M,) int64"""
        age = np.full(items.shape, -1, np.int64)
        seen = earlier > 0
        latest = self.times[self.offsets[items[seen]] + earlier[seen] - 1]
        age[seen] = moments[seen] - latest
        return age


def popularity_features(timeline: Timeline, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """What earlier events say of items at a moment, as indices into embedding tables of ``POPULARITY_SIZES``.

    Column by column: the item's events within an hour, a day and a week before the moment and all before it, as
    ⌊log2(count + 1)⌋; and the seconds since the latest of them as ⌊log2(seconds + 1)⌋, AGE_NEVER if there is none.
    The last value of each column means *not given*: no time, or no item.

    Args:
        items, times: as in :meth:`Timeline.counts`.

    Returns:
        (M, C) int64.
    """
    given = (np.asarray(items) >= 0) & (np.asarray(times) != TIME_MISSING)
    items, moments = timeline._moments(items, times)
    earlier = timeline._num_earlier(items, moments)
    counts = [earlier - timeline._num_earlier(items, moments - seconds) for seconds in POPULARITY_WINDOWS]
    age = timeline._age(items, moments, earlier)
    columns = [np.where(given, _bucket(count, NUM_COUNT_BUCKETS), COUNT_MISSING) for count in (*counts, earlier)]
    ages = np.where(age < 0, AGE_NEVER, _bucket(age, NUM_AGE_BUCKETS))
    return np.stack([*columns, np.where(given, ages, AGE_MISSING)], axis=-1)


def training_period(dataset: Dataset) -> tuple[int, int]:
    """The earliest and the latest time of the training events, 0 and 0 if none has a time.

    Raises:
        InputError: they lie so far apart that they cannot be seconds.
    """
    edges = [(int(times.min()), int(times.max())) for _, times in _timed_events(dataset) if len(times)]
    first, last = min((low for low, _ in edges), default=0), max((high for _, high in edges), default=0)
    if last - first > np.iinfo(np.int64).max // 2:
        raise InputError(f"The times of {dataset.location} reach from {first} to {last}: these cannot be seconds.")
    return first, last


def _timed_events(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Items and times of the training events that have a time, block by block."""
    for rows in dataset.training_rows():
        items, times = dataset.events.items[rows], dataset.events.times[rows]
        given = times != TIME_MISSING
        yield items[given], times[given]


def _group(dataset: Dataset, first: int, free: np.ndarray, grouped: np.ndarray) -> None:
    """Put the times of each item's events side by side, those of every block sorted.

    Args:
        first: what times are to be relative to.
        free: (N,) where the first event of each item goes; moved on as places are taken.
        grouped: (E,) filled here.
    """
    for block_items, block_times in _timed_events(dataset):
        items, times = _sorted_pairs(block_items, (block_times - first).astype(grouped.dtype))
        there, lengths = np.unique(items, return_counts=True)
        grouped[ranges(free[there], lengths)] = times
        free[there] += lengths


def _sort_groups(offsets: np.ndarray, times: np.ndarray) -> None:
    """Sort the times of each item in place, as many items at once as fill a block."""
    first = 0
    while first < len(offsets) - 1:
        last = max(int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="right")) - 1, first + 1)
        part = slice(offsets[first], offsets[last])
        owners = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        times[part] = _sorted_pairs(owners, times[part])[1]
        first = last


def _sorted_pairs(items: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items and their times in the order of both."""
    if times.dtype == np.uint32:
        # Both in one number: values sort many times faster than positions.
        pairs = np.sort((items.astype(np.int64) << 32) | times)
        return pairs >> 32, pairs.astype(np.uint32)
    order = np.lexsort((times, items))
    return items[order], times[order]


def _bucket(values: np.ndarray, num_buckets: int) -> np.ndarray:
    """⌊log2(value + 1)⌋, at most the last bucket. Exact, as the exponent of the number is what is asked for."""
    buckets: np.ndarray = np.minimum(np.frexp(values + 1.0)[1] - 1, num_buckets - 1)
    return buckets
