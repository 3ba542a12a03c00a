"""The trained recommender: one artifact that turns histories into generated items and into query vectors."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semid.artifacts import Artifact, create_artifact, open_artifact
from semid.data.dataset import ranges
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING, EventLog, Queries
from semid.data.transitions import Transitions
from semid.errors import InputError
from semid.generative.beam_search import beam_search
from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeTree
from semid.generative.code_search import CodeSearch
from semid.generative.graphed_search import SearchGraphs
from semid.generative.histories import BatchBuilder, Segments, TokenBatch, query_segments
from semid.generative.item_filter import ItemFilter
from semid.generative.item_scores import score_items
from semid.generative.layers import KeyValues, Past
from semid.generative.model import Model
from semid.generative.precision import check_precision, matrix_dtype, products_in
from semid.generative.saving import catalogue_from_arrays, catalogue_to_arrays, model_config_from_facts
from semid.generative.trunk_decoder import TrunkDecoder
from semid.ranking import Ranking

logger = logging.getLogger(__name__)
KIND = "model"
ANY_ACTION = "any"
_TRANSITIONS = "transitions.safetensors"
_BATCH_QUERIES = 256
_BATCH_ROWS = 12_800
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
        size = max(1, _BATCH_ROWS // max(width, 1))
        return (slice(first, first + size) for first in range(0, len(self), size))


class GenerativeRecommender:
    """A model with the catalogue it was trained on.

    Args:
        model: trained.
        catalogue: codes and features of every item and user.
        candidates: (C,) item rows that may be recommended.
        action_names: of the dataset.
        dtype: of the matrix products over histories and beams; all scores are float32.

    Attributes:
        transitions: what follows what in training histories; None if that is not told.
        weights: by mode, the weight of each kind of evidence, fitted on validation; none before that.
        usual_action: the commonest action of validation targets, ``"any"`` where actions are not told apart.
    """

    def __init__(
        self,
        model: Model,
        catalogue: Catalogue,
        candidates: np.ndarray,
        action_names: Sequence[str],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.catalogue = model.eval(), catalogue
        self.candidates = np.asarray(candidates, np.int64)
        self.action_names = tuple(action_names)
        self.dtype = dtype
        self.transitions: Transitions | None = None
        self.weights: Mapping[str, Mapping[str, float]] = {}
        self.usual_action = ANY_ACTION
        self.artifact: Artifact | None = None

    def weights_changed(self) -> None:
        """Forget the item vectors; call after the model has been trained on."""
        for name in ("item_vectors", "_item_vectors", "_tree", "_least_differences", "_graphs"):
            self.__dict__.pop(name, None)

    def among(self, candidates: np.ndarray) -> "GenerativeRecommender":
        """The same, recommending no other items than these rows (C,)."""
        other = copy(self)
        other.candidates = np.asarray(candidates, np.int64)
        for name in ("_allowed", "_graphs"):
            other.__dict__.pop(name, None)
        return other

    @cached_property
    def _allowed(self) -> ItemFilter | None:
        """The candidates; None if all items are."""
        allowed = torch.zeros(self.catalogue.num_items, dtype=torch.bool, device=self.catalogue.codes.device)
        allowed[torch.from_numpy(self.candidates)] = True
        return None if bool(allowed.all()) else ItemFilter.of(self.catalogue.trie, allowed)

    @cached_property
    def _graphs(self) -> SearchGraphs:
        return SearchGraphs()

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """(N, D) float32 unit vectors of all items."""
        return self._item_vectors.cpu().numpy()

    @cached_property
    @torch.inference_mode()
    def _item_vectors(self) -> Tensor:
        return self.model.all_item_vectors(self.catalogue)

    @cached_property
    def _tree(self) -> CodeTree:
        around = "graph" in self.model.config.features
        vectors = self.model.node_item_vectors(self.catalogue) if around else self._item_vectors
        return self.model.code_tree(self.catalogue, vectors)

    def _search(self, states: QueryStates, rows: np.ndarray) -> CodeSearch:
        """What beam search asks of some of the queries."""
        reader = self.model.code_decoder or self._trunk_decoder(states, rows, states.action)
        return CodeSearch(reader, self._tree, self.dtype)

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

    def _read_again(self, states: QueryStates) -> np.ndarray:
        """How many events of each query a search reads, (Q,): batches of like numbers waste no padding."""
        if self.model.code_decoder is not None:
            return np.zeros(len(states), np.int64)
        events: np.ndarray = states.queries.end - states.queries.start
        return events.clip(max=self.model.config.context)

    def _trunk_decoder(self, states: QueryStates, rows: np.ndarray, action: int) -> TrunkDecoder:
        if action not in states.decoders:
            return self._read(states.queries.select(rows), action)[0]
        decoder = states.decoders[action]
        return decoder if np.array_equal(rows, np.arange(len(states))) else decoder.select(torch.from_numpy(rows))

    def _read(self, queries: Queries, action: int) -> tuple[TrunkDecoder, Tensor]:
        """In layout ``code``: the histories read, to be gone on from, and their last states (Q, D)."""
        builder = self._builder(query_segments(queries, self.model.config.context))
        batch = builder.build([[row] for row in range(len(queries))], int(builder.lengths.max()))
        batch = batch.to(self.catalogue.codes.device)
        told = _told(batch, action)
        lasts = []
        pasts: list[list[Past]] = []
        for first in range(0, len(queries), self._queries_at_once):
            part = slice(first, first + self._queries_at_once)
            rows_there = batch.rows(part)
            tokens = rows_there.items.shape[1]
            with self._products():
                states, past = self.model.last_states(rows_there, self.catalogue, told[part, :tokens])
            pasts.append(past)
            lasts.append(states.float())
        history = [KeyValues.concatenate(layers) for layers in zip(*pasts, strict=True)]
        return TrunkDecoder.of(self.model, batch, history, told), torch.cat(lasts)

    def _products(self) -> AbstractContextManager[None]:
        return products_in(self.dtype, self.catalogue.codes.device)

    @property
    def _queries_at_once(self) -> int:
        """So many that attention within their histories stays small, whose rows are longer in layout ``code``."""
        slots = 1 if self.model.code_heads is None else 1 + len(self.catalogue.num_codes)
        return max(1, _BATCH_QUERIES // slots**2)

    def _builder(self, segments: Segments) -> BatchBuilder:
        return BatchBuilder(segments, profile=self.model.config.profile_token, timeline=self.catalogue.timeline)

    @torch.inference_mode()
    def encode(self, queries: Queries, action: str = ANY_ACTION) -> QueryStates:
        """Run the trunk over each query's history.

        Args:
            queries: with at least one event of history each.
            action: wanted next action, one of the dataset's, or ``"any"``.

        Raises:
            InputError: an unknown action, or a query without history.
        """
        wanted = self._action_code(action)
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
        for first in range(0, len(order), self._queries_at_once):
            rows = order[first : first + self._queries_at_once]
            batch = builder.build([[int(row)] for row in rows], int(builder.lengths[rows].max())).to(device)
            rows_there = torch.from_numpy(rows).to(device)
            told[rows_there], untold[rows_there] = self._last_states(batch, wanted)
        return QueryStates(told, queries, untold if self.judges_actions else None, wanted)

    def _kept(self, queries: Queries, wanted: int) -> QueryStates:
        """As :meth:`encode`, in layout ``code``, with what was read."""
        decoder, last = self._read(queries, wanted)
        decoders = {wanted: decoder}
        untold = last
        if self.judges_actions and wanted and self.model.config.action.in_trunk:
            decoders[0], untold = self._read(queries, 0)
        elif self.judges_actions and wanted:
            decoders[0] = replace(decoder, told=torch.zeros_like(decoder.told))
        states = self.model.conditioned(last, torch.full((len(queries),), wanted, device=last.device))
        return QueryStates(states, queries, untold if self.judges_actions else None, wanted, decoders)

    @property
    def judges_actions(self) -> bool:
        """Whether the action head was trained."""
        return self.model.action_head is not None and self.model.config.action_weight > 0

    def _last_states(self, batch: TokenBatch, action: int) -> tuple[Tensor, Tensor]:
        """States (B, D) of the last tokens, told the wanted action, and told nothing."""

        def last(wanted: int) -> Tensor:
            with self._products():
                return self.model.last_states(batch, self.catalogue, _told(batch, wanted))[0].float()

        state = last(action)
        again = self.judges_actions and self.model.config.action.in_trunk
        wanted = torch.full((len(state),), action, device=state.device)
        return self.model.conditioned(state, wanted), last(0) if again else state

    @torch.inference_mode()
    def generate(self, states: QueryStates, *, beam: int, k: int, seen: np.ndarray | None = None) -> Ranking:
        """Items whose codes the code decoder finds most probable, by constrained beam search.

        Args:
            states: from :meth:`encode`.
            beam: width, at least k.
            seen: (Q, S) item rows to leave out, -1 padded.

        Returns:
            Scores are log-probabilities.
        """
        if not len(states):
            return Ranking(np.empty((0, k), np.int64), np.empty((0, k), np.float32), np.empty(0, np.float32))
        order, parts = np.argsort(self._read_again(states), kind="stable"), []
        for part in states.batches(beam):
            rows = order[part]
            count = len(rows)
            if states.states.is_cuda:  # few different shapes, as each has a graph of its own
                rows = np.pad(rows, (0, (1 << (count - 1).bit_length()) - count), mode="edge")
            block = None if seen is None else torch.from_numpy(seen[rows]).to(states.states.device)
            search = self._search(states, rows)
            found = beam_search(
                search,
                states.states[rows],
                self.catalogue.trie,
                beam=beam,
                k=k,
                allowed=self._allowed,
                seen=block,
                graphs=self._graphs,
            )
            parts.append(found.ranking().select(np.arange(count)))
        return Ranking.concatenate(parts).select(np.argsort(order))

    def query_vectors(self, states: QueryStates) -> np.ndarray:
        """(Q, D) float32 unit vectors to search the item vectors with."""
        return self.model.query_vectors(states.states).cpu().numpy()

    @torch.inference_mode()
    def code_scores(self, states: QueryStates, items: np.ndarray) -> np.ndarray:
        """log p(codes of item) for given items (Q, C); padding -1 scores -inf. (Q, C) float32"""

        def score(queries: np.ndarray, rows: Tensor) -> Tensor:
            search = self._search(states, queries)
            return score_items(search, states.states[queries], self.catalogue.trie, rows)

        return self._score(states, items, score)

    @torch.inference_mode()
    def dense_scores(self, states: QueryStates, items: np.ndarray) -> np.ndarray:
        """Cosine over temperature for given items (Q, C); padding -1 scores -inf. (Q, C) float32"""

        def score(queries: np.ndarray, rows: Tensor) -> Tensor:
            vectors = self._item_vectors[rows]
            query = self.model.query_vectors(states.states[queries])[:, :, None]
            return (vectors @ query)[:, :, 0] * self.model.scale

        return self._score(states, items, score)

    @torch.inference_mode()
    def action_scores(self, states: QueryStates, items: np.ndarray) -> np.ndarray:
        """log p(wanted action | item comes next) for given items (Q, C); padding -1 scores -inf. (Q, C) float32

        It is 0 where any action is wanted, or where the action head was not trained.
        """
        untold, action = states.untold, states.action
        if untold is None or not action:
            return np.where(items < 0, -np.inf, np.float32(0)).astype(np.float32)

        def score(queries: np.ndarray, rows: Tensor) -> Tensor:
            if self.model.code_heads is None:
                state = untold[queries, None].expand(-1, rows.shape[1], -1)
            else:
                decoder = self._trunk_decoder(states, queries, 0)
                with self._products():
                    state = decoder.after(self.catalogue.codes[rows]).float()
            logits = self.model.action_logits(state, self._item_vectors[rows])
            return logits.float().log_softmax(-1)[..., action - 1]

        return self._score(states, items, score)

    @torch.inference_mode()
    def action_bound(self, states: QueryStates) -> np.ndarray:
        """At least the highest of the :meth:`action_scores` of all items. (Q,) float32

        log p(a) = −log Σ_b exp(logit_b − logit_a), where state and item add to each logit: the least that any item
        adds to every difference bounds the sum from below. In layout ``code`` state and item do not add up, and 0 is
        all that can be said.
        """
        untold, action = states.untold, states.action
        if untold is None or not action or self.model.code_heads is not None:
            return np.zeros(len(states), np.float32)
        head = self.model.action_head
        assert head is not None
        of_states = untold @ head.weight[:, : untold.shape[1]].T + head.bias
        differences = of_states - of_states[:, action - 1, None] + self._least_differences[action - 1]
        return -torch.logsumexp(differences, dim=1).cpu().numpy()

    @cached_property
    @torch.inference_mode()
    def _least_differences(self) -> Tensor:
        """(A, A): the least, over all items, of what an item adds to the logit of action b over that of action a."""
        head = self.model.action_head
        assert head is not None
        added = self._item_vectors @ head.weight[:, self.model.config.width :].T
        return torch.stack([(added - added[:, action, None]).amin(0) for action in range(added.shape[1])])

    def _score(
        self, states: QueryStates, items: np.ndarray, score: Callable[[np.ndarray, Tensor], Tensor]
    ) -> np.ndarray:
        result = np.full(items.shape, -np.inf, np.float32)
        there = items >= 0
        if not items.size:
            return result
        widths = np.where(there.any(axis=1), items.shape[1] - there[:, ::-1].argmax(axis=1), 0)
        # Like widths waste no padding.
        order = np.lexsort((self._read_again(states), -widths))[: np.count_nonzero(widths)]
        while len(order):
            width = int(widths[order[0]])
            rows, order = np.split(order, [max(1, _BATCH_ROWS // width)])
            chosen = torch.from_numpy(np.maximum(items[rows, :width], 0)).to(states.states.device)
            result[rows, :width] = score(rows, chosen).float().cpu().numpy()
        result[~there] = -np.inf
        return result

    def _action_code(self, action: str) -> int:
        if action == ANY_ACTION:
            return 0
        if action not in self.action_names:
            raise InputError(f"Unknown action {action!r}; known: {', '.join((ANY_ACTION, *self.action_names))}.")
        if not self.model.config.action.condition:
            logger.warning("This model was trained without the next action: %r changes nothing.", action)
        code = self.action_names.index(action)
        if self.catalogue.num_actions > 1 and code not in self.catalogue.trained_actions:
            seen = [self.action_names[action] for action in self.catalogue.trained_actions]
            raise InputError(
                f"No training event had action {action!r}, so nothing was learned of it: ask for "
                f"{', '.join((ANY_ACTION, *seen))}."
            )
        return code + 1

    def save(
        self,
        path: str | Path,
        *,
        settings: Mapping[str, Any] | None = None,
        parents: Mapping[str, Artifact] | None = None,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write weights and catalogue as one artifact; ``history`` becomes ``log.jsonl``."""
        with create_artifact(Path(path), KIND, settings=settings, parents=parents) as writer:
            weights = {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}
            writer.save_arrays("model.safetensors", weights)
            arrays, facts = catalogue_to_arrays(self.catalogue)
            writer.save_arrays("catalogue.safetensors", {**arrays, "candidates": self.candidates})
            if self.transitions is not None:
                writer.save_arrays(_TRANSITIONS, self.transitions.to_arrays())
            writer.save_lines("log.jsonl", history)
            writer.details |= {
                "model": asdict(self.model.config),
                "catalogue": facts,
                "action_names": list(self.action_names),
                "weights": self.weights,
                "usual_action": self.usual_action,
            }

    @staticmethod
    def load(
        path: str | Path, device: str | torch.device = "cpu", precision: str = "float32"
    ) -> "GenerativeRecommender":
        """Open a saved recommender.

        Args:
            precision: ``float32``, ``bfloat16``, or ``auto`` for the faster one on this device.

        Raises:
            InputError: no model there, another version, a damaged file, or an unknown precision.
        """
        check_precision(precision)
        artifact = open_artifact(Path(path), KIND)
        arrays = artifact.load_arrays("catalogue.safetensors")
        candidates = arrays.pop("candidates")
        if "weights" not in artifact.details:
            raise InputError(f"{path} was trained by an earlier semid: train the model again.")
        catalogue = catalogue_from_arrays(arrays, artifact.details["catalogue"]).to(torch.device(device))
        model = Model(model_config_from_facts(artifact.details["model"]), catalogue)
        weights = artifact.load_arrays("model.safetensors")
        try:
            model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        except RuntimeError:
            raise InputError(f"The weights in {path} do not fit its configuration: train the model again.") from None
        dtype, names = matrix_dtype(precision, torch.device(device)), artifact.details["action_names"]
        recommender = GenerativeRecommender(model.to(device), catalogue, candidates, names, dtype)
        recommender.weights = artifact.details["weights"]
        if _TRANSITIONS in artifact.files:
            recommender.transitions = Transitions.from_arrays(artifact.load_arrays(_TRANSITIONS))
        recommender.usual_action = artifact.details["usual_action"]
        recommender.artifact = artifact
        return recommender


def _told(batch: TokenBatch, action: int) -> Tensor:
    """What positions are told of the next action: what it was, and after the last event what is wanted. (R, S)"""
    lasts = torch.arange(len(batch.items), device=batch.items.device), batch.last_tokens()
    return batch.target_actions.index_put(lasts, torch.full_like(lasts[0], action))


def queries_from_histories(histories: Sequence[Sequence[int]], num_items: int) -> Queries:
    """Queries without targets, users or times from plain lists of item rows.

    Raises:
        InputError: a row that no item has.
    """
    lengths = np.array([len(history) for history in histories], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total, count = int(offsets[-1]), len(histories)
    items = np.fromiter((item for history in histories for item in history), np.int64, total)
    if total and (items.min() < 0 or items.max() >= num_items):
        raise InputError(f"A history holds item rows outside 0..{num_items - 1}: map raw ids to rows first.")
    log = EventLog(
        items.astype(np.int32), np.full(total, ACTION_UNKNOWN, np.int8), np.full(total, TIME_MISSING), offsets
    )
    return Queries.after(log, np.full(count, -1))


def seen_items(queries: Queries) -> np.ndarray:
    """(Q, S) int64 items of each query's whole history, -1 padded."""
    lengths = queries.end - queries.start
    seen = np.full((len(queries), int(lengths.max(initial=0))), -1, np.int64)
    seen[np.arange(seen.shape[1]) < lengths[:, None]] = queries.log.items[ranges(queries.start, lengths)]
    return seen
