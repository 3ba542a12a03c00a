"""A study of ten tiny trainings, made once; and what stops one, or must not."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from semid.artifacts import open_artifact
from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.generative.config import ModelConfig
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.comparing import compare_modes
from semid.pipeline.sweep import run as sweep_run
from semid.pipeline.sweep.report import SweepReport
from semid.pipeline.sweep.run import METRICS
from semid.pipeline.sweeping import SweepConfig, run_sweep
from semid.pipeline.training import checkpoint_of
from semid.tokenizers.tokenizer import SemanticIdTokenizer

TINY = ModelConfig(width=16, heads=4, kv_heads=2, layers=1, dropout=0.0)
ONCE = TrainConfig(epochs=1, batch_tokens=1024, precision="float32")
CONFIG = SweepConfig(
    model=TINY,
    axes={"width": (8, 16, 32), "negatives": (4,), "data": (0.5, 1.0)},
    train=ONCE,
    seeds=(0, 1),
    queries=60,
    keep_models=True,
)
# Two runs, for what need not be seen along whole axes.
SHORT = replace(CONFIG, axes={"depth": (1, 2)}, seeds=(0,), keep_models=False)
NAMES = ("width=8", "base", "width=32", "negatives=4", "data=0.5")


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def tokenizer(road) -> SemanticIdTokenizer:
    return SemanticIdTokenizer.load(road.folder / "runs/tokenizer")


@pytest.fixture(scope="module")
def swept(dataset, tokenizer, tmp_path_factory) -> tuple[Path, SweepReport]:
    out = tmp_path_factory.mktemp("sweep") / "out"
    return out, run_sweep(dataset, tokenizer, CONFIG, out)


@pytest.fixture
def trainings(monkeypatch) -> Iterator[list[Path]]:
    """Where every training of a test goes, in order."""
    places: list[Path] = []
    really = sweep_run.train_recommender

    def counting(*arguments: Any, **more: Any) -> GenerativeRecommender:
        places.append(arguments[4])
        return really(*arguments, **more)

    monkeypatch.setattr(sweep_run, "train_recommender", counting)
    return places


def test_every_point_has_every_seed(swept):
    out, report = swept
    folders = {path.name for path in (out / "runs").iterdir()}
    assert folders == {f"{name}-seed{seed}" for name in NAMES for seed in (0, 1)}
    for name in NAMES:
        assert [run.seed for run in report.runs[name]] == [0, 1]
    first, second = report.runs["base"]
    assert first.modes["ann"] != second.modes["ann"]


def test_a_run_is_what_compare_says_of_its_model(swept, dataset):
    out, report = swept
    result = report.runs["width=32"][1]
    recommender = GenerativeRecommender.load(out / "runs/width=32-seed1/model")
    expected = compare_modes(Answerer(recommender), dataset, "valid", max_queries=60)
    assert result.queries == expected.targets.queries == 60
    assert list(result.modes) == ["popularity", "generative", "ann", "hybrid"]
    for mode, metrics in result.modes.items():
        assert metrics == pytest.approx({name: expected.modes[mode][name] for name in METRICS})


def test_a_share_of_the_users_is_less_to_learn_from(swept):
    _, report = swept
    for half, whole in zip(report.runs["data=0.5"], report.runs["base"], strict=True):
        assert 0.35 < half.tokens / whole.tokens < 0.65
        assert half.settings["users"] == 0.5
        assert (half.queries, half.trunk_weights) == (whole.queries, whole.trunk_weights)


def test_a_bank_stands_for_the_catalogue(swept):
    few, whole = (swept[1].runs[name][0] for name in ("negatives=4", "base"))
    assert few.settings["model"]["negatives"] == [["uniform", 4]]
    assert few.settings["model"]["full_softmax_items"] == 0
    assert few.modes["ann"] != whole.modes["ann"]


def test_a_run_tells_what_it_cost(swept):
    out, report = swept
    result = report.runs["width=32"][0]
    recommender = GenerativeRecommender.load(out / "runs/width=32-seed0/model")
    weights = dict(recommender.model.named_parameters())
    tables = {
        name: weight.numel() for name, weight in weights.items() if ".tables." in name or "condition.action" in name
    }
    assert result.table_weights == sum(tables.values())
    assert result.trunk_weights == sum(weight.numel() for weight in weights.values()) - result.table_weights
    log = [json.loads(line) for line in (out / "runs/width=32-seed0/model/log.jsonl").read_text().splitlines()]
    assert (result.tokens, result.epochs) == (log[-1]["tokens"], 1)
    assert result.training_flops == 6 * result.trunk_weights * result.tokens
    assert result.tokens_per_second > 0
    assert result.settings["model"]["width"] == 32


def test_the_files_say_what_the_report_says(swept):
    out, report = swept
    content = json.loads((out / "sweep.json").read_text())
    assert content == json.loads(json.dumps(report.to_dict()))
    assert (content["split"], content["queries"], content["seeds"]) == ("valid", 60, [0, 1])
    assert len(content["runs"]) == 10
    table = (out / "sweep.md").read_text()
    for row in report.table_rows():
        assert f"| {' | '.join(row)} |" in table
    assert "(sweep.svg)" in table
    shown = "".join(ElementTree.parse(out / "sweep.svg").getroot().itertext())
    for text in ("width of the trunk", "share of the training users", "NDCG@10", "hybrid", "generative", "ann"):
        assert text in shown


def test_finished_runs_are_not_repeated(swept, dataset, tokenizer, trainings):
    out, report = swept
    again = run_sweep(dataset, tokenizer, CONFIG, out)
    assert trainings == []
    assert again.to_dict() == report.to_dict()


def test_a_study_grows(dataset, tokenizer, tmp_path, trainings):
    run_sweep(dataset, tokenizer, replace(SHORT, axes={"depth": (1,)}), tmp_path / "out")
    run_sweep(dataset, tokenizer, SHORT, tmp_path / "out")
    assert [place.parent.name for place in trainings] == ["base-seed0", "depth=2-seed0"]


def test_a_stopped_study_goes_on(dataset, tokenizer, tmp_path, trainings, monkeypatch):
    """Ctrl-C while the second run is judged: neither is trained again, and the result is that of an unstopped one."""
    calls, really = [], sweep_run.compare_modes

    def stopping(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return really(*arguments, **more)

    monkeypatch.setattr(sweep_run, "compare_modes", stopping)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match=r"1 of 2 runs are finished in .*out; the same sweep goes on"):
        run_sweep(dataset, tokenizer, SHORT, out)
    assert not (out / "sweep.json").exists()
    report = run_sweep(dataset, tokenizer, SHORT, out)
    assert [place.parent.name for place in trainings] == ["base-seed0", "depth=2-seed0"]
    assert set(report.runs) == {"base", "depth=2"}
    assert not any((out / "runs").rglob("model"))  # not kept


def test_a_stopped_training_goes_on_from_its_checkpoint(swept, dataset, tokenizer, tmp_path, monkeypatch):
    _, whole = swept
    config = replace(SHORT, axes={"depth": (1,)}, train=replace(ONCE, checkpoint_minutes=0.0))
    out = tmp_path / "out"

    def stop(what: str, done: int, total: int | None) -> None:
        assert what.startswith("run 1 of 1, base-seed0: ")
        if what.endswith("epoch 1") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="0 of 1 runs"):
        run_sweep(dataset, tokenizer, config, out, progress=stop)
    assert open_artifact(checkpoint_of(out / "runs/base-seed0/model"), "checkpoint").details["progress"]["step"] == 2
    [resumed] = run_sweep(dataset, tokenizer, config, out).runs["base"]
    assert resumed.modes == whole.runs["base"][0].modes
    assert resumed.tokens == whole.runs["base"][0].tokens


class TestMistakes:
    @pytest.fixture
    def refused(self, dataset, tokenizer, tmp_path, trainings) -> Callable[..., str]:
        """Run what must fail before anything is trained or written; returns the sentence."""

        def run(out: Path | None = None, **changes: Any) -> str:
            out = out or tmp_path / "out"
            before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
            arguments = {"dataset": dataset, "tokenizer": tokenizer, "config": SHORT, **changes}
            with pytest.raises(InputError) as found:
                run_sweep(**arguments, out=out)
            assert not trainings
            assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
            return str(found.value)

        return run

    def test_no_matplotlib(self, refused, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert "run pip install 'semid[plots]'" in refused()

    def test_no_validation_queries(self, refused, dataset):
        nothing = dataset.queries["valid"].select(np.empty(0, np.int64))
        without = replace(dataset, queries={**dataset.queries, "valid": nothing})
        assert "has no validation queries, by which a sweep judges" in refused(dataset=without)

    def test_the_tokenizer_of_another_dataset(self, refused, dataset):
        other = replace(dataset, artifact=replace(dataset.artifact, checksum="another"))
        assert "was made from another dataset" in refused(dataset=other)

    def test_out_is_something_else(self, refused, tmp_path):
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters/draft.txt").write_text("Dear …")
        assert "letters is there and not from a sweep" in refused(out=tmp_path / "letters")
        assert "draft.txt is there and not from a sweep" in refused(out=tmp_path / "letters/draft.txt")

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"train": replace(ONCE, learning_rate=0.5)}, "train.learning_rate 0.002 → 0.5"),
            ({"model": replace(TINY, dropout=0.1)}, "model.dropout 0.0 → 0.1"),
            ({"queries": 50}, "queries 60 → 50"),
        ],
    )
    def test_changed_settings(self, refused, swept, tmp_path, changes, named):
        shutil.copytree(swept[0], tmp_path / "out")
        sentence = refused(config=replace(SHORT, **changes))
        assert "base-seed0 was started with other settings" in sentence
        assert named in sentence

    @pytest.mark.parametrize("content", ["{", "[]", '{"name": "base"}'])
    @pytest.mark.parametrize("name", ["result.json", "settings.json"])
    def test_damaged_files(self, refused, swept, tmp_path, name, content):
        shutil.copytree(swept[0], tmp_path / "out")
        (tmp_path / "out/runs/base-seed0" / name).write_text(content)
        sentence = refused()
        if (name, content) == ("settings.json", '{"name": "base"}'):
            assert "other settings" in sentence
        else:
            assert f"{name} is not what a sweep writes: remove" in sentence

    def test_a_training_that_breaks_down_names_its_run(self, dataset, tokenizer, tmp_path):
        config = replace(SHORT, train=replace(ONCE, learning_rate=1e30))
        with pytest.raises(InputError, match="Run base with seed 0: "):
            run_sweep(dataset, tokenizer, config, tmp_path / "out")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"axes": {"colour": (1,)}}, "Unknown axis 'colour'"),
            ({"axes": {"width": ()}}, "Axis width has no values"),
            ({"seeds": ()}, r"Seeds \[\]: give at least one"),
            ({"seeds": (1, 1)}, r"Seeds \[1, 1\]: give at least one, and each once"),
            ({"seeds": (-1,)}, "the seed between 0 and"),
            ({"queries": -1}, "queries=-1 must be at least 1, or 0 for all"),
        ],
    )
    def test_configurations_that_cannot_be(self, changes, message):
        with pytest.raises(InputError, match=message):
            replace(SHORT, **changes)


def test_the_default_axes_are_those_of_the_model():
    assert set(SweepConfig().plan.points) == {
        "base",
        *(f"negatives={count}" for count in (256, 1024, 4096)),
        *("width=64", "width=256", "depth=1", "depth=4", "id_width=32", "id_width=64"),
    }
