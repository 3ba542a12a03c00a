"""Made-up runs whose means and laws are known."""

import json

import pytest

from semid.generative.presets import PRESETS
from semid.pipeline.sweep.axes import make_plan
from semid.pipeline.sweep.report import SweepReport
from semid.pipeline.sweep.run import RunResult

WIDTHS = {64: "width=64", 128: "base", 256: "width=256"}


def result(
    name: str, seed: int, ndcg: float, *, modes: tuple[str, ...] = ("popularity", "ann", "hybrid")
) -> RunResult:
    metrics = {"NDCG@10": ndcg, "HitRate@10": 2 * ndcg, "Score@10": 0.0}
    return RunResult(
        name=name,
        seed=seed,
        settings={"queries": 0},
        modes={mode: dict(metrics) for mode in modes},
        queries=5000,
        tokens=2000,
        tokens_per_second=1000.0 + 500 * seed,
        seconds=90.0 + 60 * seed,
        epochs=2,
        best_epoch=1,
        table_weights=12_800,
        trunk_weights=1_234_567,
        training_flops=1.5e10,
        device="cpu",
    )


@pytest.fixture
def report() -> SweepReport:
    """NDCG@10 = 0.01 · width^0.5 · (1 ± 0.1), the same by both seeds' turns."""
    plan = make_plan(PRESETS["small"].model, {"width": tuple(WIDTHS), "depth": (2, 4)})
    runs = {
        name: [result(name, seed, 0.01 * width**0.5 * factor) for seed, factor in enumerate((0.9, 1.1))]
        for width, name in WIDTHS.items()
    }
    runs["depth=4"] = [result("depth=4", seed, 0.2) for seed in (0, 1)]
    return SweepReport(data="data", series=plan.series, runs=runs)


def cells(report: SweepReport, axis: str, value: str, mode: str) -> dict[str, str]:
    header, *rows = report.table_rows()
    [row] = [row for row in rows if row[:3] == (axis, value, mode)]
    return dict(zip(header, row, strict=True))


def test_a_row_has_means_over_seeds_and_what_a_run_costs(report):
    row = cells(report, "width", "64", "hybrid")
    mean, half = 0.08, 12.7062 * 0.008  # t of one degree of freedom times the standard error
    assert row["NDCG@10"] == f"{mean:.4f} ± {half:.4f}"
    assert row["HitRate@10"] == f"{2 * mean:.4f} ± {2 * half:.4f}"
    assert (row["tokens/s"], row["minutes"]) == ("1,250", "2.0")
    assert (row["trunk weights"], row["table weights"]) == ("1,234,567", "12,800")


def test_the_law_of_an_axis(report):
    row = cells(report, "width", "fit", "ann")
    assert row["NDCG@10"].startswith("x^0.500 ± ")
    assert row["NDCG@10"].partition(" ± ")[0] == row["HitRate@10"].partition(" ± ")[0]
    assert row["Score@10"] == "no fit: a value is not above 0 and finite"
    assert cells(report, "depth", "fit", "ann")["NDCG@10"] == "no fit: fewer than 3 different x"
    law = report.fit(report.series[0], "ann", "NDCG@10")
    assert law.exponent == pytest.approx(0.5)
    assert law.points == 6


def test_popularity_is_kept_but_not_shown(report):
    assert report.modes == ("ann", "hybrid")
    assert all("popularity" not in row for row in report.table_rows())
    assert "popularity" in report.to_dict()["runs"][0]["modes"]


def test_the_json_has_every_run_mean_and_law(report):
    content = json.loads(json.dumps(report.to_dict()))
    assert (content["data"], content["split"], content["queries"], content["seeds"]) == (
        "data",
        "valid",
        5000,
        [0, 1],
    )
    assert [(run["name"], run["seed"]) for run in content["runs"]] == [
        (name, seed) for name in (*WIDTHS.values(), "depth=4") for seed in (0, 1)
    ]
    width, depth = content["series"]
    assert [value["value"] for value in width["values"]] == [64, 128, 256]
    assert width["values"][1]["name"] == depth["values"][0]["name"] == "base"
    assert width["values"][0]["modes"]["ann"]["NDCG@10"] == {
        "mean": pytest.approx(0.08),
        "half": pytest.approx(0.10165, abs=1e-5),
    }
    law = width["fits"]["ann"]["NDCG@10"]
    assert law["exponent"] == pytest.approx(0.5)
    assert law["interval"][0] < 0.5 < law["interval"][1]
    assert depth["fits"]["ann"]["NDCG@10"] == {"no_fit": "fewer than 3 different x"}


def test_the_page_is_a_table_of_markdown(report):
    page = report.markdown("sweep.svg").splitlines()
    assert page[0] == "# Scaling: data, split valid, 5,000 queries, seeds 0, 1"
    table = [line for line in page if line.startswith("|")]
    assert len(table) == 2 + (3 + 1) * 2 + (2 + 1) * 2
    assert len({line.count("|") for line in table}) == 1
    assert any("](sweep.svg)" in line for line in page)


def test_panels_hold_the_points_of_all_seeds(report):
    width, depth = report.panels()
    assert (width.label, depth.label) == ("width of the trunk (units)", "depth of the trunk (blocks)")
    assert [curve.name for curve in width.curves] == ["ann", "hybrid"]
    assert width.curves[0].x.tolist() == [64, 64, 128, 128, 256, 256]
    expected = [0.01 * factor * value**0.5 for value in WIDTHS for factor in (0.9, 1.1)]
    assert width.curves[0].y == pytest.approx(expected)
    assert width.title == ""


def test_one_seed_has_no_intervals(report):
    alone = SweepReport(
        data="data", series=report.series, runs={name: runs[:1] for name, runs in report.runs.items()}
    )
    assert cells(alone, "width", "64", "ann")["NDCG@10"] == "0.0720"
    assert alone.to_dict()["series"][0]["values"][0]["modes"]["ann"]["NDCG@10"]["half"] is None
    assert cells(alone, "width", "fit", "ann")["NDCG@10"] == "x^0.500 ± 0.000, R² 1.00"


def test_a_grid_names_what_is_fixed():
    plan = make_plan(PRESETS["small"].model, {"width": (64, 128), "depth": (2, 4)}, grid=True)
    runs = {name: [result(name, 0, 0.1)] for name in plan.points}
    report = SweepReport(data="data", series=plan.series, runs=runs)
    assert {panel.title for panel in report.panels()} == {"depth 2", "depth 4", "width 64", "width 128"}
    assert cells(report, "width (depth 4)", "64", "ann")["NDCG@10"] == "0.1000"
