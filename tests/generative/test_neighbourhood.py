"""Sampled neighbours against all that a loop finds; that none of them comes later; and their mean by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.generative.neighbourhood import EventGraph, NeighbourhoodMean

Statistic = Callable[[Dataset, np.ndarray, np.ndarray], np.ndarray]
LeakingEvents = Callable[[Statistic, Dataset], np.ndarray]
NUM_ITEMS = 5
START = 1_700_000_000
CPU = torch.device("cpu")
TIMES = st.one_of(st.integers(0, 9), st.just(TIME_MISSING))
HISTORIES = st.lists(st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), TIMES), max_size=5), min_size=1, max_size=4)
# So many draws that no path is missed.
MANY = (300, 20)


def dataset_of(build: Any, histories: list[list[tuple[int, int]]], holdout: int = 0, unit: int = 1) -> Dataset:
    """Events of item and time, the latter in units after the start."""
    items = [[item for item, _ in history] for history in histories]
    times = [[t if t == TIME_MISSING else START + t * unit for _, t in history] for history in histories]
    made: Dataset = build.dataset(build.log(items, times), NUM_ITEMS, holdout=holdout)
    return made


def neighbours_by_loop(dataset: Dataset, item: int, time: int | None) -> set[int]:
    """Two hops over training events that are strictly earlier, or over all of them."""

    def is_edge(row: int) -> bool:
        return time is None or (dataset.events.times[row] != TIME_MISSING and dataset.events.times[row] < time)

    reached: set[int] = set()
    for start, end in zip(dataset.events.offsets[:-1], dataset.train_end, strict=True):
        taken = {int(dataset.events.items[row]) for row in range(start, end) if is_edge(row)}
        reached |= taken if item in taken else set()
    return reached


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(histories=HISTORIES, holdout=st.integers(0, 1), unit=st.sampled_from([1, 1 << 30]))
def test_neighbours_are_those_of_a_loop(
    build: Any, histories: list[list[tuple[int, int]]], holdout: int, unit: int
) -> None:
    dataset = dataset_of(build, histories, holdout, unit)
    graph = EventGraph.of(dataset, CPU)
    items = torch.arange(-1, NUM_ITEMS)
    for time in (None, TIME_MISSING, START, START + 4 * unit, START + 10 * unit, np.iinfo(np.int64).max):
        times = None if time is None else torch.full_like(items, time)
        found = graph.sample(items, times, MANY, seeded())
        assert found.shape == (NUM_ITEMS + 1, MANY[0] * MANY[1])
        for item, rows in zip(items.tolist(), found, strict=True):
            assert set(rows.tolist()) == (neighbours_by_loop(dataset, item, time) or {-1})


@settings(max_examples=40, deadline=None)
@given(histories=HISTORIES, rows=st.permutations(range(NUM_ITEMS)), gone=st.integers(0, NUM_ITEMS))
def test_in_another_catalogue_events_of_items_that_went_are_no_edges(
    build: Any, histories: list[list[tuple[int, int]]], rows: list[int], gone: int
) -> None:
    """As if they had never been, and the others had been told by their new rows."""
    there = {row: place for place, row in enumerate(rows[gone:])}
    told = [[(there[item], time) for item, time in history if item in there] for history in histories]
    expected = dataset_of(build, told)
    items = torch.tensor([*rows[gone:], *[-1] * gone])
    graph = EventGraph.of(dataset_of(build, histories), CPU).carried(items)
    asked = torch.arange(NUM_ITEMS)
    for time in (None, START + 4):
        times = None if time is None else torch.full_like(asked, time)
        found = graph.sample(asked, times, MANY, seeded())
        for item, reached in zip(asked.tolist(), found, strict=True):
            assert set(reached.tolist()) == (neighbours_by_loop(expected, item, time) or {-1})


def test_each_question_has_its_own_time(build: Any) -> None:
    dataset = dataset_of(build, [[(0, 1), (1, 2), (2, 3)], [(0, 5), (3, 6)]])
    times = START + torch.tensor([0, 1, 2, 3, 4, 6, 7])
    found = EventGraph.of(dataset, CPU).sample(torch.zeros(7, dtype=torch.int64), times, MANY, seeded())
    assert [set(rows) for rows in found.tolist()] == [{-1}, {-1}, {0}, {0, 1}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2, 3}]


def test_shares_by_hand(build: Any) -> None:
    """Item 0 has three earlier events: two of a user with items 0, 0, 1, 1; one of a user with items 0 and 2."""
    dataset = dataset_of(build, [[(0, 1), (0, 2), (1, 3), (1, 3)], [(0, 4), (2, 5), (3, 9)]])
    graph = EventGraph.of(dataset, CPU)
    drawn = 40_000
    items, times = torch.zeros(drawn, dtype=torch.int64), torch.full((drawn,), START + 9)
    shares = graph.sample(items, times, (1, 1), seeded()).flatten().bincount(minlength=4) / drawn
    assert shares.tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6, 0], abs=0.012)


def test_a_user_is_drawn_once_for_all_its_events(build: Any) -> None:
    """Neighbours lie user by user: here each user's items tell who it is."""
    dataset = dataset_of(build, [[(0, 1), (1, 2)], [(0, 1), (2, 2)], [(0, 1), (3, 2)]])
    found = EventGraph.of(dataset, CPU).sample(torch.tensor([0]), None, (30, 40), seeded()).view(30, 40)
    others = [set(rows) - {0} for rows in found.tolist()]
    assert all(len(items) == 1 for items in others)
    assert set().union(*others) == {1, 2, 3}


def test_the_generator_decides_alone(build: Any) -> None:
    graph = EventGraph.of(dataset_of(build, [[(item, item) for item in range(5)]]), CPU)
    items = torch.arange(5)
    first, second, other = (graph.sample(items, None, (3, 4), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_held_out_events_are_no_edges(build: Any) -> None:
    graph = EventGraph.of(dataset_of(build, [[(0, 1), (1, 2)], [(1, 3), (2, 4)]], holdout=1), CPU)
    found = graph.sample(torch.tensor([0, 1, 2]), None, MANY, seeded())
    assert [set(rows) for rows in found.tolist()] == [{0}, {1}, {-1}]


@pytest.mark.parametrize("histories", [[[]], [[(0, 1)]]])
def test_without_training_events_there_are_no_neighbours(build: Any, histories: Any) -> None:
    graph = EventGraph.of(dataset_of(build, histories, holdout=1), CPU)
    assert graph.sample(torch.tensor([0, 3]), None, (2, 3)).tolist() == [[-1] * 6] * 2


def test_more_users_than_one_block_holds(build: Any) -> None:
    """User u took item u and then item 0: the neighbours of an item are its user's."""
    count = 70_000
    dataset = build.dataset(build.log([[user, 0] for user in range(count)], [[START, START + 1]] * count), count)
    items = torch.tensor([1, 65_535, 65_536, 69_999])
    found = EventGraph.of(dataset, CPU).sample(items, None, (2, 20), seeded())
    assert [set(rows) for rows in found.tolist()] == [{0, item} for item in items.tolist()]


def test_times_and_places_take_four_bytes_where_they_fit(build: Any) -> None:
    limit = np.iinfo(np.int32).max - 1
    for span, dtype in ((limit - 1, torch.int32), (limit, torch.int64)):
        graph = EventGraph.of(dataset_of(build, [[(0, 0), (1, 5), (2, span), (3, TIME_MISSING)]]), CPU)
        assert (graph.items.dtype, graph.times.dtype, graph.entries.dtype) == (torch.int32, dtype, torch.int32)
        assert graph.times.tolist() == [0, 5, span, graph.no_time]
        found = graph.sample(torch.tensor([0, 0]), START + torch.tensor([span, span + 1]), MANY, seeded())
        assert [set(rows) for rows in found.tolist()] == [{0, 1}, {0, 1, 2}]


@pytest.fixture(scope="module")
def log(build: Any) -> Dataset:
    """Some 70 events, many at the same time as others, some without; the last one of each user is held out."""
    rng = np.random.default_rng(1)
    histories = []
    for length in rng.integers(1, 12, 11):
        times = np.where(rng.random(length) < 0.1, TIME_MISSING, np.sort(rng.integers(0, 40, length)))
        histories.append(list(zip(rng.integers(0, NUM_ITEMS, length).tolist(), times.tolist(), strict=True)))
    return dataset_of(build, histories, holdout=1)


def sampled(dataset: Dataset, items: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    moments = None if times is None else torch.from_numpy(times)
    found = EventGraph.of(dataset, CPU).sample(torch.from_numpy(items).long(), moments, (6, 4), seeded())
    return found.numpy()


def test_nothing_leaks(leaking_events: LeakingEvents, log: Dataset) -> None:
    assert leaking_events(sampled, log).tolist() == []


def regardless_of_time(dataset: Dataset, items: np.ndarray, _: np.ndarray) -> np.ndarray:
    return sampled(dataset, items, None)


def up_to(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return sampled(dataset, items, times + 1)


def with_held_out(dataset: Dataset, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    return sampled(replace(dataset, train_end=dataset.events.offsets[1:]), items, times)


@pytest.mark.parametrize("statistic", [regardless_of_time, up_to, with_held_out])
def test_leaks_would_be_found(leaking_events: LeakingEvents, log: Dataset, statistic: Statistic) -> None:
    assert len(leaking_events(statistic, log))


def test_a_leak_at_the_second_hop_would_be_found(
    leaking_events: LeakingEvents, log: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users who came before the moment, with all that they took at any time."""

    def of_users(graph: EventGraph, users: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return graph.user_offsets[users], graph.user_offsets.diff()[users]

    monkeypatch.setattr(EventGraph, "_earlier_of_users", of_users)
    assert len(leaking_events(sampled, log))


@pytest.fixture
def mean() -> NeighbourhoodMean:
    torch.manual_seed(0)
    module = NeighbourhoodMean(4)
    torch.nn.init.normal_(module.out.weight)
    torch.nn.init.normal_(module.norm.weight)
    return module


def test_the_mean_of_those_present_by_hand(mean: NeighbourhoodMean) -> None:
    neighbours = torch.randn(3, 5, 4)
    present = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    encoded, places = neighbours.reshape(15, 4), torch.arange(15).view(3, 5)
    for row, expected in enumerate((neighbours[0].mean(0), (neighbours[1, 1] + neighbours[1, 4]) / 2)):
        normed = expected / (expected.square().mean() + 1e-6).sqrt() * mean.norm.weight
        torch.testing.assert_close(mean(encoded, places, present)[row], mean.out.weight @ normed)
    assert mean(encoded, places, present)[2].tolist() == [0] * 4
    twice = torch.tensor([[3, 3, 3, 9, 9]])  # one that was drawn three times counts three times
    weighed = (3 * encoded[3] + 2 * encoded[9]) / 5
    normed = weighed / (weighed.square().mean() + 1e-6).sqrt() * mean.norm.weight
    torch.testing.assert_close(mean(encoded, twice, torch.ones(1, 5) > 0)[0], mean.out.weight @ normed)


def test_gradients_reach_those_present_alone(mean: NeighbourhoodMean) -> None:
    encoded = torch.randn(6, 4, requires_grad=True)
    present = torch.tensor([[True, False, True], [False, False, False]])
    mean(encoded, torch.arange(6).view(2, 3), present).square().sum().backward()
    assert encoded.grad is not None
    assert torch.equal(encoded.grad.abs().sum(1) > 0, present.flatten())


def test_it_starts_as_nothing_and_can_learn() -> None:
    module = NeighbourhoodMean(4)
    result = module(torch.randn(6, 4), torch.arange(6).view(2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert result.tolist() == [[0.0] * 4] * 2
    result.sum().backward()
    assert module.out.weight.grad is not None
    assert module.out.weight.grad.abs().sum() > 0


@settings(max_examples=100, deadline=None)
@given(histories=HISTORIES, item=st.integers(0, NUM_ITEMS - 1), time=st.one_of(st.none(), st.integers(0, 10)))
def test_spread_neighbours_are_allowed_and_depend_on_nothing_else(
    build: Any, histories: list[list[tuple[int, int]]], item: int, time: int | None
) -> None:
    dataset = dataset_of(build, histories)
    graph = EventGraph.of(dataset, CPU)
    moment = None if time is None else START + time
    times = None if moment is None else torch.tensor([moment])
    found = graph.sample(torch.tensor([item]), times, (4, 3), spread=True)
    assert set(found.flatten().tolist()) - {-1} <= neighbours_by_loop(dataset, item, moment)
    items = torch.tensor([(item + 1) % NUM_ITEMS, item, item])
    others = None if moment is None else torch.tensor([START + 3, moment, moment])
    together = graph.sample(items, others, (4, 3), spread=True)
    assert torch.equal(together[1], found[0])
    assert torch.equal(together[2], found[0])


def test_spread_neighbours_come_from_all_of_the_past(build: Any) -> None:
    """One user with ten events, the first of the item asked for: every second of them is met."""
    items = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    graph = EventGraph.of(dataset_of(build, [list(zip(items, range(10), strict=True))]), CPU)
    found = graph.sample(torch.tensor([0]), None, (1, 5), spread=True)
    assert found.tolist() == [[1, 3, 0, 2, 4]]
