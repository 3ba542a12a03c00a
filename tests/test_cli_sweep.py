"""``semid sweep``: a study from the shell, its settings, and every mistake as one sentence."""

import json
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from semid.pipeline.sweep import run as sweep_run

QUICK = ("--preset", "tiny", "--seeds", "0", "--epochs", "1", "--queries", "30", "--precision", "float32")


def test_a_study_prints_its_table_and_is_repeated_from_its_settings(inside, succeeded, semid, monkeypatch):
    axes = ("--axis", "width=8,16,32", "--axis", "negatives=4")
    table = succeeded("sweep", *QUICK, *axes, "--json", "all.json")
    content = json.loads(Path("all.json").read_text())
    assert content == json.loads(Path("runs/sweep/sweep.json").read_text())
    assert [run["name"] for run in content["runs"]] == ["negatives=4", "width=8", "width=16", "width=32"]
    assert content["data"] == "data"
    for name in ("axis", "NDCG@10", "tokens/s", "trunk weights", "fit", "x^", "hybrid", "30 queries"):
        assert name in table, name
    assert ElementTree.parse("runs/sweep/sweep.svg").getroot().tag.endswith("svg")
    settings = tomllib.loads(Path("runs/sweep/sweep.settings.toml").read_text())
    assert settings["axis"] == ["width=8,16,32", "negatives=4"]

    monkeypatch.setattr(sweep_run, "train_recommender", None)  # finished runs are not trained again
    only_json = succeeded("sweep", "--config", "runs/sweep/sweep.settings.toml", "--json", "-")
    assert json.loads(only_json) == content
    refused = semid("sweep", *QUICK, *axes, "--learning-rate", "0.1")
    assert refused.exit_code == 1
    assert "was started with other settings (train.learning_rate 0.002 → 0.1)" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--axis", "colour=1,2"), "Unknown axis 'colour': use one or more of negatives, width, depth"),
        (("--axis", "width"), "Axis width has no values: give some, such as width=64,128,256"),
        (("--axis", "width="), "Axis width has no values"),
        (("--axis", "width=64,wide"), "Axis width has the value 'wide', which is not a number"),
        (("--axis", "width=64,,128"), "Axis width has the value '', which is not a number"),
        (("--axis", "width=64,128,64"), "Axis width has the value 64 twice: give each once"),
        (("--axis", "width=64", "--axis", "width=128"), "Axis width is given twice: give all of its values at once"),
        (("--axis", "depth=1.5"), "Axis depth has the value 1.5: it takes whole numbers of at least 1"),
        (("--axis", "width=nan"), "Axis width has the value nan: it takes whole numbers"),
        (("--axis", "data=2"), "Axis data has the value 2: it takes shares above 0 and at most 1"),
        (("--axis", "width=100"), "Axis width cannot be 100: heads are 64 wide but at least 4"),
        (("--seeds", "1,1"), "Seeds [1, 1]: give at least one, and each once"),
        (("--preset", "huge"), "Unknown preset 'huge': use one of tiny, small"),
        (("--queries", "-1"), "queries=-1 must be at least 1, or 0 for all"),
        (("--device", "abacus"), "There is no device 'abacus' here"),
        (("--epochs", "-1"), "epochs"),
        (("--data", "nowhere"), "nowhere"),
        (("--tokenizer", "nowhere"), "nowhere"),
        (("--out", "data"), "data is there and not from a sweep: choose another folder or remove it"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(inside, semid, arguments, named):
    before = sorted(inside.rglob("*"))
    result = semid("sweep", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    [sentence] = result.stderr.splitlines()
    assert named in sentence
    assert "Unexpected" not in sentence
    assert sorted(inside.rglob("*")) == before


def test_data_without_validation_queries(inside, semid, succeeded):
    rows = [
        {"user_id": user, "item_id": item, "timestamp": time} for user in range(4) for time, item in enumerate("ab")
    ]
    Path("table").mkdir()
    header = ",".join(rows[0])
    lines = [",".join(str(value) for value in row.values()) for row in rows]
    Path("table/interactions.csv").write_text("\n".join([header, *lines]))
    succeeded("data", "prepare", "table", "few")
    result = semid("sweep", "--data", "few")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "few has no validation queries, by which a sweep judges" in result.stderr
