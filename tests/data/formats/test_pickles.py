"""Streaming plain pickles: equal to ``pickle`` on plain data, deaf to everything else."""

import os
import pickle
import pickletools
import struct
from collections import Counter, OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semid.data.formats.pickles import MapChunk, read_plain, stream_maps
from semid.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300)
hashables = scalars | st.tuples(scalars, scalars)
plain = st.recursive(
    scalars | st.frozensets(hashables, max_size=4) | st.sets(hashables, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(hashables, inner, max_size=5) | st.tuples(inner, inner, inner)
    ),
    max_leaves=15,
)
INDEXER = {
    "u": {f"user_{n}": n for n in range(1, 2500)},
    "i": {20_000_000_000 + 7 * n: n for n in range(1, 3500)},
    "f": {"100": {5: 1, -7: 2}, "101": {}, "121": {2**40 + n: n for n in range(1001)}},
    "a": {0: 1, 1: 2},
}


def is_indexer_map(path: tuple[Any, ...]) -> bool:
    return len(path) < 2 or (len(path) == 2 and path[0] == "f")


def is_root(path: tuple[Any, ...]) -> bool:
    return path == ()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def dump(path: Path, value: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    return write(path, pickle.dumps(value, protocol))


def rebuilt(chunks: Any) -> Any:
    """The maps that the chunks describe, nested again."""
    root: dict[Any, Any] = {}
    for chunk in chunks:
        assert isinstance(chunk, MapChunk)
        place = root
        for step in chunk.path:
            place = place.setdefault(step, {})
        assert not place.keys() & set(chunk.keys), "no entry comes twice"
        place.update(zip(chunk.keys, chunk.values, strict=True))
    return root


@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_round_trip(value: Any, protocol: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = dump(tmp_path_factory.mktemp("p") / "x.pkl", value, protocol)
    read = read_plain(path)
    assert read == value
    assert repr(type(read)) == repr(type(value))


@given(
    value=st.dictionaries(
        scalars, st.dictionaries(scalars, scalars | st.lists(scalars, max_size=3), max_size=4), max_size=4
    ),
    protocol=st.sampled_from(PROTOCOLS),
    optimised=st.booleans(),
)
def test_nested_maps_stream_to_the_same_maps(
    value: Any, protocol: int, optimised: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = pickle.dumps(value, protocol)
    path = write(tmp_path_factory.mktemp("p") / "x.pkl", pickletools.optimize(data) if optimised else data)
    assert rebuilt(stream_maps(path, lambda at: len(at) < 2)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("as_pairs", [False, True])
def test_an_indexer_streams_in_order_and_in_chunks(tmp_path: Path, protocol: int, as_pairs: bool) -> None:
    value: Any = INDEXER
    if as_pairs:
        value = {key: list(INDEXER[key].items()) for key in ("u", "i", "a")}
        value["f"] = [(field, list(entries.items())) for field, entries in INDEXER["f"].items()]
    chunks = list(stream_maps(dump(tmp_path / "indexer.pkl", value, protocol), is_indexer_map))
    assert rebuilt(chunks) == INDEXER
    assert max(len(chunk.keys) for chunk in chunks) < 2500 + 4096
    users = [key for chunk in chunks if chunk.path == ("u",) for key in chunk.keys]
    assert users == list(INDEXER["u"])


def test_a_root_of_pairs_and_a_root_that_is_no_map(tmp_path: Path) -> None:
    pairs = [(3, [1.0, 2.0]), (5, [0.5, 0.25])]
    assert rebuilt(stream_maps(dump(tmp_path / "a.pkl", pairs), is_root)) == dict(pairs)
    assert rebuilt(stream_maps(dump(tmp_path / "b.pkl", tuple(pairs)), is_root)) == dict(pairs)
    for number, value in enumerate(([1, 2], 7, ({1: 2}, {3: 4}), "text", [(1, 2), (1, 2, 3)])):
        with pytest.raises(InputError, match=r"\.pkl"):
            list(stream_maps(dump(tmp_path / f"{number}.pkl", value), is_root))


def test_a_value_that_is_no_map_where_one_is_wanted(tmp_path: Path) -> None:
    path = dump(tmp_path / "x.pkl", {"u": {"a": 1}, "i": 7})
    chunks = list(stream_maps(path, is_indexer_map))
    assert [(c.path, c.keys, c.values) for c in chunks] == [(("u",), ["a"], [1]), ((), ["i"], [7])]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_map_shared_by_reference_is_handed_out_at_both_places(tmp_path: Path, protocol: int) -> None:
    shared = {n: n + 1 for n in range(5000)}
    value = {"f": {"100": shared, "101": shared}, "u": {"a": shared[4] + 10**9}}
    assert rebuilt(stream_maps(dump(tmp_path / "x.pkl", value, protocol), is_indexer_map)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_maps_of_many_maps(tmp_path: Path, protocol: int) -> None:
    for count in (1000, 1001, 2001):  # a single entry after full batches is written in another way
        value = {"f": {str(n): {n: 1} for n in range(count)}, "e": {}, "g": {}, "u": {"a": 1}}
        assert rebuilt(stream_maps(dump(tmp_path / "x.pkl", value, protocol), lambda at: len(at) < 3)) == value


def test_references_between_values(tmp_path: Path) -> None:
    vector = [1.0, 2.0]
    value = {1: vector, 2: vector, 3: ("a" * 40,) * 3}
    read = read_plain(dump(tmp_path / "x.pkl", value))
    assert read == value
    assert read[1] is read[2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i8", "u1", "?", "<U3", "S2"])
def test_numpy_vectors_and_scalars(tmp_path: Path, protocol: int, dtype: str) -> None:
    vectors = {n: np.arange(n, n + 4).astype(dtype) for n in range(50)}
    streamed = rebuilt(stream_maps(dump(tmp_path / "x.pkl", vectors, protocol), is_root))
    for key, vector in vectors.items():
        assert streamed[key].dtype == vector.dtype
        np.testing.assert_array_equal(streamed[key], vector)
    scalar = vectors[3][1]
    read = read_plain(dump(tmp_path / "y.pkl", [scalar, scalar], protocol))
    assert type(read[0]) is type(scalar)
    assert read == [scalar, scalar]


def test_numpy_shapes_and_orders(tmp_path: Path) -> None:
    for array in (np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros((0, 4), np.float32), np.float32(2.5)):
        for protocol in PROTOCOLS:
            read = read_plain(dump(tmp_path / "x.pkl", array, protocol))
            np.testing.assert_array_equal(read, array)
            assert np.shape(read) == np.shape(array)


class Evil:
    """Pickles as a call of ``os.system``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Plain:
    pass


def attacks(marker: Path) -> dict[str, bytes]:
    command = f"touch {marker}".encode()
    return {
        "GLOBAL": b"cposix\nsystem\n(S'" + command + b"'\ntR.",
        "STACK_GLOBAL": pickle.dumps(Evil(marker), 4),
        "REDUCE in a map": pickle.dumps({"u": {"a": Evil(marker)}}, 5),
        "REDUCE of a string": b"U\x05posix)R.",
        "INST": b"(S'" + command + b"'\niposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\nS'" + command + b"'\no.",
        "NEWOBJ": pickle.dumps(Plain(), 2),
        "NEWOBJ_EX": b"\x80\x04cposix\nsystem\n)}\x92.",
        "BUILD": b"K\x01}(U\x08__dict__}ub.",
        "BUILD on a map": b"}}(K\x01K\x02ub.",
        "persistent id": b"Phello\n.",
        "extension": b"\x82\x01.",
        "eval": b"c__builtin__\neval\n(S'1'\ntR.",
        "getattr": b"cbuiltins\ngetattr\n.",
        "numpy loads": b"cnumpy\nload\n.",
        "items of a set": b"\x80\x04\x8f(K\x01K\x02u.",
        "subclass": pickle.dumps(Counter("aab")),
        "ordered dict": pickle.dumps(OrderedDict(a=1)),
    }


@pytest.mark.parametrize("name", attacks(Path("unused")))
@pytest.mark.parametrize("streamed", [False, True])
def test_code_is_refused_without_running(tmp_path: Path, name: str, streamed: bool) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path / "evil.pkl", attacks(marker)[name])
    with pytest.raises(InputError, match=r"evil\.pkl holds .*, which could run code; refused"):
        list(stream_maps(path, is_indexer_map)) if streamed else read_plain(path)
    assert not marker.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name in ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ"):
        pickle.loads(attacks(marker)[name])
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize(
    "value", [np.array([{}, 1], dtype=object), np.zeros(2, "M8[s]"), np.zeros(2, [("a", "<i4")]), 1j, range(3)]
)
def test_other_values_are_refused(tmp_path: Path, value: Any) -> None:
    for protocol in PROTOCOLS:
        with pytest.raises(InputError, match=r"x\.pkl"):
            read_plain(dump(tmp_path / "x.pkl", value, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_truncation_is_a_clear_error(tmp_path: Path, protocol: int) -> None:
    value = {"u": {"a": 1, "b": -5000000000}, "i": {2**40: 2, 300: 70000}, "v": [1.5, None, True, b"xx", "é" * 300]}
    data = pickle.dumps(value, protocol)
    for length in range(len(data)):
        with pytest.raises(InputError, match=r"truncated|not a pickle"):
            list(stream_maps(write(tmp_path / "x.pkl", data[:length]), is_indexer_map))


@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_clear_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("p") / "x.pkl", data + b".")
    for reading in (lambda: read_plain(path), lambda: list(stream_maps(path, is_indexer_map))):
        with suppress(InputError):  # anything else is a bug
            reading()


@given(flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_pickles_give_a_value_or_a_clear_error(
    flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(pickle.dumps({"u": {"a": 1}, "i": {7: np.float32([1, 2]), 8: np.int64(4)}, "f": {"1": {2: 3}}}))
    for place, value in flips:
        data[place % len(data)] = value
    path = write(tmp_path_factory.mktemp("p") / "x.pkl", bytes(data))
    with suppress(InputError):  # anything else is a bug
        list(stream_maps(path, is_indexer_map))


def test_absurd_lengths_do_not_allocate(tmp_path: Path) -> None:
    for data in (
        b"\x8d" + struct.pack("<Q", 2**62),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x8b" + struct.pack("<i", -5) + b".",
    ):
        with pytest.raises(InputError, match=r"truncated|readable"):
            read_plain(write(tmp_path / "x.pkl", data))


def test_memory_stays_flat(tmp_path: Path) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    path = dump(tmp_path / "x.pkl", {"u": {f"user_{n:09d}": n for n in range(60_000)}})
    tracemalloc.start()
    entries = sum(len(chunk.keys) for chunk in stream_maps(path, is_indexer_map))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert entries == 60_000
    assert peak < 2_500_000  # the dict itself takes more than 8 MB
