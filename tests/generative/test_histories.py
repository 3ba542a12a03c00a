"""Oracle: each token worked out on its own in plain Python."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING, EventLog, Queries
from semid.generative.histories import (
    BatchBuilder,
    Segments,
    TokenBatch,
    pack_rows,
    query_segments,
    training_segments,
)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), max_size=80), row_tokens=st.integers(20, 40))
def test_packing_places_every_segment_once_within_capacity(lengths: list[int], row_tokens: int) -> None:
    rows = pack_rows(np.array(lengths, np.int64), row_tokens)
    assert sorted(segment for row in rows for segment in row) == list(range(len(lengths)))
    assert all(sum(lengths[segment] for segment in row) <= row_tokens for row in rows)
    assert all(rows)


def test_packing_fills_rows_before_it_opens_new_ones() -> None:
    assert pack_rows(np.array([6, 5, 4, 5]), 10) == [[0, 2], [1, 3]]
    lengths = np.random.default_rng(0).integers(1, 30, 3000)
    assert len(pack_rows(lengths, 100)) < 1.03 * lengths.sum() / 100


LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=6)


def training_case(build: Any, lengths: list[int], held: list[int]) -> Dataset:
    """Items are event numbers, so that a target tells which event it is."""
    ends = np.cumsum(lengths)
    histories = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    dataset: Dataset = build.dataset(build.log(histories), max(int(ends[-1]), 1))
    dataset.train_end[:] -= np.minimum(held, lengths)
    return dataset


@settings(max_examples=150, deadline=None)
@given(data=st.data(), lengths=LENGTHS, context=st.integers(1, 6), profile=st.booleans())
def test_every_training_event_is_a_target_once(
    build: Any, data: st.DataObject, lengths: list[int], context: int, profile: bool
) -> None:
    held = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    dataset = training_case(build, lengths, held)
    segments = training_segments(dataset, context, profile=profile)

    offsets, ends = dataset.events.offsets, dataset.train_end
    expected = [e for u in range(len(lengths)) for e in range(offsets[u] + (0 if profile else 1), ends[u])]
    assert segments.has_target.all()
    assert (segments.end - segments.start <= context).all()
    assert (segments.first == (segments.start == offsets[segments.users])).all()
    if not expected:
        assert len(segments) == 0
        return
    builder = BatchBuilder(segments, profile=profile)
    assert (builder.lengths >= 1).all()
    batch = builder.build(pack_rows(builder.lengths, 16), 16)
    assert sorted(batch.targets[batch.targets >= 0].tolist()) == expected
    tokens = batch.items[(batch.segments >= 0) & ~batch.profile]
    inputs = [e for u in range(len(lengths)) for e in range(offsets[u], ends[u] - 1)]
    assert sorted(tokens.tolist()) == inputs
    assert int(batch.profile.sum()) == (profile and len(segments))


def test_users_with_few_events(build: Any) -> None:
    dataset = build.dataset(build.log([[], [7], [8, 9], []]), 10)
    plain = training_segments(dataset, 5, profile=False)
    assert plain.users.tolist() == [2]
    assert (plain.start.tolist(), plain.end.tolist()) == ([1], [2])
    led = training_segments(dataset, 5, profile=True)
    assert led.users.tolist() == [1, 2]
    assert (led.start.tolist(), led.end.tolist()) == ([0, 1], [0, 2])
    batch = BatchBuilder(led, profile=True).build([[0, 1]], 4)
    assert batch.targets.tolist() == [[7, 8, 9, -1]]
    assert batch.profile.tolist() == [[True, True, False, False]]
    assert batch.segments.tolist() == [[0, 1, 1, -1]]


def test_histories_are_cut_at_the_context(build: Any) -> None:
    dataset = build.dataset(build.log([list(range(8))]), 8)
    segments = training_segments(dataset, 3, profile=False)
    assert (segments.start.tolist(), segments.end.tolist()) == ([0, 3, 6], [3, 6, 7])
    batch = BatchBuilder(segments, profile=False).build([[0], [1], [2]], 3)
    assert batch.items.tolist() == [[0, 1, 2], [3, 4, 5], [6, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 3], [4, 5, 6], [7, -1, -1]]


def given_queries(log: EventLog, start: list[int], end: list[int]) -> Queries:
    count, nothing = len(start), np.empty(0, np.int32)
    return Queries(
        log=log,
        users=np.arange(count, dtype=np.int32),
        start=np.array(start),
        end=np.array(end),
        target_items=nothing,
        target_actions=nothing.astype(np.int8),
        target_offsets=np.zeros(count + 1, np.int64),
    )


def test_queries_keep_their_last_events(build: Any) -> None:
    queries = given_queries(build.log([list(range(9))]), [0, 2, 4], [9, 4, 7])
    segments = query_segments(queries, 4)
    assert (segments.start.tolist(), segments.end.tolist()) == ([5, 2, 4], [9, 4, 7])
    batch = BatchBuilder(segments, profile=False).build([[0], [1], [2]], 4)
    assert batch.items.tolist() == [[5, 6, 7, 8], [2, 3, 0, 0], [4, 5, 6, 0]]
    assert batch.targets.tolist() == [[6, 7, 8, -1], [3, -1, -1, -1], [5, 6, -1, -1]]
    assert batch.last_tokens().tolist() == [3, 1, 2]


def naive_token(segments: Segments, segment: int, position: int, *, profile: bool) -> dict[str, int]:
    """What one token should hold; profile tokens have no event of their own."""
    log = segments.log
    start, end = int(segments.start[segment]), int(segments.end[segment])
    event = start + position - profile
    token = {"users": int(segments.users[segment]), "positions": position, "targets": -1, "target_actions": 0}
    token |= {"actions": 0, "times": TIME_MISSING, "target_times": TIME_MISSING}
    if (event + 1 < end or segments.has_target[segment]) and (event >= start or segments.first[segment]):
        token["targets"] = int(log.items[event + 1])
        token["target_actions"] = int(log.actions[event + 1]) + 1
        token["target_times"] = int(log.times[event + 1])
    token["profile"] = int(event < start)
    if event < start:
        return token
    token |= {"items": int(log.items[event]), "actions": int(log.actions[event]) + 1, "times": int(log.times[event])}
    return token


def check_batch(batch: TokenBatch, segments: Segments, rows: list[list[int]], *, profile: bool) -> None:
    numbers = set()
    for row, members in enumerate(rows):
        at = 0
        for segment in members:
            length = int(segments.end[segment] - segments.start[segment] + profile)
            numbers.add(int(batch.segments[row, at]))
            for position in range(length):
                expected = naive_token(segments, segment, position, profile=profile)
                assert {name: int(getattr(batch, name)[row, at + position]) for name in expected} == expected
            assert batch.segments[row, at : at + length].unique().numel() == 1
            at += length
        assert (batch.segments[row, at:] == -1).all()
        assert (batch.targets[row, at:] == -1).all()
        assert not batch.profile[row, at:].any()
    assert len(numbers) == sum(map(len, rows))


@pytest.mark.parametrize("profile", [False, True])
def test_batches_hold_what_each_token_should(rich: Dataset, profile: bool) -> None:
    segments = training_segments(rich, 5, profile=profile)
    builder = BatchBuilder(segments, profile=profile)
    rows = pack_rows(builder.lengths, 11)
    assert max(map(len, rows)) > 1
    check_batch(builder.build(rows, 11), segments, rows, profile=profile)

    asked = query_segments(rich.split("test"), 6)
    singles = [[query] for query in range(len(asked))]
    check_batch(BatchBuilder(asked, profile=profile).build(singles, 7), asked, singles, profile=profile)


def test_a_profile_token_shows_nothing_of_the_user_before(build: Any, rich: Dataset) -> None:
    """It stands where the last event of the user before would be; only its user and targets may be read."""
    segments = training_segments(rich, 5, profile=True)
    batch = BatchBuilder(segments, profile=True).build([[g] for g in range(len(segments))], 6)
    assert not segments.first.all()
    first = rich.events.items[np.minimum(segments.start, rich.events.num_events - 1)]
    assert batch.users[batch.profile].tolist() == segments.users.tolist()
    assert batch.targets[batch.profile].tolist() == np.where(segments.first, first, -1).tolist()


def batches_equal(one: TokenBatch, other: TokenBatch) -> bool:
    return all(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())


def test_an_epoch_holds_every_segment_once_and_can_go_on_from_any_batch(rich: Dataset) -> None:
    builder = BatchBuilder(training_segments(rich, 4, profile=True), profile=True)

    def epoch(seed: int, skip: int = 0) -> list[TokenBatch]:
        return list(builder.epoch(8, 2, np.random.default_rng(seed), skip=skip))

    whole = epoch(0)
    targets = torch.cat([batch.targets[batch.targets >= 0] for batch in whole])
    lengths = rich.train_end - rich.events.offsets[:-1]
    assert len(targets) == lengths.sum()
    assert torch.equal(targets.bincount(minlength=rich.num_items), torch.from_numpy(rich.train_counts))
    assert len(whole) > 3
    for skip in range(len(whole) + 1):
        tail = epoch(0, skip)
        assert len(tail) == len(whole) - skip
        assert all(batches_equal(a, b) for a, b in zip(tail, whole[skip:], strict=True))
    assert not all(batches_equal(a, b) for a, b in zip(whole, epoch(1), strict=False))


def test_moving_keeps_the_contents(rich: Dataset) -> None:
    batch = BatchBuilder(training_segments(rich, 4, profile=True), profile=True).build([[0, 1], [2]], 12)
    assert batches_equal(batch, batch.to(torch.device("cpu")))
