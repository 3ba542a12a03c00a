"""The model: one causal trunk over a user's events and three heads (codes, item vector, next action).

Shapes: R rows, S tokens, P positions with a target, D width, N items, M chosen items.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeDecoder, CodeHeads, CodeTree
from semid.generative.conditions import NextActionCondition, NextActionInput
from semid.generative.config import MAX_SCALE, ModelConfig
from semid.generative.context import ContextEncoder
from semid.generative.histories import TokenBatch
from semid.generative.items import ItemEncoder
from semid.generative.joining import Join
from semid.generative.layers import Dropout, EmbeddingTables, Past, RMSNorm, SwiGLU
from semid.generative.moe import MoE
from semid.generative.neighbourhood import NeighbourhoodMean
from semid.generative.trunk import Places, Trunk, code_places
from semid.generative.users import UserEncoder, UserFiLM

_ENCODE_ROWS = 1 << 16


class Model(nn.Module):
    """Trunk and heads. The catalogue is handed to each call; the weights do not contain it."""

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self.config = config
        width, actions = config.width, catalogue.num_actions
        self.items = ItemEncoder(catalogue, config, whole=self.trains_all_items(catalogue))
        self.neighbourhood = NeighbourhoodMean(width) if "graph" in config.features else None
        self.tower = SwiGLU(width, config.inner) if config.tower else None
        if self.tower is not None:
            nn.init.zeros_(self.tower.down.weight)
        self.context = ContextEncoder(catalogue, config)
        self.join = Join([width] * (1 + len(self.context)), width, config.inputs.join, config.inputs.join_layers)
        self.user = UserEncoder(catalogue, config) if config.profile_token else None
        self.user_film = UserFiLM(width) if config.profile_token and config.inputs.user_film else None
        self.token_norm = RMSNorm(width)
        told = set(config.action.in_trunk) - {"bias"}
        self.told = NextActionInput(actions, width, config.action) if told else None
        self.dropout = Dropout(config.dropout)
        levels = len(catalogue.num_codes)
        by_codes = config.layout == "code"
        self.trunk = Trunk(config, actions, 1 + levels if by_codes else 1)
        self.code_tokens = EmbeddingTables(catalogue.num_codes, width) if by_codes else None
        self.code_heads = CodeHeads(catalogue.num_codes, width, config.code_norm) if by_codes else None
        self.condition = NextActionCondition(actions, width) if "late" in config.action.condition else None
        self.action_head = nn.Linear(2 * width, actions) if actions > 1 else None
        self.log_scale = nn.Parameter(torch.tensor(config.scale).log(), requires_grad=config.similarity == "cosine")
        self.code_decoder = None if by_codes else _code_decoder(config, catalogue.num_codes)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the cosine between states and items."""
        return (
            self.log_scale.exp().clamp(max=MAX_SCALE) if self.log_scale.requires_grad else self.log_scale.new_ones(())
        )

    @property
    def judges_actions(self) -> bool:
        """Whether the action head is trained."""
        return self.action_head is not None and self.config.action_weight > 0

    def experts(self) -> Iterator[MoE]:
        """The mixture-of-experts layers, if any."""
        return (module for module in self.modules() if isinstance(module, MoE))

    def states(
        self,
        batch: TokenBatch,
        catalogue: Catalogue,
        all_items: Tensor | None = None,
        told: Tensor | None = None,
    ) -> Tensor:
        """Trunk state after each token, not yet conditioned on an action by ``late``. (R, S, D)

        Args:
            all_items: (N, D) item encodings if they are at hand already.
            told: (R, S) what each position is told of the next action, as ``batch.target_actions``, which is the
                default.
        """
        told = batch.target_actions if told is None else told
        return self.token_states(batch, catalogue, all_items, told)[0][:, :, -1]

    def token_states(
        self, batch: TokenBatch, catalogue: Catalogue, all_items: Tensor | None, told: Tensor
    ) -> tuple[Tensor, list[Past]]:
        """States after every token of each event, (R, S, 1, D) or (R, S, L + 1, D), and the keys and values."""
        x, places = self._tokens(batch, catalogue, all_items, told)
        states, past = self.trunk.extend(x, places, places)
        return states.view(*batch.items.shape, -1, states.shape[-1]), past

    def last_states(self, batch: TokenBatch, catalogue: Catalogue, told: Tensor) -> tuple[Tensor, list[Past]]:
        """States (R, D) after the last event of each row, not yet conditioned, and the keys and values of all."""
        x, places = self._tokens(batch, catalogue, None, told)
        slots = x.shape[1] // batch.items.shape[1]
        states, past = self.trunk.extend(x, places, places, only=(batch.last_tokens() + 1) * slots - 1)
        return states[:, 0], past

    def _tokens(
        self, batch: TokenBatch, catalogue: Catalogue, all_items: Tensor | None, told: Tensor
    ) -> tuple[Tensor, Places]:
        """What the trunk reads, (R, S, D) or (R, S · (L + 1), D), and where it stands."""
        tokens = self._event_tokens(batch, catalogue, all_items)[:, :, None]
        places = Places(batch.segments, batch.positions, batch.times, batch.actions, told)
        if self.code_tokens is not None:
            places = code_places(batch, told, len(self.code_tokens))
            columns = catalogue.codes[batch.items].unbind(-1)
            codes = [self.code_tokens.column(level, column) for level, column in enumerate(columns)]
            tokens = torch.cat([torch.stack(codes, dim=2), tokens], dim=2)
        return self.prepared(tokens.flatten(1, 2), places.next_actions), places

    def prepared(self, tokens: Tensor, told: Tensor) -> Tensor:
        """Tokens (R, T, D) as the trunk takes them, told the next action (R, T)."""
        x = self.token_norm(tokens)
        if self.told is not None:
            x = self.told(x, told)
        result: Tensor = self.dropout(x)
        return result

    def _event_tokens(self, batch: TokenBatch, catalogue: Catalogue, all_items: Tensor | None) -> Tensor:
        """(R, S, D) of events and profiles."""
        tokens: Tensor = self.join([self._item_tokens(batch, catalogue, all_items), *self.context(batch)])
        if self.user is not None:
            encoded = self.user(catalogue, batch.users[batch.profile])
            if self.user_film is not None:
                tokens = self.user_film(tokens, encoded, batch)
            tokens = tokens.masked_scatter(batch.profile[..., None], encoded.to(tokens.dtype))
        return tokens

    def _item_tokens(self, batch: TokenBatch, catalogue: Catalogue, all_items: Tensor | None) -> Tensor:
        if all_items is not None:
            return F.embedding(batch.items, all_items)  # plain indexing sums its gradient in any order
        tokens = self.encoded(batch.items.flatten(), catalogue, batch.times.flatten())
        return tokens.view(*batch.items.shape, -1)

    def encoded(self, items: Tensor, catalogue: Catalogue, times: Tensor | None) -> Tensor:
        """Encodings (M, D) of items (M,) with what surrounded them at some times (M,), or after all training."""
        encoded = self._looked_up(items, catalogue)
        if self.neighbourhood is None or catalogue.graph is None:
            return encoded
        found = catalogue.graph.sample(items, times, self.config.inputs.fanouts, spread=not self.training)
        rows, places = torch.unique(found.clamp(min=0), return_inverse=True)
        around: Tensor = self.neighbourhood(self.items(catalogue, rows), places, found >= 0)
        return encoded + around

    def _looked_up(self, items: Tensor, catalogue: Catalogue) -> Tensor:
        """Encodings (M, D) of items (M,), each different one encoded once."""
        rows, places = torch.unique(items, return_inverse=True)
        return F.embedding(places, self.items(catalogue, rows))

    def conditioned(self, states: Tensor, actions: Tensor) -> Tensor:
        """States (P, D) told the next action (P,), 0 for any. (P, D)"""
        if self.condition is None:
            return states
        result: Tensor = self.condition(states, actions)
        return result

    def item_vectors(self, encoded: Tensor) -> Tensor:
        """Vectors (M, D) of the item tower from item encodings (M, D), float32; of unit length for cosines."""
        if self.tower is not None:
            encoded = encoded + self.tower(F.rms_norm(encoded, encoded.shape[-1:]))
        return self._compared(encoded)

    def query_vectors(self, states: Tensor) -> Tensor:
        """Vectors (P, D) that item vectors are compared with, float32."""
        return self._compared(states)

    def _compared(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1) if self.config.similarity == "cosine" else x.float()

    def code_tree(self, catalogue: Catalogue, vectors: Tensor | None) -> CodeTree:
        """The catalogue for the code decoder, with the item vectors (N, D) under each node where they are used."""
        if vectors is None or not self.uses_node_vectors(catalogue):
            return CodeTree(catalogue.trie)
        return CodeTree(catalogue.trie, catalogue.trie.mean_vectors(vectors.detach()))

    def uses_node_vectors(self, catalogue: Catalogue) -> bool:
        """Whether the code decoder sees the items under each node: both are trained, and the items not too many."""
        both = self.config.contrastive_weight > 0 and self.config.code_weight > 0
        return both and catalogue.num_items <= self.config.node_vector_items

    def all_item_vectors(self, catalogue: Catalogue) -> Tensor:
        """Vectors (N, D) of all items as they stand after training, encoded block by block."""
        blocks = self._blocks(catalogue)
        return torch.cat([self.item_vectors(self.encoded(block, catalogue, None)) for block in blocks])

    def node_item_vectors(self, catalogue: Catalogue) -> Tensor:
        """The same (N, D) from the items alone, for the code decoder, which sees all of them at any time: what
        surrounds an item after training would tell it the targets of training."""
        return torch.cat([self.item_vectors(self.items(catalogue, block)) for block in self._blocks(catalogue)])

    @staticmethod
    def _blocks(catalogue: Catalogue) -> tuple[Tensor, ...]:
        rows = torch.arange(catalogue.num_items, device=catalogue.codes.device)
        return torch.split(rows, _ENCODE_ROWS)

    def trains_all_items(self, catalogue: Catalogue) -> bool:
        """Whether each step encodes the whole catalogue, for the full softmax."""
        config = self.config
        bank = config.contrastive_weight > 0 and config.contrastive == "bank"
        # What surrounds an item differs from one position to the next.
        return bank and catalogue.num_items <= config.full_softmax_items and "graph" not in config.features

    def action_logits(self, states: Tensor, item_vectors: Tensor) -> Tensor:
        """Logits (P, A) of the action on a given next item."""
        assert self.action_head is not None
        result: Tensor = self.action_head(torch.cat([states, item_vectors.to(states.dtype)], dim=-1))
        return result


def _code_decoder(config: ModelConfig, num_codes: tuple[int, ...]) -> CodeDecoder:
    return CodeDecoder(
        num_codes,
        width=config.width,
        num_heads=config.heads,
        num_kv_heads=config.kv_heads,
        head_width=config.head_width,
        hidden=config.inner,
        num_layers=config.decoder_layers,
        dropout=config.dropout,
        norm=config.code_norm,
    )
