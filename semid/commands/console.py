"""What commands show: tables and JSON on stdout, progress on stderr, results in files."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from semid.progress import Progress

if TYPE_CHECKING:
    from semid.evaluation.comparison import Comparison

STDOUT = Path("-")
_WIDE = 200


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A callback ``(what, done, total)`` that draws a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn())
    # Results may go to stdout meanwhile: only stderr is led around the bar.
    bar = Bar(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
    )
    with bar:
        task = bar.add_task("", total=None)
        current = ""

        def show(what: str, done: int, total: int | None) -> None:
            nonlocal current
            if what != current:
                current = what
                bar.reset(task, description=what, total=total)
            bar.update(task, completed=done, total=total)

        yield show


def print_table(rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout: the first row is the header, the first column names the rows, the others are figures."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        typer.echo(title)
    table = Table(box=box.SIMPLE_HEAD)
    for place, name in enumerate(rows[0]):
        table.add_column(Text(name), justify="right" if place else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def print_comparison(comparison: "Comparison", title: str) -> None:
    """A row a metric, a column a mode; then the main figures with how sure they are, a row a mode."""
    names, modes = comparison.metric_names(), comparison.modes
    rows = [(name, *(_figure(metrics.get(name)) for metrics in modes.values())) for name in names]
    print_table([("", *modes), *rows], title=f"{title}, {comparison.targets.queries:,} queries")
    main = comparison.main_metrics()
    if main:
        sure = [(mode, *(_with_interval(comparison, mode, name) for name in main)) for mode in modes]
        print_table([("", *main), *sure], title="± half of the 95 % interval, by resampling users")
    for note in comparison.notes():
        typer.echo(note)


def _with_interval(comparison: "Comparison", mode: str, metric: str) -> str:
    value, ends = comparison.modes[mode].get(metric), comparison.intervals[mode].get(metric)
    return _figure(value) + (f" ±{(ends[1] - ends[0]) / 2:.4f}" if ends else "")


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def print_facts(facts: Sequence[tuple[str, str]], title: str | None = None) -> None:
    """Names and values, one pair a line."""
    width = max((len(name) for name, _ in facts), default=0)
    if title:
        typer.echo(title)
    for name, value in facts:
        typer.echo(f"  {name:<{width}}  {value}")


def write_json(path: Path, content: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> None:
    """JSON to a file, or to stdout if the path is ``-``."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    if path == STDOUT:
        typer.echo(text)
        return
    from semid.artifacts import create_file

    with create_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    if settings is not None:
        write_settings(path, settings)


def write_settings(result: Path, settings: Mapping[str, Any]) -> None:
    """The settings that made a result file as ``NAME.settings.toml`` beside it, for ``--config``."""
    import tomli_w

    from semid.artifacts import create_file, plain_settings

    with create_file(result.with_name(f"{result.stem}.settings.toml")) as partial:
        partial.write_text(tomli_w.dumps(plain_settings(settings)), encoding="utf-8")
