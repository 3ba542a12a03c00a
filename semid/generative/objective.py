"""What training minimises: the losses of a model's heads over one batch.

Shapes: P positions with a target, N items, L levels, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeTree
from semid.generative.histories import TokenBatch
from semid.generative.losses import action_loss, pair_loss, softmax_loss
from semid.generative.model import Model
from semid.generative.negatives import NegativeSampler
from semid.generative.precision import products_in


@dataclass(frozen=True, eq=False)
class _Positions:
    """The positions of a batch that have a target, each value (P,).

    Attributes:
        targets: item rows.
        actions: of the targets, 0 where unknown, otherwise action + 1.
        times: of the targets.
        histories: numbers of the segments.
        told: what the positions are told of the actions, 0 where nothing.
        weights: how much each counts; all alike if None.
    """

    targets: Tensor
    actions: Tensor
    times: Tensor
    histories: Tensor
    told: Tensor
    weights: Tensor | None


class Objective:
    """The losses of a model, weighed as its configuration says.

    Args:
        model: in training.
        catalogue: of its items.
        sampler: of the negatives, where not all items are.
        dtype: of the large matrix products.
    """

    def __init__(self, model: Model, catalogue: Catalogue, sampler: NegativeSampler, dtype: torch.dtype) -> None:
        self.model, self.catalogue, self.sampler, self.dtype = model, catalogue, sampler, dtype
        self.config = model.config
        self.weigh_actions(model.config.action.weights)

    def weigh_actions(self, weights: Sequence[float]) -> None:
        """Let targets count by their action from now on, as :class:`ActionConfig` says."""
        self.action_weights = tuple(weights)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        weight = {
            "contrastive": self.config.contrastive_weight,
            "codes": self.config.code_weight,
            "action": self.config.action_weight,
            "balance": 1.0,  # it is weighed already
        }
        return torch.stack([weight[name] * loss for name, loss in losses.items()]).sum()

    def losses(self, batch: TokenBatch, tree: CodeTree | None = None) -> dict[str, Tensor]:
        """The losses of one batch by name, each a mean over the positions with a target.

        Args:
            tree: for the code decoder, made a few steps ago, where not all items are encoded at each step.
        """
        model, catalogue = self.model, self.catalogue
        with products_in(self.dtype, batch.items.device):
            everything = None
            if model.trains_all_items(catalogue):
                everything = model.items(catalogue, torch.arange(catalogue.num_items, device=batch.items.device))
            told = self._told(batch.target_actions)
            tokens = model.token_states(batch, catalogue, everything, told)[0].flatten(0, 1)
            wanted = (batch.targets.flatten() >= 0).nonzero()[:, 0]  # looked up once: a device is waited for
            at = self._positions(batch, told, wanted)
            # In layout `code` the codes of the target are tokens of the event that follows.
            after = None if model.code_heads is None else tokens[wanted + 1, :-1]
            untold = tokens[wanted, -1]
            states = model.conditioned(untold, at.told)
            vectors = None if everything is None else model.item_vectors(everything)
            losses: dict[str, Tensor] = {}
            contrastive, positive = self._contrastive(states, at, batch, vectors)
            if contrastive is not None:
                losses["contrastive"] = contrastive
            if self.config.code_weight > 0:
                losses["codes"] = self._codes(states, after, at, tree or model.code_tree(catalogue, vectors))
            if model.action_head is not None and self.config.action_weight > 0:
                # Where the state knows the answer there is nothing to learn.
                actions = at.actions * (at.told == 0) if self.config.action.in_trunk else at.actions
                known = untold if after is None else after[:, -1]
                losses["action"] = action_loss(model.action_logits(known, positive), actions)
            balance = [layer.balance_loss for layer in model.experts() if layer.balance_loss is not None]
            if balance:
                losses["balance"] = torch.stack(balance).sum()
        return losses

    def _told(self, actions: Tensor) -> Tensor:
        """What positions are told of the next action: some of them nothing, while training."""
        rate = self.config.action.dropout
        if not (self.model.training and rate):
            return actions
        return actions * (torch.rand(actions.shape, device=actions.device) >= rate)

    def _positions(self, batch: TokenBatch, told: Tensor, wanted: Tensor) -> _Positions:
        columns = (batch.targets, batch.target_actions, batch.target_times, batch.segments, told)
        targets, actions, times, histories, told = (values.flatten()[wanted] for values in columns)
        weights = None
        if self.action_weights:
            table = torch.tensor([self.action_weights[0], *self.action_weights], device=actions.device)
            weights = table[actions.clamp(max=len(table) - 1)]
        return _Positions(targets, actions, times, histories, told, weights)

    def _codes(self, states: Tensor, after: Tensor | None, at: _Positions, tree: CodeTree) -> Tensor:
        """Of the codes of the targets: by the code decoder, or from the states ``after`` (P, L, D) each of them."""
        model, codes = self.model, self.catalogue.codes[at.targets]
        if after is None:
            assert model.code_decoder is not None
            loss: Tensor = model.code_decoder(states, codes, tree, self.dtype, at.weights)
        else:
            assert model.code_heads is not None
            known = [states, *(model.conditioned(level, at.told) for level in after[:, :-1].unbind(1))]
            loss = model.code_heads(torch.stack(known, 1), states, codes, tree, self.dtype, at.weights)
        return loss

    def _contrastive(
        self, states: Tensor, at: _Positions, batch: TokenBatch, vectors: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Of the item tower, if it is trained, and the vectors (P, D) of the targets.

        Args:
            vectors: (N, D) of all items, where each step encodes them.
        """
        model = self.model
        if vectors is not None:
            query = model.query_vectors(states)
            loss = softmax_loss(query, vectors, model.scale, at.targets, weights=at.weights, dtype=self.dtype)
            return loss, F.embedding(at.targets, vectors)
        if self.config.contrastive_weight == 0:
            return None, model.item_vectors(model.encoded(at.targets, self.catalogue, at.times))
        if self.config.contrastive == "bank":
            return self._against_bank(states, at)
        events = batch.segments >= 0
        return self._against_own(states, at, (batch.segments[events], batch.items[events]))

    def _against_bank(self, states: Tensor, at: _Positions) -> tuple[Tensor, Tensor]:
        """The loss over a sampled bank, and the vectors (P, D) of the targets.

        A positive is seen as it stood at its time, a negative as at that of some position.
        """
        model, times = self.model, at.times
        bank = self.sampler.draw(at.targets, at.histories)
        of_others = torch.randint(len(times), (len(bank.rows) - len(times),), device=times.device)
        encoded = model.encoded(bank.rows, self.catalogue, torch.cat([times, times[of_others]]))
        entries = model.item_vectors(encoded)
        loss = softmax_loss(
            model.query_vectors(states),
            entries,
            model.scale,
            torch.arange(len(times), device=times.device),
            log_expected=bank.log_expected,
            excluded=bank.excluded,
            weights=at.weights,
            dtype=self.dtype,
        )
        return loss, entries[: len(times)]

    def _against_own(self, states: Tensor, at: _Positions, seen: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of each target beside its own negatives, which are not among what its history has ``seen``."""
        model = self.model
        negatives = self.sampler.draw_own(self.config.pair_negatives, at.targets, at.histories, seen)
        pairs = torch.cat([at.targets[:, None], negatives], dim=1)
        moments = at.times[:, None].expand(pairs.shape).flatten()
        vectors = model.item_vectors(model.encoded(pairs.flatten(), self.catalogue, moments)).view(*pairs.shape, -1)
        positive, query = vectors[:, 0], model.query_vectors(states)
        binary = self.config.contrastive == "binary"
        return pair_loss(query, positive, vectors[:, 1:], model.scale, weights=at.weights, binary=binary), positive
