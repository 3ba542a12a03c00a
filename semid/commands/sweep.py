"""``semid sweep``."""

from pathlib import Path
from typing import Annotated

import typer

from semid.commands import options
from semid.commands.architecture import Architecture
from semid.commands.console import STDOUT, print_table, progress_bar, write_json, write_settings
from semid.commands.running import command, in_force
from semid.commands.training import Training
from semid.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    command(app, "sweep")(sweep)


def sweep(
    context: typer.Context,
    architecture: Architecture,
    training: Training,
    data: options.Data = options.DATA,
    tokenizer: options.Tokenizer = options.TOKENIZER,
    out: Annotated[Path, typer.Option(help="Folder of the study; one that was begun there goes on.")] = Path(
        "runs/sweep"
    ),
    axis: Annotated[
        list[str],
        typer.Option(
            "--axis",
            metavar="NAME=X,X",
            help="What is varied, of negatives, width, depth, id_width, data, and its values, as in "
            "width=64,128,256; repeatable.",
            show_default="three values around the preset's of all but data",
        ),
    ] = [],  # noqa: B006
    grid: Annotated[
        bool, typer.Option("--grid", help="Every combination of the values, not one axis at a time.")
    ] = False,
    seeds: Annotated[
        tuple[int, ...],
        typer.Option(parser=options.integers, metavar="S,S", help="One training each.", show_default="0,1,2"),
    ] = (0, 1, 2),
    queries: Annotated[
        int, typer.Option(help="Judge by a fixed random sample of so many validation queries; 0 for all.")
    ] = 6000,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the models, which are removed once they are judged.")
    ] = False,
    device: options.Device = "cpu",
    preset: options.Preset = "small",
    json: options.Json = None,
) -> None:
    """Train along several axes of scale, and tell by which power law validation follows each."""
    from semid.data.dataset import Dataset
    from semid.pipeline.sweeping import JSON, PLOT, TABLE, SweepConfig, run_sweep
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    chosen = options.preset_named(preset)
    config = SweepConfig(
        model=architecture.config(chosen.model),
        axes=_axes(axis),
        grid=grid,
        train=training.config(chosen),
        seeds=seeds,
        queries=queries,
        keep_models=keep_models,
    )
    options.check_device(device)
    dataset, fitted = Dataset.open(data), SemanticIdTokenizer.load(tokenizer)
    with progress_bar() as progress:
        report = run_sweep(dataset, fitted, config, out, progress=progress, device=device)
    write_settings(out / JSON, in_force(context))
    if json != STDOUT:
        print_table(report.table_rows(), title=report.title())
    if json is not None:
        write_json(json, report.to_dict(), in_force(context))
    typer.echo(f"Wrote {JSON}, {TABLE} and {PLOT} in {out}.", err=True)


def _axes(texts: list[str]) -> dict[str, tuple[float, ...]]:
    """``["width=64,128", "data=0.5"]`` → ``{"width": (64, 128), "data": (0.5,)}``."""
    axes: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        if name in axes:
            raise InputError(f"Axis {name} is given twice: give all of its values at once, as in {name}=1,2,4.")
        axes[name] = tuple(_number(name, value) for value in values.split(",")) if values else ()
    return axes


def _number(axis: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(
            f"Axis {axis} has the value {text.strip()!r}, which is not a number: give numbers, as in {axis}=1,2,4."
        ) from None
    return int(value) if value.is_integer() else value
