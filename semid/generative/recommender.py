"""The trained recommender: one artifact that turns histories into generated items and into query vectors."""

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semid.artifacts import Artifact, create_artifact, open_artifact
from semid.data.events import Queries
from semid.data.transitions import Transitions
from semid.errors import InputError
from semid.generative.beam_search import beam_search
from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeTree
from semid.generative.code_search import CodeSearch
from semid.generative.graphed_search import SearchGraphs
from semid.generative.history_encoder import HistoryEncoder, QueryStates
from semid.generative.item_filter import ItemFilter
from semid.generative.item_scores import score_items, score_levels
from semid.generative.model import Model
from semid.generative.precision import check_precision, matrix_dtype
from semid.generative.saving import catalogue_from_arrays, catalogue_to_arrays, model_config_from_facts
from semid.ranking import Ranking

logger = logging.getLogger(__name__)
KIND = "model"
ANY_ACTION = "any"
_TRANSITIONS = "transitions.safetensors"


class GenerativeRecommender:
    """A model with the catalogue it was trained on.

    Args:
        model: trained.
        catalogue: codes and features of every item and user.
        candidates: (C,) item rows that may be recommended.
        action_names: of the dataset.
        dtype: of the matrix products over histories and beams; all scores are float32.

    Attributes:
        encoder: of the histories of queries.
        transitions: what follows what in training histories; None if that is not told.
        train_counts: (N,) training events of each item.
        weights: by mode, the weight of each kind of evidence, fitted on validation; none before that.
        fusions: the hybrid's rules of fusion with their NDCG@10 on validation, the best first; none before that.
        usual_action: the commonest action of validation targets, ``"any"`` where actions are not told apart.
        artifact: what it was loaded from.
        is_narrowed: whether it recommends among fewer items than it was made for.
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
        self.encoder = HistoryEncoder(model, catalogue, dtype)
        self.transitions: Transitions | None = None
        self.train_counts = np.zeros(catalogue.num_items, np.int64)
        self.weights: Mapping[str, Mapping[str, float]] = {}
        self.fusions: Mapping[str, float] = {}
        self.usual_action = ANY_ACTION
        self.artifact: Artifact | None = None
        self.is_narrowed = False

    def weights_changed(self) -> None:
        """Forget the item vectors, and what it was loaded from; call after the model has been trained on."""
        self.artifact = None
        for name in ("item_vectors", "_item_vectors", "_tree", "_least_differences", "_graphs"):
            self.__dict__.pop(name, None)

    def among(self, candidates: np.ndarray) -> "GenerativeRecommender":
        """The same, recommending no other items than these rows (C,)."""
        other = copy(self)
        other.candidates, other.is_narrowed = np.asarray(candidates, np.int64), True
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
        reader = self.model.code_decoder or self.encoder.decoder(states, rows, states.action)
        return CodeSearch(reader, self._tree, self.encoder.dtype)

    def encode(self, queries: Queries, action: str = ANY_ACTION) -> QueryStates:
        """Run the trunk over each query's history.

        Args:
            queries: with at least one event of history each.
            action: wanted next action, one of the dataset's, or ``"any"``.

        Raises:
            InputError: an unknown action, or a query without history.
        """
        return self.encoder.encode(queries, self._action_code(action))

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
        order, parts = np.argsort(self.encoder.events_read_again(states), kind="stable"), []
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
    def level_scores(self, states: QueryStates, items: np.ndarray) -> np.ndarray:
        """log p(code | codes before) of every code of given items (Q, C); padding -1 scores -inf. (Q, C, L) float32

        Those of an item sum to its :meth:`code_scores`.
        """

        def score(queries: np.ndarray, rows: Tensor) -> Tensor:
            search = self._search(states, queries)
            return score_levels(search, states.states[queries], self.catalogue.trie, rows)

        return self._score(states, items, score, len(self.catalogue.num_codes))

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
                decoder = self.encoder.decoder(states, queries, 0)
                with self.encoder.products():
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
        self, states: QueryStates, items: np.ndarray, score: Callable[[np.ndarray, Tensor], Tensor], *each: int
    ) -> np.ndarray:
        """Scores of items (Q, C, ...), each of the shape ``each``."""
        result = np.full((*items.shape, *each), -np.inf, np.float32)
        there = items >= 0
        if not items.size:
            return result
        widths = np.where(there.any(axis=1), items.shape[1] - there[:, ::-1].argmax(axis=1), 0)
        # Like widths waste no padding.
        order = np.lexsort((self.encoder.events_read_again(states), -widths))[: np.count_nonzero(widths)]
        while len(order):
            width = int(widths[order[0]])
            rows, order = np.split(order, [states.at_once(width)])
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
            known = {"candidates": self.candidates, "train_counts": self.train_counts}
            writer.save_arrays("catalogue.safetensors", {**arrays, **known})
            if self.transitions is not None:
                writer.save_arrays(_TRANSITIONS, self.transitions.to_arrays())
            writer.save_lines("log.jsonl", history)
            writer.details |= {
                "model": asdict(self.model.config),
                "catalogue": facts,
                "action_names": list(self.action_names),
                "weights": self.weights,
                "fusions": self.fusions,
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
        if "fusions" not in artifact.details:
            raise InputError(f"{path} was trained by an earlier semid: train the model again.")
        candidates, train_counts = arrays.pop("candidates"), arrays.pop("train_counts")
        catalogue = catalogue_from_arrays(arrays, artifact.details["catalogue"]).to(torch.device(device))
        model = Model(model_config_from_facts(artifact.details["model"]), catalogue)
        weights = artifact.load_arrays("model.safetensors")
        try:
            model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        except RuntimeError:
            raise InputError(f"The weights in {path} do not fit its configuration: train the model again.") from None
        dtype, names = matrix_dtype(precision, torch.device(device)), artifact.details["action_names"]
        recommender = GenerativeRecommender(model.to(device), catalogue, candidates, names, dtype)
        recommender.train_counts = train_counts
        recommender.weights, recommender.fusions = artifact.details["weights"], artifact.details["fusions"]
        if _TRANSITIONS in artifact.files:
            recommender.transitions = Transitions.from_arrays(artifact.load_arrays(_TRANSITIONS))
        recommender.usual_action = artifact.details["usual_action"]
        recommender.artifact = artifact
        return recommender
