"""The happy road through every command, and what a shell relies on: options, settings files, streams."""

import inspect
import json
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import semid as package
from semid.artifacts import open_artifact
from semid.commands import data as data_commands
from semid.commands import model as model_commands
from semid.commands import sweep as sweep_commands
from semid.commands import tokenizer as tokenizer_commands
from semid.commands.architecture import Architecture
from semid.commands.training import Training
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.data.reading import PrepareConfig
from semid.data.splits import SplitConfig
from semid.data.synthetic.generator import SyntheticConfig
from semid.errors import InputError
from semid.generative.moe import MoEConfig
from semid.generative.presets import PRESETS
from semid.generative.train import TrainConfig
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.sweeping import SweepConfig
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

MODES = ("popularity", "generative", "ann", "hybrid")


def test_importing_the_command_line_loads_nothing_heavy():
    code = (
        "import time; began = time.perf_counter(); import semid, semid.cli, sys; "
        "print(time.perf_counter() - began, *sorted(sys.modules))"
    )
    seconds, *modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    sys.stdout.write(f"import semid.cli: {float(seconds):.3f} s")
    heavy = {"torch", "numpy", "pyarrow", "scipy", "sklearn", "faiss", "safetensors", "rich.console"}
    assert not heavy & set(modules)


def test_help_is_quick():
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", "from semid.cli import main; main()", "--help"], capture_output=True, text=True
    )
    sys.stdout.write(f"semid --help: {time.perf_counter() - began:.3f} s")
    assert done.returncode == 0
    for name in ("data", "fit", "encode", "inspect", "train", "generate", "explain", "compare", "sweep", "demo"):
        assert name in done.stdout


def test_version(succeeded):
    assert succeeded("--version").strip() == f"semid {package.__version__}"


ANSWERS = {"factory": "index", "fallback": "", "exact": ""}


@pytest.mark.parametrize(
    ("command", "config", "renamed"),
    [
        (tokenizer_commands.fit, TokenizerConfig, {"embeddings": "emb", "behaviour": "", "options": ""}),
        (sweep_commands.sweep, SweepConfig, {"axes": "", "model": "", "train": ""}),
        (data_commands.prepare, PrepareConfig, {"embeddings": "emb", "float_dtype": "float_type", "split": ""}),
        (data_commands.prepare, SplitConfig, {"protocol": "split_protocol"}),
        (data_commands.synth, SyntheticConfig, {"embeddings": "emb"}),
        (model_commands.generate, AnswerConfig, {"k": "top_k", **ANSWERS}),
        (model_commands.compare, AnswerConfig, {"k": "", "budget": "", **ANSWERS}),
    ],
)
def test_every_setting_is_an_option_with_the_default_of_the_library(command, config, renamed):
    options = inspect.signature(command).parameters
    for field in fields(config):
        name = renamed.get(field.name, field.name)
        if name and name != "emb":
            assert options[name].default == field.default, field.name


def test_every_setting_of_training_is_an_option_in_place_of_what_the_preset_has():
    options = {option.name: option for option in Training.parameters}
    assert {*options, "seed"} == {field.name for field in fields(TrainConfig)}
    for field in fields(TrainConfig):
        if field.name != "seed":
            assert options[field.name].default is None, field.name
            shown = options[field.name].annotation.__metadata__[0].show_default
            default = field.default if isinstance(field.default, tuple) else (field.default,)
            assert shown == ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default)
    preset = replace(PRESETS["small"], train={"clip": 3.0, "patience": 9})
    given = Training(patience=2, epochs=None)
    assert given.config(preset, seed=4) == TrainConfig(clip=3.0, patience=2, seed=4)


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_shared_options_stand_in_every_command_that_takes_them(command, succeeded):
    shown = succeeded(command, "--help")
    options = [option for option in (*Training.parameters, *Architecture.parameters) if option.name != "assignments"]
    assert all(f"--{option.name.replace('_', '-')} " in shown for option in options)
    assert "--set " in shown


def test_a_model_is_what_is_given_then_what_the_preset_has():
    preset = PRESETS["small"].model
    assert Architecture(width=None, assignments=None).config(preset) == preset
    given = Architecture(width=128, context_events=7, experts=4, assignments=["trunk.block=hstu", "width=64"])
    assert given.config(preset) == replace(
        preset,
        width=64,
        context=7,
        moe=MoEConfig(num_experts=4, experts_per_token=2, hidden=128, shared_hidden=128),
        trunk=replace(preset.trunk, block="hstu"),
    )
    assert Architecture(experts=0).config(replace(preset, moe=MoEConfig())).moe is None
    with pytest.raises(InputError, match="needs --experts"):
        Architecture(experts_per_token=2).config(preset)


def test_presets_in_the_help():
    help = inspect.signature(model_commands.train).parameters["preset"].annotation.__metadata__[0].help
    for name in PRESETS:
        assert re.search(rf"[ ,]{name}[,.;]", help), name


def test_prepare_and_info_tell_what_is_there(road, semid, inside):
    printed = semid("data", "info", "--json", "-").stdout
    info = json.loads(printed)
    dataset = Dataset.open(inside / "data")
    assert (info["users"], info["items"], info["events"]) == (260, dataset.num_items, dataset.events.num_events)
    assert info["actions"]["click"] == int((dataset.events.actions == 1).sum()) > 0
    assert info["embeddings"]["85"] == {"dim": 12, "valid": int(dataset.embeddings["85"].valid.sum())}
    assert info["queries"] == {split: len(queries) for split, queries in dataset.queries.items()}
    table = semid("data", "info").stdout
    assert "embedding 85" in table
    assert f"{dataset.num_items:,}" in table
    assert "embedding 85" in road.printed["prepare"]


def test_prepare_takes_what_its_options_say(inside, succeeded):
    succeeded("data", "prepare", "raw", "other", "--emb", "81", "--split-protocol", "user", "--float", "float32")
    dataset = Dataset.open("other")
    assert list(dataset.embeddings) == ["81"]
    assert dataset.embeddings["81"].vectors.dtype == np.float32
    assert len(dataset.queries["test"]) <= 26


def test_synth_plants_effects(inside, succeeded, semid):
    small = ("--users", "30", "--items", "60", "--emb", "85:4")
    for target, more in (("plain", ()), ("planted", ("--effects", "time,modality"))):
        succeeded("data", "synth", target, *small, *more)
    logs = [pq.read_table(f"{target}/seq")["seq"].to_pylist() for target in ("plain", "planted")]
    assert logs[0] != logs[1]
    result = semid("data", "synth", "bad", *small, "--effects", "time,clock")
    assert result.exit_code == 1
    assert "Unknown effect 'clock'" in result.stderr


def test_convert_gives_the_same_dataset(inside, succeeded):
    succeeded("data", "convert", "raw", "c")
    succeeded("data", "prepare", "c", "from_c", "--target-actions", "click,conversion")
    ours, theirs = Dataset.open("data"), Dataset.open("from_c")
    np.testing.assert_array_equal(ours.events.items, theirs.events.items)
    np.testing.assert_array_equal(ours.item_ids, theirs.item_ids)


def test_fit_prints_and_inspect_repeats_the_report(road, inside, succeeded):
    assert "collisions" in road.printed["fit"]
    assert succeeded("inspect").splitlines()[1:] == road.printed["fit"].splitlines()[1:]
    succeeded("inspect", "runs/tokenizer", "--json", "report.json")
    report = json.loads(Path("report.json").read_text())
    tokenizer = SemanticIdTokenizer.load("runs/tokenizer")
    assert report == json.loads(json.dumps(tokenizer.report_.to_dict()))
    assert [level["codes"] for level in report["levels"]] == [12, 12, 12]


def test_the_settings_beside_a_tokenizer_make_it_again(inside, succeeded):
    first = open_artifact(inside / "runs/tokenizer", "tokenizer")
    settings = tomllib.loads((inside / "runs/tokenizer/settings.toml").read_text())
    assert settings["emb"] == ["82", "85"]
    succeeded("fit", "--config", "runs/tokenizer/settings.toml", "--out", "again")
    again = open_artifact(Path("again"), "tokenizer")
    assert again.checksum == first.checksum
    assert again.settings == {**first.settings, "out": "again"}


def test_the_settings_beside_a_dataset_make_it_again(inside, succeeded):
    first = open_artifact(inside / "data", "dataset")
    succeeded("data", "prepare", "--config", "data/settings.toml", "raw", "again")
    assert open_artifact(Path("again"), "dataset").checksum == first.checksum


def test_the_command_line_wins_over_the_settings_file(inside, succeeded):
    collisions = 'collisions = "random-k"\ncollision-level = 3\ncollision-choices = 4\n'
    Path("fit.toml").write_text(f'emb = "81"\ncodes = [7, 6, 5]\nsvd = 3\nwhiten = 1\n{collisions}')
    succeeded("fit", "--config", "fit.toml", "--svd", "4", "--out", "mixed")
    config = SemanticIdTokenizer.load("mixed").config
    assert (config.content, config.codes, config.svd) == (("81",), (7, 6, 5), 4)
    assert (config.collisions, config.collision_level, config.collision_choices) == ("random-k", 3, 4)
    assert config.whiten == 1.0


@pytest.mark.parametrize(
    ("options", "embeddings", "behaviour", "weights"),
    [
        ([], ("82", "85", "cooccurrence"), ("cooccurrence",), (1, 1, 0.5)),
        (["--behaviour", "none"], ("82", "85"), (), None),
        (["--behaviour", "81", "--weights", "2,1,3"], ("82", "85", "81"), ("81",), (2, 1, 3)),
        (["--behaviour", "81", "--weights", "2,1"], ("82", "85", "81"), ("81",), (2, 1, 0.75)),
    ],
)
def test_behaviour_joins_content(inside, succeeded, options, embeddings, behaviour, weights):
    quick = ["--codes", "8", "--set", "rounds=0", "--set", "iterations=2"]
    succeeded("fit", "--emb", "82,85", *options, *quick, "--out", "t")
    config = SemanticIdTokenizer.load("t").config
    assert (config.embeddings, config.behaviour, config.weights) == (embeddings, behaviour, weights)
    succeeded("fit", "--config", "t/settings.toml", "--out", "again")
    assert SemanticIdTokenizer.load("again").config == config


def test_encode_gives_items_of_the_dataset_the_codes_they_have(inside, succeeded):
    succeeded("encode", "--data", "data", "--out", "all.parquet")
    table = pq.read_table("all.parquet")
    tokenizer, dataset = SemanticIdTokenizer.load("runs/tokenizer"), Dataset.open("data")
    assert table["item_id"].to_pylist() == dataset.item_ids.tolist()
    assert table["codes"].to_pylist() == tokenizer.semantic_ids_.codes.tolist()
    settings = tomllib.loads(Path("all.settings.toml").read_text())
    assert settings["data"] == "data"


def test_encode_of_a_matrix_is_the_nearest_code_of_each_row(inside, succeeded):
    vectors = np.random.default_rng(0).normal(size=(7, 12)).astype(np.float32)
    np.save("new.npy", vectors)
    lines = [json.loads(line) for line in succeeded("encode", "new.npy", "--emb", "85").splitlines()]
    assert [line["item_id"] for line in lines] == list(range(7))
    tokenizer, dataset = SemanticIdTokenizer.load("runs/tokenizer"), Dataset.open("data")
    rows = np.flatnonzero(dataset.embeddings["85"].valid & ~np.asarray(dataset.embeddings["82"].valid))
    np.save("old.npy", np.asarray(dataset.embeddings["85"].vectors[rows]))
    old = [json.loads(line)["codes"] for line in succeeded("encode", "old.npy", "--emb", "85").splitlines()]
    assert tokenizer.config.content == ("82", "85")
    known = Embedding("85", np.load("old.npy"), np.ones(len(rows), bool))
    expected = tokenizer.encode([Embedding.absent("82", len(rows), dataset.embeddings["82"].vectors.shape[1]), known])
    assert old == expected.tolist()


def test_generate_answers_the_split_in_three_modes(inside, succeeded):
    every = [json.loads(line) for line in succeeded("generate", "--mode", "generative,ann,hybrid").splitlines()]
    dataset = Dataset.open("data")
    queries = dataset.queries["test"]
    assert len(every) == 3 * len(queries)
    allowed = set(dataset.item_ids[dataset.candidates].tolist())
    for row in every:
        assert len(row["items"]) == len(set(row["items"])) == len(row["scores"]) == 10
        assert set(row["items"]) <= allowed
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["user_id"] == dataset.user_ids[queries.users[row["query"]]]
        assert row["fallback"] is None
    assert {row["mode"] for row in every} == {"generative", "ann", "hybrid"}


def test_generate_writes_the_same_rows_as_parquet_and_lines(inside, succeeded):
    options = ("--beam", "20", "--top-k", "5", "--filter-seen", "--action", "conversion")
    succeeded("generate", *options, "--out", "rows.parquet")
    succeeded("generate", *options, "--out", "rows.jsonl")
    lines = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    table = pq.read_table("rows.parquet").to_pylist()
    assert table == lines
    dataset = Dataset.open("data")
    queries = dataset.queries["test"]
    for row in table:
        history = queries.log.items[queries.start[row["query"]] : queries.end[row["query"]]]
        assert not set(row["items"]) & set(dataset.item_ids[history].tolist())
    assert tomllib.loads(Path("rows.settings.toml").read_text())["top_k"] == 5


def test_generate_for_histories_in_a_file_equals_the_split(inside, succeeded):
    dataset = Dataset.open("data")
    queries = dataset.queries["test"]
    names = dataset.action_names
    with Path("mine.jsonl").open("w") as file:
        for query in range(5):
            span = slice(queries.start[query], queries.end[query])
            record = {
                "user_id": dataset.user_ids[queries.users[query]],
                "history": dataset.item_ids[queries.log.items[span]].tolist(),
                "actions": [names[a] for a in queries.log.actions[span]],
                "timestamps": queries.log.times[span].tolist(),
            }
            file.write(json.dumps(record) + "\n")
    mine = [json.loads(line) for line in succeeded("generate", "--histories", "mine.jsonl").splitlines()]
    split = [json.loads(line) for line in succeeded("generate").splitlines()[:5]]
    assert [row["items"] for row in mine] == [row["items"] for row in split]
    np.testing.assert_allclose([row["scores"] for row in mine], [row["scores"] for row in split], atol=1e-4)
    assert [row["user_id"] for row in mine] == [row["user_id"] for row in split]


def test_a_beam_may_be_as_wide_as_proofs_take(inside, semid, succeeded):
    narrow, exact = (
        [json.loads(line)["exact"] for line in succeeded("generate", "--beam", beam).splitlines()]
        for beam in ("10", "exact")
    )
    assert sum(narrow) < sum(exact) == len(exact)
    assert "neither a number like 50 nor exact" in semid("generate", "--beam", "wide").output


def test_generate_gives_allowed_items_alone(inside, semid, succeeded):
    """In every mode, the index of ANN included; a run made among others is not gone on with."""
    plain = [json.loads(line) for line in succeeded("generate").splitlines()]
    banned = sorted({item for row in plain for item in row["items"][:1]})
    Path("banned.csv").write_text("\n".join(["item_id", *map(str, banned)]))
    modes = ("--mode", "generative,ann,hybrid")
    denied = [
        json.loads(line)["items"] for line in succeeded("generate", *modes, "--deny", "banned.csv").splitlines()
    ]
    assert not set(banned) & {item for items in denied for item in items}
    few = ("--top-k", "2", "--allow", "banned.csv")
    allowed = [json.loads(line)["items"] for line in succeeded("generate", *modes, *few).splitlines()]
    assert {len(items) for items in allowed} == {min(2, len(banned))}
    assert {item for items in allowed for item in items} <= set(banned)
    failed = semid("generate", "--allow", "banned.csv", "--deny", "banned.csv")
    assert failed.exit_code == 1
    assert "candidates is left by --allow banned.csv" in failed.output


def test_generate_in_bf16(inside, succeeded, semid):
    """Rounded, but of the same model."""
    exact, rounded = (
        [json.loads(line) for line in succeeded("generate", "--precision", precision).splitlines()]
        for precision in ("float32", "bfloat16")
    )
    kept = [len({*a["items"]} & {*b["items"]}) / len(a["items"]) for a, b in zip(exact, rounded, strict=True)]
    assert np.mean(kept) > 0.8
    assert [row["scores"] for row in exact] != [row["scores"] for row in rounded]
    assert "precision='half' must be auto, float32 or bfloat16" in semid("generate", "--precision", "half").output


def test_short_lists_are_filled_unless_told_otherwise(inside, succeeded):
    # More items asked for than the filter leaves: nothing to fill from either.
    count = len(Dataset.open("data").candidates)
    options = ("--top-k", str(count + 5), "--beam", str(count + 5), "--mode", "generative")
    filled = [json.loads(line) for line in succeeded("generate", *options).splitlines()]
    plain = [json.loads(line) for line in succeeded("generate", *options, "--fallback", "none").splitlines()]
    assert all(len(row["items"]) == count for row in filled)
    assert all(row["fallback"] is None for row in plain)


def test_compare_writes_the_promised_json(inside, succeeded):
    table = succeeded("compare", "--k", "5,10", "--json", "compare.json")
    result = json.loads(Path("compare.json").read_text())
    assert {"data", "split", "queries", "modes", "intervals", "differences", "conditions"} <= set(result)
    assert (result["data"], result["split"]) == ("data", "test")
    assert set(MODES) <= set(result["modes"])
    assert result["conditions"]["data"]["checksum"] == Dataset.open("data").artifact.checksum
    for metrics in result["modes"].values():
        assert {"HitRate@5", "NDCG@5", "HitRate@10", "NDCG@10", "Score@10", "Coverage@10", "Validity"} <= set(metrics)
        assert metrics["HitRate@5"] <= metrics["HitRate@10"]
    assert {"LatencyMs", "QueriesPerSecond"} <= set(result["modes"]["hybrid"])
    assert "FallbackShare" in result["modes"]["generative"]
    assert all(mode in table for mode in MODES)
    assert "compare.settings.toml" in [path.name for path in inside.iterdir()]
    only_json = succeeded("compare", "--queries", "20", "--no-latencies", "--json", "-")
    assert json.loads(only_json)["queries"] == 20


def test_train_settings_make_the_same_model(inside, succeeded):
    first = open_artifact(inside / "runs/model", "model")
    succeeded(
        "train",
        "--config",
        "runs/model/settings.toml",
        "--data",
        "data",
        "--tokenizer",
        "runs/tokenizer",
        "--out",
        "again",
    )
    again = open_artifact(Path("again"), "model")
    assert again.files["model.safetensors"]["sha256"] == first.files["model.safetensors"]["sha256"]
    assert not Path("again.checkpoint").exists()


def test_train_takes_experts_and_negatives(inside, succeeded, semid):
    options = (
        "--preset",
        "tiny",
        "--width",
        "16",
        "--heads",
        "2",
        "--kv-heads",
        "1",
        "--layers",
        "1",
        "--epochs",
        "1",
    )
    experts = ("--experts", "3", "--experts-per-token", "1", "--features", "codes,time")
    negatives = ("--negatives", "uniform:8,hard:4")
    succeeded("train", *options, *experts, *negatives, "--out", "m", "--load-plot", "load.svg")
    assert "3 experts" in Path("load.svg").read_text()
    config = open_artifact(Path("m"), "model").details["model"]
    assert (config["moe"]["num_experts"], config["moe"]["experts_per_token"]) == (3, 1)
    assert config["features"] == ["codes", "time"]
    assert config["negatives"] == [["uniform", 8], ["hard", 4]]
    again = ("--config", "m/settings.toml", "--out", "again")
    succeeded("train", *again)
    assert open_artifact(Path("again"), "model").details["model"] == config
    assert "--experts" in semid("train", "--experts-per-token", "1").stderr
    assert "this model has none: add --experts" in semid("train", "--load-plot", "other.svg").stderr
    assert "tiny, small" in semid("train", "--preset", "huge").stderr


def test_demo_ends_with_the_comparison(inside, succeeded):
    table = succeeded("demo", "--out", "d", "--users", "150", "--items", "300", "--epochs", "1", "--json", "c.json")
    assert all(name in table for name in (*MODES, "HitRate@10", "NDCG@10", "Score@10", "Validity", "Coverage@10"))
    result = json.loads(Path("c.json").read_text())
    assert (result["data"], result["split"]) == ("d/data", "test")
    assert set(MODES) < set(result["modes"])
    assert tomllib.loads(Path("c.settings.toml").read_text())["users"] == 150


def test_a_closed_pipe_is_no_error(inside):
    code = "from semid.cli import main; main()"
    shell = f"{sys.executable} -c '{code}' generate --mode generative,ann,hybrid | head -n 1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["query"] == 0
    assert done.stderr == ""


def test_mistakes_in_usage_exit_with_2(semid):
    assert semid("fit", "--codes", "twelve").exit_code == 2
    assert semid("fit", "--nonsense").exit_code == 2
    assert semid("data", "prepare").exit_code == 2
