"""The demo on a small set: it leaves what the commands need, with settings that make it again."""

from pathlib import Path

import pytest

from semid.artifacts import open_artifact
from semid.data.synthetic.generator import SyntheticConfig
from semid.errors import InputError
from semid.pipeline.baselines import BASELINES
from semid.pipeline.demo import DemoConfig, run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here") / "demo"
    synthetic = SyntheticConfig(users=250, items=300, embeddings=(("82", 8), ("85", 12)))
    config = DemoConfig(synthetic=synthetic, epochs=2, seed=3)
    return folder, config, run_demo(folder, config)


def test_it_compares_every_mode(demo):
    _, _, comparison = demo
    assert list(comparison.modes) == [*BASELINES, "generative", "ann", "hybrid"]
    for metrics in comparison.modes.values():
        assert {"HitRate@10", "NDCG@10", "Score@10", "Validity", "Coverage@10", "QueriesPerSecond"} <= set(metrics)
        assert {"LatencyMs", "Batch64P99Ms"} <= set(metrics)
    assert "FallbackShare" in comparison.modes["generative"]


def test_the_commands_go_on_from_there(demo, succeeded, monkeypatch):
    folder, _, _ = demo
    monkeypatch.chdir(folder)
    checksum = open_artifact(Path("runs/tokenizer"), "tokenizer").checksum
    succeeded("fit", "--config", "runs/tokenizer/settings.toml")
    assert open_artifact(Path("runs/tokenizer"), "tokenizer").checksum == checksum
    weights = open_artifact(Path("runs/model"), "model").files["model.safetensors"]["sha256"]
    succeeded("train", "--config", "runs/model/settings.toml")
    assert open_artifact(Path("runs/model"), "model").files["model.safetensors"]["sha256"] == weights
    data = open_artifact(Path("data"), "dataset").checksum
    succeeded("data", "prepare", "--config", "data/settings.toml")
    assert open_artifact(Path("data"), "dataset").checksum == data
    assert succeeded("generate", "--beam", "50") == Path("recommendations.jsonl").read_text()


def test_a_second_demo_replaces_the_first_and_nothing_else(demo, tmp_path):
    folder, config, comparison = demo
    again = run_demo(folder, config)
    assert again.modes["ann"]["NDCG@10"] == comparison.modes["ann"]["NDCG@10"]
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match="not from a demo"):
        run_demo(tmp_path, config)
    assert (tmp_path / "raw").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not from a demo"):
        run_demo(tmp_path / "file", config)


def test_a_demo_that_was_stopped_can_be_started_again(demo, tmp_path):
    _, config, _ = demo

    def stop(what: str, done: int, total: int | None) -> None:
        if what.startswith("epoch"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "demo", config, stop)
    assert not (tmp_path / "demo/runs/model").exists()
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "demo", config, stop)
