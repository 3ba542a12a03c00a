"""What a model is: its shape, its inputs, what it is told of actions, and the weights of its losses."""

import math
from dataclasses import dataclass, replace
from typing import Any

from semid.errors import InputError
from semid.generative.moe import MoEConfig
from semid.generative.negatives import PROPOSALS

ITEM_FEATURES = ("id", "codes", "prefixes", "content", "fields")
CLOCK_FEATURES = ("time", "session", "popularity")
FEATURES = (*ITEM_FEATURES, "graph", "action", *CLOCK_FEATURES, "fourier", "profile", "user")
DEFAULT_FEATURES = ("id", "codes", "content", "fields", "action", "time", "profile")
CONDITIONS = ("add", "gate", "film", "bias", "late")
# What the data must have for a feature.
_COLUMNS = {
    "action": "several actions (column `action` of the interactions)",
    "profile": "columns of users",
    "fields": "columns of items",
    "content": "embeddings of items",
    **dict.fromkeys((*CLOCK_FEATURES, "fourier", "graph"), "times (column `timestamp` of the interactions)"),
}
MAX_SCALE = 100.0
MAX_DROPOUT = 0.95


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r} must be one of {', '.join(choices)}.")


def _check_rates(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= MAX_DROPOUT:
            raise InputError(f"{name}={getattr(config, name)} must be at least 0 and at most {MAX_DROPOUT}.")


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The blocks of the trunk beyond their size.

    Attributes:
        block: ``transformer``, or ``hstu`` (arXiv 2402.17152): pointwise SiLU attention, gated, no feed-forward part.
        norm: RMSNorm before each branch (``pre``), LayerNorm after each sum (``post``), or ``none`` around branches.
        feed_forward: ``swiglu``, or ``relu``: two linear maps around a ReLU.
        positions: rotary by the ``order`` of events, by their real ``time``, half of each head by each (``both``);
            ``learned``: one vector a place, added to the token; ``none``.
        qk_norm: RMSNorm of queries and keys.
        window: events that a position attends to, itself included; 0 for all.
        time_bias: add to attention what is learned of the logarithm of the time between two events.
        head_width: of queries, keys and values; the width over the heads if 0.
    """

    block: str = "transformer"
    norm: str = "pre"
    feed_forward: str = "swiglu"
    positions: str = "order"
    qk_norm: bool = False
    window: int = 0
    time_bias: bool = False
    head_width: int = 0

    def __post_init__(self) -> None:
        _check_choice("block", self.block, ("transformer", "hstu"))
        _check_choice("norm", self.norm, ("pre", "post", "none"))
        _check_choice("feed_forward", self.feed_forward, ("swiglu", "relu"))
        _check_choice("positions", self.positions, ("order", "time", "both", "learned", "none"))
        if self.window < 0 or self.head_width < 0 or self.head_width % 2:
            raise InputError(
                f"window={self.window} must be at least 0 and head_width={self.head_width} an even number."
            )

    @property
    def needs_times(self) -> bool:
        """Whether events must have times."""
        return self.time_bias or self.positions in ("time", "both")


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How the parts of a token become one vector.

    Attributes:
        join: ``sum``; or all parts side by side through ``linear`` (one map and a ReLU), ``mlp`` (two maps with a
            ReLU between them) or ``gated`` (one map, then residual gated MLPs).
        join_layers: gated MLPs of ``gated``.
        part_width: of each part where they are not summed; the model's width if 0.
        id_width: of the id tables; that of the other parts if 0.
        user_film: let the user scale and shift all tokens of the history (arXiv 1709.07871).
        clock_dropout: share of positions trained without their columns of time, session and popularity.
        user_dropout: share of histories trained without the user's id.
        fanouts: of the feature ``graph``: users sampled for each item, and items for each of them.
        near_codes: in training an item's code may be any of so many nearest centroids; 0 and 1 leave it.
        near_rate: how often another one is drawn, for each level.
        prefix_rate: share of items trained with their codes cut after a random level.
    """

    join: str = "sum"
    join_layers: int = 2
    part_width: int = 0
    id_width: int = 0
    user_film: bool = False
    clock_dropout: float = 0.0
    user_dropout: float = 0.0
    fanouts: tuple[int, int] = (10, 5)
    near_codes: int = 0
    near_rate: float = 0.1
    prefix_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("join", self.join, ("sum", "linear", "mlp", "gated"))
        for name in ("join_layers", "part_width", "id_width", "near_codes"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0.")
        if len(self.fanouts) != 2 or min(self.fanouts) < 1:
            raise InputError(f"fanouts={self.fanouts} must be two numbers of at least 1.")
        if self.join == "sum" and self.part_width:
            raise InputError(f"part_width={self.part_width} needs a join other than sum.")
        _check_rates(self, "clock_dropout", "user_dropout", "near_rate", "prefix_rate")


@dataclass(frozen=True, kw_only=True)
class ActionConfig:
    """What the model is told of actions, and how much each counts.

    Attributes:
        condition: ways to tell a position which action comes next, all of them together: ``add`` to the token,
            ``gate`` (gated fusion), ``film`` (scale and shift), ``bias`` of attention between the wanted action and
            those of the events, and ``late``: FiLM of the state after the trunk, so that one pass over a history
            serves every action.
        dropout: share of positions trained without knowing it.
        weights: how much a target counts in the losses by its action, from the weakest action on; the last one holds
            for stronger actions, the first one for unknown ones. Empty: all alike.
    """

    condition: tuple[str, ...] = ("late",)
    dropout: float = 0.2
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.condition:
            _check_choice("condition", kind, CONDITIONS)
        _check_rates(self, "dropout")
        if any(not 0 <= weight < math.inf for weight in self.weights) or (self.weights and not any(self.weights)):
            raise InputError(f"weights={self.weights} of actions must be at least 0, finite, and not all 0.")

    @property
    def in_trunk(self) -> tuple[str, ...]:
        """The ways that change what the trunk sees."""
        return tuple(kind for kind in self.condition if kind != "late")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the model, its inputs and the weights of its losses.

    Attributes:
        width: D of every token.
        layers: blocks of the trunk.
        heads, kv_heads: query and key/value heads of each block.
        hidden: inside of the feed-forward part; 8/3 of the width, rounded up to 32, if 0.
        decoder_layers: blocks of the code decoder.
        context: most recent events that a position sees.
        dropout: on token inputs and residual branches.
        id_dropout: share of items whose id part is left out of a training step.
        layout: ``item``: one token an event, and a code decoder on its states; ``code``: every event is its codes and
            then itself, and the trunk predicts the codes.
        features: inputs that are switched on; those that the data lacks are left out.
        required: features that the data must have; without them training is refused.
        trunk, inputs, action: further settings of each.
        moe: experts in place of the trunk's feed-forward parts; None for dense.
        tower: whether items that are compared with states go through a gated MLP of their own first.
        contrastive_weight, code_weight, action_weight: of the three losses; 0 leaves a loss out.
        contrastive: ``bank``: one bank of items for all positions, the whole catalogue or a sample; ``pairs``: each
            position has negatives of its own, by softmax; ``binary``: the same by binary cross-entropy.
        pair_negatives: uniform negatives of each position in ``pairs`` and ``binary``, unseen by the user.
        similarity: of states and items, ``cosine`` over a learned temperature, or ``dot``: the plain inner product.
        full_softmax_items: catalogues up to this size are trained with the full softmax.
        node_vector_items: in catalogues up to this size the code decoder also compares the state with the items
            under each child; takes about three times the memory of the item vectors.
        code_norm: what the probabilities of a code sum to one over: ``valid``, the codes that some item goes on with,
            or ``full``, all codes of the level, as where a decoder knows nothing of the catalogue.
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
    layout: str = "item"
    features: tuple[str, ...] = DEFAULT_FEATURES
    required: tuple[str, ...] = ()
    trunk: TrunkConfig = TrunkConfig()
    inputs: InputConfig = InputConfig()
    action: ActionConfig = ActionConfig()
    moe: MoEConfig | None = None
    tower: bool = True
    contrastive_weight: float = 1.0
    code_weight: float = 0.5
    action_weight: float = 0.1
    contrastive: str = "bank"
    pair_negatives: int = 1
    similarity: str = "cosine"
    full_softmax_items: int = 50_000
    node_vector_items: int = 1_000_000
    code_norm: str = "valid"
    negatives: tuple[tuple[str, int], ...] = (("uniform", 4096),)
    scale: float = 15.0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "kv_heads", "decoder_layers", "context", "pair_negatives"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1.")
        _check_rates(self, "dropout", "id_dropout")
        if not 0 < self.scale <= MAX_SCALE:
            raise InputError(f"scale={self.scale} must be above 0 and at most {MAX_SCALE}.")
        if self.heads % self.kv_heads or (not self.trunk.head_width and self.width % (2 * self.heads)):
            raise InputError(
                f"width={self.width} must be an even multiple of heads={self.heads}, "
                f"and heads a multiple of kv_heads={self.kv_heads}."
            )
        _check_choice("layout", self.layout, ("item", "code"))
        _check_choice("contrastive", self.contrastive, ("bank", "pairs", "binary"))
        _check_choice("similarity", self.similarity, ("cosine", "dot"))
        _check_choice("code_norm", self.code_norm, ("valid", "full"))
        self._check_losses()
        self._check_features()

    def _check_losses(self) -> None:
        for name in ("contrastive_weight", "code_weight", "action_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0 and finite.")
        if self.contrastive_weight == self.code_weight == 0:
            raise InputError("contrastive_weight and code_weight are both 0: nothing would be learned.")
        if len({kind for kind, _ in self.negatives}) < len(self.negatives):
            raise InputError("Negatives name a kind twice: give each once.")
        for kind, count in self.negatives:
            if kind not in PROPOSALS or count < 0:
                raise InputError(f"Negatives {kind}:{count}: kinds are {', '.join(PROPOSALS)}, counts at least 0.")

    def _check_features(self) -> None:
        unknown = {*self.features, *self.required} - set(FEATURES)
        if unknown:
            raise InputError(f"Unknown features {sorted(unknown)}; known: {', '.join(FEATURES)}.")
        if not set(ITEM_FEATURES) & set(self.features):
            raise InputError(f"The item needs at least one of the features {', '.join(ITEM_FEATURES)}.")

    @property
    def inner(self) -> int:
        """Width inside the feed-forward part."""
        return self.hidden or -(-self.width * 8 // 3 // 32) * 32

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.trunk.head_width or self.width // self.heads

    @property
    def profile_token(self) -> bool:
        """Whether a token for the user leads each history."""
        return bool({"profile", "user"} & set(self.features))

    @property
    def clock(self) -> tuple[str, ...]:
        """The groups of columns that say when an event happened."""
        return tuple(name for name in CLOCK_FEATURES if name in self.features)

    def restricted_to(self, available: tuple[str, ...]) -> "ModelConfig":
        """The same with the features that the data has.

        Raises:
            InputError: it lacks one that is required.
        """
        for name in self.required:
            if name not in available:
                raise InputError(f"This configuration needs {_COLUMNS.get(name, name)}, which the data lacks.")
        kept = tuple(name for name in self.features if name in available)
        action = self.action if "action" in available else replace(self.action, condition=())
        trunk = self.trunk
        if "time" not in available and trunk.needs_times:
            trunk = replace(trunk, time_bias=False, positions="order")
        return replace(self, features=kept, action=action, trunk=trunk)

    @staticmethod
    def sized(dial: int) -> "ModelConfig":
        """The shape that follows from one dial: 64 · dial wide and as many blocks, but at least two.

        Heads are 64 wide, but at least four; two of them share a key/value head. At a dial of 8 that is a trunk of
        23 million weights; from 2 on, every doubling has eight times as many.
        """
        heads = max(4, dial)
        return ModelConfig(width=64 * dial, layers=max(2, dial), heads=heads, kv_heads=heads // 2)
