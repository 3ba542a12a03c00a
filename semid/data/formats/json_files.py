"""JSON as a stream: files of one value a line, and one object of millions of entries; errors name the place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semid.errors import InputError

_READ_CHARACTERS = 1 << 20
_MOST_FOR_ONE_ENTRY = 1 << 26
_AFTER_VALUE = tuple(" \t\r\n,:}")  # a number is only known to end where one of these follows
_SPACE = re.compile(r"[ \t\r\n]*")


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number, from 1, and value of each line; blank lines are passed over.

    Raises:
        InputError: a line is not JSON, as where the file is truncated.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise InputError(
                    f"{path} line {number} is not valid JSON ({reason}): it is truncated or damaged, get it again."
                ) from None


def json_object_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Key and value of each entry of the one JSON object in a file, in file order, one at a time.

    Raises:
        InputError: not an object, or truncated or damaged.
    """
    try:
        yield from _ObjectReader(path).entries()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: it is damaged, get it again.") from None


class _ObjectReader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = ""
        self._place = 0
        self._dropped = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def entries(self) -> Iterator[tuple[str, Any]]:
        with self._path.open(encoding="utf-8") as self._file:
            if self._next_character() != "{":
                raise self._broken("it does not begin with an object")
            self._place += 1
            if self._next_character() == "}":
                self._place += 1
                self._expect_end()
                return
            while True:
                yield self._entry()
                separator = self._next_character()
                self._place += 1
                if separator == "}":
                    self._expect_end()
                    return
                if separator != ",":
                    raise self._broken("an entry is not followed by a comma")

    def _entry(self) -> tuple[str, Any]:
        if self._next_character() != '"':
            raise self._broken("a key is missing")
        key = self._value()
        if self._next_character() != ":":
            raise self._broken("a key is not followed by a colon")
        self._place += 1
        self._next_character()
        return key, self._value()

    def _value(self) -> Any:
        """The value at the current place; a value cut off by the end of what was read is tried again with more."""
        while True:
            whole = self._ended or len(self._text) - self._place > _MOST_FOR_ONE_ENTRY
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
                if whole or self._text[end : end + 1] in _AFTER_VALUE:
                    self._place = end
                    return value
            except (json.JSONDecodeError, RecursionError) as error:
                if whole:
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deeply nested"
                    raise self._broken(reason) from None
            self._read_more()

    def _next_character(self) -> str:
        """The next character that is not space, "" at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if self._ended:
                return ""
            self._read_more()

    def _read_more(self) -> None:
        more = self._file.read(_READ_CHARACTERS)
        self._ended = not more
        self._dropped += self._place
        self._text = self._text[self._place :] + more
        self._place = 0

    def _expect_end(self) -> None:
        if self._next_character():
            raise self._broken("something follows the object")

    def _broken(self, reason: str) -> InputError:
        place = self._dropped + self._place
        return InputError(
            f"{self._path} is not a valid JSON object ({reason}, character {place}): it is truncated or damaged, "
            "get it again."
        )
