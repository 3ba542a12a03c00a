"""Histories read by the trunk, once, for all that is asked of them.

Shapes: Q queries, R rows, S tokens, D width.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from semid.data.events import Queries
from semid.errors import InputError
from semid.generative.catalogue import Catalogue
from semid.generative.histories import BatchBuilder, Segments, TokenBatch, query_segments
from semid.generative.layers import KeyValues, Past
from semid.generative.model import Model
from semid.generative.precision import products_in
from semid.generative.trunk_decoder import TrunkDecoder

# Queries times ways each is looked at in, at once: on a CPU so few that their vectors stay in cache.
_ROWS, _CPU_ROWS = 12_800, 3_200
_BATCH_QUERIES = 256
_CACHED_SCORES = 1 << 20
# Of keys and values that are kept between searches.
_KEPT_NUMBERS = 1 << 26


@dataclass(frozen=True, eq=False)
class QueryStates:
    """What the trunk makes of Q queries, on the model's device.

    Attributes:
        states: (Q, D), told the wanted action.
        queries: that they are of.
        untold: (Q, D), told nothing of it, for the action head; None where that is not trained.
        action: wanted, 0 for any, otherwise action + 1.
        decoders: in layout ``code`` the histories as read, by the action told; without them searches read them again.
    """

    states: Tensor
    queries: Queries
    untold: Tensor | None = None
    action: int = 0
    decoders: Mapping[int, TrunkDecoder] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)

    def batches(self, width: int) -> Iterator[slice]:
        """Slices of queries, each looked at in ``width`` ways at once, so that memory stays bounded."""
        size = self.at_once(width)
        return (slice(first, first + size) for first in range(0, len(self), size))

    def at_once(self, width: int) -> int:
        """How many queries such a slice has."""
        rows = _CPU_ROWS if self.states.device.type == "cpu" else _ROWS
        return max(1, rows // max(width, 1))


class HistoryEncoder:
    """Reads the histories of queries.

    Args:
        model: trained, in evaluation mode.
        catalogue: it was trained on.
        dtype: of matrix products; states are float32 in any case.
    """

    def __init__(self, model: Model, catalogue: Catalogue, dtype: torch.dtype) -> None:
        self.model, self.catalogue, self.dtype = model, catalogue, dtype

    def blocks(self, queries: Queries) -> list[np.ndarray]:
        """Rows of queries that are best encoded together.

        In layout ``code`` they are few enough for their keys and values to be kept for all that is asked of them, and
        of like length, so that they waste no padding.
        """
        if self.model.code_decoder is not None or not len(queries):
            return [np.arange(len(queries))]
        order = np.argsort(queries.end - queries.start, kind="stable")
        return np.split(order, range(self._kept_queries, len(order), self._kept_queries))

    @property
    def _kept_queries(self) -> int:
        config, slots = self.model.config, 1 + len(self.catalogue.num_codes)
        numbers = 2 * config.layers * config.kv_heads * config.head_width * slots * (config.context + 1)
        return max(1, min(_BATCH_QUERIES, _KEPT_NUMBERS // numbers))

    def events_read_again(self, states: QueryStates) -> np.ndarray:
        """How many events of each query a search reads, (Q,): batches of like numbers waste no padding."""
        if self.model.code_decoder is not None:
            return np.zeros(len(states), np.int64)
        events: np.ndarray = states.queries.end - states.queries.start
        return events.clip(max=self.model.config.context)

    def decoder(self, states: QueryStates, rows: np.ndarray, action: int) -> TrunkDecoder:
        """In layout ``code``: some of the queries (B,) as told an action, read again where they are not kept."""
        if action not in states.decoders:
            return self._read(states.queries.select(rows), action)[0]
        decoder = states.decoders[action]
        return decoder if np.array_equal(rows, np.arange(len(states))) else decoder.select(torch.from_numpy(rows))

    @torch.inference_mode()
    def encode(self, queries: Queries, wanted: int) -> QueryStates:
        """States of queries of which ``wanted`` is the next action, 0 for any, otherwise action + 1.

        Raises:
            InputError: a query without history.
        """
        config = self.model.config
        builder = self._builder(query_segments(queries, config.context))
        empty = np.flatnonzero(queries.end <= queries.start)
        if len(empty):
            raise InputError(
                f"Query {int(empty[0])} has an empty history ({len(empty)} such): give each at least one item."
            )
        if self.model.code_decoder is None and 0 < len(queries) <= self._kept_queries:
            return self._kept(queries, wanted)
        device = self.catalogue.codes.device
        order = np.argsort(builder.lengths, kind="stable")  # batches of like lengths waste no padding
        told, untold = torch.empty(2, len(queries), config.width, device=device)
        for part in self._parts(builder.lengths[order]):
            rows = order[part]
            batch = self._batch(builder, rows)
            rows_there = torch.from_numpy(rows).to(device)
            told[rows_there], untold[rows_there] = self._last_states(batch, wanted)
        return QueryStates(told, queries, untold if self.model.judges_actions else None, wanted)

    def _kept(self, queries: Queries, wanted: int) -> QueryStates:
        """As :meth:`encode`, in layout ``code``, with what was read."""
        decoder, last = self._read(queries, wanted)
        decoders = {wanted: decoder}
        untold = last
        if self.model.judges_actions and wanted and self.model.config.action.in_trunk:
            decoders[0], untold = self._read(queries, 0)
        elif self.model.judges_actions and wanted:
            decoders[0] = replace(decoder, told=torch.zeros_like(decoder.told))
        states = self.model.conditioned(last, torch.full((len(queries),), wanted, device=last.device))
        return QueryStates(states, queries, untold if self.model.judges_actions else None, wanted, decoders)

    def _last_states(self, batch: TokenBatch, action: int) -> tuple[Tensor, Tensor]:
        """States (B, D) of the last tokens, told the wanted action, and told nothing."""

        def last(wanted: int) -> Tensor:
            with self.products():
                return self.model.last_states(batch, self.catalogue, _told(batch, wanted))[0].float()

        state = last(action)
        again = self.model.judges_actions and self.model.config.action.in_trunk
        wanted = torch.full((len(state),), action, device=state.device)
        return self.model.conditioned(state, wanted), last(0) if again else state

    def _read(self, queries: Queries, action: int) -> tuple[TrunkDecoder, Tensor]:
        """In layout ``code``: the histories read, to be gone on from, and their last states (Q, D)."""
        builder = self._builder(query_segments(queries, self.model.config.context))
        batch = self._batch(builder, np.arange(len(queries)))
        told = _told(batch, action)
        lasts = []
        pasts: list[list[Past]] = []
        for part in self._parts(builder.lengths):
            rows_there = batch.rows(part)
            tokens = rows_there.items.shape[1]
            with self.products():
                states, past = self.model.last_states(rows_there, self.catalogue, told[part, :tokens])
            pasts.append(past)
            lasts.append(states.float())
        history = [KeyValues.concatenate(layers) for layers in zip(*pasts, strict=True)]
        return TrunkDecoder.of(self.model, batch, history, told), torch.cat(lasts)

    def products(self) -> AbstractContextManager[None]:
        """Within it matrix products are of this dtype."""
        return products_in(self.dtype, self.catalogue.codes.device)

    def _parts(self, lengths: np.ndarray) -> Iterator[slice]:
        """Consecutive histories of these numbers of events, so few at a time that their attention stays in cache."""
        slots = 1 if self.model.code_heads is None else 1 + len(self.catalogue.num_codes)
        scores = self.model.config.heads * (lengths * slots) ** 2
        first = 0
        while first < len(lengths):
            size = _BATCH_QUERIES
            if self.catalogue.codes.device.type == "cpu":
                longest = np.maximum.accumulate(scores[first : first + size])
                size = max(1, int((longest * np.arange(1, 1 + len(longest)) <= _CACHED_SCORES).sum()))
            yield slice(first, first + size)
            first += size

    def _batch(self, builder: BatchBuilder, rows: np.ndarray) -> TokenBatch:
        """One history a row, with the actions that the model knows."""
        batch = builder.build([[row] for row in rows.tolist()], int(builder.lengths[rows].max()))
        batch = batch.to(self.catalogue.codes.device)
        codes = self.catalogue.action_codes
        return batch if codes is None else batch.with_actions(codes)

    def _builder(self, segments: Segments) -> BatchBuilder:
        return BatchBuilder(segments, profile=self.model.config.profile_token, timeline=self.catalogue.timeline)


def _told(batch: TokenBatch, action: int) -> Tensor:
    """What positions are told of the next action: what it was, and after the last event what is wanted. (R, S)"""
    lasts = torch.arange(len(batch.items), device=batch.items.device), batch.last_tokens()
    return batch.target_actions.index_put(lasts, torch.full_like(lasts[0], action))
