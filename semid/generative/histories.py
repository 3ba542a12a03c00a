"""Histories as rectangular token batches: packed rows for training, one query a row for inference.

A *segment* is a stretch of one user's events. Its tokens are an optional profile token and the events; the
token at place t predicts the event that follows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from semid.data.dataset import Dataset, ranges
from semid.data.events import TIME_MISSING, EventLog, Queries
from semid.data.timeline import Timeline, popularity_features
from semid.generative.clock import clock_columns

_OPEN_ROWS = 16


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """R rows of S tokens.

    Attributes:
        items: (R, S) int64 item rows; meaningless on profile tokens and padding.
        actions: (R, S) int64, 0 unknown, otherwise action + 1.
        times: (R, S) int64 Unix seconds, TIME_MISSING where not given.
        clock: (R, S, C) int64, when the event happened by the columns of :mod:`semid.generative.clock`; those of
            ``popularity`` only if they were asked for.
        users: (R, S) int64 user rows.
        profile: (R, S) bool, True on profile tokens.
        segments: (R, S) int64, equal within a segment, -1 on padding.
        positions: (R, S) int64 place within the segment.
        targets: (R, S) int64 item row of the next event, -1 where there is none to learn.
        target_actions: (R, S) int64, as actions; of queries only those between two events of the history.
        target_times: (R, S) int64, as times.
    """

    items: Tensor
    actions: Tensor
    times: Tensor
    clock: Tensor
    users: Tensor
    profile: Tensor
    segments: Tensor
    positions: Tensor
    targets: Tensor
    target_actions: Tensor
    target_times: Tensor

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def with_actions(self, codes: Tensor) -> "TokenBatch":
        """The same with each action + 1 replaced by ``codes[action + 1]``."""
        return replace(self, actions=codes[self.actions], target_actions=codes[self.target_actions])

    def split(self, parts: int) -> list["TokenBatch"]:
        """The rows in up to so many batches, each of which has something to learn."""
        pieces = [value.tensor_split(min(parts, len(value))) for value in vars(self).values()]
        batches = [TokenBatch(*columns) for columns in zip(*pieces, strict=True)]
        return batches if parts == 1 else [batch for batch in batches if bool((batch.targets >= 0).any())]

    def rows(self, part: slice) -> "TokenBatch":
        """Some of the rows, as far as the longest of them goes."""
        tokens = int(self.last_tokens()[part].max()) + 1
        return TokenBatch(**{name: value[part, :tokens] for name, value in vars(self).items()})

    def last_tokens(self) -> Tensor:
        """(R,) place of the last real token of each row."""
        return (self.segments >= 0).sum(dim=1) - 1


@dataclass(frozen=True, eq=False)
class Segments:
    """Stretches of events to put into batches.

    Attributes:
        log: where the events lie.
        users: (G,) int64 user rows.
        start, end: (G,) int64; events ``start:end`` become tokens.
        first: (G,) bool, whether the stretch begins the user's history: only there a profile token has a target.
        has_target: (G,) bool, whether event ``end`` is to be predicted by the last token.
    """

    log: EventLog
    users: np.ndarray
    start: np.ndarray
    end: np.ndarray
    first: np.ndarray
    has_target: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


def training_segments(dataset: Dataset, context: int, *, profile: bool, targets: bool = False) -> Segments:
    """Every user's training events cut into stretches of at most ``context`` events.

    Each event but a user's first is a target exactly once; with a profile token the first one is too.

    Args:
        targets: whether the last target of each stretch is a token too, as layout ``code`` has it.
    """
    log = dataset.events
    begin, end = np.asarray(log.offsets[:-1]), np.asarray(dataset.train_end)
    inputs = np.maximum(end - begin - 1, 0)  # the last training event is only a target
    if profile:
        inputs = np.where(end > begin, np.maximum(inputs, 0), -1)
    users = np.flatnonzero(inputs >= (0 if profile else 1))
    pieces = np.maximum(-(-inputs[users] // context), 1)
    owner = np.repeat(users, pieces)
    piece = ranges(0, pieces)
    start = begin[owner] + piece * context
    stop = np.minimum(start + context, begin[owner] + inputs[owner])
    return Segments(log, owner, start, stop + targets, piece == 0, np.full(len(owner), not targets))


def query_segments(queries: Queries, context: int) -> Segments:
    """The last ``context`` events of each query's history."""
    start = np.maximum(queries.start, queries.end - context)
    count = len(queries)
    return Segments(queries.log, queries.users, start, queries.end, np.ones(count, bool), np.zeros(count, bool))


def pack_rows(lengths: np.ndarray, row_tokens: int) -> list[list[int]]:
    """Fill rows of ``row_tokens`` with segments in the given order, first fit among a few open rows.

    Args:
        lengths: (G,) tokens of each segment, at most ``row_tokens``.

    Returns:
        For each row the segments in it.
    """
    done: list[list[int]] = []
    rows: list[list[int]] = []
    room: list[int] = []
    for segment, length in enumerate(lengths.tolist()):
        place = next((i for i, free in enumerate(room) if free >= length), None)
        if place is None:
            if len(rows) == _OPEN_ROWS:
                fullest = room.index(min(room))
                done.append(rows.pop(fullest))
                room.pop(fullest)
            rows.append([])
            room.append(row_tokens)
            place = len(rows) - 1
        rows[place].append(segment)
        room[place] -= length
    return done + rows


class BatchBuilder:
    """Turns segments into token batches.

    Args:
        segments: what to take tokens from.
        profile: whether a token for the user leads each stretch.
        timeline: of all training events, for how popular items were; None where that is not asked for.
    """

    def __init__(self, segments: Segments, *, profile: bool, timeline: Timeline | None = None) -> None:
        self.segments = segments
        self.timeline = timeline
        self.lead = int(profile)
        self.lengths = self.lead + segments.end - segments.start

    def epoch(
        self, row_tokens: int, rows_per_batch: int, rng: np.random.Generator, skip: int = 0
    ) -> Iterator[TokenBatch]:
        """All segments once, in random order, packed into rows of ``row_tokens``; without the first batches."""
        order = rng.permutation(len(self.segments))
        rows = [[int(order[i]) for i in row] for row in pack_rows(self.lengths[order], row_tokens)]
        rows = [rows[i] for i in rng.permutation(len(rows))]  # the packing leaves odd rows at the end
        for first in range(skip * rows_per_batch, len(rows), rows_per_batch):
            yield self.build(rows[first : first + rows_per_batch], row_tokens)

    def build(self, rows: list[list[int]], row_tokens: int) -> TokenBatch:
        """One batch: ``rows[r]`` lists the segments of row r, padded to ``row_tokens``."""
        members = np.concatenate([np.asarray(row, np.int64) for row in rows])
        per_row = np.array([len(row) for row in rows])
        length = self.lengths[members]
        row_of = np.repeat(np.arange(len(rows)), per_row)
        before = np.cumsum(length) - length
        row_start = np.repeat(before[np.cumsum(per_row) - per_row], per_row)
        # One flat list of tokens, and where each goes in the (R, S) rectangle.
        place = np.repeat(row_of * row_tokens + before - row_start, length)
        position = ranges(0, length)
        place = place + position
        event = np.repeat(self.segments.start[members], length) + position - self.lead
        profile = position < self.lead
        log = self.segments.log
        owner = np.repeat(np.arange(len(members)), length)
        wanted = (position + 1 < length[owner]) | self.segments.has_target[members][owner]
        wanted &= ~profile | self.segments.first[members][owner]  # later stretches start with an event known before
        following = np.minimum(event + 1, log.num_events - 1)
        event = np.maximum(event, 0)  # a profile token at the very start of the log
        clock = clock_columns(log, event, starts=position <= self.lead)
        if self.timeline is not None:
            popularity = popularity_features(self.timeline, log.items[event], log.times[event])
            clock = np.concatenate([clock, popularity], axis=1)

        def lay(values: np.ndarray, padding: int) -> Tensor:
            rectangle = np.full((len(rows) * row_tokens, *values.shape[1:]), padding, np.int64)
            rectangle[place] = values
            return torch.from_numpy(rectangle.reshape(len(rows), row_tokens, *values.shape[1:]))

        return TokenBatch(
            items=lay(log.items[event], 0),
            actions=lay(np.where(profile, 0, log.actions[event].astype(np.int64) + 1), 0),
            times=lay(np.where(profile, TIME_MISSING, log.times[event]), TIME_MISSING),
            clock=lay(clock, 0),
            users=lay(np.repeat(self.segments.users[members], length), 0),
            profile=lay(profile, 0).bool(),
            segments=lay(owner, -1),
            positions=lay(position, 0),
            targets=lay(np.where(wanted, log.items[following], -1), -1),
            target_actions=lay(np.where(wanted, log.actions[following].astype(np.int64) + 1, 0), 0),
            target_times=lay(np.where(wanted, log.times[following], TIME_MISSING), TIME_MISSING),
        )
