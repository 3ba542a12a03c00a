"""``semid sweep``."""

from pathlib import Path
from typing import Annotated

import typer

from semid.commands import options
from semid.commands.console import STDOUT, print_table, progress_bar, write_json, write_settings
from semid.commands.running import command, in_force
from semid.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    command(app, "sweep")(sweep)


def sweep(
    context: typer.Context,
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
    epochs: options.Epochs = None,
    max_minutes: options.MaxMinutes = None,
    batch_tokens: options.BatchTokens = None,
    accumulate: options.Accumulate = None,
    learning_rate: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    warmup_share: options.WarmupShare = None,
    clip: options.Clip = None,
    patience: options.Patience = None,
    checkpoint_minutes: options.CheckpointMinutes = None,
    precision: options.Precision = None,
    finetune_share: options.FinetuneShare = None,
    finetune_rate: options.FinetuneRate = None,
    finetune_weights: options.FinetuneWeights = None,
    json: options.Json = None,
) -> None:
    """Train along several axes of scale, and tell by which power law validation follows each."""
    from semid.data.dataset import Dataset
    from semid.pipeline.sweeping import JSON, PLOT, TABLE, SweepConfig, run_sweep
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    chosen = options.preset_named(preset)
    train_config = options.train_config(
        chosen,
        epochs=epochs,
        max_minutes=max_minutes,
        batch_tokens=batch_tokens,
        accumulate=accumulate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_share=warmup_share,
        clip=clip,
        patience=patience,
        checkpoint_minutes=checkpoint_minutes,
        precision=precision,
        finetune_share=finetune_share,
        finetune_rate=finetune_rate,
        finetune_weights=finetune_weights,
    )
    config = SweepConfig(
        model=chosen.model,
        axes=_axes(axis),
        grid=grid,
        train=train_config,
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
