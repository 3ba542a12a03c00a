"""Hand-written settings and what they mean."""

import pytest

from semid.errors import InputError
from semid.generative.config import ActionConfig, InputConfig, ModelConfig, TrunkConfig
from semid.generative.moe import MoEConfig
from semid.generative.settings import with_settings


def test_values_of_every_type_are_read() -> None:
    texts = {
        "layers": "3",
        "dropout": "0.25",
        "features": "id,codes",
        "negatives": "uniform:64,hard:8",
        "trunk.block": "hstu",
        "trunk.qk_norm": "true",
        "trunk.window": "5",
        "inputs.fanouts": "4,2",
        "action.condition": "add, bias",
        "action.weights": "0,1,2.5",
        "moe.num_experts": "4",
    }
    assert with_settings(ModelConfig(), texts) == ModelConfig(
        layers=3,
        dropout=0.25,
        features=("id", "codes"),
        negatives=(("uniform", 64), ("hard", 8)),
        trunk=TrunkConfig(block="hstu", qk_norm=True, window=5),
        inputs=InputConfig(fanouts=(4, 2)),
        action=ActionConfig(condition=("add", "bias"), weights=(0.0, 1.0, 2.5)),
        moe=MoEConfig(num_experts=4),
    )
    assert with_settings(ModelConfig(), {"action.condition": ""}).action.condition == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("colour", "red", "There is no setting 'colour': it could be width, layers"),
        ("trunk.colour", "red", "There is no setting 'trunk.colour': it could be block, norm"),
        ("layers.depth", "3", "There is no setting 'layers.depth': layers has no parts"),
        ("trunk", "hstu", r"Setting 'trunk' has parts: give one, as trunk.block=…"),
        ("layers", "three", "layers='three' is not a value of this setting"),
        ("trunk.qk_norm", "perhaps", "trunk.qk_norm='perhaps' is not a value of this setting"),
        ("negatives", "uniform", "negatives='uniform' is not a value"),
        ("layers", "0", "layers=0 must be at least 1"),
        ("trunk.block", "mamba", "block='mamba' must be one of transformer, hstu"),
    ],
)
def test_settings_that_do_not_exist_or_fit(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_settings(ModelConfig(), {name: text})
