"""What is taken by those who took an item: neighbours sampled from earlier events, and the mean of what they are.

GraphSAGE with mean aggregation (arXiv 1706.02216) over the graph of users and items whose edges are training events.
Two hops lead from an item to those who took it and on to what else they took. For a moment in the past only events
strictly earlier than it are edges: at any later one, the graph would tell a model what it is to predict.

Legend: N items, U users, E training events, M asked items, F neighbours each, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.timeline import training_period
from semid.generative.layers import RMSNorm
from semid.selection import stretches

FANOUTS = (10, 5)


@dataclass(frozen=True, eq=False, kw_only=True)
class EventGraph:
    """The training events by user and by item, on one device.

    12 bytes an event: 4 more where times span over 68 years, and 4 more from 2^31 events on. Events without a time
    come last and are no edge at any moment but the one after all training.

    Attributes:
        user_offsets: (U + 1,) int64; the events of user u are ``user_offsets[u]:user_offsets[u + 1]``.
        items: (E,) int32 item rows, the oldest event of each user first.
        times: (E,) int32 or int64 seconds after ``first``, ``no_time`` for events without one.
        item_offsets: (N + 1,) int64; item i has the entries ``item_offsets[i]:item_offsets[i + 1]`` of ``entries``.
        entries: (E,) int32 or int64 places in ``items`` and ``times``, the oldest event of each item first.
        first: Unix seconds of the earliest event.
    """

    user_offsets: Tensor
    items: Tensor
    times: Tensor
    item_offsets: Tensor
    entries: Tensor
    first: int

    @staticmethod
    def of(dataset: Dataset, device: torch.device) -> "EventGraph":
        """Gather the training events of a dataset; valid and test events are never read.

        Sorting them takes about 50 bytes an event for a moment, most of it on the device.

        Raises:
            InputError: the times lie so far apart that they cannot be seconds.
        """
        first, last = training_period(dataset)
        lengths = torch.from_numpy(dataset.train_end - dataset.events.offsets[:-1]).to(device)
        items, times = (torch.from_numpy(column).to(device) for column in _training_columns(dataset, first, last))
        by_user = _order(torch.arange(dataset.num_users, device=device).int().repeat_interleave(lengths), times)
        items, times = items[by_user], times[by_user]
        entries = _order(items, times)
        return EventGraph(
            user_offsets=_offsets(lengths),
            items=items,
            times=times,
            item_offsets=_offsets(items.bincount(minlength=dataset.num_items)),
            entries=entries.int() if len(items) <= np.iinfo(np.int32).max else entries,
            first=first,
        )

    def carried(self, rows: Tensor) -> "EventGraph":
        """The same for another catalogue: events of items that are not there are left out, new ones have none.

        Args:
            rows: (N',) int64 row that each of its items has here, each at most once, -1 for none.
        """
        there = torch.full_like(self.item_offsets[1:], -1)
        there[rows[rows >= 0]] = (rows >= 0).nonzero()[:, 0]
        items = there[self.items.long()]
        kept = items >= 0
        before = _offsets(kept)  # how many events are kept before each place
        lengths = torch.where(rows >= 0, self.item_offsets.diff()[rows], 0)
        _, entries = stretches(self.item_offsets[rows], lengths)
        return EventGraph(
            user_offsets=before[self.user_offsets],
            items=items[kept].int(),
            times=self.times[kept],
            item_offsets=_offsets(lengths),
            entries=before[self.entries[entries].long()].to(self.entries.dtype),
            first=self.first,
        )

    def to(self, device: torch.device) -> "EventGraph":
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays."""
        arrays = {name: value.cpu().numpy() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {**arrays, "first": np.array([self.first], np.int64)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "EventGraph":
        """What :meth:`to_arrays` gave."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "first"}
        return EventGraph(**tensors, first=int(arrays["first"][0]))

    @property
    def no_time(self) -> int:
        """What stands for the time of an event that has none: later than any other."""
        return _no_time(self.times.dtype)

    def sample(
        self,
        items: Tensor,
        times: Tensor | None,
        fanouts: tuple[int, int] = FANOUTS,
        generator: torch.Generator | None = None,
        *,
        spread: bool = False,
    ) -> Tensor:
        """Draw neighbours of items as they stood at a moment.

        For each item, ``fanouts[0]`` of its earlier events; for the user of each of them, ``fanouts[1]`` of the
        user's earlier events, whose items are the neighbours. Both uniformly with replacement, so that a neighbour
        may come up several times, the item itself included.

        Args:
            items: (M,) int64 item rows, -1 for none.
            times: (M,) int64 Unix seconds, TIME_MISSING where not known; None for the moment after all training,
                when events without a time are edges too.
            fanouts: how many events of each item and of each user.
            generator: of the random numbers, on this device.
            spread: take events at even distances instead, so that the answer depends on the item and moment alone.

        Returns:
            (M, F) int64 item rows with F the product of the fanouts; -1 throughout for items without an earlier
            event, and where there is no item or no time.
        """
        num_users, num_events = fanouts
        if not len(self.items):
            return items.new_full((len(items), num_users * num_events), -1)
        moments = self._moments(items, times)
        start, count = self._earlier_of_items(items.clamp(min=0), moments)
        draw = partial(self._draw, generator=generator, spread=spread)
        entries = self.entries[draw(start, count, num_users)]
        users = torch.searchsorted(self.user_offsets, entries.long(), right=True) - 1
        # Each of these users has an earlier event: the one that led there.
        found = self.items[draw(*self._earlier_of_users(users, moments[:, None]), num_events)]
        return torch.where(count[:, None] > 0, found.long().flatten(1), -1)

    def _moments(self, items: Tensor, times: Tensor | None) -> Tensor:
        """Seconds after ``first``; 0, before which nothing lies, for no item and no time. (M,) int64"""
        if times is None:
            moments = torch.full_like(items, self.no_time + 1)
        else:
            moments = (times.clamp(min=self.first) - self.first).clamp(max=self.no_time)
        return torch.where(items >= 0, moments, 0)

    def _earlier_of_items(self, items: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Where the entries of each item start, and how many of them are earlier."""

        def times(places: Tensor) -> Tensor:
            return self.times[self.entries[places]]

        return _earlier(self.item_offsets[items], self.item_offsets[items + 1], moments, times, self._item_bits)

    def _earlier_of_users(self, users: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Where the events of each user start, and how many of them are earlier."""

        def times(places: Tensor) -> Tensor:
            return self.times[places]

        return _earlier(self.user_offsets[users], self.user_offsets[users + 1], moments, times, self._user_bits)

    def _draw(
        self, start: Tensor, count: Tensor, num: int, *, generator: torch.Generator | None, spread: bool
    ) -> Tensor:
        """Of each stretch (...) ``num`` places, any place at all where it is empty. (..., num) int64"""
        shape, device = (*count.shape, num), count.device
        if spread:
            shares = ((torch.arange(num, device=device, dtype=torch.float64) + 0.5) / num).expand(shape)
        else:
            shares = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        return (start[..., None] + (shares * count[..., None]).long()).clamp(max=len(self.items) - 1)

    @cached_property
    def _item_bits(self) -> int:
        return int(self.item_offsets.diff().max()).bit_length()

    @cached_property
    def _user_bits(self) -> int:
        return int(self.user_offsets.diff().max()).bit_length()


class NeighbourhoodMean(nn.Module):
    """What the neighbours of an item add to it: out(RMSNorm(mean)), and nothing where there are none.

    It starts as nothing, so that training begins with the item alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.out = nn.Linear(width, width, bias=False)  # without bias, no neighbours are zeros
        nn.init.zeros_(self.out.weight)

    def forward(self, encoded: Tensor, places: Tensor, present: Tensor) -> Tensor:
        """Aggregate the neighbours of M items. (M, D)

        Args:
            encoded: (n, D) the different neighbours.
            places: (M, F) int64, which of them each neighbour is.
            present: (M, F) bool, whether there is such a neighbour.
        """
        sums = F.embedding_bag(places, encoded.float(), mode="sum", per_sample_weights=present.float())
        mean = sums / present.sum(dim=1, keepdim=True).clamp(min=1)
        result: Tensor = self.out(self.norm(mean))
        return result


def _earlier(
    start: Tensor, end: Tensor, moments: Tensor, times: Callable[[Tensor], Tensor], bits: int
) -> tuple[Tensor, Tensor]:
    """Binary search in many stretches at once: the start of each, and how many of its times lie before its moment.

    Args:
        start, end: (...) int64 places.
        moments: int64, of a shape that broadcasts.
        times: the times at given places, rising within each stretch.
        bits: of the length of the longest stretch.
    """
    found = start
    for bit in reversed(range(bits)):
        ahead = found + (1 << bit)
        reached = torch.minimum(ahead, end)
        found = torch.where((ahead == reached) & (times(reached - 1) < moments), ahead, found)
    return start, found - start


def _training_columns(dataset: Dataset, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and times after ``first`` of the training events, user after user. (E,) each"""
    total = int((dataset.train_end - dataset.events.offsets[:-1]).sum())
    short = last - first < _no_time(torch.int32)
    items, times = np.empty(total, np.int32), np.empty(total, np.int32 if short else np.int64)
    no_time = _no_time(torch.int32 if short else torch.int64)
    done = 0
    for rows in dataset.training_rows():
        part = slice(done, done + len(rows))
        known = dataset.events.times[rows]
        items[part] = dataset.events.items[rows]
        times[part] = np.where(known == TIME_MISSING, no_time, known - first)
        done += len(rows)
    return items, times


def _no_time(dtype: torch.dtype) -> int:
    return torch.iinfo(dtype).max - 1  # one more is the moment after it


def _order(groups: Tensor, times: Tensor) -> Tensor:
    """Places of events sorted by group, the oldest first, equals as they come. (E,) int64"""
    by_time = times.argsort(stable=True)
    return by_time[groups[by_time].argsort(stable=True)]


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
