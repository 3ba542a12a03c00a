"""Beam search in layout ``code``: the trunk itself goes on from the histories, code by code.

Shapes: R rows, S tokens, L levels, D width, B users, W beams.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative.code_decoder import CodeHeads, CodeTree
from semid.generative.histories import TokenBatch
from semid.generative.layers import KeyValues, SharedPast
from semid.generative.model import Model
from semid.generative.trunk import Places, code_places


@dataclass(frozen=True, eq=False)
class TrunkSearchState:
    """What :class:`TrunkSearch` carries from level to level.

    Attributes:
        past: of each block, the history of B users and the codes of their B · W beams.
        query: (B, D) unit trunk states.
        nodes: (B, W) int64 trie node of each beam.
    """

    past: list[SharedPast]
    query: Tensor
    nodes: Tensor


@dataclass(frozen=True, eq=False)
class TrunkSearch:
    """The trunk as beam search asks it, the histories of B users read once and shared by their beams.

    Attributes:
        model: of layout ``code``.
        tree: the whole catalogue, as in training.
        history: keys and values of each block.
        places: of the history, and of the L codes to come.
        told: (B,) wanted action.
    """

    model: Model
    tree: CodeTree
    history: list[KeyValues]
    places: Places
    told: Tensor

    @staticmethod
    def of(model: Model, tree: CodeTree, batch: TokenBatch, past: list[KeyValues], told: Tensor) -> "TrunkSearch":
        """Go on from histories that the trunk has read.

        Args:
            batch: one history a row.
            past: keys and values of each block over :func:`code_places`.
            told: (R, S), the wanted action at each row's last event.
        """
        levels = len(tree.trie.levels)
        places = code_places(batch, told, levels)
        rows, last = torch.arange(len(told), device=told.device), batch.last_tokens()
        wanted = told[rows, last]
        slot = torch.arange(levels, device=told.device)

        def extended(values: Tensor, added: Tensor) -> Tensor:
            return torch.cat([values, added.expand(-1, levels)], dim=1)

        places = Places(
            segments=extended(places.segments, batch.segments[:, :1]),
            positions=extended(places.positions, (batch.positions[rows, last] + 1)[:, None] * (levels + 1) + slot),
            times=extended(places.times, batch.times[rows, last, None]),
            actions=extended(places.actions, torch.zeros_like(wanted)[:, None]),
            next_actions=extended(places.next_actions, wanted[:, None]),
        )
        return TrunkSearch(model, tree, past, places, wanted)

    def first(self, state: Tensor) -> tuple[Tensor, TrunkSearchState]:
        """Log-probabilities (B, K_1) of the first code, from states (B, D) told the wanted action."""
        query = F.normalize(state.float(), dim=-1)
        nodes = torch.zeros(len(state), 1, dtype=torch.int64, device=state.device)
        logits = self.heads.logits(0, state, query, nodes[:, 0], self.tree)
        past = [SharedPast(layer) for layer in self.history]
        return F.log_softmax(logits, dim=-1), TrunkSearchState(past, query, nodes)

    def next(self, cache: TrunkSearchState, parents: Tensor, codes: Tensor) -> tuple[Tensor, TrunkSearchState]:
        """Log-probabilities (B, W, K_l) of the next code of beams that continue ``parents`` with ``codes``."""
        batch, beams = codes.shape
        before = cache.nodes.shape[1]
        rows = (parents + torch.arange(batch, device=parents.device)[:, None] * before).flatten()
        own = cache.past[0].own
        depth = 0 if own is None else own.keys.shape[2]
        above = cache.nodes.flatten()[rows] if depth else torch.zeros_like(rows)
        nodes = self.tree.trie.step(depth, above, codes.flatten())
        hidden, past = self._extend([layer.select(rows) for layer in cache.past], depth, codes.flatten())
        query = cache.query.repeat_interleave(beams, dim=0)
        known = self.model.conditioned(hidden, self.told.repeat_interleave(beams))
        logits = self.heads.logits(depth + 1, known, query, nodes, self.tree)
        log_probs = F.log_softmax(logits, dim=-1).view(batch, beams, -1)
        return log_probs, TrunkSearchState(past, cache.query, nodes.view(batch, beams))

    def after(self, codes: Tensor) -> Tensor:
        """States (B, C, D) after all codes of C given items each, (B, C, L), for the action head."""
        batch, count, levels = codes.shape
        past = [SharedPast(layer) for layer in self.history]
        states = codes.new_empty(0, dtype=torch.float32)
        for depth in range(levels):
            states, past = self._extend(past, depth, codes[:, :, depth].flatten())
        return states.view(batch, count, -1)

    @property
    def heads(self) -> CodeHeads:
        assert self.model.code_heads is not None
        return self.model.code_heads

    def _extend(self, past: list[SharedPast], depth: int, codes: Tensor) -> tuple[Tensor, list[SharedPast]]:
        """States (B · W, D) after one more code each."""
        beams = len(codes) // len(self.told)
        tokens = self.history[0].keys.shape[2]
        seen = _columns(self.places, slice(0, tokens + depth + 1))
        new = _columns(self.places, slice(tokens + depth, tokens + depth + 1))
        told = self.told.repeat_interleave(beams)[:, None]
        assert self.model.code_tokens is not None
        x = self.model.code_tokens.column(depth, codes)[:, None]
        states, extended = self.model.trunk.extend(self.model.prepared(x, told), new, seen, list(past), beams)
        kept = [layer for layer in extended if isinstance(layer, SharedPast)]
        return states[:, 0], kept


def _columns(places: Places, part: slice) -> Places:
    return Places(*(values[:, part] for values in vars(places).values()))
