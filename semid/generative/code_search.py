"""A decoder of codes as beam search asks it: which children exist, and how probable each is.

Shapes: B users, W beams, M = B · W, D width.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative.beam_steps import StepLogits
from semid.generative.children import Children
from semid.generative.code_decoder import CodeHeads, CodeTree
from semid.generative.precision import products_in


class CodeReader(Protocol):
    """What it knows before each code: the code decoder, or in layout ``code`` the trunk itself."""

    @property
    def heads(self) -> CodeHeads:
        """From what is known to the code."""

    def first(self, state: Tensor) -> tuple[Tensor, Any]:
        """What is known (B, D) before the first code, from trunk states (B, D), and the past to continue from."""

    def next(self, past: Any, rows: Tensor, codes: Tensor) -> tuple[Tensor, Any]:
        """What is known (M, D) after one more code each.

        Args:
            past: as the call before returned it.
            rows: (M,) int64, the row of the call before that each row continues.
            codes: (M,) int64, the code each row has just taken.
        """


@dataclass(frozen=True, eq=False)
class SearchState:
    """What :class:`CodeSearch` carries from level to level.

    Attributes:
        level: of the codes asked for next.
        past: of the reader.
        hidden: (M, D) what the reader knows of each beam.
        query: (B, D) unit trunk states.
        nodes: (B, W) int64 trie node of each beam.
    """

    level: int
    past: Any
    hidden: Tensor
    query: Tensor
    nodes: Tensor


@dataclass(frozen=True, eq=False)
class CodeSearch:
    """Log-probabilities of codes level by level, normalised as in training.

    Attributes:
        reader: trained.
        tree: the catalogue.
        dtype: of the reader's matrix products; probabilities are float32 in any case.
    """

    reader: CodeReader
    tree: CodeTree
    dtype: torch.dtype = torch.float32

    def first(self, state: Tensor) -> tuple[Tensor, SearchState]:
        """Log-probabilities (B, K_1) of the first code, from trunk states (B, D)."""
        with products_in(self.dtype, state.device):
            hidden, past = self.reader.first(state)
        hidden = hidden.float()
        query = F.normalize(state.float(), dim=-1)
        nodes = torch.zeros(len(state), 1, dtype=torch.int64, device=state.device)
        logits = self.reader.heads.logits(0, hidden, query, nodes[:, 0], self.tree)
        return F.log_softmax(logits, dim=-1), SearchState(0, past, hidden, query, nodes)

    def next(self, cache: SearchState, parents: Tensor, nodes: Tensor) -> SearchState:
        """Beams (B, W) that continue ``parents`` and have reached ``nodes``."""
        before = cache.nodes.shape[1]
        rows = (parents + torch.arange(len(parents), device=parents.device)[:, None] * before).flatten()
        codes = self.tree.trie.levels[cache.level].codes[nodes.flatten()].long()
        with products_in(self.dtype, nodes.device):
            hidden, past = self.reader.next(cache.past, rows, codes)
        return SearchState(cache.level + 1, past, hidden.float(), cache.query, nodes)

    def log_probs(self, cache: SearchState) -> Tensor:
        """(M, K) of the next codes, -inf for those that no item goes on with."""
        return self.reader.heads.row_log_probs(cache.level, cache.hidden, cache.query, cache.nodes, self.tree)

    def child_log_probs(self, cache: SearchState, users: slice, children: Children) -> Tensor:
        """(B, C) of the codes that lead from the beams of some users to all their children."""
        width = cache.nodes.shape[1]
        hidden, query = cache.hidden[users.start * width : users.stop * width], cache.query[users]
        values, mass = self.reader.heads.child_logits(cache.level, hidden, query, children, self.tree)
        return values - mass.gather(1, children.owner)

    def logits(self, cache: SearchState) -> StepLogits | None:
        """What these are made of."""
        heads, vectors = self.reader.heads, self.tree.vectors
        if heads.norm == "full" and vectors is not None:
            return None
        codes = heads.heads[cache.level](cache.hidden)
        mass = torch.logsumexp(codes, -1) if heads.norm == "full" else None
        if vectors is None:
            return StepLogits(codes, mass=mass)
        return StepLogits(codes, heads.node_scale[cache.level] * cache.query, vectors[cache.level])
