"""The benchmark of the evaluation runs, and its systems find the same."""

import json

import pytest


def test_it_runs_and_says_how_long_ours_takes(modules, monkeypatch, capsys):
    benchmark = modules("evaluation")
    monkeypatch.setattr(benchmark, "SYSTEMS", {name: benchmark.SYSTEMS[name] for name in ("semid", "floor")})
    monkeypatch.setattr("sys.argv", ["evaluation.py", "--queries", "300", "--items", "50", "--repeats", "1"])
    monkeypatch.setattr(benchmark, "peak", lambda name, settings: None)
    benchmark.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "evaluation"
    assert [row["system"] for row in found["results"]] == ["semid", "floor"]
    assert found["results"][0]["of_ours"] == 1.0


def test_systems_find_the_same(modules):
    pytest.importorskip("pytrec_eval")
    benchmark = modules("evaluation")
    lists = benchmark.Lists.random(200, 5, 40)
    expected = benchmark.ours(lists)
    for name in (benchmark.ALL, benchmark.PYTREC, benchmark.FLOOR):
        means = benchmark.SYSTEMS[name](lists)
        assert {metric: means[metric] for metric in benchmark.FOUR if metric in means} == pytest.approx(
            {metric: expected[metric] for metric in benchmark.FOUR if metric in means}
        )
        assert "HitRate" in means
