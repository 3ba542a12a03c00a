"""Layout H: a tiny release written by hand, read to arrays worked out by hand, and every mistake named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
    "a": {0: 1, 1: 2},
}
EVENT = pa.struct([("item_id", pa.int64()), ("action_type", pa.int32()), ("timestamp", pa.int64())])


def event(item: int | None, action: int | None, time: int | None) -> dict[str, int | None]:
    return {"item_id": item, "action_type": action, "timestamp": time}


SEQUENCES = {
    2: [event(1, 0, 100), event(4, 1, 100), event(2, 2, 180)],
    3: [event(2, 0, 50), event(3, 0, 60), event(1, 1, 70)],
    1: [event(4, 0, 10), event(3, 1, 20)],
}
VALUE = pa.struct([("feature_value", pa.string()), ("cold_start", pa.int32())])


def known(value: int) -> dict[str, Any]:
    return {"feature_value": str(value), "cold_start": 0}


def unseen(value: str) -> dict[str, Any]:
    return {"feature_value": value, "cold_start": 1}


class Release:
    """A folder in layout H whose parts a test may change before :meth:`prepare`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "h"
        self.target = folder / "dataset"
        self.indexer = INDEXER
        self.write(
            "seq/0.parquet", {"user_id": list(SEQUENCES), "seq": pa.array(SEQUENCES.values(), pa.list_(EVENT))}
        )
        self.write("item_feat/0.parquet", {"item_id": [3, 1, 4], "100": [2, None, 3], "121": [5, 1, None]})
        self.write("user_feat/0.parquet", {"user_id": [1, 2], "103": [2, None], "106": [None, [4, 1]]})
        self.write(
            "candidate/0.parquet",
            {
                "item_id": [COLD[0], RAW[3], COLD[1]],
                "retrieval_id": [0, 1, 2],
                "100": pa.array([known(3), known(1), unseen("77")], VALUE),
                "121": pa.array([unseen("5"), None, {"feature_value": None, "cold_start": 0}], VALUE),
            },
        )
        self.embedding("81", 2, {RAW[2]: [1.0, 2.0], COLD[0]: [3.0, 4.0], RAW[1]: None, RAW[4]: [5.0, 6.5]})

    def write(self, name: str, columns: dict[str, Any]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def embedding(self, name: str, dim: int, vectors: dict[Any, Any], part: str = "0", kind: Any = None) -> None:
        self.write(
            f"mm_emb/emb_{name}_{dim}_parquet/{part}.parquet",
            {
                "anonymous_cid": pa.array([None if raw is None else str(raw) for raw in vectors], pa.string()),
                "emb": pa.array(vectors.values(), kind or pa.list_(pa.float32())),
            },
        )

    def prepare(self, **config: Any) -> Dataset:
        (self.folder / "indexer.pkl").write_bytes(pickle.dumps(self.indexer))
        return prepare(self.folder, self.target, PrepareConfig(**config))

    def refused(self, message: str, **config: Any) -> None:
        with pytest.raises(InputError, match=message):
            self.prepare(**config)
        assert not self.target.exists()
        assert not list(self.target.parent.glob("*.partial")) + list(self.target.parent.glob(".*partial"))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def single(dataset: Dataset, kind: str, name: str) -> list[int]:
    fields = dataset.item_fields if kind == "items" else dataset.user_fields
    column: list[int] = fields.values[:, fields.names.index(name)].tolist()
    return column


def test_everything_lands_where_it_belongs(release: Release) -> None:
    dataset = release.prepare()
    assert dataset.item_ids.tolist() == [RAW[1], RAW[2], RAW[3], RAW[4], *COLD]
    assert dataset.user_ids.tolist() == ["user_b", "user_c", "user_a"]
    assert dataset.action_names == ("exposure", "click", "conversion")
    assert dataset.action_weights == (0.0, 1.0, 2.5)
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
    assert dataset.user_fields.sizes == (4,)
    assert single(dataset, "users", "103") == [0, 0, 3]
    lists = dataset.user_fields.lists["106"]
    assert (lists.offsets.tolist(), lists.values.tolist(), lists.size) == ([0, 2, 2, 2], [5, 2], 6)
    embedding = dataset.embedding("81")
    assert embedding.valid.tolist() == [False, True, False, True, True, False]
    assert embedding.vectors.tolist() == [[0, 0], [1, 2], [0, 0], [5, 6.5], [3, 4], [0, 0]]
    report = dataset.artifact_or_raise.details["report"]
    assert report["candidates"] == {"rows": 3, "repeated": 0, "cold": 2}
    facts = report["embeddings"]["81"]
    assert (facts["vectors"], facts["without_vector"], facts["join_rate"], facts["coverage"]) == (3, 1, 1.0, 0.5)
    assert not (release.target / "spool").exists()


def test_the_organisers_candidate_schema_reads_the_same(release: Release) -> None:
    expected = release.prepare().artifact_or_raise.files
    value = pa.struct([("feature_value", pa.string()), ("is_str", pa.int64())])
    release.write(
        "candidate/0.parquet",
        {
            "creative_id": [str(COLD[0]), str(RAW[3]), str(COLD[1])],
            "reid_creative_id": [0, 3, 0],
            "retrieval_id": [0, 1, 2],
            "100": pa.array([{"feature_value": "3", "is_str": 0}, None, {"feature_value": "77", "is_str": 1}], value),
            "121": pa.array([{"feature_value": "5", "is_str": 1}, None, None], value),
        },
    )
    assert release.prepare().artifact_or_raise.files == expected


def test_bare_candidate_values(release: Release) -> None:
    release.write(
        "candidate/0.parquet",
        {"item_id": [*COLD, RAW[1]], "100": [3, None, 1], "121": [4.0, float("nan"), 2.0], "130": [[2, 1], [], None]},
    )
    dataset = release.prepare()
    assert single(dataset, "items", "100") == [0, 0, 3, 4, 4, 0]
    assert single(dataset, "items", "121") == [2, 0, 6, 0, 5, 0]
    assert dataset.item_fields.lists["130"].values.tolist() == [3, 2]
    assert dataset.item_fields.lists["130"].offsets.tolist() == [0, 0, 0, 0, 0, 2, 2]


def test_lists_of_structs_and_single_values_in_a_list_field(release: Release) -> None:
    release.write("item_feat/0.parquet", {"item_id": [1, 2], "100": [3, None], "121": [None, None]})
    release.write(
        "candidate/0.parquet",
        {"item_id": [COLD[0]], "100": pa.array([[known(2), unseen("x"), None]], pa.list_(VALUE))},
    )
    dataset = release.prepare()
    assert dataset.item_fields.names == (), "100 is a list field, 121 has no value anywhere"
    assert dataset.item_fields.lists["100"].offsets.tolist() == [0, 1, 1, 1, 1, 3]
    assert dataset.item_fields.lists["100"].values.tolist() == [4, 3, 1]
    assert dataset.item_fields.lists["100"].size == 5


def test_a_candidate_given_twice_counts_once(release: Release) -> None:
    release.write("candidate/0.parquet", {"item_id": [COLD[0], RAW[1], COLD[0], RAW[1]], "100": [1, 1, 2, 2]})
    dataset = release.prepare()
    assert dataset.candidates.tolist() == [0, 4]
    assert single(dataset, "items", "100") == [0, 0, 3, 4, 2]
    assert dataset.artifact_or_raise.details["report"]["candidates"]["repeated"] == 2


@pytest.mark.parametrize("folder", ["item_feat", "user_feat", "candidate", "mm_emb"])
def test_optional_parts(release: Release, folder: str) -> None:
    (release.folder / folder).rename(release.folder / "elsewhere")
    dataset = release.prepare()
    if folder == "candidate":
        assert dataset.candidates.tolist() == [0, 1, 2, 3]
        assert dataset.num_items == 4
    if folder == "item_feat":
        assert single(dataset, "items", "100") == [0, 0, 0, 0, 4, 1]
    if folder == "user_feat":
        assert dataset.user_fields.values.shape == (3, 0)
        assert dataset.user_fields.lists == {}
    assert list(dataset.embeddings) == ([] if folder == "mm_emb" else ["81"])


def test_gaps_in_events(release: Release) -> None:
    rows = [[event(1, None, 5), event(None, 1, 6), event(2, 0, None), None, event(0, 0, 9), event(3, 1, 7)], None, []]
    release.write("seq/0.parquet", {"user_id": [1, 2, 3], "seq": pa.array(rows, pa.list_(EVENT))})
    dataset = release.prepare()
    assert dataset.events.items.tolist() == [0, 1, 2]
    assert dataset.events.actions.tolist() == [ACTION_UNKNOWN, 0, 1]
    assert dataset.events.times.tolist() == [5, TIME_MISSING, 7]
    assert dataset.events.offsets.tolist() == [0, 3, 3, 3]
    report = dataset.artifact_or_raise.details["report"]
    assert report["events_without_item"] == 3
    assert report["events_without_action"] == 1
    assert report["events_without_time"] == 1
    dropped = release.prepare(null_action="drop")
    assert dropped.events.items.tolist() == [1, 2]
    assert dropped.events.offsets.tolist() == [0, 2, 2, 2]
    release.target = release.target.with_name("other")
    release.refused(r"seq/0\.parquet rows 0\.\.2: user 'user_a' has an event without an action", null_action="error")


def test_numbers_with_gaps_as_pandas_leaves_them(release: Release) -> None:
    expected = release.prepare().artifact_or_raise.files
    nan = float("nan")
    release.write(
        "item_feat/0.parquet",
        {"item_id": [3.0, 1.0, 4.0], "100": [2.0, nan, 3.0], "121": pa.array(["5", "1", None]).dictionary_encode()},
    )
    release.write(
        "user_feat/0.parquet",
        {
            "user_id": ["1", "2"],
            "103": [2.0, nan],
            "106": pa.array([None, [4.0, nan, 1.0]], pa.large_list(pa.float64())),
        },
    )
    assert release.prepare().artifact_or_raise.files == expected


def test_files_in_parts_and_files_that_are_not_data(release: Release) -> None:
    expected = release.prepare().artifact_or_raise.files
    (release.folder / "seq" / "0.parquet").unlink()
    for part, user in enumerate(SEQUENCES):
        release.write(f"seq/train-{part}.parquet", {"user_id": [user], "seq": pa.array([SEQUENCES[user]])})
    (release.folder / "seq" / "_SUCCESS").touch()
    (release.folder / "seq" / ".0.parquet").write_text("junk")
    (release.folder / "mm_emb" / "README.md").write_text("junk")
    assert release.prepare().artifact_or_raise.files == expected


def test_users_without_sequences_are_left_out(release: Release) -> None:
    release.indexer = INDEXER | {"u": INDEXER["u"] | {"user_d": 4}}
    release.write("user_feat/0.parquet", {"user_id": [4, 2], "103": [1, 2]})
    dataset = release.prepare()
    assert dataset.num_users == 3
    assert single(dataset, "users", "103") == [3, 0, 0]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.list_(pa.float32(), 2), pa.string()]
)
def test_embeddings_of_any_column_type(release: Release, kind: Any) -> None:
    expected = release.prepare().artifact_or_raise.files
    vectors: dict[Any, Any] = {RAW[2]: [1, 2], COLD[0]: [3, 4], RAW[1]: None, RAW[4]: [5, 6.5]}
    if kind == pa.string():
        vectors = {raw: json.dumps(vector) for raw, vector in vectors.items()}
    elif kind == pa.large_list(pa.float16()):
        vectors = {raw: None if v is None else np.array(v, np.float16) for raw, v in vectors.items()}
    release.embedding("81", 2, vectors, kind=kind)
    assert release.prepare().artifact_or_raise.files == expected


def test_rows_without_an_id_or_a_vector_and_repeated_ones(release: Release) -> None:
    release.embedding("81", 2, {None: [1, 1], RAW[1]: [], RAW[2]: [2, 3], 5: [9, 9], RAW[3]: [1, 0], RAW[4]: [0, 1]})
    release.embedding("81", 2, {RAW[2]: [7, 7], RAW[1]: [8, 8]}, part="1")
    embedding = release.prepare().embedding("81")
    assert embedding.vectors[:4].tolist() == [[8, 8], [2, 3], [1, 0], [0, 1]]
    facts = Dataset.open(release.target).artifact_or_raise.details["report"]["embeddings"]["81"]
    assert (facts["without_vector"], facts["without_item"], facts["repeated"]) == (2, 1, 1)


def test_chosen_embeddings_come_in_order_of_their_ids(release: Release) -> None:
    release.embedding("100", 1, {RAW[1]: [1.0]})
    release.embedding("9", 1, {RAW[1]: [1.0]})
    release.embedding("text", 1, {RAW[1]: [1.0]})
    assert list(release.prepare().embeddings) == ["9", "81", "100", "text"]
    assert list(release.prepare(embeddings=("100", "81")).embeddings) == ["81", "100"]
    assert release.prepare(float_dtype="float32").embedding("81").vectors.dtype == np.float32


def test_what_is_wrong_with_embeddings(release: Release) -> None:
    folder = release.folder / "mm_emb" / "emb_81_2_parquet"
    release.refused("No embedding '82' in .*mm_emb; it has: 81", embeddings=("82",))
    release.embedding("81", 2, {RAW[1]: [1.0, 2.0], RAW[2]: [float("nan"), 0.0]})
    release.refused(rf"0\.parquet row 1 \(raw id {RAW[2]}\) has NaN or infinity")
    release.embedding("81", 2, {RAW[1]: [1.0, 2.0], RAW[2]: [float("inf"), 0.0]})
    release.refused(r"0\.parquet row 1 .* has NaN or infinity")
    release.embedding("81", 2, {RAW[1]: [1.0, 2.0], RAW[2]: [None, 0.0]})
    release.refused(r"0\.parquet row 1 .* has NaN")
    release.embedding("81", 2, {RAW[1]: [1.0, 2.0], RAW[2]: [1.0, 0.0, 3.0]})
    release.refused(r"0\.parquet row 1 has a vector of 3 numbers after vectors of 2")
    release.embedding("81", 2, {RAW[1]: [1.0, 2.0, 3.0]})
    release.refused(r"vector of 3 numbers, but emb_81_2_parquet promises 2")
    release.embedding("81", 2, {RAW[1]: None})
    release.refused(r"emb_81_2_parquet holds no vectors")
    release.embedding("81", 2, {"abc": [1.0, 2.0]})
    release.refused(r"column 'anonymous_cid' must hold integers .*abc")
    release.embedding("81", 2, {RAW[1]: "[1, x]"}, kind=pa.string())
    release.refused(r"0\.parquet row 0 has an embedding that is not a JSON list of numbers")
    release.embedding("81", 2, {RAW[1]: 1.5}, kind=pa.float32())
    release.refused(r"column 'emb' is float")
    release.embedding("81", 2, {RAW[1]: ["a", "b"]}, kind=pa.list_(pa.string()))
    release.refused(r"column 'emb' is list.*expected lists of numbers")
    release.write("mm_emb/emb_81_2_parquet/0.parquet", {"creative_id": [1]})
    release.refused(r"0\.parquet has no column")
    (folder / "0.parquet").unlink()
    release.refused(r"emb_81_2_parquet holds no \*\.parquet files")
    folder.rename(folder.with_name("emb_82_2_parquet"))
    release.embedding("82", 4, {RAW[1]: [1.0] * 4})
    release.refused("Embedding 82 is there twice")


def test_embeddings_of_other_ids_are_an_error_that_names_both(release: Release) -> None:
    release.embedding("81", 2, {reid: [1.0, 2.0] for reid in RAW})
    release.refused(rf"Only 0\.0% of embedding 81 joins .* raw ids are like 1, 2, 3, .* like {RAW[1]}, {RAW[2]}")
    assert not release.prepare(min_join_rate=0.0).embedding("81").valid.any()


@pytest.mark.parametrize("missing", ["seq", "indexer.pkl"])
def test_needed_parts(release: Release, missing: str) -> None:
    (release.folder / "indexer.pkl").write_bytes(pickle.dumps(INDEXER))
    (release.folder / missing).rename(release.folder / "elsewhere")
    with pytest.raises(InputError, match=f"No .*{missing}"):
        prepare(release.folder, release.target, PrepareConfig(layout="tencentgr-h"))


def test_what_is_wrong_with_sequences(release: Release) -> None:
    def sequences(users: list[Any], rows: list[Any], kind: Any = None) -> None:
        release.write("seq/0.parquet", {"user_id": users, "seq": pa.array(rows, kind or pa.list_(EVENT))})

    good = [event(1, 0, 5)]
    sequences([1, 7], [good, good])
    release.refused(r"seq/0\.parquet rows 0\.\.1: has user 7, but the indexer knows only users 1\.\.3")
    sequences([1, None], [good, good])
    release.refused("has user 0")
    sequences([1, 2, 1], [good, good, good])
    release.refused("has user 1, who already came")
    sequences([1], [[event(RAW[1], 0, 5)]])
    release.refused(f"user 'user_a' has item {RAW[1]}, but the indexer knows only items 1..4")
    sequences([1], [[event(1, 3, 5)]])
    release.refused("user 'user_a' has action 3")
    sequences([1, 2], [good, [event(1, 0, 9), event(2, 0, 8)]])
    release.refused("The events of user 'user_b'.* go back in time, from 9 to 8")
    sequences([1], [[5]], pa.list_(pa.int64()))
    release.refused("expected a list of structs with 'item_id'")
    sequences([], [])
    release.refused("no users")
    data = (release.folder / "seq" / "0.parquet").read_bytes()
    (release.folder / "seq" / "0.parquet").write_bytes(data[: len(data) // 2])
    release.refused(r"seq/0\.parquet is truncated or damaged")
    (release.folder / "seq" / "0.parquet").unlink()
    release.refused(r"seq holds no \*\.parquet files")


def test_what_is_wrong_with_features(release: Release) -> None:
    release.write("item_feat/0.parquet", {"item_id": [1, 2], "100": [1, 4]})
    release.refused(r"item_feat/0\.parquet has 4 in field '100', which has only 3 values in the indexer")
    release.write("item_feat/0.parquet", {"item_id": [1, 2], "100": [1, -4]})
    release.refused(r"item_feat/0\.parquet column '100' holds -4")
    release.write("item_feat/0.parquet", {"item_id": [1, 2], "100": ["red", "blue"]})
    release.refused(r"column '100' must hold integers")
    release.write("item_feat/0.parquet", {"item_id": [1, RAW[2]], "100": [1, 1]})
    release.refused(rf"has item {RAW[2]}, but the indexer knows only items 1\.\.4")
    release.write("item_feat/0.parquet", {"item_id": [1, 2, 1], "100": [1, 1, 1]})
    release.refused(rf"The features of item {RAW[1]} are given twice")
    release.write("item_feat/0.parquet", {"100": [1]})
    release.refused(r"has no column 'item_id'")
    release.write("item_feat/0.parquet", {"item_id": [1], "100": [1]})
    release.write("user_feat/0.parquet", {"user_id": [1, 9], "103": [1, 1]})
    release.refused("has user 9")
    release.write("user_feat/0.parquet", {"user_id": [1, 1], "103": [1, 1]})
    release.refused("The features of user row 2 are given twice")


def test_what_is_wrong_with_candidates(release: Release) -> None:
    release.write("candidate/0.parquet", {"retrieval_id": [1]})
    release.refused("neither creative_id nor item_id")
    release.write("candidate/0.parquet", {"item_id": pa.array([RAW[1], None])})
    release.refused("1 candidates without item_id")
    release.write("candidate/0.parquet", {"item_id": COLD, "100": pa.array([{"a": 1}, {"a": 2}])})
    release.refused("expected 'feature_value' with cold_start or is_str")
    release.write(
        "candidate/0.parquet", {"item_id": COLD, "100": pa.array([known(1), {"feature_value": "x"}], VALUE)}
    )
    release.refused("column '100' must hold integers")
