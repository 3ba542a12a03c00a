"""The page of a tokenizer: code tree, use of the codes, distortion, neighbours, worst buckets, new items."""

from collections.abc import Iterator, Sequence

from semid.pages.page import Entry, Lists, Plot, Section, Table
from semid.pipeline.cells import written
from semid.pipeline.tokenizer_look import COSINE, Prefix, TokenizerLook

_COLOURS = "Viridis"
_BAR = {"title": {"text": "purity"}, "thickness": 12}
_WHOLE = "all"


def tokenizer_sections(look: TokenizerLook) -> list[Section]:
    """All that the page shows."""
    by_column = f"share of the commonest {look.purity_of}"
    purity = "mean cosine of its items with their mean" if look.purity_of == COSINE else by_column
    return [
        Section(
            title="Code tree",
            intro=f"Area is the number of items, colour the purity of a prefix: the {purity}. Click to go in, and on "
            "the bar above to come out.",
            blocks=[_tree(look)],
        ),
        Section(
            title="Use of the codes",
            intro="A level whose curve is flat uses its codes alike. Sizes are after collisions were resolved.",
            blocks=[_usage(look), _sizes(look), Table(title="Levels", rows=look.report.level_rows())],
        ),
        Section(
            title="Distortion and neighbours",
            intro="In the lists, ✓ marks items that share the first code.",
            blocks=[_distortion(look), _shared(look), *_neighbours(look)],
        ),
        Section(
            title="Collisions",
            intro="Items that had the same codes before collisions were resolved.",
            blocks=[_collisions(look), *_worst(look)],
        ),
        Section(title="New items", intro="Whether items that came late are coded as well.", blocks=[_groups(look)]),
    ]


def _name(look: TokenizerLook, row: int) -> str:
    named = look.names[row]
    return named.title or str(named.id)


def _entry(look: TokenizerLook, row: int, codes: Sequence[int] = ()) -> Entry:
    """An item; marked if its codes begin like those given."""
    own = look.codes[row]
    below = f"{look.names[row].id} · {written(own)}" if look.names[row].title else written(own)
    return Entry(text=_name(look, row), below=below, marked=bool(codes) and own[:1] == tuple(codes[:1]))


def _tree(look: TokenizerLook) -> Plot:
    """A treemap; a node's id is its codes, so that titles need not differ."""
    ids, labels, parents, values, colours, hover = [], [], [], [], [], []

    def put(identity: str, label: str, parent: str, value: int, purity: float | None, text: str) -> None:
        ids.append(identity)
        labels.append(_plain(label))
        parents.append(parent)
        values.append(value)
        colours.append(purity)
        hover.append(_plain(text))

    first = [prefix.items for prefix in look.tree if len(prefix.codes) == 1]
    put(_WHOLE, "catalogue", "", sum(first), None, f"{sum(first):,} of {look.report.items:,} items")
    for prefix in look.tree:
        codes, parent = written(prefix.codes), written(prefix.codes[:-1]) or _WHOLE
        put(codes, codes, parent, prefix.items, prefix.purity, _told(look, prefix))
        for row in prefix.examples:
            text = f"{_name(look, row)}, {written(look.codes[row])}"
            put(f"item {row}", _name(look, row), codes, 1, prefix.purity, text)
    trace = {
        "type": "treemap",
        "ids": ids,
        "labels": labels,
        "parents": parents,
        "values": values,
        "branchvalues": "total",
        "maxdepth": 3,
        "text": hover,
        "hovertemplate": "%{text}<extra></extra>",
        "textinfo": "label+value",
        "marker": {"colors": colours, "colorscale": _COLOURS, "colorbar": _BAR},
        "tiling": {"pad": 1},
    }
    layout = {"margin": {"l": 0, "r": 0, "t": 24, "b": 0}}
    share = sum(first) / max(look.report.items, 1)
    title = f"The largest {len(first):,} of {look.report.levels[0].used:,} first codes, {share:.0%} of the items"
    return Plot(title=title, data=[trace], layout=layout, height=560)


def _plain(text: str) -> str:
    """Without what plotly would read as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _told(look: TokenizerLook, prefix: Prefix) -> str:
    purity = "" if prefix.purity is None else f", purity {prefix.purity:.2f}"
    examples = ", ".join(_name(look, row) for row in prefix.examples)
    return f"{written(prefix.codes)}: {prefix.items:,} items{purity}{': ' if examples else ''}{examples}"


def _usage(look: TokenizerLook) -> Plot:
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"level {level}",
            "x": [place / max(len(counts) - 1, 1) for place in range(len(counts))],
            "y": list(counts),
        }
        for level, counts in enumerate(look.usage, 1)
    ]
    layout = {
        "xaxis": {"title": {"text": "codes in use, the fullest first"}, "tickformat": ".0%"},
        "yaxis": {"title": {"text": "items"}, "type": "log"},
    }
    return Plot(title="Items per code", data=traces, layout=layout)


def _sizes(look: TokenizerLook) -> Plot:
    largest = sorted({size for sizes in look.sizes for size in sizes})
    names = [str(size) if size < 3 else f"{size // 2 + 1}–{size}" for size in largest]
    traces = [
        {"type": "bar", "name": f"up to level {level}", "x": names, "y": [sizes.get(size, 0) for size in largest]}
        for level, sizes in enumerate(look.sizes, 1)
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": "items in the bucket"}, "type": "category"},
        "yaxis": {"title": {"text": "buckets"}, "type": "log"},
    }
    return Plot(title="Sizes of buckets: items with the same codes up to a level", data=traces, layout=layout)


def _by_level(look: TokenizerLook, name: str, label: str) -> dict[str, object]:
    levels = look.report.levels
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": [level.level for level in levels],
        "y": [getattr(level, name) for level in levels],
    }


_LEVELS = {"title": {"text": "level"}, "dtick": 1}


def _distortion(look: TokenizerLook) -> Plot:
    return Plot(
        title="What is left of the variance after each level",
        data=[_by_level(look, "relative_error", "relative error")],
        layout={"xaxis": _LEVELS, "yaxis": {"title": {"text": "relative error"}, "rangemode": "tozero"}},
        height=300,
    )


def _shared(look: TokenizerLook) -> Plot:
    return Plot(
        title="Neighbours that share the codes up to a level",
        data=[
            _by_level(look, "neighbours_shared", "an item's 10 nearest"),
            _by_level(look, "chance_shared", "two items at random"),
        ],
        layout={"xaxis": _LEVELS, "yaxis": {"title": {"text": "share"}, "tickformat": ".0%", "rangemode": "tozero"}},
        height=300,
    )


def _neighbours(look: TokenizerLook) -> Iterator[Lists]:
    for place, example in enumerate(look.examples):
        codes = look.codes[example.item]
        yield Lists(
            title=f"{_name(look, example.item)} ({written(codes)}): nearest by vector, and by codes",
            columns={
                "by vector": [_entry(look, row, codes) for row in example.by_vector],
                "by codes": [_entry(look, row, codes) for row in example.by_codes],
            },
            opened=place == 0,
        )


def _collisions(look: TokenizerLook) -> Table:
    found = look.report.collisions
    shares = [f"{100 * share:.2f} %" for share in (found.colliding_before, found.colliding_after)]
    errors = [f"{error:.4f}" for error in (look.report.unresolved_error, look.report.relative_error)]
    return Table(
        title=f"Policy {found.policy}",
        rows=[
            ("", "before", "after"),
            ("items that share all codes", *shares),
            ("largest bucket", f"{found.largest_before:,}", f"{found.largest_after:,}"),
            ("relative error", *errors),
            ("moved to other codes", "", f"{100 * found.moved:.2f} %"),
            ("moved to another prefix", "", f"{100 * found.prefix_changed:.2f} %"),
        ],
    )


def _worst(look: TokenizerLook) -> Iterator[Lists]:
    for bucket in look.report.worst_buckets:
        yield Lists(
            title=f"{written(bucket.codes)}: {bucket.size:,} items",
            columns={"some of them": [_entry(look, row) for row in bucket.rows]},
        )


def _groups(look: TokenizerLook) -> Table:
    header = ("", "items", "without embedding", "relative error", "first codes", "alone before the last level")
    rows = [
        (
            name,
            f"{group.items:,}",
            f"{100 * group.unknown:.1f} %",
            "–" if group.relative_error is None else f"{group.relative_error:.4f}",
            f"{group.first_codes:,}",
            f"{100 * group.alone:.1f} %",
        )
        for name, group in look.groups.items()
    ]
    return Table(title="Items by when they came", rows=[header, *rows])
