"""The quantisers by name, and making one from settings given as text or plain values."""

import types
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from semid.errors import InputError
from semid.tokenizers.fsq import FSQ, FSQConfig
from semid.tokenizers.opq import OPQ, OPQConfig
from semid.tokenizers.quantiser import Quantiser
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig
from semid.tokenizers.rq_kmeans_plus import RQKMeansPlus, RQKMeansPlusConfig
from semid.tokenizers.rq_vae import RQVAE, RQVAEConfig

_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Member:
    """A quantiser of the family.

    Attributes:
        config: the class of its settings.
        quantiser: the class itself, made from a config.
        parallel: codes are of parts of a vector, not of what the codes before leave of it.
    """

    config: Callable[..., Any]
    quantiser: Callable[[Any], Quantiser]
    parallel: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """The type of each setting, in the order in which the config names them."""
        hints = get_type_hints(self.config)
        return {field.name: hints[field.name] for field in fields(self.config)}  # type: ignore[arg-type]


FAMILY: dict[str, Member] = {
    "rq-kmeans": Member(RQKMeansConfig, RQKMeans),
    "rq-kmeans+": Member(RQKMeansPlusConfig, RQKMeansPlus),
    "rq-vae": Member(RQVAEConfig, RQVAE),
    "opq": Member(OPQConfig, OPQ, parallel=True),
    "fsq": Member(FSQConfig, FSQ, parallel=True),
}


def make_quantiser(name: str, **settings: Any) -> Quantiser:
    """An unfitted quantiser.

    Args:
        name: a key of ``FAMILY``.
        settings: attributes of its config, as such or as text (``"256,128"``, ``"0.25"``, ``"true"``, ``"none"``);
            the defaults for those not named.

    Raises:
        InputError: an unknown name, an unknown setting, or a value that is none of the setting's type or range.
    """
    if name not in FAMILY:
        raise InputError(f"Unknown quantiser {name!r}: use one of {', '.join(FAMILY)}.")
    member = FAMILY[name]
    known = member.settings
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        raise InputError(f"The quantiser {name} has no setting {unknown[0]!r}: it has {', '.join(known)}.")
    values = {setting: _coerce(value, known[setting], setting, name) for setting, value in settings.items()}
    return member.quantiser(member.config(**values))


def _coerce(value: Any, kind: Any, setting: str, name: str) -> Any:
    for option in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
        try:
            return _convert(value, option)
        except (ValueError, TypeError, KeyError):
            continue
    raise InputError(f"The setting {setting!r} of the quantiser {name} cannot be {value!r}: give {_describe(kind)}.")


def _convert(value: Any, kind: Any) -> Any:
    """The value as that type; raises ValueError, TypeError or KeyError where it is none."""
    text = value.strip() if isinstance(value, str) else None
    if kind is types.NoneType:
        if value is None or (text is not None and text.lower() == "none"):
            return None
        raise ValueError
    if get_origin(kind) is tuple:
        parts = text.split(",") if text is not None else value
        return tuple(_convert(part, get_args(kind)[0]) for part in parts)
    if kind is bool:
        return value if isinstance(value, bool) else _TRUTHS[str(value).lower()]
    if kind is str:
        if text is None:
            raise TypeError
        return text
    if isinstance(value, bool):
        raise TypeError
    number = kind(value)
    if text is None and number != value:
        raise ValueError  # 2.5 is no int
    return number


def _describe(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of {_describe(get_args(kind)[0])} such as 256,128"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", types.NoneType: "none"}
    return names[kind]
