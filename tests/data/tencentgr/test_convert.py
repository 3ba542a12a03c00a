"""Layout H and what it converts to read to the same dataset, byte for byte."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.data.synthetic.generator import SyntheticConfig, synthesise
from semid.data.tencentgr.convert import convert_h_to_c
from semid.errors import InputError

SMALL = SyntheticConfig(
    users=120, items=150, embeddings=(("81", 8), ("82", 12), ("85", 5)), seed=3, mean_events=12, null_actions=0.1
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    synthesise(tmp_path / "h", SMALL)
    return tmp_path / "h"


def rewrite(source: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    path = next((source / name).glob("*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)


def both(source: Path, **config: Any) -> tuple[Dataset, Dataset]:
    convert_h_to_c(source, source.with_name("c"))
    datasets = [
        prepare(folder, source.with_name(f"{folder.name}_dataset"), PrepareConfig(layout=layout, **config))
        for folder, layout in ((source, "tencentgr-h"), (source.with_name("c"), "tencentgr-c"))
    ]
    return datasets[0], datasets[1]


def assert_same(source: Path, **config: Any) -> Dataset:
    h, c = both(source, **config)
    assert h.artifact_or_raise.files == c.artifact_or_raise.files
    details = h.artifact_or_raise.details, c.artifact_or_raise.details
    for part in ("item_fields", "user_fields", "embeddings", "action_names", "counts"):
        assert details[0][part] == details[1][part]
    for fact in ("candidates", "events_without_item", "events_without_action", "events_without_time"):
        assert details[0]["report"][fact] == details[1]["report"][fact]
    return h


@pytest.mark.parametrize("null_action", ["unknown", "drop"])
@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
def test_synthetic_data(source: Path, null_action: str, float_dtype: str) -> None:
    dataset = assert_same(source, null_action=null_action, float_dtype=float_dtype)
    report = dataset.artifact_or_raise.details["report"]
    assert dataset.num_users == 120
    assert report["events_without_action"] > 50
    assert report["candidates"]["cold"] > 20
    assert 0.2 < report["embeddings"]["85"]["coverage"] < 0.6
    assert len(dataset.user_fields.lists) == 4


def test_gaps_everywhere(source: Path) -> None:
    rng = np.random.default_rng(0)

    def holes(table: pa.Table) -> pa.Table:
        rows = table["seq"].to_pylist()
        for row in rows:
            for event in row:
                for name in ("item_id", "timestamp", "action_type"):
                    if rng.random() < 0.1:
                        event[name] = None
        rows[5], rows[6], rows[7][0] = None, [], None
        return table.set_column(1, "seq", pa.array(rows, table.schema.field("seq").type))

    rewrite(source, "seq", holes)
    rewrite(source, "item_feat", lambda table: table.slice(20).set_column(2, "101", pa.nulls(len(table) - 20)))
    rewrite(source, "user_feat", lambda table: table.take(rng.permutation(len(table))[10:]))
    dataset = assert_same(source)
    report = dataset.artifact_or_raise.details["report"]
    assert min(report[f"events_without_{what}"] for what in ("item", "action", "time")) > 20


def test_the_other_candidate_schema_and_bare_values(source: Path) -> None:
    def organisers(table: pa.Table) -> pa.Table:
        columns = {name: table[name] for name in table.column_names}
        columns["creative_id"] = columns.pop("item_id").cast(pa.string())
        columns["reid_creative_id"] = pa.array(np.zeros(len(table), np.int64))
        del columns["retrieval_id"]
        columns["100"] = pa.array([float("nan"), *np.arange(len(table) - 1) % 6 + 1.0])
        renamed = [pa.field("feature_value", pa.string()), pa.field("is_str", pa.int32())]
        flat = columns["102"].combine_chunks().flatten()
        columns["102"] = pa.StructArray.from_arrays(flat, fields=renamed)
        columns["115"] = pa.array([[1, 2], None, [], *[[3]] * (len(table) - 3)])
        return pa.table(columns)

    rewrite(source, "candidate", organisers)
    dataset = assert_same(source)
    assert "115" in dataset.item_fields.lists


@pytest.mark.parametrize("part", ["item_feat", "user_feat", "candidate", "mm_emb"])
def test_missing_parts(source: Path, part: str) -> None:
    (source / part).rename(source.with_name("elsewhere"))
    assert_same(source)


def test_the_files_are_what_others_read(source: Path) -> None:
    convert_h_to_c(source, source.with_name("c"))
    target = source.with_name("c")
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert names == [
        "creative_emb/emb_81_8.pkl",
        "creative_emb/emb_82_12/part-00000.json",
        "creative_emb/emb_85_5/part-00000.json",
        "indexer.pkl",
        "item_feat_dict.json",
        "item_feat_num.json",
        "predict_set.jsonl",
        "seq.jsonl",
        "seq_offsets.pkl",
        "user_feat_num.json",
    ]
    offsets = pickle.loads((target / "seq_offsets.pkl").read_bytes())
    indexer = pickle.loads((target / "indexer.pkl").read_bytes())
    text = (target / "seq.jsonl").read_bytes()
    users = pq.read_table(source / "seq")["user_id"].to_pylist()
    sequences = pq.read_table(source / "seq")["seq"].to_pylist()
    features = {row.pop("item_id"): row for row in pq.read_table(source / "item_feat").to_pylist()}
    profiles = {row.pop("user_id"): row for row in pq.read_table(source / "user_feat").to_pylist()}

    def given(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if value is not None}

    assert len(offsets) == len(users)
    for offset, user, sequence in zip(offsets, users, sequences, strict=True):
        line = json.loads(text[offset : text.index(b"\n", offset)])
        expected = [
            [user, e["item_id"], None, given(features[e["item_id"]]), e["action_type"], e["timestamp"]]
            for e in sequence
        ]
        assert line == [*expected, [user, None, given(profiles[user]), None, None, sequence[-1]["timestamp"]]]
    items = json.loads((target / "item_feat_dict.json").read_text())
    assert items == {str(reid): given(row) for reid, row in features.items()}
    pool = [json.loads(line) for line in (target / "predict_set.jsonl").read_text().splitlines()]
    rows = pq.read_table(source / "candidate").to_pylist()
    assert [line["creative_id"] for line in pool] == [row["item_id"] for row in rows]
    for line, row in zip(pool, rows, strict=True):
        for name, value in row.items():
            if isinstance(value, dict):
                text_value = value["feature_value"]
                assert line["features"][name] == (text_value if value["cold_start"] else int(text_value))
    vectors = pickle.loads((target / "creative_emb/emb_81_8.pkl").read_bytes())
    stored = pq.read_table(source / "mm_emb/emb_81_8_parquet").to_pylist()
    assert vectors == {int(row["anonymous_cid"]): row["emb"] for row in stored if row["emb"] is not None}
    sizes = json.loads((target / "item_feat_num.json").read_text())
    assert sizes["100"] == len(indexer["f"]["100"])


def test_trouble_leaves_nothing_behind(source: Path) -> None:
    target = source.with_name("c")

    def interrupt(what: str, done: int, total: int | None) -> None:
        if what == "users":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_h_to_c(source, target, interrupt)
    rewrite(source, "seq", lambda table: table.set_column(0, "user_id", pa.array([999] * len(table))))
    with pytest.raises(InputError, match="has user 999"):
        convert_h_to_c(source, target)
    assert sorted(path.name for path in source.parent.iterdir()) == ["h"]
    target.mkdir()
    (target / "mine").touch()
    with pytest.raises(InputError, match="already exists"):
        convert_h_to_c(source, target)
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_vectors_are_checked(source: Path) -> None:
    bad = pa.array([[float("nan")] * 12], pa.list_(pa.float32()))
    rewrite(source, "mm_emb/emb_82_12_parquet", lambda table: pa.table({"anonymous_cid": ["5"], "emb": bad}))
    with pytest.raises(InputError, match="NaN or infinity"):
        convert_h_to_c(source, source.with_name("c"))


def test_progress_is_told(source: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    convert_h_to_c(source, source.with_name("c"), lambda *call: calls.append(call))
    assert ("users", 120, 120) in calls
    assert {what for what, _, _ in calls} >= {"item features", "candidates", "embedding 85"}
