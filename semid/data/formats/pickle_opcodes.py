"""The instructions of the pickle format: how long each one is, and the values of those that push a scalar."""

import struct
from ast import literal_eval
from collections.abc import Callable
from typing import IO, Any

from semid.errors import InputError

# Bytes that follow each opcode; a struct code means "a length in this format, then so many bytes".
_FIXED = {
    **dict.fromkeys((b"(", b"0", b"1", b"2", b"N", b"}", b"d", b"]", b"l", b"s", b"u", b"a", b"e", b")", b"t"), 0),
    **dict.fromkeys((b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94"), 0),
    **dict.fromkeys((b"R", b"b"), 0),
    b"\x80": 1,
    b"K": 1,
    b"M": 2,
    b"J": 4,
    b"G": 8,
    b"\x95": 8,
    b"q": 1,
    b"r": 4,
}
_SIZED = {
    **dict.fromkeys((b"\x8a", b"U", b"\x8c", b"C"), "<B"),
    **dict.fromkeys((b"T", b"\x8b"), "<i"),
    **dict.fromkeys((b"X", b"B"), "<I"),
    **dict.fromkeys((b"\x8d", b"\x8e", b"\x96"), "<Q"),
}
_LINES = {**dict.fromkeys((b"I", b"L", b"F", b"S", b"V", b"p"), 1), b"c": 2}
_READ_BACK = (b"g", b"h", b"j")
_REFUSED = {
    b"i": "an INST instruction",
    b"o": "an OBJ instruction",
    b"\x81": "a NEWOBJ instruction",
    b"\x92": "a NEWOBJ_EX instruction",
    b"P": "a persistent id",
    b"Q": "a persistent id",
    **dict.fromkeys((b"\x82", b"\x83", b"\x84"), "an extension code"),
    **dict.fromkeys((b"\x97", b"\x98"), "a buffer outside the file"),
}
_BIG_DOUBLE = struct.Struct(">d")


def refusal(path: str, what: str) -> InputError:
    """The error for anything in a pickle that is not plain data."""
    return InputError(f"{path} holds {what}, which could run code; refused.")


def read_back_slots(file: IO[bytes], size: int, path: str) -> set[int]:
    """Step over every instruction without acting on it; the memo slots that some instruction reads back.

    Raises:
        InputError: an instruction that plain data does not need, or the file ends too early.
    """
    slots: set[int] = set()
    read = file.read
    while (opcode := read(1)) != b".":
        length = _FIXED.get(opcode)
        if length is not None:
            if length and len(read(length)) < length:
                raise _truncated(path)
        elif opcode in _SIZED:
            _skip_sized(file, size, struct.Struct(_SIZED[opcode]), path)
        elif opcode in _READ_BACK:
            slots.add(_slot(file, opcode))
        elif opcode in _LINES:
            for _ in range(_LINES[opcode]):
                if not file.readline().endswith(b"\n"):
                    raise _truncated(path)
        elif not opcode:
            raise _truncated(path)
        elif opcode in _REFUSED:
            raise refusal(path, _REFUSED[opcode])
        else:
            raise InputError(f"{path} is not a pickle (byte {file.tell() - 1} is {opcode!r}): is it another file?")
    return slots


def _skip_sized(file: IO[bytes], size: int, prefix: struct.Struct, path: str) -> None:
    head = file.read(prefix.size)
    if len(head) < prefix.size:
        raise _truncated(path)
    length = prefix.unpack(head)[0]
    if length < 0:
        raise ValueError(f"a length of {length}")
    if length < 256:
        if len(file.read(length)) < length:
            raise _truncated(path)
    elif length > size or file.seek(length, 1) > size:
        raise _truncated(path)


def _slot(file: IO[bytes], opcode: bytes) -> int:
    if opcode == b"g":
        return int(file.readline())
    return int.from_bytes(file.read(1 if opcode == b"h" else 4), "little")


def _truncated(path: str) -> InputError:
    return InputError(f"{path} ends in the middle of a pickle: it is truncated, get it again.")


def scalar_handlers(file: IO[bytes], push: Callable[[Any], None]) -> dict[bytes, Callable[[], Any]]:
    """For each opcode that pushes a scalar, the function that reads its argument from ``file`` and pushes it."""
    read, readline = file.read, file.readline

    def text(opcode: bytes) -> Callable[[], None]:
        sized = sized_reader(read, opcode)
        return lambda: push(sized().decode("utf-8", "surrogatepass"))

    def data(opcode: bytes, kind: Callable[[bytes], Any]) -> Callable[[], None]:
        sized = sized_reader(read, opcode)
        return lambda: push(kind(sized()))

    handlers: dict[bytes, Callable[[], Any]] = {
        b"N": lambda: push(None),
        b"\x88": lambda: push(True),
        b"\x89": lambda: push(False),
        b")": lambda: push(()),
        b"K": lambda: push(read(1)[0]),
        b"M": lambda: push(int.from_bytes(read(2), "little")),
        b"J": lambda: push(int.from_bytes(read(4), "little", signed=True)),
        b"I": lambda: push(_decimal_or_bool(readline()[:-1])),
        b"L": lambda: push(int(readline()[:-1].rstrip(b"L"))),
        b"F": lambda: push(float(readline())),
        b"G": lambda: push(_BIG_DOUBLE.unpack(read(8))[0]),
        b"S": lambda: push(_quoted(readline()[:-1])),
        b"V": lambda: push(readline()[:-1].decode("raw-unicode-escape")),
        b"\x96": data(b"\x96", bytearray),
    }
    handlers.update({opcode: data(opcode, _signed) for opcode in (b"\x8a", b"\x8b")})
    handlers.update({opcode: data(opcode, bytes) for opcode in (b"B", b"C", b"\x8e")})
    handlers.update({opcode: text(opcode) for opcode in (b"T", b"U", b"X", b"\x8c", b"\x8d")})
    return handlers


def sized_reader(read: Callable[[int], bytes], opcode: bytes) -> Callable[[], bytes]:
    """Reads the argument of an opcode that tells its length first."""
    if _SIZED[opcode] == "<B":
        return lambda: read(read(1)[0])
    layout = struct.Struct(_SIZED[opcode])
    return lambda: read(layout.unpack(read(layout.size))[0])


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decimal_or_bool(text: bytes) -> int | bool:
    return text == b"01" if text in (b"00", b"01") else int(text)


def _quoted(text: bytes) -> str:
    value: bytes = literal_eval("b" + text.decode("ascii"))
    return value.decode("utf-8")
