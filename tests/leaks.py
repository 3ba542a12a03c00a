"""Whether a statistic of an event knows more than came before it: it is asked again where nothing else is left."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING, EventLog

Statistic = Callable[[Dataset, np.ndarray, np.ndarray], np.ndarray]


def leaking_events(statistic: Statistic, dataset: Dataset, seed: int = 0) -> np.ndarray:
    """Events at which the value of a statistic depends on what is not known before them.

    Known are the training events strictly earlier. Two copies of the dataset keep them as they are: in one there is
    nothing else, in the other all else is random events that are not earlier. Events without a time, which may be
    later, and those held out from training are never known, but the latter are asked about too.

    Args:
        statistic: from a dataset, items (1,) and times (1,) to any array; random numbers must have a fixed seed.
        seed: of the random events.

    Returns:
        Rows of the log, rising. Events without a time are not asked about.
    """
    log, rng = dataset.events, np.random.default_rng(seed)
    leaking = []
    for row in np.flatnonzero(log.times != TIME_MISSING):
        item, time = log.items[row : row + 1], log.times[row : row + 1]
        known = _is_training(dataset) & (log.times != TIME_MISSING) & (log.times < time)
        copies = (_without(dataset, ~known), _with_others(dataset, ~known, int(time[0]), rng))
        value = statistic(dataset, item, time)
        if not all(np.array_equal(statistic(copy, item, time), value) for copy in copies):
            leaking.append(row)
    return np.array(leaking, np.int64)


def _owners(dataset: Dataset) -> np.ndarray:
    return np.repeat(np.arange(dataset.num_users), np.diff(dataset.events.offsets))


def _is_training(dataset: Dataset) -> np.ndarray:
    return np.arange(dataset.events.num_events) < dataset.train_end[_owners(dataset)]


def _without(dataset: Dataset, unknown: np.ndarray) -> Dataset:
    log = dataset.events
    lengths = np.bincount(_owners(dataset)[~unknown], minlength=dataset.num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    kept = EventLog(log.items[~unknown], log.actions[~unknown], log.times[~unknown], offsets)
    return replace(dataset, events=kept, train_end=offsets[1:], queries={})


def _with_others(dataset: Dataset, unknown: np.ndarray, time: int, rng: np.random.Generator) -> Dataset:
    """As many events as before; a third of the random ones happen at the very time."""
    log, count = dataset.events, int(unknown.sum())
    items, times = log.items.copy(), log.times.copy()
    span = np.ptp(times[times != TIME_MISSING])
    items[unknown] = rng.integers(0, dataset.num_items, count)
    times[unknown] = time + rng.integers(0, 3, count) * rng.integers(0, span + 1, count)
    order = np.lexsort((times, _owners(dataset)))  # what is known is earlier, so it stays within the training part
    mixed = EventLog(items[order], log.actions[order], times[order], log.offsets)
    return replace(dataset, events=mixed, queries={})
