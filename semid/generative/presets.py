"""Configurations by name."""

from dataclasses import replace

from semid.generative.config import ActionConfig, ModelConfig

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
        action=ActionConfig(condition=()),
        code_weight=0.0,
        action_weight=0.0,
    ),
}
