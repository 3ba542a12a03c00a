"""Small multiples as one SVG: points and the power laws through them, or how evenly experts were used.

The only module that imports matplotlib.
"""

import importlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semid.artifacts import create_file
from semid.errors import InputError
from semid.evaluation.power_law import NoFit, PowerLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by all kinds of colour vision (Okabe and Ito 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK, _FAINT = "#333333", "#DDDDDD"
_PANELS_A_ROW, _PANEL_INCHES = 4, (3.4, 3.0)
_LETTERS_AN_INCH = 14
_DRAWN_POINTS = 40
# Least distance of two labels, as a share of the panel's height.
_LABEL_GAP = 0.13
# The same picture every time: no random ids, text as text, no date.
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "semid",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """Points (n,) of one kind, and the law through them."""

    name: str
    x: np.ndarray
    y: np.ndarray
    law: PowerLaw | NoFit


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """Curves over one quantity, whose name and unit are the label; the title may be empty."""

    label: str
    curves: Sequence[Curve]
    title: str = ""


def require_plotting() -> None:
    """Raise InputError unless matplotlib is installed; call before long work."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise InputError("Plots need matplotlib, which is not installed: run pip install 'semid[plots]'.") from None


def draw_panels(path: Path, panels: Sequence[Panel], *, title: str, y_label: str) -> None:
    """Write an SVG with a panel for each quantity, all with the same height axis, x by logarithm.

    A panel shows every point, the law with the 95 % interval of its line, and beside it its name and exponent.
    The same panels give the same file.

    Args:
        panels: at least one; every x above 0.
        title: of the whole, which says what the points are.
        y_label: what the height is.

    Raises:
        InputError: matplotlib is not installed.
    """
    with _multiples(path, len(panels), title) as (figure, rows, columns):
        _fill(figure, panels, rows, columns, y_label)


def draw_expert_load(path: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """Write an SVG with a panel for each layer of experts: the share of the choices that each expert had, by epoch.

    Args:
        log: of a training, a record an epoch, with ``expert_share``.

    Raises:
        InputError: the log has no experts, or matplotlib is not installed.
    """
    if not log or "expert_share" not in log[0]:
        raise InputError("There is no expert load to plot: train with experts.")
    epochs = [record["epoch"] for record in log]
    shares = np.array([record["expert_share"] for record in log])  # (epochs, layers, E)
    title = f"Share of the choices that each of {shares.shape[2]} experts had; dashed where all have the same"
    with _multiples(path, shares.shape[1], title) as (figure, rows, columns):
        for layer, axes in enumerate(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()):
            if layer >= shares.shape[1]:
                axes.remove()
                continue
            for expert, share in enumerate(shares[:, layer].T):
                colour = _COLOURS[expert % len(_COLOURS)]
                axes.plot(epochs, share, "o-", color=colour, markersize=3, linewidth=1.2, alpha=0.8)
            axes.axhline(1 / shares.shape[2], color=_INK, linewidth=0.8, linestyle="--")
            axes.set_ylim(0, 1.1 * float(shares.max()))
            axes.set_xticks(epochs)
            axes.set_xlabel("epoch")
            axes.set_title(f"layer {layer}", fontsize=9, loc="left")
            _undress(axes)


@contextmanager
def _multiples(path: Path, panels: int, title: str) -> Iterator[tuple["Figure", int, int]]:
    """An empty figure with room for rows and columns of panels, written when it is full."""
    require_plotting()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        columns = min(panels, _PANELS_A_ROW)
        rows = -(-panels // columns)
        figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows + 0.4), layout="constrained")
        yield figure, rows, columns
        lines = textwrap.wrap(title, round(_LETTERS_AN_INCH * _PANEL_INCHES[0] * columns))
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9)
        with create_file(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})


def _fill(figure: "Figure", panels: Sequence[Panel], rows: int, columns: int, y_label: str) -> None:
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    heights = np.concatenate([curve.y for panel in panels for curve in panel.curves])
    margin = 0.08 * float(np.ptp(heights)) or 0.1 * abs(float(heights[0])) or 1.0
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.ravel()):
        if place >= len(panels):
            axes.remove()
            continue
        axes.set_ylim(float(heights.min()) - margin, float(heights.max()) + margin)
        _draw(axes, panels[place], colours)
        if place % columns == 0:
            axes.set_ylabel(y_label)


def _draw(axes: "Axes", panel: Panel, colours: Mapping[str, str]) -> None:
    values = np.unique(np.concatenate([curve.x for curve in panel.curves]))
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" if value < 1 else f"{value:,.0f}" for value in values])
    axes.set_xticks([], minor=True)
    _undress(axes)
    axes.set_xlabel(panel.label)
    if panel.title:
        axes.set_title(panel.title, fontsize=9, loc="left")
    for curve in panel.curves:
        axes.plot(curve.x, curve.y, "o", color=colours[curve.name], markersize=4, alpha=0.7, markeredgewidth=0)
        if isinstance(curve.law, PowerLaw):
            along = np.geomspace(values[0], values[-1], _DRAWN_POINTS)
            axes.plot(along, curve.law.at(along), color=colours[curve.name], linewidth=1.5)
            axes.fill_between(along, *curve.law.band(along), color=colours[curve.name], alpha=0.15, linewidth=0)
    _label(axes, panel.curves, float(values[-1]), colours)


def _undress(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _label(axes: "Axes", curves: Sequence[Curve], right: float, colours: Mapping[str, str]) -> None:
    """Name and exponent of each curve beside its end."""
    bottom, top = axes.get_ylim()
    ends = [float(curve.y[curve.x == curve.x.max()].mean()) for curve in curves]
    places = spread_out([(end - bottom) / (top - bottom) for end in ends], _LABEL_GAP)
    for curve, place in zip(curves, places, strict=True):
        axes.annotate(
            f"{curve.name}\n{_exponent(curve.law)}",
            (right, bottom + place * (top - bottom)),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=colours[curve.name],
            annotation_clip=False,
        )


def _exponent(law: PowerLaw | NoFit) -> str:
    if isinstance(law, NoFit):
        return "no fit"
    return f"x^{law.exponent:.3f} ± {(law.interval[1] - law.interval[0]) / 2:.3f}"


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved as little as it takes to lie ``gap`` apart, in their order; close ones keep their middle."""
    order = np.argsort(places, kind="stable")
    groups: list[list[float]] = []  # the middle, and how many there are
    for place in np.asarray(places, float)[order]:
        groups.append([float(place), 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            upper, lower = groups.pop(), groups.pop()
            count = upper[1] + lower[1]
            groups.append([(upper[0] * upper[1] + lower[0] * lower[1]) / count, count])
    moved = [middle + gap * (step - (count - 1) / 2) for middle, count in groups for step in range(int(count))]
    result = [0.0] * len(places)
    for place, at in zip(moved, order, strict=True):
        result[at] = place
    return result
