"""``semid append``, ``semid drift`` and ``semid refit`` as a shell sees them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.tokenizers.tokenizer import SemanticIdTokenizer

SYNTH = ("--users", "200", "--items", "120", "--emb", "81:6,82:8", "--mean-events", "12")
NEW = 30
FIT = ("--emb", "82", "--codes", "9", "--svd", "6")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, succeeded) -> Path:
    """A dataset and a tokenizer fitted on it."""
    folder = tmp_path_factory.mktemp("shop")
    succeeded("data", "synth", folder / "raw", *SYNTH)
    succeeded("data", "prepare", folder / "raw", folder / "data", "--target-actions", "click,conversion")
    succeeded("fit", *FIT, "--data", folder / "data", "--out", folder / "tokenizer")
    return folder


@pytest.fixture
def older(shop: Path, tmp_path: Path) -> Path:
    """The tokenizer as it would be, had the last 30 items of the dataset come after the fit."""
    tokenizer = SemanticIdTokenizer.load(shop / "tokenizer")
    ids = Dataset.open(shop / "data").item_ids
    tokenizer.remove(np.arange(len(ids) - NEW, len(ids)))
    tokenizer.save(tmp_path / "tokenizer", item_ids=ids[:-NEW])
    return tmp_path / "tokenizer"


def test_append_replaces_the_tokenizer_in_place(shop, older, succeeded):
    before = SemanticIdTokenizer.load(older).semantic_ids_.codes
    printed = succeeded("append", "--data", shop / "data", "--tokenizer", older)
    assert f"({NEW} new, 0 gone)" in printed
    after = SemanticIdTokenizer.load(older)
    np.testing.assert_array_equal(after.semantic_ids_.codes[:-NEW], before)
    assert after.semantic_ids_.is_unique
    assert after.artifact_.settings["tokenizer"] == str(older)
    assert succeeded("inspect", older)
    assert "(0 new, 0 gone)" in succeeded("append", "--config", older / "settings.toml")


def test_append_elsewhere_as_json(shop, older, tmp_path, succeeded):
    printed = succeeded(
        "append", "--data", shop / "data", "--tokenizer", older, "--out", tmp_path / "t", "--json", "-"
    )
    report = json.loads(printed)
    num_items = Dataset.open(shop / "data").num_items
    assert (report["items"], report["added"], report["removed"], report["since_fit"]) == (num_items, NEW, 0, NEW)
    assert SemanticIdTokenizer.load(older).semantic_ids_.num_items == num_items - NEW
    assert SemanticIdTokenizer.load(tmp_path / "t").semantic_ids_.num_items == num_items


def test_an_appended_tokenizer_trains(shop, older, tmp_path, succeeded):
    succeeded("append", "--data", shop / "data", "--tokenizer", older)
    model = ("--preset", "tiny", "--width", "16", "--heads", "2", "--kv-heads", "1", "--layers", "1", "--epochs", "1")
    places = ("--data", shop / "data", "--tokenizer", older, "--out", tmp_path / "model")
    succeeded("train", *model, *places)
    assert (tmp_path / "model" / "config.json").is_file()


def test_append_takes_the_model_along(inside, succeeded):
    """On the same items the model answers as before, and is one like any other."""
    places = ("--out", "runs/t", "--model", "runs/model", "--model-out", "runs/m")
    succeeded("append", "--data", "data", "--tokenizer", "runs/tokenizer", "--model-data", "data", *places)
    answers = ("--data", "data", "--beam", "20", "--out")
    for model in ("model", "m"):
        succeeded("generate", "--model", f"runs/{model}", *answers, f"{model}.jsonl")
    assert (inside / "m.jsonl").read_text() == (inside / "model.jsonl").read_text()
    assert (inside / "runs/m/settings.toml").is_file()
    assert "hybrid" in succeeded(
        "compare", "--model", "runs/m", "--data", "data", "--queries", "20", "--no-latencies"
    )


def test_drift_of_old_and_new(shop, older, tmp_path, succeeded):
    printed = succeeded("drift", "--data", shop / "data", "--tokenizer", older, "--json", tmp_path / "drift.json")
    report = json.loads((tmp_path / "drift.json").read_text())
    assert report["verdict"] in ("fine", "refit")
    assert report["new"]["items"] == NEW
    assert "verdict" in printed
    assert "relative error, unseen" in printed
    nothing = succeeded("drift", "--data", shop / "data", "--tokenizer", shop / "tokenizer")
    assert "no items that came after the fit" in nothing


def test_refit_keep_lists_changes(shop, older, tmp_path, succeeded):
    before = SemanticIdTokenizer.load(older).semantic_ids_.codes
    arguments = ("--data", shop / "data", "--tokenizer", older, "--json", tmp_path / "refit.json")
    printed = succeeded("refit", "--keep", *arguments)
    after = SemanticIdTokenizer.load(older)
    report = json.loads((tmp_path / "refit.json").read_text())
    changed = (after.semantic_ids_.codes[:-NEW] != before).any(axis=1)
    table = pq.read_table(older.with_name("tokenizer.changes.parquet")).to_pydict()
    ids = Dataset.open(shop / "data").item_ids
    assert table["item_id"] == ids[:-NEW][changed].tolist()
    assert report["changed"] == changed.sum()
    assert report["keep"] is True
    assert "changed codes" in printed
    assert after.fitted_.all()


def test_refit_without_keep_is_a_fit(shop, older, tmp_path, succeeded):
    out = ("--out", tmp_path / "again", "--changes", tmp_path / "changes.jsonl")
    succeeded("refit", "--data", shop / "data", "--tokenizer", older, *out)
    again, fresh = SemanticIdTokenizer.load(tmp_path / "again"), SemanticIdTokenizer.load(shop / "tokenizer")
    np.testing.assert_array_equal(again.semantic_ids_.codes, fresh.semantic_ids_.codes)
    # the tokenizer had been fitted to these very items
    assert (tmp_path / "changes.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("append", "--tokenizer", "none"), "No tokenizer at none"),
        (("append", "--data", "none"), "No dataset at none"),
        (("append", "--model", "none"), "No model at none"),
        (("append", "--model-out", "m"), "--model-out and --model-data say where a model goes and comes from"),
        (("drift", "--tolerance", "-1"), "The tolerance is -1.0"),
        (("drift", "--confidence", "2"), "The confidence is 2.0"),
        (("refit", "--keep", "--tolerance", "-1"), "The tolerance is -1.0"),
        (("refit", "--changes", "changes.csv"), "suffix '.csv'"),
    ],
)
def test_mistakes_are_one_sentence(shop, older, semid, arguments, sentence):
    places = [] if "--data" in arguments else ["--data", shop / "data"]
    places += [] if "--tokenizer" in arguments else ["--tokenizer", older]
    before = SemanticIdTokenizer.load(older).artifact_
    result = semid(*arguments, *places)
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert SemanticIdTokenizer.load(older).artifact_ == before


def test_a_killed_write_leaves_the_old_tokenizer(shop, older, semid, monkeypatch):
    before = SemanticIdTokenizer.load(older).artifact_

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semid.artifacts.save_file", full)
    result = semid("append", "--data", shop / "data", "--tokenizer", older)
    monkeypatch.undo()
    assert result.exit_code == 1
    assert SemanticIdTokenizer.load(older).artifact_ == before
    assert [path.name for path in older.parent.iterdir()] == ["tokenizer"]


def test_a_dataset_of_other_items(shop, older, tmp_path, semid):
    other = tmp_path / "other"
    shutil.copytree(shop / "data", other)
    table = pq.read_table(other / "items.parquet")
    renamed = table.set_column(0, "raw_id", [[f"x{row}" for row in range(table.num_rows)]])
    pq.write_table(renamed, other / "items.parquet")
    config = json.loads((other / "config.json").read_text())
    config["files"]["items.parquet"]["bytes"] = (other / "items.parquet").stat().st_size
    (other / "config.json").write_text(json.dumps(config))
    result = semid("append", "--data", other, "--tokenizer", older)
    assert result.exit_code == 1
    assert "is among those of" in result.stderr
