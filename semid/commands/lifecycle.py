"""``semid append``, ``semid drift`` and ``semid refit``."""

from pathlib import Path
from typing import Annotated

import typer

from semid.commands import options
from semid.commands.console import STDOUT, print_facts, print_table, progress_bar, write_json
from semid.commands.running import command, in_force
from semid.errors import InputError

_OUT = typer.Option(help="Where the tokenizer of --data goes; in place of the old one.", show_default=False)


def register(app: typer.Typer) -> None:
    """Add the commands to the top level."""
    command(app, "append")(append)
    command(app, "drift")(drift)
    command(app, "refit")(refit)


def append(
    context: typer.Context,
    data: options.Data = options.DATA,
    tokenizer: options.Tokenizer = options.TOKENIZER,
    out: Annotated[Path | None, _OUT] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model that is to recommend the items of --data.", show_default=False)
    ] = None,
    model_data: Annotated[
        Path | None, typer.Option(help="Dataset that --model belongs to.", show_default=str(options.DATA))
    ] = None,
    model_out: Annotated[
        Path | None,
        typer.Option(help="Where the model of --data goes; in place of the old one.", show_default=False),
    ] = None,
    json: options.Json = None,
) -> None:
    """Give codes to the new items of a later dataset; no item of before is moved, and no model trained."""
    from semid.data.dataset import Dataset
    from semid.generative.recommender import GenerativeRecommender
    from semid.pipeline.carrying import append_and_carry
    from semid.pipeline.lifecycle import append_items
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    if model is None and (model_out or model_data):
        raise InputError("--model-out and --model-data say where a model goes and comes from: give --model too.")
    dataset, fitted = Dataset.open(data), SemanticIdTokenizer.load(tokenizer)
    out, model_out, model_data = out or tokenizer, model_out or model, model_data or (model and options.DATA)
    settings = in_force(context, out=out, model_data=model_data, model_out=model_out)
    with progress_bar() as progress:
        if not (model and model_data and model_out):
            report = append_items(fitted, dataset, out, settings=settings, progress=progress)
        else:
            recommender, old = GenerativeRecommender.load(model), Dataset.open(model_data)
            report, _ = append_and_carry(
                fitted, recommender, old, dataset, out, model_out, settings=settings, progress=progress
            )
    if json != STDOUT:
        print_facts(report.summary_rows(), title=f"Tokenizer {out}")
    if model_out is not None:
        typer.echo(f"Wrote {model_out}: `semid generate --data {data} --model {model_out}` uses it.", err=True)
    if json is not None:
        write_json(json, report.to_dict())


def drift(
    data: options.Data = options.DATA,
    tokenizer: options.Tokenizer = options.TOKENIZER,
    tolerance: Annotated[
        float, typer.Option(help="Rise of the error of new items over unseen old ones that is let pass.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="Confidence of the verdict.")] = 0.95,
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    """Tell whether the items that came after the fit call for a refit."""
    from semid.data.dataset import Dataset
    from semid.pipeline.lifecycle import dataset_drift
    from semid.tokenizers.lifecycle.drift import DriftConfig
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    config = DriftConfig(tolerance=tolerance, confidence=confidence, seed=seed)
    dataset, fitted = Dataset.open(data), SemanticIdTokenizer.load(tokenizer)
    with progress_bar() as progress:
        report = dataset_drift(fitted, dataset, config, progress=progress)
    if json != STDOUT:
        print_facts(report.summary_rows(), title=f"Tokenizer {tokenizer}, items of {data}")
        if report.new is not None:
            print_table(report.group_rows())
    if json is not None:
        write_json(json, report.to_dict())


def refit(
    context: typer.Context,
    data: options.Data = options.DATA,
    tokenizer: options.Tokenizer = options.TOKENIZER,
    out: Annotated[Path | None, _OUT] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Items keep their codes where these still serve them.")
    ] = False,
    tolerance: Annotated[float, typer.Option(help="Rise of the error that --keep allows.")] = 0.05,
    side: Annotated[
        str | None, typer.Option(help="Embedding from behaviour, as for fit.", show_default=False)
    ] = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            help="Items whose codes changed, as .parquet or .jsonl; OUT.changes.parquet.", show_default=False
        ),
    ] = None,
    json: options.Json = None,
) -> None:
    """Fit anew to a later dataset, with the settings of the tokenizer."""
    from semid.data.dataset import Dataset
    from semid.pipeline.lifecycle import refit_tokenizer
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    dataset, fitted = Dataset.open(data), SemanticIdTokenizer.load(tokenizer)
    out = out or tokenizer
    changes = changes or out.with_name(f"{out.name}.changes.parquet")
    with progress_bar() as progress:
        report, _ = refit_tokenizer(
            fitted,
            dataset,
            out,
            keep=keep,
            tolerance=tolerance,
            side=side,
            changes=changes,
            settings=in_force(context, out=out, changes=changes),
            progress=progress,
        )
    if json != STDOUT:
        print_facts([*report.summary_rows(), ("changed items", str(changes))], title=f"Tokenizer {out}")
    if json is not None:
        write_json(json, report.to_dict())
