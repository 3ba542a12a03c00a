"""Configurations by name: sizes of our own model, baselines, and published systems.

What each system has from where, and what is inferred, is told in ``docs/systems.md``. Sizes are the published ones
where they are known; any value can be replaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semid.generative.config import ActionConfig, InputConfig, ModelConfig, TrunkConfig
from semid.generative.moe import MoEConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model, and what its training has in place of the defaults.

    Attributes:
        model: its configuration.
        train: values of :class:`semid.generative.train.TrainConfig`.
    """

    model: ModelConfig
    train: Mapping[str, Any] = field(default_factory=dict)


_NO_ACTION = ActionConfig(condition=())
_RETRIEVAL: dict[str, Any] = {"code_weight": 0.0, "action_weight": 0.0}
# The official baseline: everything side by side through one ReLU layer, one small post-norm block, one negative.
_BASELINE = ModelConfig(
    width=32,
    layers=1,
    heads=1,
    kv_heads=1,
    hidden=32,
    dropout=0.2,
    id_dropout=0.0,
    features=("id", "content", "fields", "profile"),
    trunk=TrunkConfig(norm="post", feed_forward="relu", positions="learned"),
    inputs=InputConfig(join="linear"),
    action=_NO_ACTION,
    tower=False,
    contrastive="binary",
    similarity="dot",
    **_RETRIEVAL,
)

PRESETS: Mapping[str, Preset] = {
    "tiny": Preset(model=ModelConfig.sized(1)),
    "small": Preset(model=ModelConfig.sized(2)),
    "base": Preset(model=ModelConfig.sized(4)),
    "large": Preset(model=ModelConfig.sized(8)),
    # Item ids and their order alone, one softmax over the catalogue (arXiv 1808.09781, 2309.07602), with the width
    # that is best for it.
    "sasrec": Preset(
        model=replace(
            ModelConfig.sized(2), width=256, features=("id",), id_dropout=0.0, action=_NO_ACTION, **_RETRIEVAL
        )
    ),
    # arXiv 2305.05065: 4 + 4 layers of T5, here one causal trunk of 8.
    "tiger": Preset(
        model=ModelConfig(
            layout="code",
            width=128,
            layers=8,
            heads=6,
            kv_heads=6,
            hidden=1024,
            dropout=0.1,
            features=("codes", "user"),
            trunk=TrunkConfig(head_width=64, feed_forward="relu"),
            action=_NO_ACTION,
            contrastive_weight=0.0,
            code_weight=1.0,
            action_weight=0.0,
        )
    ),
    "baseline": Preset(model=_BASELINE, train={"learning_rate": 1e-3, "weight_decay": 0.0, "epochs": 3}),
    "baseline-infonce": Preset(
        model=replace(_BASELINE, contrastive="pairs", similarity="cosine"),
        train={"learning_rate": 1e-3, "weight_decay": 0.0, "epochs": 3},
    ),
    "first": Preset(
        model=ModelConfig(
            width=256,
            layers=4,
            heads=4,
            kv_heads=2,
            features=("id", "prefixes", "content", "fields", "action", "time", "session", "fourier", "profile"),
            required=("action", "time"),
            trunk=TrunkConfig(qk_norm=True),
            inputs=InputConfig(near_codes=5),
            action=ActionConfig(condition=("gate", "film", "bias")),
            full_softmax_items=0,
            negatives=(("uniform", 32_768),),
            **_RETRIEVAL,
        )
    ),
    "second": Preset(
        model=ModelConfig(
            width=2048,
            layers=8,
            heads=8,
            kv_heads=8,
            features=("id", "codes", "content", "fields", "graph", "action", "time", "profile", "user"),
            required=("action", "time"),
            inputs=InputConfig(join="gated", part_width=128, user_dropout=0.1),
            action=ActionConfig(condition=("add",)),
            full_softmax_items=0,
            negatives=(("uniform", 16_384),),
            **_RETRIEVAL,
        ),
        train={"finetune_share": 0.3, "learning_rate": 1e-3},
    ),
    "third": Preset(
        model=ModelConfig(
            width=512,
            layers=8,
            heads=8,
            kv_heads=8,
            features=("id", "fields", "action", "time", "fourier", "profile"),
            required=("action", "time"),
            inputs=InputConfig(id_width=256),
            action=ActionConfig(condition=("add",)),
            full_softmax_items=0,
            negatives=(("uniform", 380_000),),
            **_RETRIEVAL,
        )
    ),
    "award": Preset(
        model=ModelConfig(
            layout="code",
            width=256,
            layers=4,
            heads=4,
            kv_heads=2,
            features=("id", "codes", "content", "fields", "action", "time", "popularity", "fourier", "profile"),
            required=("action", "time"),
            action=_NO_ACTION,
            moe=MoEConfig(num_experts=8, experts_per_token=2, hidden=224, shared_hidden=224),
            contrastive_weight=0.0,
            code_weight=1.0,
            action_weight=0.3,
        )
    ),
    "onepiece": Preset(
        model=ModelConfig(
            width=512,
            layers=8,
            heads=8,
            kv_heads=8,
            features=("id", "content", "fields", "action", "time", "session", "popularity", "profile"),
            required=("time",),
            trunk=TrunkConfig(block="hstu", time_bias=True),
            inputs=InputConfig(id_width=256, clock_dropout=0.5),
            full_softmax_items=0,
            negatives=(),
            code_weight=0.2,
            action_weight=0.0,
            scale=50.0,
        )
    ),
    "finalist": Preset(
        model=ModelConfig(
            width=512,
            layers=16,
            heads=8,
            kv_heads=8,
            dropout=0.1,
            features=("id", "fields", "action", "time", "profile", "user"),
            required=("action", "time"),
            trunk=TrunkConfig(block="hstu", norm="none", positions="learned", time_bias=True),
            inputs=InputConfig(join="mlp", part_width=64, id_width=128, user_film=True),
            action=ActionConfig(condition=("add",)),
            full_softmax_items=0,
            negatives=(("recent", 8192),),
            scale=100.0,
            **_RETRIEVAL,
        ),
        train={"learning_rate": 8e-4, "weight_decay": 1e-5, "epochs": 4},
    ),
}
