"""What the page of a comparison shows, from the command that writes it."""

import json
import re
from pathlib import Path

import pytest

from semid.evaluation.comparison import Comparison, Difference, TargetSummary
from semid.pages.comparison_page import comparison_sections
from semid.pages.page import Table, rendered
from semid.pipeline.trade_off import TradeOff

TARGETS = TargetSummary(
    queries=4, targets=4, outside_candidates=1, candidates=9, longest=10, cold=0, queries_without_weight=0
)
MODES = {
    "slow": {"HitRate@10": 0.5, "NDCG@10": 0.4, "Batch64Ms": 20.0},
    "quick": {"HitRate@10": 0.4, "NDCG@10": 0.3, "Batch64Ms": 5.0},
    "neither": {"HitRate@10": 0.2, "NDCG@10": 0.2, "Batch64Ms": 9.0},
}
INTERVALS = {mode: {"HitRate@10": (m["HitRate@10"] - 0.1, m["HitRate@10"] + 0.2)} for mode, m in MODES.items()}
DIFFERENCE = Difference(
    mode="quick", other="slow", metric="HitRate@10", mean=-0.1, low=-0.2, high=-0.05, p_value=0.01
)


def comparison() -> Comparison:
    return Comparison(targets=TARGETS, modes=MODES, intervals=INTERVALS, differences=[DIFFERENCE])


def blocks(title: str, **more: object) -> list:
    [section] = [s for s in comparison_sections(comparison(), **more) if s.title == title]
    return list(section.blocks)


def test_figures_have_their_intervals() -> None:
    [bars] = blocks("Quality")
    table, costs = blocks("All figures")
    [trace] = bars.data
    assert (trace["x"], trace["y"]) == (["slow", "quick", "neither"], [0.5, 0.4, 0.2])
    assert trace["error_y"]["array"] == pytest.approx([0.2] * 3)
    assert trace["error_y"]["arrayminus"] == pytest.approx([0.1] * 3)
    assert (
        "HitRate@10",
        "0.5000 [0.4000, 0.7000]",
        "0.4000 [0.3000, 0.6000]",
        "0.2000 [0.1000, 0.4000]",
    ) in table.rows
    assert not any(row[0] == "Batch64Ms" for row in table.rows)
    assert costs.rows[1:] == [("Batch64Ms", "20.0", "5.0000", "9.0000")]


def test_the_line_joins_what_nothing_dominates() -> None:
    [plot] = blocks("Quality over time")
    assert (plot.data[-1]["x"], plot.data[-1]["y"]) == ([5.0, 20.0], [0.3, 0.4])
    points = [
        TradeOff(mode=mode, setting=setting, queries=8, ndcg=ndcg, hit_rate=0, milliseconds=time, best=time != 3)
        for mode, setting, ndcg, time in (("a", "beam 9", 0.3, 2), ("a", "x", 0.2, 3), ("b", "y", 0.4, 5))
    ]
    plot, table = blocks("Quality over time", points=points)
    assert [trace["name"] for trace in plot.data[:-1]] == ["a", "b"]
    assert (plot.data[-1]["x"], plot.data[-1]["y"]) == ([2, 5], [0.3, 0.4])
    assert len(table.rows) == 4
    assert table.title.endswith("8 queries")


def test_differences_are_marked_where_they_are_no_chance() -> None:
    [table] = blocks("Differences")
    assert table.rows[1] == ("quick less slow", "HitRate@10", "-0.1000", "[-0.2000, -0.0500]", "0.0100", "✓")


def test_without_times_there_is_no_plot_of_them() -> None:
    modes = {mode: {name: v for name, v in m.items() if name != "Batch64Ms"} for mode, m in MODES.items()}
    sections = comparison_sections(Comparison(targets=TARGETS, modes=modes))
    assert not next(s for s in sections if s.title == "Quality over time").blocks
    assert all(isinstance(block, Table) for block in sections[0].blocks)  # nor bars without intervals
    assert "slow" in rendered("t", [], sections)


def test_the_command_writes_it(inside: Path, succeeded, semid) -> None:
    options = ("--queries", "60", "--baselines", "popularity", "--no-latencies", "--k", "5,10")
    succeeded("compare", *options, "--html", "page.html", "--json", "figures.json")
    text, figures = Path("page.html").read_text(), json.loads(Path("figures.json").read_text())
    hit_rate = figures["modes"]["hybrid"]["HitRate@10"]
    low, high = figures["intervals"]["hybrid"]["HitRate@10"]
    assert f"{hit_rate:.4f} [{low:.4f}, {high:.4f}]" in text
    assert figures["conditions"]["data"]["checksum"][:16] in text
    summaries = re.findall(r"<summary>(.*?) hits</summary>", text)
    assert len(summaries) == 12
    for arguments, told in (
        (("--html", "page.pdf"), "let it end in .html"),
        (("--titles", "a.csv:b"), "give --html FILE too"),
        (("--html", "b.html", "--titles", "none.csv:b"), "none.csv"),
    ):
        result = semid("compare", *options, *arguments)
        assert result.exit_code == 1
        assert told in " ".join(result.stderr.split())
    assert not Path("b.html").exists()
