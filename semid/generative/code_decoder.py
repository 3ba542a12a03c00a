"""The code decoder: from a trunk state to the codes of the next item, level by level.

A small causal Transformer over L tokens: the state, then the codes chosen so far. Beams never touch the
history again, and earlier levels are kept as keys and values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.blocks import Block
from semid.generative.children import Children
from semid.generative.edges import edge_products, pair_products, products_at
from semid.generative.layers import Attention, EmbeddingTables, KeyValues, RMSNorm, SwiGLU, View, rotary_table
from semid.generative.losses import shares, softmax_loss
from semid.generative.trie import CodeTrie, Edges

# Reading weights edge by edge costs as much as a product with so many of them.
_SPARSE = 8


@dataclass(frozen=True, eq=False)
class CodeTree:
    """The catalogue as the decoder sees it.

    Attributes:
        trie: codes of all items; probabilities are normalised over the children that exist.
        vectors: per level the mean item vector (n, D) under each node, without gradient; None leaves them out.
    """

    trie: CodeTrie
    vectors: tuple[Tensor, ...] | None = None


class CodeHeads(nn.Module):
    """From what is known before each level to the code of that level.

    Args:
        num_codes: K per level.
        width: D.
        norm: what the probabilities of a step sum to one over: ``valid``, the children that exist, or ``full``, all
            codes of the level, as in models that know nothing of the catalogue.
    """

    def __init__(self, num_codes: tuple[int, ...], width: int, norm: str = "valid") -> None:
        super().__init__()
        self.num_codes, self.norm = num_codes, norm
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in num_codes)
        self.node_scale = nn.Parameter(torch.full((len(num_codes),), 10.0))

    def forward(
        self,
        hidden: Tensor,
        state: Tensor,
        codes: Tensor,
        tree: CodeTree,
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mean of −log p(codes) over positions.

        Args:
            hidden: (P, L, D) what is known before each level.
            state: (P, D) trunk states.
            codes: (P, L) int64 codes of items.
            tree: the catalogue.
            dtype: of the matrix product with the first level's nodes, of which there may be very many.
            weights: (P,) of the positions in the mean; all alike without them.
        """
        query = F.normalize(state.float(), dim=-1)
        nodes = tree.trie.step(0, torch.zeros_like(codes[:, 0]), codes[:, 0])
        share = shares(weights, len(state), query)
        total = self._first_loss(hidden[:, 0], query, nodes, tree, dtype, weights)
        for level in range(1, len(self.num_codes)):
            logits = self.logits(level, hidden[:, level], query, nodes, tree)
            total = total + (share * F.cross_entropy(logits, codes[:, level], reduction="none")).sum()
            nodes = tree.trie.step(level, nodes, codes[:, level])
        return total

    def _first_loss(
        self,
        hidden: Tensor,
        query: Tensor,
        nodes: Tensor,
        tree: CodeTree,
        dtype: torch.dtype,
        weights: Tensor | None,
    ) -> Tensor:
        """Cross-entropy of the first codes: all rows have the same children, so their logits are one product

        [hidden, 1, scale · query] · [weights, bias, mean item vectors]ᵀ, whose softmax is taken in chunks.
        """
        head, codes = self.heads[0], tree.trie.levels[0].codes.long()
        assert isinstance(head, nn.Linear)
        rows = [hidden.float(), hidden.new_ones(len(hidden), 1, dtype=torch.float32)]
        columns = [head.weight, head.bias[:, None]]
        if tree.vectors is not None:
            rows.append(self.node_scale[0] * query)
            columns.append(query.new_zeros(self.num_codes[0], query.shape[1]).index_copy(0, codes, tree.vectors[0]))
        if self.norm == "full":
            nodes = codes[nodes]
        else:
            columns = [column[codes] for column in columns]
        bank = torch.cat(columns, 1).float()
        return softmax_loss(torch.cat(rows, 1), bank, query.new_ones(()), nodes, weights=weights, dtype=dtype)

    def logits(self, level: int, hidden: Tensor, query: Tensor, nodes: Tensor, tree: CodeTree) -> Tensor:
        """Logits (M, K) of the codes that continue ``nodes``, float32; of all others -inf unless the norm is full.

        Args:
            hidden: (M, D) what the decoder knows at this level.
            query: (M, D) unit trunk states, compared with the mean item vector under each child.
            nodes: (M,) int64 trie nodes of the level above.
        """
        if level == 0:  # every row has the same children: one matrix product
            scores, codes = self.heads[0](hidden).float(), tree.trie.levels[0].codes.long()
            values = scores[:, codes]
            if tree.vectors is not None:
                values = values + self.node_scale[0] * (query @ tree.vectors[0].T).float()
            others = scores if self.norm == "full" else torch.full_like(scores, -torch.inf)
            return others.index_copy(1, codes, values)
        edges = tree.trie.edges(level, nodes)
        distinct = tree.trie.distinct(level, edges)
        if distinct is not None:
            edges = edges.only(distinct)
        values = self.edge_logits(level, hidden, query, edges, tree)
        codes = tree.trie.levels[level].codes[edges.children].long()
        if self.norm == "full":
            others = self.heads[level](hidden).float()
        else:
            others = values.new_full((len(hidden), self.num_codes[level]), -torch.inf)
        return others.index_put((edges.owner, codes), values)

    def row_log_probs(self, level: int, hidden: Tensor, query: Tensor, nodes: Tensor, tree: CodeTree) -> Tensor:
        """Log-probabilities (M, K), -inf where no item goes on, where the trie has a table.

        Args:
            hidden: (M, D) what the decoder knows at this level.
            query: (B, D) unit trunk states.
            nodes: (B, W) int64 trie nodes of the level above.
        """
        table, head, rows = tree.trie.table(level), self.heads[level], nodes.flatten()
        assert table is not None
        assert isinstance(head, nn.Linear)
        valid = tree.trie.mask(level)[rows]
        begin = torch.zeros_like(valid) if self.norm == "full" else valid
        logits = begin.addmm_(hidden.float(), head.weight.T.float()).add_(head.bias)
        if tree.vectors is not None:
            first = tree.trie.levels[level - 1].children[nodes].long()
            users = torch.arange(len(nodes), device=nodes.device) * len(tree.vectors[level])
            entries = table[rows]
            places = (first + users[:, None]).view(-1, 1) + entries.clamp(min=0)
            compared = (self.node_scale[level] * (query @ tree.vectors[level].T).flatten())[places]
            logits.add_(compared.masked_fill_(entries < 0, 0.0) if self.norm == "full" else compared)
        log_probs = F.log_softmax(logits, dim=-1)
        return log_probs.add_(valid) if self.norm == "full" else log_probs

    def edge_logits(self, level: int, hidden: Tensor, query: Tensor, edges: Edges, tree: CodeTree) -> Tensor:
        """Logits (E,) of the codes along edges from M nodes, float32.

        Args:
            hidden, query: (M, D) of each.
        """
        head = self.heads[level]
        codes = tree.trie.levels[level].codes[edges.children].long()
        values: Tensor = head(hidden).float()[edges.owner, codes]
        if tree.vectors is not None:
            compared = edge_products(query, tree.vectors[level], edges.offsets, edges.children)
            values = values + self.node_scale[level] * compared
        return values

    def child_logits(
        self, level: int, hidden: Tensor, query: Tensor, children: Children, tree: CodeTree
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of all children of beams, and the log-sum-exp (B, W) that each beam's are normalised by.

        Args:
            hidden: (B · W, D) what the decoder knows of each beam.
            query: (B, D) unit trunk states.
            children: of the beams.
        """
        head, users, codes = self.heads[level], len(query), children.codes
        assert isinstance(head, nn.Linear)
        if self.norm == "valid" and codes.numel() * _SPARSE <= len(hidden) * self.num_codes[level]:
            products = pair_products(hidden, head.weight, children.row.flatten(), codes.flatten())
            values, every = products.view(codes.shape) + head.bias[codes], None
        else:
            every = head(hidden).float().view(users, -1)
            values = every.gather(1, children.owner * self.num_codes[level] + codes)
        if tree.vectors is not None:
            values = values + self.node_scale[level] * products_at(query, tree.vectors[level], children.nodes)
        if self.norm == "valid" or every is None:
            return values, children.log_sum_exp(values)
        cells = (children.owner * self.num_codes[level] + codes).masked_fill(~children.there, every.shape[1])
        whole = F.pad(every, (0, 1)).scatter(1, cells, values)[:, :-1]
        return values, whole.reshape(*children.ends.shape, -1).logsumexp(-1)


class CodeDecoder(nn.Module):
    """Logits of the next item's codes, level by level.

    Args:
        num_codes: K per level.
        width: D of the trunk state and inside.
        num_heads, num_kv_heads, hidden: of its blocks.
        num_layers: blocks.
        dropout: on residual branches.
        head_width: of its blocks; the width over the heads if 0.
        norm: as in :class:`CodeHeads`.
    """

    def __init__(
        self,
        num_codes: tuple[int, ...],
        *,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        hidden: int,
        num_layers: int,
        dropout: float,
        head_width: int = 0,
        norm: str = "valid",
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.head_width = head_width or width // num_heads
        self.state = nn.Linear(width, width, bias=False)
        self.codes = EmbeddingTables(num_codes[:-1], width, std=width**-0.5)

        def block() -> Block:
            attention = Attention(width, num_heads, num_kv_heads, head_width=head_width)
            return Block(attention, SwiGLU(width, hidden), width, dropout)

        self.blocks = nn.ModuleList(block() for _ in range(num_layers))
        self.norm = RMSNorm(width)
        self.heads = CodeHeads(num_codes, width, norm)

    def forward(
        self,
        state: Tensor,
        codes: Tensor,
        tree: CodeTree,
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mean of −log p(codes) over positions, given the true codes before each level (teacher forcing).

        Args:
            state: (P, D) trunk states.
            codes, tree, dtype, weights: as in :class:`CodeHeads`.
        """
        tokens = [self.state(state)]
        tokens += [self.codes.column(level, codes[:, level]) for level in range(len(self.codes))]
        hidden, _ = self._run(torch.stack(tokens, dim=1), first=0, past=None)
        loss: Tensor = self.heads(hidden, state, codes, tree, dtype, weights)
        return loss

    def first(self, state: Tensor) -> tuple[Tensor, list[KeyValues]]:
        """What the decoder knows (B, D) before the first code, and the keys and values to continue from."""
        hidden, past = self._run(self.state(state)[:, None], first=0, past=None)
        return hidden[:, 0], past

    def next(self, past: list[KeyValues], rows: Tensor, codes: Tensor) -> tuple[Tensor, list[KeyValues]]:
        """What the decoder knows (M, D) after one more code each.

        Args:
            past: as the call before returned it.
            rows: (M,) int64, the row of the call before that each row continues.
            codes: (M,) int64, the code each row has just taken.
        """
        past = [layer.select(rows) for layer in past]
        level = past[0].keys.shape[2]
        hidden, past = self._run(self.codes.column(level - 1, codes)[:, None], first=level, past=past)
        return hidden[:, 0], past

    def _run(self, x_BTD: Tensor, *, first: int, past: list[KeyValues] | None) -> tuple[Tensor, list[KeyValues]]:
        tokens = x_BTD.shape[1]
        positions = torch.arange(first, first + tokens, device=x_BTD.device)
        table = rotary_table(positions[None], self.head_width)
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x_BTD.device).tril() if tokens > 1 else None
        cache = []
        for layer, block in enumerate(self.blocks):
            x_BTD, keys_values = block(x_BTD, View(table, mask), past[layer] if past else None)
            cache.append(keys_values)
        return self.norm(x_BTD), cache
