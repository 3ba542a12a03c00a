"""Pickled plain data, read as a stream and without ever running what the file asks for.

A pickle is a program for a small stack machine. The machine here knows the instructions that build plain
data; the few callables that NumPy arrays need are recognised by name and imitated, so nothing named in a file
is imported or called. Two passes keep memory flat: the first only steps over the instructions and notes which
memo slots are read back later, the second hands out the entries of large maps in chunks and forgets them.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from semid.data.formats.pickle_names import Pending, called, named
from semid.data.formats.pickle_opcodes import read_back_slots, refusal, scalar_handlers
from semid.errors import InputError

_CHUNK_ENTRIES = 4096
_DAMAGE = (ValueError, TypeError, IndexError, KeyError, AttributeError, struct.error, EOFError, OverflowError)

MapPath = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class MapChunk:
    """Consecutive entries of the map that is found under ``path``: ``("f", "100")`` is ``root["f"]["100"]``."""

    path: MapPath
    keys: list[Any]
    values: list[Any]


def read_plain(path: Path) -> Any:
    """The whole content of a pickle of plain data: containers, numbers, strings, bytes, NumPy scalars and arrays.

    Raises:
        InputError: truncated, damaged, or holding anything that could run code.
    """
    machine = _Machine(path, lambda _: False)
    for _ in machine.run():
        pass
    return machine.result


def stream_maps(path: Path, is_map: Callable[[MapPath], bool]) -> Iterator[MapChunk]:
    """The entries of nested maps, in file order, without holding a map in memory.

    Args:
        path: a pickle whose root is a map. A map is a dict, or a list of (key, value) pairs.
        is_map: whether the value under a key path is itself a map whose entries are wanted one by one;
            other values are handed out whole. The root has the path ``()``.

    Yields:
        Chunks of at least one entry, or one empty chunk for an empty map.

    Raises:
        InputError: as read_plain, or something else stands where a map should be.
    """
    return _Machine(path, is_map).run()


class _Stream:
    """Stands on the stack for a map whose entries are handed out as they come."""

    __slots__ = ("count", "is_dict", "kept", "path")

    def __init__(self, path: MapPath, is_dict: bool) -> None:
        self.path = path
        self.is_dict = is_dict
        self.count = 0
        self.kept: list[tuple[Any, Any]] | None = None  # its entries, if the map is referred to again later


class _Machine:
    def __init__(self, path: Path, is_map: Callable[[MapPath], bool]) -> None:
        self.path = path
        self.is_map = is_map
        self.result: Any = None
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._memo_length = 0
        self._needed: set[int] = set()
        self._unclaimed = 0
        self._chunk = MapChunk((), [], [])
        self._ready: list[MapChunk] = []

    def run(self) -> Iterator[MapChunk]:
        with self.path.open("rb") as file:
            try:
                self._needed = read_back_slots(file, os.fstat(file.fileno()).st_size, str(self.path))
                file.seek(0)
                yield from self._execute(file)
            except InputError:
                raise
            except _DAMAGE as error:
                raise InputError(
                    f"{self.path} is not a readable pickle of plain data (byte {file.tell()}: {error}); get it again."
                ) from None

    def _execute(self, file: IO[bytes]) -> Iterator[MapChunk]:
        handlers = self._handlers(file)
        read = file.read
        ready = self._ready
        while (opcode := read(1)) != b".":
            handlers[opcode]()
            if ready:
                yield from ready
                ready.clear()
        self._finish()
        yield from ready

    def _finish(self) -> None:
        self.result = self._stack.pop()
        if self.is_map(()):
            if isinstance(self.result, _Stream):
                self._claim(self.result)
            else:
                self._emit_map((), self.result)
        if self._unclaimed:
            raise InputError(f"{self.path} does not hold maps where maps are expected: is it another file?")
        self._flush()

    # Containers and the maps that are streamed

    def _new_container(self, plain: dict[Any, Any] | list[Any]) -> None:
        path = self._path_of_next()
        if path is not None and self.is_map(path):
            self._unclaimed += 1
            self._stack.append(_Stream(path, isinstance(plain, dict)))
        else:
            self._stack.append(plain)

    def _path_of_next(self) -> MapPath | None:
        """Where the value that is pushed next will be found, None if that cannot be told or is no streamed map.

        A dict is filled either by MARK key value key value … SETITEMS or by key value SETITEM. Where a dict and a
        key lie on top inside the batch of another dict, the value may belong to either: then it is built whole.
        """
        stack, position = self._stack, len(self._stack)
        if position == 0:
            return None if self._marks else ()
        start = self._marks[-1] if self._marks else 0
        batch = _open_dict(stack[start - 1]) if start and (position - start) % 2 else None
        below = stack[-2] if position - start >= 2 else None
        if batch is not None and _may_get_one_more(below):
            return None
        owner = batch or _open_dict(below)
        return None if owner is None else (*owner.path, stack[-1])

    def _set_items(self, target: Any, keys: Sequence[Any], values: Sequence[Any]) -> None:
        if type(target) is dict:
            target.update(zip(keys, values, strict=True))
        elif type(target) is _Stream and target.is_dict:
            self._emit(target, keys, values)
        else:
            raise refusal(str(self.path), f"items set on a {type(target).__name__}")

    def _append(self, target: Any, items: list[Any]) -> None:
        if type(target) is list:
            target.extend(items)
        elif type(target) is _Stream and not target.is_dict:
            self._emit(target, *_split_pairs(items))
        else:
            raise refusal(str(self.path), f"items added to a {type(target).__name__}")

    def _emit(self, stream: _Stream, keys: Sequence[Any], values: Sequence[Any]) -> None:
        stream.count += len(keys)
        if stream.kept is not None:
            stream.kept.extend(zip(keys, values, strict=True))
        self._emit_entries(stream.path, keys, values)

    def _emit_entries(self, path: MapPath, keys: Sequence[Any], values: Sequence[Any]) -> None:
        if path != self._chunk.path:
            self._flush()
            self._chunk = MapChunk(path, [], [])
        for key, value in zip(keys, values, strict=True):
            if type(value) in _CONTAINERS and self.is_map((*path, key)):
                self._emit_map((*path, key), value)
                self._chunk = MapChunk(path, [], []) if self._chunk.path != path else self._chunk
            else:
                self._chunk.keys.append(key)
                self._chunk.values.append(value)
        if len(self._chunk.keys) >= _CHUNK_ENTRIES:
            self._flush()

    def _emit_map(self, path: MapPath, value: Any) -> None:
        """Hand out a map that was built whole, or account for one that was streamed."""
        if isinstance(value, _Stream):
            if value.path == path:
                self._claim(value)
                return
            if value.kept is None:
                raise InputError(f"{self.path} holds maps in an order that cannot be streamed: write it again.")
            value = dict(value.kept)
        pairs = list(value.items()) if isinstance(value, dict) else value
        self._flush()
        if not pairs:
            self._ready.append(MapChunk(path, [], []))
        self._emit_entries(path, *_split_pairs(pairs))
        self._flush()

    def _claim(self, stream: _Stream) -> None:
        self._unclaimed -= 1
        if not stream.count:
            self._ready.append(MapChunk(stream.path, [], []))

    def _flush(self) -> None:
        if self._chunk.keys:
            self._ready.append(self._chunk)
            self._chunk = MapChunk(self._chunk.path, [], [])

    # Memo, marks, names

    def _memoize(self, slot: int) -> None:
        self._memo_length += 1
        if slot in self._needed:
            value = self._memo[slot] = self._stack[-1]
            if type(value) is _Stream and value.kept is None:
                value.kept = []

    def _recall(self, slot: int) -> None:
        value = self._memo[slot]
        self._stack.append(value.value if type(value) is Pending and value.value is not None else value)

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _reduce(self) -> None:
        arguments = self._stack.pop()
        self._stack[-1] = called(self._stack[-1], arguments, str(self.path))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is not Pending:
            raise refusal(str(self.path), f"a BUILD instruction for a {type(target).__name__}")
        self._stack[-1] = target.build(state)

    def _handlers(self, file: IO[bytes]) -> dict[bytes, Callable[[], Any]]:
        return {
            **scalar_handlers(file, self._stack.append),
            **self._container_handlers(),
            **self._memo_handlers(file),
            b"\x80": lambda: file.read(1),
            b"\x95": lambda: file.read(8),
        }

    def _container_handlers(self) -> dict[bytes, Callable[[], Any]]:
        stack, marks = self._stack, self._marks
        push, pop = stack.append, stack.pop

        def set_items() -> None:
            items = self._pop_mark()
            self._set_items(stack[-1], items[::2], items[1::2])

        def set_item() -> None:
            value, key = pop(), pop()
            self._set_items(stack[-1], (key,), (value,))

        def append() -> None:
            value = pop()
            self._append(stack[-1], [value])

        def extend() -> None:
            items = self._pop_mark()
            self._append(stack[-1], items)

        def add_items() -> None:
            items = self._pop_mark()
            set.update(stack[-1], items)

        def tuple_of(count: int) -> Callable[[], None]:
            def build() -> None:
                stack[-count:] = [tuple(stack[-count:])]

            return build

        def filled_dict() -> None:
            items = self._pop_mark()
            self._new_container({})
            if items:
                self._set_items(stack[-1], items[::2], items[1::2])

        def filled_list() -> None:
            items = self._pop_mark()
            self._new_container([])
            if items:
                self._append(stack[-1], items)

        def pop_one() -> None:
            # A mark counts as one thing on the stack.
            if marks and marks[-1] == len(stack):
                marks.pop()
            else:
                pop()

        return {
            b"(": lambda: marks.append(len(stack)),
            b"0": pop_one,
            b"1": self._pop_mark,
            b"2": lambda: push(stack[-1]),
            b"}": lambda: self._new_container({}),
            b"d": filled_dict,
            b"]": lambda: self._new_container([]),
            b"l": filled_list,
            b"s": set_item,
            b"u": set_items,
            b"a": append,
            b"e": extend,
            b"t": lambda: push(tuple(self._pop_mark())),
            b"\x85": tuple_of(1),
            b"\x86": tuple_of(2),
            b"\x87": tuple_of(3),
            b"\x8f": lambda: push(set()),
            b"\x90": add_items,
            b"\x91": lambda: push(frozenset(self._pop_mark())),
        }

    def _memo_handlers(self, file: IO[bytes]) -> dict[bytes, Callable[[], Any]]:
        read, readline = file.read, file.readline
        push, pop = self._stack.append, self._stack.pop

        def global_name() -> None:
            module, name = readline()[:-1].decode(), readline()[:-1].decode()
            push(named(module, name, str(self.path)))

        def stack_global() -> None:
            name, module = pop(), pop()
            push(named(module, name, str(self.path)))

        return {
            b"\x94": lambda: self._memoize(self._memo_length),
            b"p": lambda: self._memoize(int(readline())),
            b"q": lambda: self._memoize(read(1)[0]),
            b"r": lambda: self._memoize(int.from_bytes(read(4), "little")),
            b"g": lambda: self._recall(int(readline())),
            b"h": lambda: self._recall(read(1)[0]),
            b"j": lambda: self._recall(int.from_bytes(read(4), "little")),
            b"c": global_name,
            b"\x93": stack_global,
            b"R": self._reduce,
            b"b": self._build,
        }


_CONTAINERS = frozenset((dict, list, tuple, _Stream))


def _may_get_one_more(value: Any) -> bool:
    """Whether a single SETITEM may follow: picklers write batches of 1000 and use it where one item is left."""
    if type(value) is dict:
        return len(value) % 1000 == 0
    return type(value) is _Stream and value.is_dict and value.count % 1000 == 0


def _open_dict(value: Any) -> _Stream | None:
    return value if type(value) is _Stream and value.is_dict else None


def _split_pairs(pairs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    if not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("a list stands where a map or a list of (key, value) pairs is expected")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
