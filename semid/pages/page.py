"""One self-contained HTML page of sections: all text escaped, plots drawn by plotly's script, which it holds once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from semid.artifacts import create_file
from semid.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; the first row is the header, the first column names the rows; folded ones open at a click."""

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of plotly: its traces and its layout, as plain values.

    Attributes:
        title, note: what it shows, and how to read it.
        data, layout: as plotly's JSON has them.
        height: in pixels.
        half: whether two of them fit beside each other where the screen is wide.
    """

    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    height: int = 380
    half: bool = False
    kind: str = "plot"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a list, with a smaller line below it, and whether it is marked."""

    text: str
    below: str = ""
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Lists side by side that open at a click.

    Attributes:
        title: what is clicked.
        columns: entries by heading.
        opened: whether they are open from the start.
    """

    title: str
    columns: Mapping[str, Sequence[Entry]]
    opened: bool = False
    kind: str = "lists"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of a page, with a place in its navigation."""

    title: str
    intro: str = ""
    blocks: Sequence[Table | Plot | Lists] = ()


def write_page(path: Path, title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> None:
    """Write a page.

    Args:
        facts: names and values below the title.

    Raises:
        InputError: the packages that make pages are not installed, or the file's name does not end in .html.
    """
    check_page(path)
    text = rendered(title, facts, sections)
    with create_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_page(path: Path) -> None:
    """Raise before any work is done if no page could be written there.

    Raises:
        InputError: see :func:`write_page`.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path} is no name of a page: let it end in .html.")
    _import("plotly")
    _import("jinja2")


def rendered(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The page as text."""
    jinja2, offline = _import("jinja2"), _import("plotly.offline")
    # Undefined names are mistakes; everything that is not marked safe is escaped.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    source = files("semid.pages").joinpath("page.html.j2").read_text(encoding="utf-8")
    text: str = environment.from_string(source).render(
        title=title, facts=facts, sections=sections, plotly=offline.get_plotlyjs()
    )
    return text


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(
            "HTML pages need plotly and jinja2, which are not installed: run pip install 'semid[report]'."
        ) from None
