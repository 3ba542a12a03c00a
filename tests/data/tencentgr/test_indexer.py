"""The indexer: raw ids to re-ids and back, whatever form its maps have."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semid.data.tencentgr.indexer import Indexer, ItemLookup, raw_ids
from semid.errors import InputError

ITEMS = {20_000_000_009: 2, 20_000_000_001: 1, 20_000_000_005: 3}
USERS = {"user_b": 1, "user_é": 3, "": 2}
FIELDS = {"100": {5: 1, 9: 2}, "102": {}}


def indexer(tmp_path: Path, **maps: Any) -> Indexer:
    content = {"u": USERS, "i": ITEMS, "f": FIELDS, "a": {0: 1}} | maps
    path = tmp_path / "indexer.pkl"
    path.write_bytes(pickle.dumps({key: value for key, value in content.items() if value is not None}))
    return Indexer(path, lambda name: tmp_path / name)


@pytest.mark.parametrize(
    "maps",
    [
        {},
        {"i": {str(raw): reid for raw, reid in ITEMS.items()}},
        {"i": {np.int64(raw): np.int32(reid) for raw, reid in ITEMS.items()}},
        {key: list(value.items()) for key, value in {"u": USERS, "i": ITEMS}.items()} | {"f": list(FIELDS.items())},
        {"f": {100: FIELDS["100"], 102: {}}},
    ],
)
def test_every_form_of_the_maps(tmp_path: Path, maps: dict[str, Any]) -> None:
    read = indexer(tmp_path, **maps)
    assert read.num_items == 3
    assert read.items.raw.tolist() == [20_000_000_001, 20_000_000_009, 20_000_000_005]
    wanted = np.array([20_000_000_005, 7, 20_000_000_009, 20_000_000_001, 2**62])
    assert read.items.rows(wanted).tolist() == [2, -1, 1, 0, -1]
    assert read.users.count == 3
    assert read.users.get(np.array([3, 1, 1, 2])) == ["user_é", "user_b", "user_b", ""]
    assert read.field_sizes == {"100": 2, "102": 0}


def test_many_users_in_any_order(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(30_000) + 1
    read = indexer(tmp_path, u={f"user_{reid * 7}": int(reid) for reid in order})
    wanted = np.random.default_rng(1).integers(1, 30_001, 500)
    assert read.users.get(wanted) == [f"user_{reid * 7}" for reid in wanted]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"u": None}, "has no map 'u'"),
        ({"i": None}, "has no map 'i'"),
        ({"i": 7}, "entry 'i' is not a map"),
        ({"i": {5: 1, 6: 3}}, "2 entries but the re-id 3"),
        ({"i": {5: 1, 6: 1}}, "no item the re-id 2"),
        ({"i": {5: 0, 6: 1}}, "the re-id 0"),
        ({"u": {"a": 1, "b": 1}}, "no user the re-id 2"),
        ({"u": {"a": 1, "b": 9}}, "the re-id 9"),
        ({"i": {"twelve": 1}}, "raw id 'twelve'"),
        ({"i": {5.5: 1}}, "raw id 5.5"),
        ({"i": {2**70: 1}}, "raw id"),
        ({"i": {5: "one"}}, "re-ids that are not integers"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, maps: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"indexer\.pkl.*{message}"):
        indexer(tmp_path, **maps)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No .*indexer\.pkl"):
        Indexer(tmp_path / "indexer.pkl", lambda name: tmp_path / name)


def test_raw_ids_of_any_form() -> None:
    for values in ([7, 10**15], ["7", "1000000000000000"], [np.int64(7), 10**15], [" 7", 10**15]):
        assert raw_ids(values, "x").tolist() == [7, 10**15]
    assert raw_ids([], "x").dtype == np.int64
    for values in ([True], [None], [1.5], ["a"], [[1]]):
        with pytest.raises(InputError, match="x has the raw id"):
            raw_ids(values, "x")


def test_an_empty_lookup_finds_nothing() -> None:
    assert ItemLookup(np.zeros(0, np.int64)).rows(np.array([1, 2])).tolist() == [-1, -1]
