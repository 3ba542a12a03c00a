"""The few callables that pickles of plain data name, recognised and imitated; nothing is imported or called."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from semid.data.formats.pickle_opcodes import refusal

_PLAIN_DTYPE = re.compile(r"(\?|[biuf][1248]|f16|[SU]\d{1,6})")


class Pending:
    """A NumPy dtype or array that a later BUILD instruction completes; ``value`` is None until then."""

    __slots__ = ("build", "value")

    def __init__(self, value: Any, complete: Callable[[Any], Any]) -> None:
        self.value = value

        def build(state: Any) -> Any:
            self.value = complete(state)
            return self.value

        self.build = build


class _Name:
    __slots__ = ("imitate", "text")

    def __init__(self, text: str, imitate: Callable[..., Any]) -> None:
        self.text = text
        self.imitate = imitate


def named(module: Any, name: Any, path: str) -> Any:
    """The stand-in for ``module.name``.

    Raises:
        InputError: the name is not one that plain data needs.
    """
    known = _NAMES.get(f"{module}.{name}")
    if known is None:
        raise refusal(path, f"{module}.{name}")
    return known


def called(function: Any, arguments: Any, path: str) -> Any:
    """What calling the stand-in with the arguments gives.

    Raises:
        InputError: something else than a known name is called.
    """
    if type(function) is not _Name or type(arguments) is not tuple:
        raise refusal(path, f"a call of a {type(function).__name__}")
    return function.imitate(*arguments)


def _empty_array(kind: Any, shape: Any, code: Any) -> Pending:
    _require(type(kind) is _Name and kind.text == "numpy.ndarray", "an array of a class of its own")

    def complete(state: Any) -> np.ndarray:
        _version, shape, dtype, is_fortran, data = state
        return _array(_plain_bytes(data), _dtype(dtype), shape, "F" if is_fortran else "C")

    return Pending(None, complete)


def _array_from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(_plain_bytes(buffer), _dtype(dtype), shape, order)


def _array(data: bytes, dtype: np.dtype[Any], shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    plain = _dtype(dtype)
    raw = _plain_bytes(data)
    _require(len(raw) == plain.itemsize, f"a scalar of {len(raw)} bytes for {plain}")
    return np.frombuffer(raw, plain)[0] if raw else plain.type()


def _unfinished_dtype(code: Any, *_flags: Any) -> Pending:
    _require(type(code) is str and _PLAIN_DTYPE.fullmatch(code) is not None, f"the dtype {code!r}")
    native = np.dtype(code)

    def complete(state: Any) -> np.dtype[Any]:
        order = state[1]
        _require(order in ("<", ">", "|", "="), f"the byte order {order!r}")
        _require(state[2] is None and state[3] is None and state[4] is None, "a dtype with fields")
        ordered: np.dtype[Any] = native.newbyteorder(order)
        return ordered

    return Pending(native, complete)


def _dtype(value: Any) -> np.dtype[Any]:
    dtype = value.value if type(value) is Pending else value
    _require(isinstance(dtype, np.dtype), "an array without a dtype")
    plain: np.dtype[Any] = dtype
    return plain


def _plain_bytes(data: Any) -> bytes:
    _require(type(data) in (bytes, bytearray), "an array whose data are not bytes")
    return bytes(data)


def _bytes(*arguments: Any) -> bytes:
    _require(not arguments, "bytes made from something else")
    return b""


def _bytearray(*arguments: Any) -> bytearray:
    if len(arguments) == 2 and type(arguments[0]) is str:
        return bytearray(_encoded(*arguments))
    _require(
        len(arguments) <= 1 and all(type(a) in (bytes, list) for a in arguments), "a bytearray of something else"
    )
    return bytearray(*arguments)


def _encoded(text: Any, encoding: Any) -> bytes:
    _require(type(text) is str and encoding in ("latin1", "latin-1"), f"the encoding {encoding!r}")
    return bytes(text, "latin-1")


def _set(*arguments: Any) -> set[Any]:
    _require(len(arguments) <= 1 and all(type(a) is list for a in arguments), "a set of something else")
    return set(*arguments)


def _frozenset(*arguments: Any) -> frozenset[Any]:
    return frozenset(_set(*arguments))


def _only_a_name(*_arguments: Any) -> Any:
    raise ValueError("a class is called")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"it holds {what}")


def _all_names() -> dict[str, _Name]:
    names: dict[str, Callable[..., Any]] = {
        "_codecs.encode": _encoded,
        "numpy.dtype": _unfinished_dtype,
        "numpy.ndarray": _only_a_name,
    }
    for module in ("numpy.core", "numpy._core"):  # before and after NumPy 2
        names[f"{module}.multiarray._reconstruct"] = _empty_array
        names[f"{module}.multiarray.scalar"] = _scalar
        names[f"{module}.numeric._frombuffer"] = _array_from_buffer
    for module in ("builtins", "__builtin__"):  # Python 3 and 2
        names[f"{module}.bytes"] = _bytes
        names[f"{module}.bytearray"] = _bytearray
        names[f"{module}.set"] = _set
        names[f"{module}.frozenset"] = _frozenset
    return {text: _Name(text, imitate) for text, imitate in names.items()}


_NAMES = _all_names()
