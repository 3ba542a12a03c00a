"""Layout C: a tiny competition folder written by hand, read to arrays worked out by hand, every mistake named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.errors import InputError

RAW = {1: 20_000_000_101, 2: 20_000_000_057, 3: 20_000_000_300, 4: 20_000_000_004}
COLD = (20_000_000_999, 20_000_000_888)
INDEXER: dict[str, Any] = {
    "u": {"user_a": 1, "user_b": 2, "user_c": 3},
    "i": {raw: reid for reid, raw in RAW.items()},
    "f": {
        "100": {7: 1, 8: 2, 9: 3},
        "121": {n: n for n in range(1, 6)},
        "103": {1: 1, 2: 2},
        "106": {n: n for n in range(1, 5)},
    },
}
ITEMS: dict[str, Any] = {"3": {"100": 2, "121": 5}, "1": {"121": 1}, "4": {"100": 3}, "2": {}}


def event(user: int, item: Any, action: Any, time: Any, features: Any = None) -> list[Any]:
    return [user, item, None, ITEMS.get(str(item), {}) if features is None else features, action, time]


def profile(user: int, features: Any, time: int | None = None) -> list[Any]:
    return [user, None, features, None, None, time]


LINES: list[Any] = [
    [event(2, 1, 0, 100), event(2, 4, 1, 100), event(2, 2, 2, 180), profile(2, {"106": [4, 1]}, 180)],
    [event(3, 2, 0, 50), profile(3, {}, 1), event(3, 3, 0, 60), event(3, 1, 1, 70)],
    [profile(1, {"103": 2}, 99), event(1, 4, 0, 10), event(1, 3, 1, 20)],
]
CANDIDATES: list[Any] = [
    {"creative_id": COLD[0], "retrieval_id": 0, "features": {"100": 3, "121": "5"}},
    {"creative_id": RAW[3], "retrieval_id": 1, "features": {"100": 1}, "reid_creative_id": 3},
    {"creative_id": COLD[1], "retrieval_id": 2, "features": {"100": "77"}},
]
VECTORS: dict[Any, Any] = {RAW[2]: [1.0, 2.0], COLD[0]: [3.0, 4.0], RAW[1]: None, RAW[4]: [5.0, 6.5]}


class Competition:
    """A folder in layout C whose parts a test may change before :meth:`prepare`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "c"
        self.target = folder / "dataset"
        self.indexer = INDEXER
        (self.folder / "creative_emb").mkdir(parents=True)
        self.lines("seq.jsonl", LINES)
        self.lines("predict_set.jsonl", CANDIDATES)
        self.text("item_feat_dict.json", json.dumps(ITEMS))
        self.pickled("creative_emb/emb_81_2.pkl", VECTORS)

    def text(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def lines(self, name: str, values: list[Any]) -> None:
        self.text(name, "".join(json.dumps(value) + "\n" for value in values))

    def vectors(self, name: str, vectors: dict[Any, Any]) -> None:
        self.lines(name, [{"anonymous_cid": raw, "emb": vector} for raw, vector in vectors.items()])

    def pickled(self, name: str, value: Any) -> None:
        (self.folder / name).write_bytes(pickle.dumps(value))

    def prepare(self, **config: Any) -> Dataset:
        self.pickled("indexer.pkl", self.indexer)
        return prepare(self.folder, self.target, PrepareConfig(**config))

    def refused(self, message: str, **config: Any) -> None:
        with pytest.raises(InputError, match=message):
            self.prepare(**config)
        assert not self.target.exists()


@pytest.fixture
def competition(tmp_path: Path) -> Competition:
    return Competition(tmp_path)


def single(dataset: Dataset, kind: str, name: str) -> list[int]:
    fields = dataset.item_fields if kind == "items" else dataset.user_fields
    column: list[int] = fields.values[:, fields.names.index(name)].tolist()
    return column


def test_everything_lands_where_it_belongs(competition: Competition) -> None:
    dataset = competition.prepare()
    assert dataset.item_ids.tolist() == [RAW[1], RAW[2], RAW[3], RAW[4], *COLD]
    assert dataset.user_ids.tolist() == ["user_b", "user_c", "user_a"]
    assert dataset.action_names == ("exposure", "click", "conversion")
    assert dataset.events.offsets.tolist() == [0, 3, 6, 8]
    assert dataset.events.items.tolist() == [0, 3, 1, 1, 2, 0, 3, 2]
    assert dataset.events.actions.tolist() == [0, 1, 2, 0, 0, 1, 0, 1]
    assert dataset.events.times.tolist() == [100, 100, 180, 50, 60, 70, 10, 20]
    assert dataset.candidates.tolist() == [2, 4, 5]
    assert dataset.item_fields.names == ("100", "121")
    assert dataset.item_fields.sizes == (5, 7)
    assert single(dataset, "items", "100") == [0, 0, 3, 4, 4, 1]
    assert single(dataset, "items", "121") == [2, 0, 6, 0, 1, 0]
    assert dataset.user_fields.names == ("103",)
    assert single(dataset, "users", "103") == [0, 0, 3]
    lists = dataset.user_fields.lists["106"]
    assert (lists.offsets.tolist(), lists.values.tolist(), lists.size) == ([0, 2, 2, 2], [5, 2], 6)
    embedding = dataset.embedding("81")
    assert embedding.valid.tolist() == [False, True, False, True, True, False]
    assert embedding.vectors.tolist() == [[0, 0], [1, 2], [0, 0], [5, 6.5], [3, 4], [0, 0]]


def test_features_beside_events_serve_items_without_an_entry(competition: Competition) -> None:
    expected = competition.prepare().artifact_or_raise.files
    competition.text("item_feat_dict.json", json.dumps({"1": ITEMS["1"]}))
    assert competition.prepare().artifact_or_raise.files == expected
    (competition.folder / "item_feat_dict.json").unlink()
    assert competition.prepare().artifact_or_raise.files == expected


def test_many_users_and_items_in_blocks(competition: Competition, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = competition.prepare().artifact_or_raise.files
    for name in ("_USER_LINES", "_ITEM_ENTRIES", "_CANDIDATE_LINES", "_VECTOR_NUMBERS"):
        monkeypatch.setattr(f"semid.data.tencentgr.layout_c.{name}", 1)
    assert competition.prepare().artifact_or_raise.files == expected


@pytest.mark.parametrize("folder", [True, False])
def test_embeddings_in_part_files_with_or_without_ending(competition: Competition, folder: bool) -> None:
    expected = competition.prepare().artifact_or_raise.files
    (competition.folder / "creative_emb" / "emb_81_2.pkl").unlink()
    parts = ("emb_81_2/part-00000", "emb_81_2/part-00001") if folder else ("emb_81_2/a.json", "emb_81_2/sub/b.json")
    entries = list(VECTORS.items())
    competition.vectors(f"creative_emb/{parts[0]}", {str(raw): vector for raw, vector in entries[:2]})
    competition.lines(
        f"creative_emb/{parts[1]}",
        [
            {"anonymous_cid": RAW[1]},
            {"anonymous_cid": RAW[1], "emb": "text"},
            {"anonymous_cid": None, "emb": [1.0, 1.0]},
            {"anonymous_cid": RAW[4], "emb": [5.0, 6.5]},
        ],
    )
    competition.text("creative_emb/emb_81_2/_SUCCESS", "junk")
    competition.text("creative_emb/emb_81_2/.part-00000.crc", "junk")
    dataset = competition.prepare()
    assert dataset.artifact_or_raise.files == expected
    assert dataset.artifact_or_raise.details["report"]["embeddings"]["81"]["without_vector"] == 3


@pytest.mark.parametrize("form", ["numpy", "pairs", "text keys", "tuples"])
def test_pickled_embeddings_of_any_form(competition: Competition, form: str) -> None:
    expected = competition.prepare().artifact_or_raise.files
    forms: dict[str, Any] = {
        "numpy": {raw: None if v is None else np.array(v, np.float32) for raw, v in VECTORS.items()},
        "pairs": list(VECTORS.items()),
        "text keys": {str(raw): v for raw, v in VECTORS.items()},
        "tuples": {raw: v and tuple(v) for raw, v in VECTORS.items()},
    }
    competition.pickled("creative_emb/emb_81_2.pkl", forms[form])
    assert competition.prepare().artifact_or_raise.files == expected


@pytest.mark.parametrize("part", ["item_feat_dict.json", "creative_emb/emb_81_2.pkl", "predict_set.jsonl"])
def test_optional_parts(competition: Competition, part: str) -> None:
    (competition.folder / part).unlink()
    dataset = competition.prepare()
    assert dataset.events.num_events == 8
    assert dataset.candidates.tolist() == ([0, 1, 2, 3] if "predict" in part else [2, 4, 5])
    assert list(dataset.embeddings) == ([] if "emb" in part else ["81"])


def test_files_left_aside_are_reported(competition: Competition) -> None:
    competition.text("predict_seq.jsonl", "anything")
    competition.text("seq_offsets.pkl", "anything")
    report = competition.prepare().artifact_or_raise.details["report"]
    assert report["files_left_aside"] == ["predict_seq.jsonl"]


def test_gaps_in_events(competition: Competition) -> None:
    first = [
        event(1, 1, None, 5),
        event(1, None, 1, 6),
        event(1, 2, 0, None),
        event(1, None, None, None),
        profile(1, {}),
    ]
    competition.lines("seq.jsonl", [first, [profile(2, None)], [profile(3, {"103": 1}, 4)]])
    dataset = competition.prepare()
    assert dataset.events.items.tolist() == [0, 1]
    assert dataset.events.actions.tolist() == [ACTION_UNKNOWN, 0]
    assert dataset.events.times.tolist() == [5, TIME_MISSING]
    assert dataset.events.offsets.tolist() == [0, 2, 2, 2]
    assert single(dataset, "users", "103") == [0, 0, 2]
    report = dataset.artifact_or_raise.details["report"]
    assert report["events_without_item"] == 2
    assert competition.prepare(null_action="drop").events.items.tolist() == [1]


def test_strings_are_unknown_values(competition: Competition) -> None:
    lines = [[event(1, 1, 0, 1), event(1, 2, 0, 2), profile(1, {"103": "new", "106": [3, "x", 0, None]})]]
    competition.lines("seq.jsonl", lines)
    dataset = competition.prepare()
    assert single(dataset, "users", "103") == [1]
    assert dataset.user_fields.lists["106"].values.tolist() == [4, 1]


def test_a_single_value_in_a_list_field_is_a_list_of_one(competition: Competition) -> None:
    competition.text("item_feat_dict.json", json.dumps({"1": {"100": 3}, "2": {"100": [1, 2]}, "3": {"100": []}}))
    dataset = competition.prepare()
    assert dataset.item_fields.names == ("121",)
    assert dataset.item_fields.lists["100"].offsets.tolist() == [0, 1, 3, 3, 4, 5, 6]
    assert dataset.item_fields.lists["100"].values.tolist() == [4, 2, 3, 4, 4, 1]


def test_fields_111_and_those_without_a_number(competition: Competition) -> None:
    competition.text("item_feat_dict.json", json.dumps({"1": {"colour": 3, "111": 12, "9": 0}, "2": {"9": 1}}))
    competition.lines("predict_set.jsonl", [])
    dataset = competition.prepare()
    assert dataset.item_fields.names == ("9", "100", "111", "121", "colour")
    assert single(dataset, "items", "111") == [13, 0, 0, 0]
    assert dataset.item_fields.sizes == (3, 5, 14, 7, 5)


@pytest.mark.parametrize("missing", ["seq.jsonl", "indexer.pkl"])
def test_needed_parts(competition: Competition, missing: str) -> None:
    competition.pickled("indexer.pkl", INDEXER)
    (competition.folder / missing).unlink()
    with pytest.raises(InputError, match=f"No .*{missing}"):
        prepare(competition.folder, competition.target, PrepareConfig(layout="tencentgr-c"))


def test_what_is_wrong_with_sequences(competition: Competition) -> None:
    text = (competition.folder / "seq.jsonl").read_text()
    competition.text("seq.jsonl", text[:-20])
    competition.refused(r"seq\.jsonl line 3 is not valid JSON .* truncated or damaged")
    competition.text("seq.jsonl", text.replace("100", "1x0", 1))
    competition.refused(r"seq\.jsonl line 1 is not valid JSON")
    for line, message in (
        ({"a": 1}, "line 2 is not an array of records"),
        ([], "line 2 is not an array of records"),
        ([5], r"line 2 has the record 5: expected six slots"),
        ([[1, 2, None]], "line 2 has the record .*expected six slots"),
        ([event(1, 1, 0, 5), event(2, 1, 0, 6)], "line 2 has the record .*of one user"),
        ([event(1, "ad", 0, 5)], "line 2 has 'ad' where a re-id"),
        ([event(1, 1, 0, 5.5)], "line 2 has 5.5 where"),
        ([[None, 1, None, {}, 0, 5]], "line 2 has None where"),
        ([profile(1, [3])], r"line 2 has features \[3\]"),
        ([event(1, 2, 0, 5), profile(1, {"103": 1.5})], r"lines 1\.\.2: has 1.5 in field '103'"),
        ([event(1, 2, 0, 5), profile(1, {"103": 3})], r"lines 1\.\.2: has 3 in field '103', which has only 2"),
        ([event(1, 9, 0, 5)], "user 'user_a' has item 9, but the indexer knows only items 1..4"),
        ([event(1, 1, 4, 5)], "user 'user_a' has action 4"),
        ([event(9, 1, 1, 5)], "has user 9, but the indexer knows only users"),
        ([event(2, 1, 1, 5)], "has user 2, who already came"),
        ([event(1, 1, 0, 5), event(1, 2, 0, 4)], "events of user 'user_a'.* go back in time, from 5 to 4"),
    ):
        competition.lines("seq.jsonl", [LINES[0], line])
        competition.refused(rf"{message}")
    competition.text("seq.jsonl", "\n")
    competition.refused("no users")


def test_what_is_wrong_with_items(competition: Competition) -> None:
    competition.text("item_feat_dict.json", json.dumps(ITEMS)[:-5])
    competition.refused(r"item_feat_dict\.json is not a valid JSON object")
    competition.text("item_feat_dict.json", json.dumps({"1": 5}))
    competition.refused(r"item_feat_dict\.json item 1 has features 5")
    competition.text("item_feat_dict.json", json.dumps({"5": {}}))
    competition.refused(r"item_feat_dict\.json has item 5, but the indexer knows only items 1\.\.4")
    competition.text("item_feat_dict.json", '{"1": {}, "1": {}}')
    competition.refused("features of item 20000000101 are given twice")
    competition.text("item_feat_dict.json", json.dumps({"1": {"100": {"a": 1}}}))
    competition.refused(r"has {'a': 1} in field '100'")
    competition.text("item_feat_dict.json", json.dumps({"1": {"100": -1}}))
    competition.refused(r"has -1 in field '100'")


def test_what_is_wrong_with_candidates(competition: Competition) -> None:
    competition.lines("predict_set.jsonl", [CANDIDATES[0], {"retrieval_id": 1}])
    competition.refused(r"predict_set\.jsonl line 2 has no creative_id")
    competition.lines("predict_set.jsonl", [{"creative_id": "ad"}])
    competition.refused(r"predict_set\.jsonl has the raw id 'ad'")
    competition.lines("predict_set.jsonl", [{"creative_id": 5, "features": [1]}])
    competition.refused(r"predict_set\.jsonl line 1 has features \[1\]")


def test_what_is_wrong_with_embeddings(competition: Competition) -> None:
    name = "creative_emb/emb_81_2.pkl"
    data = (competition.folder / name).read_bytes()
    (competition.folder / name).write_bytes(data[:-10])
    competition.refused(r"emb_81_2\.pkl ends in the middle of a pickle")
    competition.pickled(name, {RAW[1]: [1.0, 2.0], RAW[2]: [1.0, 2.0, 3.0]})
    competition.refused(r"emb_81_2\.pkl row 1 has a vector of 3 numbers after vectors of 2")
    competition.pickled(name, {RAW[1]: [1.0, 2.0, 3.0]})
    competition.refused(r"3 numbers, but emb_81_2\.pkl promises 2")
    competition.pickled(name, {RAW[1]: ["a", "b"]})
    competition.refused(r"row 0 has a vector that is not a list of numbers")
    competition.pickled(name, {RAW[1]: np.array(["a", "b"])})
    competition.refused(r"row 0 has a vector that is not a list of numbers")
    competition.pickled(name, [1.0, 2.0])
    competition.refused(r"emb_81_2\.pkl is not a readable pickle")
    competition.pickled(name, {reid: [1.0, 2.0] for reid in RAW})
    competition.refused(r"Only 0\.0% of embedding 81 joins")
    competition.pickled(name, {RAW[1]: [1.0, float("nan")]})
    competition.refused(rf"emb_81_2\.pkl row 0 \(raw id {RAW[1]}\) has NaN")
    (competition.folder / name).unlink()
    competition.text("creative_emb/emb_82_2/part-0", f'{{"anonymous_cid": "{RAW[1]}", "emb": [1.0, NaN]}}\n')
    competition.refused(rf"part-0 row 1 \(raw id {RAW[1]}\) has NaN or infinity")
    competition.text("creative_emb/emb_82_2/part-0", f'{{"anonymous_cid": "{RAW[1]}", "emb": [1.0')
    competition.refused(r"part-0 line 1 is not valid JSON")
    competition.text("creative_emb/emb_82_2/part-0", "[1]")
    competition.refused(r"part-0 line 1 is not an object with anonymous_cid and emb")
