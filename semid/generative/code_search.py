"""A decoder of codes as beam search asks it: which children exist, and how probable each is.

Shapes: B users, W beams, M = B · W, D width.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative.code_decoder import CodeHeads, CodeTree
from semid.generative.precision import products_in
from semid.generative.trie import Edges


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

    def edge_log_probs(self, cache: SearchState, beams: slice, edges: Edges) -> Tensor:
        """(E,) of the codes that lead from some of the M beams to all their children."""
        users = slice(beams.start // cache.nodes.shape[1], beams.stop // cache.nodes.shape[1])
        heads, hidden, query = self.reader.heads, cache.hidden[beams], cache.query[users]
        if heads.norm == "full":
            logits = heads.logits(cache.level, hidden, query, cache.nodes[users].flatten(), self.tree)
            codes = self.tree.trie.levels[cache.level].codes[edges.children].long()
            return F.log_softmax(logits, dim=-1)[edges.owner, codes]
        logits = heads.edge_logits(cache.level, hidden, query, edges, self.tree)
        distinct = self.tree.trie.distinct(cache.level, edges)
        counted = logits if distinct is None else logits.masked_fill(~distinct, -torch.inf)
        return logits - _log_sum_exp(counted, edges.owner, len(hidden))[edges.owner]


def _log_sum_exp(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """log Σ exp of the values (E,) of each owner, (count,)."""
    most = values.new_full((count,), -torch.inf).scatter_reduce(0, owner, values, "amax")
    return most + values.new_zeros(count).index_add(0, owner, (values - most[owner]).exp()).log()
