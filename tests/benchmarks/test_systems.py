"""The table of systems and parts: a run trains what it names, is made once, and is compared with its own seed."""

from argparse import Namespace

import pytest

from semid.data.dataset import Dataset

LIMITS = {"epochs": 1, "batch_tokens": 1024, "max_minutes": 5.0, "queries": 60}


@pytest.fixture
def systems(modules, monkeypatch):
    module = modules("systems")
    monkeypatch.setattr(module, "CODES", (16, 16, 16))
    monkeypatch.setattr(module, "NEGATIVES", 64)
    return module


def test_a_run_trains_what_it_names_and_keeps_nothing_but_its_figures(systems, road, tmp_path):
    data = road.folder / "data"
    whole, less = (systems.measured(data, tmp_path, name, 0, LIMITS) for name in ("small", "without the next action"))
    assert whole["weights"] > less["weights"]
    for found in (whole, less):
        assert found["passes"] == 1
        assert 0 <= found["metrics"]["Score"] <= found["metrics"]["HR"] <= 1
    names = Dataset.open(data).action_names
    told = {f"HR {name} {what}" for name in names for what in ("told", "any")}
    assert told & set(whole["metrics"])
    assert not told & set(less["metrics"])
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_a_finished_run_is_read_and_one_of_other_limits_is_not(systems, tmp_path, monkeypatch):
    made = []

    class Here:
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def submit(self, _, data, folder, variant, seed, limits):
            made.append((variant, seed, limits["epochs"]))
            return self

        def result(self):
            return {"metrics": {"Score": len(made)}}

    monkeypatch.setattr(systems, "ProcessPoolExecutor", Here)
    settings = Namespace(**LIMITS, work=tmp_path, protocol="auto", results=tmp_path / "results.jsonl")
    first = systems.run(tmp_path, "small", 0, settings)
    assert systems.run(tmp_path, "small", 0, settings) == first
    systems.run(tmp_path, "small", 1, settings)
    settings.epochs = 2
    assert systems.run(tmp_path, "small", 0, settings)["metrics"]["Score"] == 3
    assert made == [("small", 0, 1), ("small", 1, 1), ("small", 0, 2)]


def run(seed, score, **metrics):
    return {
        "seed": seed,
        "metrics": {"Score": score, **metrics},
        "tokens_per_second": 1,
        "megabytes": 1,
        "minutes": 1,
    }


def test_differences_are_of_the_same_seed(systems):
    found = {
        "small": [run(0, 0.1), run(1, 0.5), run(2, 0.9)],
        "a part": [run(2, 0.95), run(1, 0.55), run(0, 0.15)],
        "one seed less": [run(1, 0.4), run(2, 0.8)],
    }
    head, small, part, less = systems.worth(found)
    place = head.index("Score − small")
    assert small[place] == ""
    assert part[place] == "0.0500 ± 0.0000"
    assert less[place] == "-0.1000 ± 0.0000"


def test_gains_are_of_what_was_told_over_none(systems):
    runs = [run(seed, 0.1, **{"HR click": 0.3, "HR click any": 0.1 * seed, "HR click told": 0.2}) for seed in (0, 1)]
    head, line = systems.gains({"small": runs, "untold": [run(0, 0.1, **{"HR click": 0.3})]})
    found = dict(zip(head, line, strict=True))
    assert found["variant"] == "small"
    means = [found[f"HR click, {what}"].split(" ± ")[0] for what in ("told none", "told", "gain")]
    assert means == ["0.0500", "0.2000", "0.1500"]
