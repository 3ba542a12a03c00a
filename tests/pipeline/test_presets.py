"""Every preset by the commands: trained, generating and compared; sizes and negatives are made small."""

import json
from pathlib import Path

import pytest

from semid.data.dataset import Dataset
from semid.generative.presets import PRESETS
from semid.generative.recommender import GenerativeRecommender

SMALL = ("--width", "16", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--epochs", "1")
SIZES = ("hidden=24", "trunk.head_width=8", "inputs.part_width=0", "inputs.id_width=8")
MOE = ("moe.num_experts=3", "moe.hidden=8", "moe.shared_hidden=8")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_generates_and_is_compared(road, name, tmp_path, succeeded):
    model, preset = tmp_path / "model", PRESETS[name].model
    sizes = [
        *SIZES,
        *(MOE if preset.moe else ()),
        *(() if preset.inputs.near_codes == 0 else ("inputs.near_codes=3",)),
    ]
    settings = [part for size in sizes for part in ("--set", size)]
    if preset.negatives:
        settings += ["--negatives", ",".join(f"{kind}:20" for kind, _ in preset.negatives)]
    places = ("--data", road.folder / "data", "--tokenizer", road.folder / "runs/tokenizer")
    succeeded("train", "--preset", name, *SMALL, *settings, *places, "--out", model)
    trained = GenerativeRecommender.load(model)
    config = trained.model.config
    assert (config.trunk.block, config.layout, config.features) == (
        preset.trunk.block,
        preset.layout,
        preset.features,
    )
    data = ("--data", road.folder / "data", "--model", model)
    mode = "generative" if preset.code_weight else "ann"
    answers = succeeded("generate", *data, "--beam", "10", "--mode", mode, "--action", "click").splitlines()
    dataset = Dataset.open(road.folder / "data")
    assert len(answers) == len(dataset.split("test"))
    for answer in map(json.loads, answers):
        assert len(set(answer["items"])) == 10
    compared = tmp_path / "compare.json"
    succeeded("compare", *data, "--beam", "10", "--baselines", "popularity", "--no-latencies", "--json", compared)
    modes = json.loads(Path(compared).read_text())["modes"]
    expected = {"popularity"}
    expected |= {"generative"} if preset.code_weight else set()
    expected |= {"ann"} if preset.contrastive_weight else set()
    expected |= {"hybrid"} if preset.code_weight and preset.contrastive_weight else set()
    assert set(modes) == expected
    assert all(0 <= modes[mode]["Score@10"] <= 1 for mode in modes)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.model.required])
def test_a_preset_says_which_column_the_data_lacks(name, tmp_path, semid, succeeded):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "interactions.csv").write_text(
        "user_id,item_id,position\n"
        + "".join(f"{user},{(user + place) % 7},{place}\n" for user in range(30) for place in range(5))
    )
    succeeded("data", "prepare", raw, tmp_path / "data")
    succeeded("fit", "--data", tmp_path / "data", "--codes", "4", "--out", tmp_path / "tokenizer")
    places = ("--data", tmp_path / "data", "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "model")
    result = semid("train", "--preset", name, *places)
    assert result.exit_code == 1
    column = "action" if "action" in PRESETS[name].model.required else "timestamp"
    assert f"(column `{column}` of the interactions), which the data lacks" in " ".join(result.stderr.split())
    assert not (tmp_path / "model").exists()
