"""The table of levers runs on a small set, and its figure of neighbours is the one it names."""

import json
import sys

import numpy as np
import pytest


@pytest.fixture
def levers(modules):
    return modules("levers")


def test_a_row_for_every_variant_and_one_json_line(levers, monkeypatch, capsys):
    settings = ("--sets", "mixture", "--mixture", 600, "--codes", 8, "--svd", 16, "--seeds", 2, "--levels", 2)
    peers = ("--peers", "faiss RQ refined, beam 5")
    monkeypatch.setattr(sys, "argv", ["levers.py", *map(str, settings), *peers])
    levers.main()
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(lines[-1])["rows"]
    assert [row["variant"] for row in rows] == ["faiss RQ refined, beam 5", *levers.VARIANTS]
    assert len(lines) == len(rows) + 2
    found = {row["variant"]: row for row in rows}
    assert found["+ noise = default"]["fit"] < found["Lloyd, random start"]["fit"]
    for row in rows:
        assert 0 < row["fit"] < 1
        assert 0 <= row["neighbours"] <= 1
        assert 1 <= row["perplexity 1"] <= 8.0001


def test_neighbours_are_compared_with_those_of_the_vectors(levers, monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    assert levers.neighbours_kept(vectors, 3 * vectors + 1, 0) == 1
    other = np.random.default_rng(1).standard_normal((300, 5)).astype(np.float32)
    true, found = (
        np.argsort(((points[:, None] - points) ** 2).sum(2) + 1e9 * np.eye(300), axis=1)[:, :10]
        for points in (vectors, other)
    )
    shared = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(true, found, strict=True)])
    assert levers.neighbours_kept(vectors, other, 0) == pytest.approx(shared)
