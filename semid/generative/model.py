"""The model: one causal trunk over a user's events and three heads (codes, item vector, next action).

Shapes: R rows, S tokens, P positions with a target, D width, N items, M chosen items.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import InputError
from semid.generative.code_decoder import CodeDecoder, CodeTree
from semid.generative.features import (
    FEATURES,
    Catalogue,
    ContextEncoder,
    FieldsEncoder,
    ItemEncoder,
    NextActionCondition,
)
from semid.generative.histories import TokenBatch
from semid.generative.layers import Block, Dropout, RMSNorm, SwiGLU, rotary_table
from semid.generative.losses import action_loss, softmax_loss
from semid.generative.moe import MoE, MoEConfig
from semid.generative.negatives import PROPOSALS, NegativeSampler

MAX_SCALE = 100.0
MAX_DROPOUT = 0.95
_ENCODE_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the model, its inputs and the weights of its losses.

    Attributes:
        width: D of every token.
        layers: blocks of the trunk.
        heads, kv_heads: query and key/value heads of each block.
        hidden: inside of the SwiGLU; 8/3 of the width, rounded up to 32, if 0.
        decoder_layers: blocks of the code decoder.
        context: most recent events that a position sees.
        dropout: on token inputs and residual branches.
        id_dropout: share of items whose id part is left out of a training step.
        condition_dropout: share of positions trained without knowing the next action.
        features: inputs that are switched on; those that the data lacks are left out.
        next_action: condition states on the next action, where there are several actions.
        moe: experts in place of the trunk's SwiGLUs; None for dense.
        contrastive_weight, code_weight, action_weight: of the three losses; 0 leaves a loss out.
        full_softmax_items: catalogues up to this size are trained with the full softmax.
        node_vector_items: in catalogues up to this size the code decoder also compares the state with the items
            under each child; takes about three times the memory of the item vectors.
        negatives: how many of each kind stand in the bank of larger catalogues beside the positives of the batch:
            uniform, popular, recent, hard.
        scale: initial inverse temperature of the cosine; learned.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 0
    decoder_layers: int = 1
    context: int = 100
    dropout: float = 0.3
    id_dropout: float = 0.1
    condition_dropout: float = 0.2
    features: tuple[str, ...] = FEATURES
    next_action: bool = True
    moe: MoEConfig | None = None
    contrastive_weight: float = 1.0
    code_weight: float = 0.5
    action_weight: float = 0.1
    full_softmax_items: int = 50_000
    node_vector_items: int = 1_000_000
    negatives: tuple[tuple[str, int], ...] = (("uniform", 4096),)
    scale: float = 15.0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "kv_heads", "decoder_layers", "context"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("dropout", "id_dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) <= MAX_DROPOUT:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0 and at most {MAX_DROPOUT}.")
        if not 0 < self.scale <= MAX_SCALE:
            raise InputError(f"scale={self.scale} must be above 0 and at most {MAX_SCALE}.")
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise InputError(
                f"width={self.width} must be an even multiple of heads={self.heads}, "
                f"and heads a multiple of kv_heads={self.kv_heads}."
            )
        for name in ("contrastive_weight", "code_weight", "action_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0 and finite.")
        if len({kind for kind, _ in self.negatives}) < len(self.negatives):
            raise InputError("Negatives name a kind twice: give each once.")
        for kind, count in self.negatives:
            if kind not in PROPOSALS or count < 0:
                raise InputError(f"Negatives {kind}:{count}: kinds are {', '.join(PROPOSALS)}, counts at least 0.")
        unknown = set(self.features) - set(FEATURES)
        if unknown:
            raise InputError(f"Unknown features {sorted(unknown)}; known: {', '.join(FEATURES)}.")
        if not {"id", "codes", "content", "fields"} & set(self.features):
            raise InputError("The item needs at least one of the features id, codes, content, fields.")
        if self.contrastive_weight == self.code_weight == 0:
            raise InputError("contrastive_weight and code_weight are both 0: nothing would be learned.")

    @property
    def inner(self) -> int:
        """Width inside the SwiGLU."""
        return self.hidden or -(-self.width * 8 // 3 // 32) * 32

    def restricted_to(self, available: tuple[str, ...]) -> "ModelConfig":
        """The same with the features that the data has."""
        kept = tuple(name for name in self.features if name in available)
        return replace(self, features=kept, next_action=self.next_action and "action" in available)

    @staticmethod
    def sized(dial: int) -> "ModelConfig":
        """The shape that follows from one dial: 64 · dial wide and as many blocks, but at least two.

        Heads are 64 wide, but at least four; two of them share a key/value head. At a dial of 8 that is a trunk of
        23 million weights; from 2 on, every doubling has eight times as many.
        """
        heads = max(4, dial)
        return ModelConfig(width=64 * dial, layers=max(2, dial), heads=heads, kv_heads=heads // 2)


PRESETS = {
    "tiny": ModelConfig.sized(1),
    "small": ModelConfig.sized(2),
    "base": ModelConfig.sized(4),
    "large": ModelConfig.sized(8),
    # The baseline: item ids and their order alone, one softmax over the catalogue (arXiv 1808.09781, 2309.07602),
    # with the width that is best for it.
    "sasrec": replace(
        ModelConfig.sized(2),
        width=256,
        features=("id",),
        id_dropout=0.0,
        next_action=False,
        code_weight=0.0,
        action_weight=0.0,
    ),
}


class Model(nn.Module):
    """Trunk and heads. The catalogue is handed to each call; the weights do not contain it."""

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self.config = config
        width, features = config.width, config.features
        whole = self.trains_all_items(catalogue)
        self.items = ItemEncoder(catalogue, width, features, config.id_dropout, whole=whole)
        self.tower = SwiGLU(width, config.inner)
        nn.init.zeros_(self.tower.down.weight)
        self.context = ContextEncoder(catalogue.num_actions, width, features)
        self.profile = (
            FieldsEncoder(catalogue.user_sizes, tuple(c.size for c in catalogue.user_lists), width, sparse=True)
            if "profile" in features
            else None
        )
        self.token_norm = RMSNorm(width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.kv_heads, self._feed_forward(), config.dropout)
            for _ in range(config.layers)
        )
        self.norm = RMSNorm(width)
        self.condition = NextActionCondition(catalogue.num_actions, width) if config.next_action else None
        self.action_head = nn.Linear(2 * width, catalogue.num_actions) if catalogue.num_actions > 1 else None
        self.log_scale = nn.Parameter(torch.tensor(config.scale).log())
        self.code_decoder = CodeDecoder(
            catalogue.num_codes,
            width=width,
            num_heads=config.heads,
            num_kv_heads=config.kv_heads,
            hidden=config.inner,
            num_layers=config.decoder_layers,
            dropout=config.dropout,
        )

    def _feed_forward(self) -> nn.Module:
        if self.config.moe is not None:
            return MoE(self.config.width, self.config.moe)
        return SwiGLU(self.config.width, self.config.inner)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the cosine between states and items."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def experts(self) -> Iterator[MoE]:
        """The mixture-of-experts layers, if any."""
        return (module for module in self.modules() if isinstance(module, MoE))

    def states(self, batch: TokenBatch, catalogue: Catalogue, all_items: Tensor | None = None) -> Tensor:
        """Trunk state after each token, not yet conditioned on an action. (R, S, D)

        Args:
            all_items: (N, D) item encodings if they are at hand already.
        """
        if all_items is None:
            rows, places = torch.unique(batch.items, return_inverse=True)
            tokens = F.embedding(places, self.items(catalogue, rows))
        else:
            tokens = F.embedding(batch.items, all_items)  # plain indexing sums its gradient in any order
        extra = self.context(batch)
        tokens = tokens if extra is None else tokens + extra
        if self.profile is not None:
            users = batch.users[batch.profile] % len(catalogue.user_fields)  # -1 is somebody unknown
            encoded = self.profile(catalogue.user_fields, catalogue.user_lists, users)
            tokens = tokens.masked_scatter(batch.profile[..., None], encoded.to(tokens.dtype))
        x = self.dropout(self.token_norm(tokens))
        same = batch.segments[:, :, None] == batch.segments[:, None, :]
        mask = same.tril()[:, None]
        table = rotary_table(batch.positions, self.config.width // self.config.heads)
        for block in self.blocks:
            x, _ = block(x, table, mask)
        final: Tensor = self.norm(x)
        return final

    def conditioned(self, states: Tensor, actions: Tensor) -> Tensor:
        """States (P, D) told the next action (P,), 0 for any. (P, D)"""
        if self.condition is None:
            return states
        result: Tensor = self.condition(states, actions)
        return result

    def item_vectors(self, encoded: Tensor) -> Tensor:
        """Unit vectors (M, D) of the item tower from item encodings (M, D), float32."""
        return F.normalize((encoded + self.tower(F.rms_norm(encoded, encoded.shape[-1:]))).float(), dim=-1)

    def query_vectors(self, states: Tensor) -> Tensor:
        """Unit vectors (P, D) that item vectors are compared with, float32."""
        return F.normalize(states.float(), dim=-1)

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
        """Unit vectors (N, D) of all items, encoded block by block."""
        device = catalogue.codes.device
        blocks = torch.split(torch.arange(catalogue.num_items, device=device), _ENCODE_ROWS)
        return torch.cat([self.item_vectors(self.items(catalogue, block)) for block in blocks])

    def trains_all_items(self, catalogue: Catalogue) -> bool:
        """Whether each step encodes the whole catalogue, for the full softmax."""
        return catalogue.num_items <= self.config.full_softmax_items and self.config.contrastive_weight > 0

    def action_logits(self, states: Tensor, item_vectors: Tensor) -> Tensor:
        """Logits (P, A) of the action on a given next item."""
        assert self.action_head is not None
        result: Tensor = self.action_head(torch.cat([states, item_vectors.to(states.dtype)], dim=-1))
        return result

    def losses(
        self,
        batch: TokenBatch,
        catalogue: Catalogue,
        sampler: NegativeSampler,
        dtype: torch.dtype,
        tree: CodeTree | None = None,
    ) -> dict[str, Tensor]:
        """The losses of one batch by name, each a mean over the positions with a target.

        Args:
            sampler: of the negatives, where not all items are.
            dtype: of the large matrix products.
            tree: for the code decoder, made a few steps ago, where not all items are encoded at each step.
        """
        with torch.autocast(batch.items.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            everything = None
            if self.trains_all_items(catalogue):
                rows = torch.arange(catalogue.num_items, device=batch.items.device)
                everything = self.items(catalogue, rows)
            wanted = (batch.targets.flatten() >= 0).nonzero()[:, 0]  # looked up once: a device is waited for
            targets, target_actions, histories = (
                values.flatten()[wanted] for values in (batch.targets, batch.target_actions, batch.segments)
            )
            raw = self.states(batch, catalogue, everything).flatten(0, 1)[wanted]
            told = target_actions
            if self.training and self.config.condition_dropout:
                told = told * (torch.rand(len(told), device=told.device) >= self.config.condition_dropout)
            states = self.conditioned(raw, told)
            losses: dict[str, Tensor] = {}
            vectors = None
            if everything is not None:
                vectors = self.item_vectors(everything)
                losses["contrastive"] = softmax_loss(
                    self.query_vectors(states), vectors, self.scale, targets, dtype=dtype
                )
                positive = F.embedding(targets, vectors)
            elif self.config.contrastive_weight > 0:
                bank = sampler.draw(targets, histories)
                entries = self.item_vectors(self.items(catalogue, bank.rows))
                own = torch.arange(len(targets), device=targets.device)
                losses["contrastive"] = softmax_loss(
                    self.query_vectors(states),
                    entries,
                    self.scale,
                    own,
                    log_expected=bank.log_expected,
                    excluded=bank.excluded,
                    dtype=dtype,
                )
                positive = entries[: len(targets)]
            else:
                positive = self.item_vectors(self.items(catalogue, targets))
            if self.config.code_weight > 0:
                codes = catalogue.codes[targets]
                tree = tree or self.code_tree(catalogue, vectors)
                losses["codes"] = self.code_decoder(states, codes, tree, dtype)
            if self.action_head is not None and self.config.action_weight > 0:
                losses["action"] = action_loss(self.action_logits(raw, positive), target_actions)
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        config = self.config
        weight = {
            "contrastive": config.contrastive_weight,
            "codes": config.code_weight,
            "action": config.action_weight,
        }
        return torch.stack([weight[name] * loss for name, loss in losses.items()]).sum()
