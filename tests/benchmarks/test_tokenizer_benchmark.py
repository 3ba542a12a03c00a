"""The benchmark of the tokenizer runs, says what it promises to say, and its evaluation is right."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

PEERS_OF_KMEANS = ("faiss.Kmeans, all points", "fastkmeans", "superkmeans flat")


def run(script: ModuleType, monkeypatch, capsys, *arguments: str | Path) -> SimpleNamespace:
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", *map(str, arguments)])
    script.main()
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    return SimpleNamespace(lines=lines, json=json.loads(lines[-1]), progress=printed.err)


def test_one_table_one_json_line_and_kept_sections(modules, monkeypatch, capsys, tmp_path):
    script = modules("tokenizer")
    small = ("--only", "kmeans", "--scale", 0.003, "--repeats", 1, "--threads", 1, "--scratch", tmp_path / "work")
    first = run(script, monkeypatch, capsys, *small, "--out", tmp_path / "kept.json")
    rows = first.json["rows"]
    assert {row["setting"] for row in rows} == {"K=256, 600 x 256"}  # larger K would have too few vectors
    by_system = {row["system"]: row for row in rows}
    assert next(iter(by_system)) == "semid, 10 passes"
    assert set(PEERS_OF_KMEANS) < set(by_system)
    for row in rows:
        assert row["note"].startswith("not installed") or (row["seconds"] > 0 and 0 < row["error"] < 1)
    faiss = by_system["faiss.Kmeans, all points"]
    ours = by_system[faiss["note"].removeprefix("beside ")]
    as_good = [row for row in rows if row["system"].endswith("passes") and "float32" not in row["system"]]
    as_good = [row for row in as_good if row["error"] <= 1.001 * faiss["error"]]
    assert ours["seconds"] == min(
        (row["seconds"] for row in as_good), default=by_system["semid, 10 passes"]["seconds"]
    )
    assert faiss["ratio"] == pytest.approx(faiss["seconds"] / ours["seconds"])
    assert faiss["met"] == (faiss["ratio"] >= 2.5 and ours["error"] <= 1.001 * faiss["error"])
    header = next(number for number, line in enumerate(first.lines) if line.startswith("section"))
    table = first.lines[header + 1 : -1]
    assert len(table) == len(rows)
    assert all(line[11:].startswith(row["system"]) for line, row in zip(table, rows, strict=True))

    again = run(script, monkeypatch, capsys, *small, "--out", tmp_path / "kept.json")
    assert again.json["rows"] == rows
    assert "kept from" in again.progress
    stamp = json.loads((tmp_path / "kept.json").read_text())["kmeans"]["stamp"]
    assert stamp["settings"]["scale"] == 0.003


def test_a_failing_peer_gets_a_note_and_ours_may_not_fail(modules):
    measuring = modules("measuring")

    def missing(seed: int) -> None:
        importlib.import_module("no_such_library")

    good = measuring.System(name="ours", run=lambda seed: seed)
    bad = measuring.System(name="peer", run=missing)
    settings = measuring.Settings(repeats=3)
    timings = measuring.interleave([good, bad], lambda seed: {"error": float(seed)}, settings)
    assert len(timings["ours"].seconds) == 3
    assert timings["ours"].figure("error") == 1.0  # the median of seeds 0, 1, 2
    row = measuring.row("x", "y", "peer", timings, measuring.Goal(faster=2), ours="ours")
    assert (row.note, row.seconds, row.met) == ("not installed: no_such_library", None, None)
    with pytest.raises(ModuleNotFoundError):
        measuring.interleave([bad, good], lambda seed: {}, settings)


def test_error_of_centroids_is_that_of_float64_brute_force(modules):
    measuring = modules("measuring")
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((500, 7)) + 3).astype(np.float32)
    centroids = (rng.standard_normal((20, 7)) + 3).astype(np.float32)
    exact = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2).min(1).sum()
    spread = ((vectors - vectors.mean(0, dtype=np.float64)) ** 2).sum()
    assert measuring.nearest_error(vectors, centroids) == pytest.approx(exact / spread, rel=1e-6)


def test_figures_of_codes_by_hand(modules):
    measuring = modules("measuring")
    codes = np.array([[0, 1], [0, 1], [0, 2], [1, 1]])
    assert measuring.colliding(codes) == 0.5
    assert measuring.perplexities(codes) == pytest.approx([np.exp(0.75 * np.log(4 / 3) + 0.25 * np.log(4))] * 2)
    vectors = np.array([[0.0], [2.0]], np.float32)  # around 1; decoded as 1 and 2
    assert measuring.relative_error(vectors, lambda rows: np.array([[1.0], [2.0]])[rows]) == 0.5


def test_codes_equal_up_to_ties(modules):
    encode = modules("sections.encode")
    vectors = np.zeros((4, 1), np.float32)
    centroids = np.array([[1.0], [-1.0], [3.0]], np.float32)
    ours, theirs = np.array([0, 1, 0, 2]), np.array([0, 0, 0, 0])
    assert encode.equal_share(vectors, centroids, ours, theirs) == 0.75


def test_matching_within_a_prefix_is_the_cheapest(modules):
    matching = modules("peers.matching")
    books = [np.array([[0.0], [10.0]], np.float32), np.array([[0.0], [1.0], [4.0]], np.float32)]
    codes = np.array([[0, 0], [0, 0], [1, 2]])
    vectors = np.array([[0.4], [0.1], [14.0]], np.float32)
    found = matching.hungarian_within_prefix(codes, vectors, books)
    assert found.tolist() == [[0, 1], [0, 0], [1, 2]]
