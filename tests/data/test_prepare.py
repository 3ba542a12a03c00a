import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.data.prepare import detect_layout, prepare
from semid.data.reading import PrepareConfig
from semid.errors import InputError

DATA = Path(os.environ.get("SEMID_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="SEMID_DATA names no folder of real data sets")
SETS = (
    "amazon14_beauty",
    "amazon14_sports",
    "amazon18_arts_mql4grec",
    "amazon18_games_llmrank",
    "amazon18_industrial_minionerec",
    "amazon18_instruments_letter",
    "amazon18_instruments_mql4grec",
    "amazon23_industrial_mm_small",
    "jdata_demo",
    "tiktok_mm",
)


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["seq/part-0.parquet", "indexer.pkl"], "tencentgr-h"),
        (["seq.jsonl", "indexer.pkl"], "tencentgr-c"),
        (["interactions.parquet"], "table"),
        (["interactions.csv"], "table"),
        (["samples.parquet"], "table"),
    ],
)
def test_layouts_are_told_by_their_files(tmp_path: Path, files: list[str], layout: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert detect_layout(tmp_path) == layout


def test_an_unknown_layout_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"seq/\*\.parquet with indexer\.pkl .* seq\.jsonl .* interactions\.parquet"):
        prepare(tmp_path, tmp_path / "d")
    with pytest.raises(InputError, match="No folder"):
        prepare(tmp_path / "no", tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layout": "csv"}, "Unknown layout 'csv': use one of auto, tencentgr-h"),
        ({"float_dtype": "float64"}, "Unknown float_dtype 'float64': use one of float16, float32"),
        ({"null_action": "zero"}, "Unknown null_action 'zero'"),
        ({"min_join_rate": 1.5}, "min_join_rate=1.5 must be a share"),
    ],
)
def test_impossible_settings_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrepareConfig(**option)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "interactions.csv").write_text("user_id,item_id,position\n1,1,0\n1,2,1\n")

    def interrupt(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "raw", tmp_path / "d", progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_a_full_disk_leaves_nothing_and_names_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "interactions.csv").write_text("user_id,item_id,position\n1,0,0\n1,1,1\n")
    np.save(tmp_path / "raw" / "emb_82.npy", np.ones((2, 3)))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        prepare(tmp_path / "raw", tmp_path / "d")
    assert caught.value.filename == str(tmp_path / "d")
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def counted(data: Dataset, split: str) -> int:
    """Targets of one split."""
    return len(data.queries[split].target_items) if split in data.queries else 0


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_real_sets_have_the_published_counts(tmp_path: Path, name: str) -> None:
    facts = json.loads((DATA / "datasets.json").read_text())[name]
    data = prepare(DATA / name, tmp_path / "d")
    assert data.num_items == facts["items"]
    assert data.num_users == facts.get("users", 7595)
    assert set(data.embeddings) == {f.removeprefix("emb_").removesuffix(".f16.npy") for f in facts["embeddings"]}
    for file, (rows, dim) in facts["embeddings"].items():
        embedding = data.embedding(file.removeprefix("emb_").removesuffix(".f16.npy"))
        np.testing.assert_array_equal(embedding.vectors, np.load(DATA / name / file))
        assert embedding.vectors.shape == (rows, dim)
    splits = facts.get("samples.parquet") or facts["split"]
    trained = int((data.train_end - data.events.offsets[:-1]).sum())
    report = data.artifact_or_raise.details["report"]["split"]
    if "samples.parquet" in facts:
        # 6,177 users train, each on one event more than it has training rows.
        assert trained == data.events.num_events == splits["train"] + 6177
        assert (counted(data, "valid"), counted(data, "test")) == (splits["valid"], splits["test"])
        return
    assert data.events.num_events == facts["interactions"]
    lonely = {split: report.get(f"{split}_events_without_history", 0) for split in ("valid", "test")}
    assert counted(data, "test") + lonely["test"] == splits["2"]
    if "1" in splits:
        assert trained == splits["0"]
        assert counted(data, "valid") + lonely["valid"] == splits["1"]
    else:  # the last training event of each user was held out instead
        assert trained + counted(data, "valid") == splits["0"]
