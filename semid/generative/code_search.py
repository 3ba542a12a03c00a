"""A decoder of codes as beam search asks it: which children exist, and how probable each is.

Shapes: B users, W beams, M = B · W, D width.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generative.code_decoder import CodeHeads, CodeTree


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
        level: of the codes asked for last.
        past: of the reader.
        query: (B, D) unit trunk states.
        nodes: (B, W) int64 trie node of each beam; before the first code 0.
    """

    level: int
    past: Any
    query: Tensor
    nodes: Tensor


@dataclass(frozen=True, eq=False)
class CodeSearch:
    """Log-probabilities of codes level by level.

    Attributes:
        reader: trained.
        tree: the whole catalogue, as in training; the search itself may walk a part of it.
    """

    reader: CodeReader
    tree: CodeTree

    def first(self, state: Tensor) -> tuple[Tensor, SearchState]:
        """Log-probabilities (B, K_1) of the first code, from trunk states (B, D)."""
        hidden, past = self.reader.first(state)
        query = F.normalize(state.float(), dim=-1)
        nodes = torch.zeros(len(state), 1, dtype=torch.int64, device=state.device)
        logits = self.reader.heads.logits(0, hidden, query, nodes[:, 0], self.tree)
        return F.log_softmax(logits, dim=-1), SearchState(0, past, query, nodes)

    def next(self, cache: SearchState, parents: Tensor, codes: Tensor) -> tuple[Tensor, SearchState]:
        """Log-probabilities (B, W, K_l) of the next code of beams that continue ``parents`` with ``codes``."""
        batch, beams = codes.shape
        before = cache.nodes.shape[1]
        rows = (parents + torch.arange(batch, device=parents.device)[:, None] * before).flatten()
        nodes = self.tree.trie.step(cache.level, cache.nodes.flatten()[rows], codes.flatten())
        hidden, past = self.reader.next(cache.past, rows, codes.flatten())
        query, level = cache.query.repeat_interleave(beams, dim=0), cache.level + 1
        logits = self.reader.heads.logits(level, hidden, query, nodes, self.tree)
        log_probs = F.log_softmax(logits, dim=-1).view(batch, beams, -1)
        return log_probs, SearchState(level, past, cache.query, nodes.view(batch, beams))
