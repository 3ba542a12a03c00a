"""Single values of a configuration by name, as they are typed: ``trunk.block=hstu``."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from semid.errors import InputError
from semid.generative.config import ModelConfig

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def with_settings(config: ModelConfig, texts: Mapping[str, str]) -> ModelConfig:
    """The configuration with some values replaced.

    Args:
        texts: by name, of a part after a dot: ``layers``, ``trunk.window``, ``moe.num_experts``. Lists are separated
            by commas, and counts of kinds are ``uniform:4096,hard:512``.

    Raises:
        InputError: a name that does not exist, or a value that is not of its type.
    """
    for name, text in texts.items():
        config = _replaced(config, name.split("."), text, name)
    return config


def _replaced(config: Any, path: list[str], text: str, name: str) -> Any:
    kinds = get_type_hints(type(config))
    there = [field.name for field in fields(config)]
    if path[0] not in there:
        raise InputError(f"There is no setting {name!r}: it could be {', '.join(there)}.")
    kind = _not_none(kinds[path[0]])
    if not is_dataclass(kind):
        if len(path) > 1:
            raise InputError(f"There is no setting {name!r}: {path[0]} has no parts.")
        return replace(config, **{path[0]: _parsed(kind, text, name)})
    if len(path) == 1:
        raise InputError(f"Setting {name!r} has parts: give one, as {name}.{fields(kind)[0].name}=….")
    part = getattr(config, path[0])
    whole: Any = kind if part is None else type(part)
    return replace(config, **{path[0]: _replaced(whole() if part is None else part, path[1:], text, name)})


def _not_none(kind: Any) -> Any:
    """``X`` of ``X | None``."""
    if isinstance(kind, UnionType):
        return next(option for option in get_args(kind) if option is not type(None))
    return kind


def _parsed(kind: Any, text: str, name: str) -> Any:
    try:
        if get_origin(kind) is tuple:
            return tuple(_entry(get_args(kind)[0], part.strip()) for part in text.split(",") if part.strip())
        return _entry(kind, text)
    except (ValueError, KeyError):
        raise InputError(f"{name}={text!r} is not a value of this setting.") from None


def _entry(kind: Any, text: str) -> Any:
    if get_origin(kind) is tuple:  # a kind and its count
        label, _, count = text.partition(":")
        return label, int(count)
    return _TRUTHS[text.lower()] if kind is bool else kind(text)
