"""The page of a comparison: quality with intervals and over time, slices, differences, all figures, example users."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semid.evaluation.comparison import SIGNIFICANCE, Comparison
from semid.pages.page import Entry, Lists, Plot, Section, Table
from semid.pipeline.example_users import ExampleUser
from semid.pipeline.naming import Named
from semid.pipeline.trade_off import TradeOff, trade_off_rows

_COSTS = ("Ms", "MB", "Seconds", "PerSecond")
_TICKS = ".3~f"
_SLICES = ("HeadHitRate", "TailHitRate", "ColdHitRate")


def comparison_facts(comparison: Comparison, conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked of whom."""
    told, cut = comparison.targets, conditions["split"]
    return [
        ("queries", f"{told.queries:,}"),
        ("candidates", f"{told.candidates:,}"),
        ("targets outside the candidates", f"{told.outside_candidates:,} of {told.targets:,}, always misses"),
        ("targets without training events", f"{told.cold:,}"),
        ("split", " · ".join(str(cut[name]) for name in ("name", "protocol") if name in cut)),
        ("checksum of the data", str(conditions["data"].get("checksum", "–"))[:16]),
        ("rule of fusion", conditions["fusion"]["rule"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())),
    ]


def comparison_sections(
    comparison: Comparison, points: Sequence[TradeOff] = (), examples: Sequence[ExampleUser] = ()
) -> list[Section]:
    """All that the page shows.

    Args:
        points: of quality over time; the modes themselves, as they were asked, without any.
    """
    main = comparison.main_metrics()
    return [
        Section(
            title="Quality",
            intro=" ".join(comparison.notes()),
            blocks=[_bars(comparison, [name], name) for name in main[:2]],
        ),
        Section(
            title="Quality over time",
            intro="Up and to the left is better. Along the line nothing is better and as fast.",
            blocks=list(_trade_off(comparison, points)),
        ),
        Section(
            title="Slices",
            intro="Hits by targets that are popular, rare and new: 80 % of the training events are of head items, "
            "cold ones have none. Code prefixes are hits of the first codes alone, not of items.",
            blocks=list(_slices(comparison)),
        ),
        Section(
            title="Differences",
            intro="On the same queries, corrected for their number; marked where they are no chance.",
            blocks=[_differences(comparison)],
        ),
        Section(title="All figures", blocks=[_figures(comparison, costs=costs) for costs in (False, True)]),
        Section(
            title="Example users",
            intro="Queries such that one mode alone hits, all do or none does; ✓ came next.",
            blocks=[_lists(example, place == 0) for place, example in enumerate(examples)],
        ),
    ]


def _is_cost(name: str) -> bool:
    return name.endswith(_COSTS)


def _cell(comparison: Comparison, mode: str, name: str) -> str:
    value, ends = comparison.modes[mode].get(name), comparison.intervals.get(mode, {}).get(name)
    if value is None:
        return "–"
    written = f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{written} [{ends[0]:.4f}, {ends[1]:.4f}]" if ends else written


def _figures(comparison: Comparison, *, costs: bool) -> Table:
    names = [name for name in comparison.metric_names() if _is_cost(name) == costs]
    rows = [(name, *(_cell(comparison, mode, name) for mode in comparison.modes)) for name in names]
    title = "What modes cost" if costs else "Quality, with 95 % intervals by resampling users"
    return Table(title=title, rows=[("", *comparison.modes), *rows])


def _bars(comparison: Comparison, names: Sequence[str], title: str) -> Plot:
    """A group of bars a metric, or a bar a mode, with intervals."""
    by_mode = len(names) > 1
    modes = [mode for mode in comparison.modes if any(name in comparison.modes[mode] for name in names)]
    traces = []
    for mode in modes if by_mode else [None]:
        cells = [(mode, name) for name in names] if mode else [(each, names[0]) for each in modes]
        values = [comparison.modes[m].get(name) for m, name in cells]
        ends = [comparison.intervals.get(m, {}).get(name) for m, name in cells]
        known = [(value or 0.0, end or (value or 0.0, value or 0.0)) for value, end in zip(values, ends, strict=True)]
        trace: dict[str, Any] = {
            "type": "bar",
            "x": list(names) if mode else modes,
            "y": values,
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [max(end[1] - value, 0.0) for value, end in known],
                "arrayminus": [max(value - end[0], 0.0) for value, end in known],
            },
        }
        traces.append(trace | ({"name": mode} if mode else {}))
    layout = {"barmode": "group", "yaxis": {"rangemode": "tozero", "tickformat": _TICKS}, "showlegend": by_mode}
    return Plot(title=title, data=traces, layout=layout, height=320, half=True)


def _trade_off(comparison: Comparison, points: Sequence[TradeOff]) -> Iterator[Plot | Table]:
    k = comparison.targets.longest
    if points:
        places = [(p.mode, p.setting, p.milliseconds, p.ndcg, p.best) for p in points]
        axis = "milliseconds a query, in batches of 64"
    else:
        metrics = comparison.modes.items()
        timed = [(mode, m) for mode, m in metrics if "Batch64Ms" in m and f"NDCG@{k}" in m]
        places = [
            (mode, "", m["Batch64Ms"], m[f"NDCG@{k}"], not any(_better(other, m, k) for _, other in timed))
            for mode, m in timed
        ]
        axis = "milliseconds of 64 queries at once"
    if not places:
        return
    traces: list[dict[str, Any]] = []
    for mode in dict.fromkeys(place[0] for place in places):
        own = [place for place in places if place[0] == mode]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if not points else "markers",
                "name": mode,
                "text": [f"{mode} {setting}".strip() for _, setting, *_ in own],
                "textposition": "top center",
                "x": [place[2] for place in own],
                "y": [place[3] for place in own],
                "marker": {"size": 11},
                "hovertemplate": "%{text}<br>%{x:.3g} ms, %{y:.4f}<extra></extra>",
            }
        )
    best = sorted((place[2], place[3]) for place in places if place[4])
    line = {"type": "scatter", "mode": "lines", "name": "none better and as fast", "line": {"dash": "dot"}}
    traces.append(line | {"x": [x for x, _ in best], "y": [y for _, y in best], "hoverinfo": "skip"})
    layout = {
        "xaxis": {"title": {"text": axis}, "type": "log"},
        "yaxis": {"title": {"text": f"NDCG@{k}"}, "tickformat": _TICKS},
    }
    yield Plot(title=f"NDCG@{k} over time", data=traces, layout=layout, height=440)
    if points:
        yield Table(title=f"Settings, asked of {points[0].queries:,} queries", rows=trade_off_rows(points, k))


def _better(one: Mapping[str, float], other: Mapping[str, float], k: int) -> bool:
    quality, time = (one[f"NDCG@{k}"], other[f"NDCG@{k}"]), (one["Batch64Ms"], other["Batch64Ms"])
    return quality[0] >= quality[1] and time[0] <= time[1] and (quality[0] > quality[1] or time[0] < time[1])


def _slices(comparison: Comparison) -> Iterator[Plot]:
    k, names = comparison.targets.longest, comparison.metric_names()
    for title, wanted in (
        (f"Hit rate at {k} by popularity of the target", [f"{name}@{k}" for name in _SLICES]),
        (
            f"Hit rate at {k} of code prefixes",
            [n for n in names if n.startswith("CodePrefix") and n.endswith(f"@{k}")],
        ),
    ):
        there = [name for name in wanted if name in names]
        if there:
            yield _bars(comparison, there, title)


def _differences(comparison: Comparison) -> Table:
    rows = [
        (
            f"{d.mode} less {d.other}",
            d.metric,
            f"{d.mean:+.4f}",
            f"[{d.low:+.4f}, {d.high:+.4f}]",
            f"{d.p_value:.4f}",
            "✓" if d.p_value < SIGNIFICANCE else "",
        )
        for d in comparison.differences
    ]
    header = ("", "metric", "mean", "95 % interval", "p", "no chance")
    return Table(title="Every two modes", rows=[header, *rows], folded=len(rows) > 12)


def _lists(example: ExampleUser, opened: bool) -> Lists:
    columns = {f"last of {example.events:,} events": [_entry(item) for item in reversed(example.history)]}
    columns["came next"] = [_entry(item) for item in example.targets]
    for mode, items in example.lists.items():
        hits = example.hits(mode)
        columns[mode] = [_entry(item, hit) for item, hit in zip(items, hits, strict=True)]
    hit_by = [mode for mode in example.lists if any(example.hits(mode))]
    return Lists(title=f"{example.user}: {', '.join(hit_by) or 'nobody'} hits", columns=columns, opened=opened)


def _entry(item: Named, hit: bool = False) -> Entry:
    return Entry(text=item.title or str(item.id), below=str(item.id) if item.title else "", marked=hit)
