"""The plot, read back as XML."""

import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from semid.errors import InputError
from semid.evaluation.plotting import Curve, Panel, draw_expert_load, draw_panels, require_plotting, spread_out
from semid.evaluation.power_law import fit_power_law

SVG = "{http://www.w3.org/2000/svg}"


def curve(name: str, x: list[float], scale: float, exponent: float) -> Curve:
    values = np.repeat(np.array(x), 3)
    y = scale * values**exponent * np.exp(0.01 * np.random.default_rng(len(x)).normal(size=len(values)))
    return Curve(name=name, x=values, y=y, law=fit_power_law(values, y))


@pytest.fixture
def panels() -> list[Panel]:
    widths, shares = [64, 128, 256], [0.25, 1.0]
    return [
        Panel(
            label="width of the trunk", curves=[curve("ann", widths, 0.02, 0.1), curve("hybrid", widths, 0.02, 0.2)]
        ),
        Panel(label="share of users", curves=[curve("hybrid", shares, 0.06, 0.3)], title="depth 2"),
    ]


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    return ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]


def test_everything_is_named(panels, tmp_path):
    draw_panels(tmp_path / "plot.svg", panels, title="NDCG@10 on validation", y_label="NDCG@10")
    shown = " | ".join(texts(tmp_path / "plot.svg"))
    named = ("NDCG@10 on validation", "width of the trunk", "share of users", "depth 2", "ann", "hybrid", "no fit")
    for name in (*named, "64", "128", "256", "0.25"):
        assert name in shown, name
    law = panels[0].curves[1].law
    assert f"x^{law.exponent:.3f} ±" in shown


def test_a_long_title_is_broken_into_lines(panels, tmp_path):
    title = "NDCG@10 on the validation queries of a dataset with a name of some length, by several seeds"
    draw_panels(tmp_path / "plot.svg", panels[:1], title=title, y_label="y")
    shown = texts(tmp_path / "plot.svg")
    assert max(len(text) for text in shown) < 50
    assert title in " ".join(shown)


def test_a_panel_shows_its_points_its_lines_and_their_bands(panels, tmp_path):
    draw_panels(tmp_path / "plot.svg", panels, title="t", y_label="y")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    parts = [
        [element.get("id", "") for element in panel.iter() if element.get("id")]
        for panel in root.iter(f"{SVG}g")
        if panel.get("id", "").startswith("axes_")
    ]
    bands = [sum(name.startswith("FillBetween") for name in panel) for panel in parts]
    assert bands == [2, 0]
    points = [sum(1 for _ in root.iter(f"{SVG}use"))]
    assert points[0] >= 9 + 9 + 6


def test_the_same_panels_give_the_same_file(panels, tmp_path):
    for name in ("one.svg", "other.svg"):
        draw_panels(tmp_path / name, panels, title="t", y_label="y")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert "date" not in (tmp_path / "one.svg").read_text().lower()


def test_many_panels_take_several_rows_and_one_value_is_enough(tmp_path):
    flat = Curve(name="ann", x=np.array([4.0]), y=np.array([0.0]), law=fit_power_law([4], [0.0]))
    draw_panels(tmp_path / "plot.svg", [Panel(label="depth", curves=[flat])] * 5, title="t", y_label="y")
    assert texts(tmp_path / "plot.svg").count("depth") == 5


def line_heights(path: Path) -> dict[str, list[list[float]]]:
    """By panel, the heights of the points of every line with more than two of them, in the units of the drawing."""
    found = {}
    for panel in ElementTree.parse(path).getroot().iter(f"{SVG}g"):
        if panel.get("id", "").startswith("axes_"):
            paths = [element.get("d", "") for element in panel.iter(f"{SVG}path") if element.get("clip-path")]
            points = [[float(word) for word in d.split() if word not in ("M", "L")][1::2] for d in paths]
            found[panel.get("id", "")] = [heights for heights in points if len(heights) == 3]
    return found


def test_the_load_of_experts_has_a_panel_a_layer_and_a_line_an_expert(tmp_path):
    shares = np.random.default_rng(0).dirichlet(np.ones(4), (3, 2))  # epochs, layers, experts
    log = [{"epoch": epoch + 1, "expert_share": share.tolist()} for epoch, share in enumerate(shares)]
    draw_expert_load(tmp_path / "load.svg", log)
    named = texts(tmp_path / "load.svg")
    assert {"layer 0", "layer 1", "epoch"} <= set(named)
    assert "4 experts" in " ".join(named)
    panels = line_heights(tmp_path / "load.svg")
    assert len(panels) == 2
    for layer, lines in enumerate(panels.values()):
        drawn = np.array(lines).T  # y grows downwards, by one factor for all
        assert drawn.shape == (3, 4)
        ratio = (drawn - drawn[0, 0])[1:] / (shares[:, layer] - shares[0, layer, 0])[1:]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
        assert ratio[0, 0] < 0


def test_without_experts_there_is_no_load(tmp_path):
    with pytest.raises(InputError, match="no expert load to plot: train with experts"):
        draw_expert_load(tmp_path / "load.svg", [{"epoch": 1}])
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_install_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"Plots need matplotlib, .* pip install 'semid\[plots\]'"):
        require_plotting()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.52, 0.1, 0.48], [0.55, 0.1, 0.45]),
        ([0.50, 0.55, 0.62], [0.55 + 0.02 / 3 - 0.1, 0.55 + 0.02 / 3, 0.55 + 0.02 / 3 + 0.1]),
        ([], []),
    ],
)
def test_labels_that_would_meet_move_apart(places, expected):
    moved = spread_out(places, 0.1)
    assert moved == pytest.approx(expected)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(sorted(moved)))
