"""Transitions and ages against loops over the events."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.data import transitions
from semid.data.dataset import Dataset
from semid.data.events import EventLog, Queries
from semid.data.transitions import Transitions, ages

MakeDataset = Callable[..., Dataset]
HISTORIES = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=6)


def log_of(histories: list[list[int]]) -> EventLog:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    items = np.array([item for history in histories for item in history], np.int32)
    return EventLog(items, np.zeros(len(items), np.int8), np.zeros(len(items), np.int64), offsets)


def queries_of(histories: list[list[int]]) -> Queries:
    return Queries.after(log_of(histories), np.full(len(histories), -1))


def strengths_by_loop(histories: list[list[int]], window: int) -> np.ndarray:
    found, times = np.zeros((7, 7)), np.zeros(7)
    for history in histories:
        for place, item in enumerate(history):
            times[item] += 1
            for distance in range(1, min(window, place) + 1):
                before = history[place - distance]
                found[before, item] += (before != item) / distance
    return found / np.sqrt(np.outer(np.maximum(times, 1), np.maximum(times, 1)))


def scores_by_loop(strengths: np.ndarray, history: list[int]) -> np.ndarray:
    return sum((0.7**age * strengths[item] for age, item in enumerate(history[::-1][:20])), np.zeros(7))


@settings(max_examples=60, deadline=None)
@given(training=HISTORIES, asked=HISTORIES, window=st.integers(1, 6))
def test_scores_follow_their_formula(
    make_dataset: MakeDataset, training: list[list[int]], asked: list[list[int]], window: int
) -> None:
    expected = strengths_by_loop(training, window)
    found = Transitions.of(make_dataset(training, 7), window=window)
    np.testing.assert_allclose(found.strengths.toarray(), expected, rtol=1e-6)
    followers = found.after(queries_of(asked))
    scores = np.array([scores_by_loop(expected, history) for history in asked])
    everything = np.tile(np.arange(-1, 7), (len(asked), 1))
    np.testing.assert_allclose(followers.of(everything)[:, 1:], scores, rtol=1e-5, atol=1e-7)
    assert not followers.of(everything)[:, 0].any()
    best = followers.best(3, np.array([0, 2, 3, 5]))
    for row, values in zip(best.items.tolist(), scores, strict=True):
        allowed = sorted((i for i in (0, 2, 3, 5) if values[i] > 0), key=lambda i: (-np.float32(values[i]), i))
        np.testing.assert_allclose(values[[i for i in row if i >= 0]], values[allowed[:3]], rtol=1e-5)
        assert row.count(-1) == 3 - min(3, len(allowed))


def test_only_training_events_count(make_dataset: MakeDataset) -> None:
    histories = [[0, 1, 2, 3], [0, 1, 5, 6]]
    found = Transitions.of(make_dataset(histories, 7, held_out=2)).strengths.toarray()
    assert found[0, 1] > 0
    assert not found[:, [2, 3, 5, 6]].any()


def test_an_item_keeps_its_strongest_followers(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "_MOST", 2)
    histories = [[0, 1]] * 3 + [[0, 2]] * 2 + [[0, 3]]
    expected = strengths_by_loop(histories, 1)
    expected[0, np.argsort(expected[0])[:-2]] = 0
    np.testing.assert_allclose(
        Transitions.of(make_dataset(histories, 7), window=1).strengths.toarray(), expected, rtol=1e-6
    )


def test_very_many_events_are_counted_of_some_users(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "_MOST_EVENTS", 8)
    histories = [[i % 6, i % 6 + 1] for i in range(20)]
    counted = Transitions.of(make_dataset(histories, 7)).strengths
    assert 0 < counted.nnz <= 4


def test_what_is_saved_comes_back(make_dataset: MakeDataset) -> None:
    made = Transitions.of(make_dataset([[0, 1, 2], [2, 1]], 7))
    loaded = Transitions.from_arrays(made.to_arrays())
    assert (made.strengths != loaded.strengths).nnz == 0
    assert loaded.strengths.dtype == np.float32


def test_in_another_catalogue_the_strengths_are_those_of_the_same_items(make_dataset: MakeDataset) -> None:
    made = Transitions.of(make_dataset([[0, 1, 2, 3], [2, 1, 6], [4, 0]], 7))
    rows = np.array([-1, 6, 1, 2, -1, 0])
    before = np.pad(made.strengths.toarray(), (0, 1))  # the last row and column, those of -1, are empty
    np.testing.assert_array_equal(made.carried(rows).strengths.toarray(), before[np.ix_(rows, rows)])


@settings(max_examples=60, deadline=None)
@given(histories=HISTORIES, seed=st.integers(0, 99))
def test_ages_by_loop(histories: list[list[int]], seed: int) -> None:
    items = np.random.default_rng(seed).integers(-1, 9, (len(histories), 5))
    expected = [
        [history[::-1].index(item) if item in history else -1 for item in row]
        for history, row in zip(histories, items.tolist(), strict=True)
    ]
    assert ages(queries_of(histories), items).tolist() == expected


def test_ages_in_empty_histories() -> None:
    empty = queries_of([[1]]).select(np.array([0]))
    empty = dataclasses.replace(empty, end=empty.start)
    assert ages(empty, np.array([[1, -1]])).tolist() == [[-1, -1]]


def test_sources_agree_with_a_loop(make_dataset: MakeDataset) -> None:
    rng = np.random.default_rng(4)
    dataset = make_dataset([rng.integers(0, 15, rng.integers(1, 30)).tolist() for _ in range(12)], 20)
    found = Transitions.of(dataset)
    strengths = found.strengths.toarray()
    seen = set()
    for length in (1, 5, 40):
        history = rng.integers(0, 20, length)
        backs = found.sources(history, np.arange(20))
        for item in range(20):
            parts = [0.7**back * strengths[event, item] for back, event in enumerate(history[::-1][:20])]
            assert backs[item] == (np.argmax(parts) if max(parts) > 0 else -1)
        seen |= set(backs.tolist())
    assert {-1, 0, 1} < seen
