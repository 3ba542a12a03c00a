"""Parsers that turn what is typed into values, and the options several commands share, with their checks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from semid.generative.presets import Preset as Preset_


def names(text: Any) -> tuple[str, ...]:
    """``82,85`` → ``("82", "85")``; nothing → ``()``."""
    if not isinstance(text, str) or not text:  # a default goes through the parser too
        return tuple(text)
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise typer.BadParameter(f"{text!r} is not a list of names like 82,85.")
    return parts


def names_or_none(text: Any) -> tuple[str, ...] | None:
    """Names, or ``none`` for no name; nothing → None."""
    return None if text is None else () if text == "none" else names(text)


def _numbers(kind: type[int] | type[float], example: str, count: int = 0) -> Callable[[Any], tuple[Any, ...]]:
    def parse(text: Any) -> tuple[Any, ...]:
        if not isinstance(text, str):
            return tuple(text)
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError:
            values = ()
        if not values or count not in (0, len(values)):
            raise typer.BadParameter(f"{text!r} is not a list of numbers like {example}.")
        return values

    return parse


integers = _numbers(int, "5,10")
floats = _numbers(float, "1,0.5")


def floats_or_none(text: Any) -> Any:
    """``0,1`` → (0.0, 1.0); nothing → None."""
    return None if text is None else floats(text)


def floats_or_auto(text: Any) -> Any:
    """``1,0.5`` → (1.0, 0.5), ``auto`` → "auto"."""
    return text if text in (None, "auto") else floats(text)


two_integers = _numbers(int, "1700000000,1700600000", count=2)
two_floats = _numbers(float, "0.8,0.9", count=2)


def one_or_more(text: Any) -> Any:
    """``256`` → 256, ``256,128`` → (256, 128); nothing → None."""
    if text is None or isinstance(text, int):
        return text
    values = integers(text)
    return values[0] if len(values) == 1 else values


def widths(text: Any) -> tuple[tuple[str, int], ...]:
    """``81:32,82:1024`` → ``(("81", 32), ("82", 1024))``."""
    return _named_integers(text, "id:width like 81:32,82:1024")


def counts(text: Any) -> tuple[tuple[str, int], ...]:
    """``uniform:4096,hard:512`` → ``(("uniform", 4096), ("hard", 512))``."""
    return _named_integers(text, "kind:count like uniform:4096,hard:512")


def budget(text: Any) -> tuple[tuple[str, int], ...]:
    """``click:7,conversion:3`` → ``(("click", 7), ("conversion", 3))``; nothing → ``()``."""
    return _named_integers(text, "action:places like click:7,conversion:3")


def places(text: Any) -> tuple[tuple[str, Path], ...]:
    """``sasrec=runs/sasrec,tiger=runs/tiger`` → ``(("sasrec", Path("runs/sasrec")), …)``; nothing → ``()``."""
    if not isinstance(text, str):
        return tuple(text)
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and place for name, _, place in pairs) or len({n for n, _, _ in pairs}) < len(pairs):
        raise typer.BadParameter(f"{text!r} is not a list of NAME=PATH like sasrec=runs/sasrec, each name once.")
    return tuple((name.strip(), Path(place)) for name, _, place in pairs)


def beam(text: Any) -> Any:
    """``50`` → 50, ``exact`` → "exact"."""
    if isinstance(text, int) or text == "exact":
        return text
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither a number like 50 nor exact.")
    return int(text)


def beam_settings(value: Any) -> dict[str, Any]:
    """What :func:`beam` read, as settings of AnswerConfig."""
    return {"exact": True} if value == "exact" else {"beam": value}


def _named_integers(text: Any, form: str) -> tuple[tuple[str, int], ...]:
    if not isinstance(text, str):
        return tuple((name, value) for name, value in text)
    pairs = [part.partition(":") for part in text.split(",")]
    if not all(name and value.isdecimal() for name, _, value in pairs):
        raise typer.BadParameter(f"{text!r} is not a list of {form}.")
    return tuple((name, int(value)) for name, _, value in pairs)


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """``["beam=5"]`` → ``{"beam": "5"}``."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, sign, _) in zip(texts, pairs, strict=True):
        if not name.strip() or not sign:
            raise typer.BadParameter(f"{text!r} is not a setting like beam=5.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def check_device(name: str) -> None:
    """Raise InputError unless torch can compute there."""
    import torch

    from semid.errors import InputError

    try:
        usable = torch.empty(0, device=name).device.type in ("cpu", "cuda")
    except (RuntimeError, AssertionError):
        usable = False
    if not usable:
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise InputError(f"There is no device {name!r} here: use one of {there}.")


def preset_named(name: str) -> "Preset_":
    """A preset; InputError where there is none of this name."""
    from semid.errors import InputError
    from semid.generative.presets import PRESETS

    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}: use one of {', '.join(PRESETS)}.")
    return PRESETS[name]


DATA = Path("data")
TOKENIZER = Path("runs/tokenizer")
MODEL = Path("runs/model")

Data = Annotated[Path, typer.Option("--data", help="Prepared dataset.")]
Tokenizer = Annotated[Path, typer.Option("--tokenizer", help="Fitted tokenizer.")]
ModelPath = Annotated[Path, typer.Option("--model", help="Trained model.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of every random choice.")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1 …")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", dir_okay=False, help="Also write JSON there; - is stdout."),
]
Beam = Annotated[
    Any,
    typer.Option(
        "--beam",
        parser=beam,
        metavar="N or exact",
        help="Width of the beam search and of the ANN candidates; exact doubles it, from 50 on, for the queries "
        "whose list is not yet provably the best.",
    ),
]
FilterSeen = Annotated[bool, typer.Option("--filter-seen", help="Never recommend what is in the history.")]
Allow = Annotated[
    str | None,
    typer.Option(
        "--allow",
        metavar="FILE[:COLUMN=VALUE,…]",
        show_default=False,
        help="Recommend only items of this .parquet or .csv (column item_id), or those with a value in a column.",
    ),
]
Deny = Annotated[
    str | None,
    typer.Option(
        "--deny", metavar="FILE[:COLUMN=VALUE,…]", show_default=False, help="Never recommend the items of this file."
    ),
]
Precision = Annotated[
    str, typer.Option("--precision", help="Of matrix products: float32, bfloat16, or auto, the faster one here.")
]
Action = Annotated[str, typer.Option("--action", help="Wanted next action: a name, usual, or any.")]
Eta = Annotated[
    float | None,
    typer.Option("--eta", help="Weight of log p(action | item); by default fitted.", show_default=False),
]
Fusion = Annotated[
    str,
    typer.Option(
        "--fusion", help="How the hybrid makes one order: learned, linear, rrf, or auto, the best on validation."
    ),
]
Fallback = Annotated[
    tuple[str, ...],
    typer.Option(
        "--fallback",
        parser=names_or_none,
        metavar="REASON,…",
        help="When the hybrid answers in place of generative: short (too few beams), unsure (not proven, and less "
        "probable than --sure), new (an item without training events is near), or none.",
        show_default="short",
    ),
]
Sure = Annotated[float, typer.Option("--sure", help="Probability that generated lists need to stand alone.")]
Distinct = Annotated[
    str,
    typer.Option(
        "--distinct", metavar="COLUMN", help="At most one item of each value of an item column.", show_default=False
    ),
]
Titles = Annotated[
    str | None,
    typer.Option(
        "--titles",
        metavar="FILE:COLUMN",
        show_default=False,
        help="Titles of items in a .parquet or .csv (column item_id); by default those of the dataset.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page to look at, with all it needs.", show_default=False),
]
Index = Annotated[str, typer.Option("--index", help="Index of ANN: auto, exact, or a Faiss factory string.")]

Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        help="A size: tiny, small, base, large; a baseline: sasrec, tiger; or a published system: baseline, "
        "baseline-infonce, first, second, third, award, onepiece, finalist.",
    ),
]
