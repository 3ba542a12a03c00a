"""The benchmark of item indexes runs, and its figures are right."""

import json
from functools import partial

import numpy as np
import pytest


def rows_of(benchmark, monkeypatch, capsys, *arguments: str) -> tuple[list[str], dict]:
    """The lines of a run that times few calls, and its JSON."""
    monkeypatch.setattr(benchmark, "latency", partial(benchmark.latency, most_calls=1))
    monkeypatch.setattr("sys.argv", ["ann.py", *arguments])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    return lines, json.loads(lines[-1])


def test_one_table_and_one_json_line(modules, monkeypatch, capsys):
    small = ("--items", "500,1500", "--queries", "64", "--width", "16", "--batches", "1,16")
    lines, found = rows_of(modules("ann"), monkeypatch, capsys, *small)
    assert found["benchmark"] == "ann"
    rows = found["rows"]
    assert {row["items"] for row in rows if row["vectors"] == "trained"} == {500, 1500}
    assert {row["items"] for row in rows if row["vectors"] == "uniform"} == {1500}
    systems = {row["system"] for row in rows}
    assert {"semid exact*", "semid IVF128,SQfp16", "faiss Flat", "faiss HNSW32"} <= systems
    assert sum(line.startswith("│") for line in lines) == len(rows)
    for row in rows:
        assert set(row["milliseconds"]) == {"1", "16"}
        if row["system"] in ("semid exact*", "faiss Flat"):
            assert row["recall_10"] == row["recall_100"] == row["hit_share"] == 1.0
        if row["time_shares"]:
            exact = next(r for r in rows if (r["vectors"], r["items"]) == (row["vectors"], row["items"]))
            assert row["time_shares"]["16"] == pytest.approx(row["milliseconds"]["16"] / exact["milliseconds"]["16"])
            assert row["hit_share"] == pytest.approx(row["hit_rate"] / exact["hit_rate"])


def test_more_probes_find_more(modules, monkeypatch, capsys):
    small = ("--items", "3000", "--queries", "200", "--width", "16", "--batches", "64", "--no-peers")
    _, found = rows_of(modules("ann"), monkeypatch, capsys, *small, "--vectors", "trained")
    recalls = [row["recall_10"] for row in found["rows"] if row["system"].endswith("SQfp16")]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]


@pytest.mark.parametrize("kind", ["trained", "uniform"])
def test_queries_lie_nearest_to_their_items(modules, kind):
    vectors = modules("ann").KINDS[kind](2000, 32, 500, seed=3)
    for part in (vectors.items, vectors.queries):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, rtol=1e-5)
    scores = vectors.queries @ vectors.items.T
    rank = (scores > scores[np.arange(500), vectors.targets][:, None]).sum(axis=1)
    assert np.median(rank) < 50  # chance: 1,000
    assert (rank > 0).mean() > 0.05  # yet not always the nearest


def test_trained_vectors_crowd_as_those_of_models_do(modules):
    """Mean cosines of a model of *Beauty*: pairs of items .66, tenth neighbours .91, tenth items of a query .59."""
    vectors = modules("item_vectors").trained(12_000, 128, 300)
    items, queries = vectors.items, vectors.queries
    assert (items[:300] @ items[300:900].T).mean() == pytest.approx(0.66, abs=0.03)
    assert np.sort(items[:300] @ items.T, axis=1)[:, -11].mean() == pytest.approx(0.91, abs=0.03)
    assert np.sort(queries @ items.T, axis=1)[:, -10].mean() == pytest.approx(0.59, abs=0.05)
