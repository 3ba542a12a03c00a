"""What was saved is what is loaded."""

import json
from dataclasses import asdict, fields

import numpy as np
import torch

from semid.data.timeline import Timeline
from semid.generative.catalogue import Catalogue, ListColumn
from semid.generative.config import ActionConfig, InputConfig, ModelConfig, TrunkConfig
from semid.generative.moe import MoEConfig
from semid.generative.neighbourhood import EventGraph
from semid.generative.presets import PRESETS
from semid.generative.saving import catalogue_from_arrays, catalogue_to_arrays, model_config_from_facts


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, ListColumn) and isinstance(other, ListColumn):
        return one.size == other.size and same(one.offsets, other.offsets) and same(one.values, other.values)
    if isinstance(one, Timeline | EventGraph) and type(one) is type(other):
        return all(np.array_equal(array, other.to_arrays()[name]) for name, array in one.to_arrays().items())
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


def round_trip(catalogue: Catalogue) -> Catalogue:
    arrays, facts = catalogue_to_arrays(catalogue)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    return catalogue_from_arrays(arrays, json.loads(json.dumps(facts)))


def test_catalogue_round_trip(catalogue: Catalogue) -> None:
    assert catalogue.item_lists
    assert catalogue.user_lists
    loaded = round_trip(catalogue)
    for field in fields(Catalogue):
        assert same(getattr(loaded, field.name), getattr(catalogue, field.name)), field.name


def test_catalogue_without_columns_round_trip(build: type) -> None:
    bare = build.catalogue(build.dataset(build.log([[0, 1], [2]]), 4))
    loaded = round_trip(bare)
    for field in fields(Catalogue):
        assert same(getattr(loaded, field.name), getattr(bare, field.name)), field.name


def test_configuration_round_trip() -> None:
    odd = ModelConfig(
        features=("codes", "time"),
        moe=MoEConfig(num_experts=3, routed_scale=2.5),
        trunk=TrunkConfig(block="hstu", time_bias=True),
        inputs=InputConfig(join="gated", part_width=8),
        action=ActionConfig(condition=("add", "bias"), weights=(0.0, 1.0, 2.5)),
        scale=7.5,
    )
    for config in (*(preset.model for preset in PRESETS.values()), odd):
        assert model_config_from_facts(json.loads(json.dumps(asdict(config)))) == config


def test_settings_of_earlier_and_later_versions() -> None:
    """A missing setting takes its default; one that is no longer known is left out."""
    facts = {**asdict(ModelConfig(width=64)), "retired": 3}
    del facts["scale"]
    assert model_config_from_facts(facts) == ModelConfig(width=64)
