"""A model's configuration and catalogue as arrays and plain facts, and back."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from semid.data.timeline import Timeline
from semid.generative.catalogue import Catalogue, IdRows, ListColumn
from semid.generative.config import ActionConfig, InputConfig, ModelConfig, TrunkConfig
from semid.generative.moe import MoEConfig
from semid.generative.neighbourhood import EventGraph

_NESTED = {"trunk": TrunkConfig, "inputs": InputConfig, "action": ActionConfig, "moe": MoEConfig}
_TENSORS = ("codes", "content", "known", "trained", "item_fields", "user_fields")
_PARTS = {"timeline": Timeline, "graph": EventGraph, "item_ids": IdRows, "user_ids": IdRows}
_SMALL = {"codes": np.int32, "item_fields": np.int32, "user_fields": np.int32}


def catalogue_to_arrays(catalogue: Catalogue) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays for safetensors, and the facts that go into ``config.json``."""
    arrays = {}
    for name in _TENSORS:
        array = getattr(catalogue, name).cpu().numpy()
        arrays[name] = array.astype(_SMALL.get(name, array.dtype))
    for kind, columns in (("item", catalogue.item_lists), ("user", catalogue.user_lists)):
        for index, column in enumerate(columns):
            arrays[f"{kind}_list.{index}.offsets"] = column.offsets.cpu().numpy()
            arrays[f"{kind}_list.{index}.values"] = column.values.cpu().numpy().astype(np.int32)
    for kind in _PARTS:
        part = getattr(catalogue, kind)
        if part is not None:
            arrays |= {f"{kind}.{name}": array for name, array in part.to_arrays().items()}
    if catalogue.action_codes is not None:
        arrays["action_codes"] = catalogue.action_codes.cpu().numpy()
    facts = {
        "num_codes": list(catalogue.num_codes),
        "item_sizes": list(catalogue.item_sizes),
        "user_sizes": list(catalogue.user_sizes),
        "item_list_sizes": [column.size for column in catalogue.item_lists],
        "user_list_sizes": [column.size for column in catalogue.user_lists],
        "num_actions": catalogue.num_actions,
        "trained_actions": list(catalogue.trained_actions),
        "has_times": catalogue.has_times,
        "time_origin": catalogue.time_origin,
    }
    return arrays, facts


def catalogue_from_arrays(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Catalogue:
    """The inverse of :func:`catalogue_to_arrays`."""
    parts: dict[str, Any] = {}
    for name in _TENSORS:
        tensor = torch.from_numpy(arrays[name])
        parts[name] = tensor.long() if name in _SMALL else tensor
    for name, part in _PARTS.items():
        own = _under(arrays, f"{name}.")
        parts[name] = part.from_arrays(own) if own else None  # type: ignore[attr-defined]
    actions = arrays.get("action_codes")

    def columns(kind: str) -> tuple[ListColumn, ...]:
        return tuple(
            ListColumn(
                torch.from_numpy(arrays[f"{kind}_list.{index}.offsets"]),
                torch.from_numpy(arrays[f"{kind}_list.{index}.values"]).long(),
                size,
            )
            for index, size in enumerate(facts[f"{kind}_list_sizes"])
        )

    return Catalogue(
        **parts,
        num_codes=tuple(facts["num_codes"]),
        item_sizes=tuple(facts["item_sizes"]),
        item_lists=columns("item"),
        user_sizes=tuple(facts["user_sizes"]),
        user_lists=columns("user"),
        num_actions=facts["num_actions"],
        trained_actions=tuple(facts["trained_actions"]),
        has_times=facts["has_times"],
        time_origin=facts["time_origin"],
        action_codes=None if actions is None else torch.from_numpy(actions),
    )


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def model_config_from_facts(facts: dict[str, Any]) -> ModelConfig:
    """A configuration from its ``dataclasses.asdict`` form after a round trip through JSON."""
    values = {field.name: _frozen(facts[field.name]) for field in fields(ModelConfig) if field.name in facts}
    for name, kind in _NESTED.items():
        if values.get(name):
            values[name] = kind(**{key: _frozen(value) for key, value in values[name].items()})
    return ModelConfig(**values)


def _frozen(value: Any) -> Any:
    """Lists as the tuples they were."""
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value
