"""``semid fit``, ``semid encode`` and ``semid inspect``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semid.commands import options
from semid.commands.console import (
    STDOUT,
    print_facts,
    print_table,
    progress_bar,
    write_json,
    write_settings,
)
from semid.commands.running import command, in_force
from semid.errors import InputError

if TYPE_CHECKING:
    from semid.tokenizers.report import QualityReport
    from semid.tokenizers.tokenizer import SemanticIdTokenizer


def register(app: typer.Typer) -> None:
    """Add the commands to the top level."""
    command(app, "fit")(fit)
    command(app, "encode")(encode_command)
    command(app, "inspect")(inspect)


def fit(
    context: typer.Context,
    emb: Annotated[
        tuple[str, ...],
        typer.Option(
            parser=options.names,
            metavar="ID,ID",
            show_default=False,
            help="Embeddings of the content to fuse; all of the dataset.",
        ),
    ] = (),
    behaviour: Annotated[
        tuple[str, ...] | None,
        typer.Option(
            parser=options.names_or_none,
            metavar="ID,ID or none",
            show_default=False,
            help="Embeddings from behaviour that shape the codes, not what the model is told of items; co-occurrence "
            "in training histories, computed here, unless there are over 8 million events.",
        ),
    ] = None,
    data: options.Data = options.DATA,
    out: Annotated[Path, typer.Option(help="Where the tokenizer goes.")] = options.TOKENIZER,
    svd: Annotated[int, typer.Option(help="Components of the fused vector.")] = 128,
    weights: Annotated[
        tuple[float, ...] | str | None,
        typer.Option(
            parser=options.floats_or_auto,
            metavar="X,X or auto",
            help="Energy of each embedding, or what brings together the items of training histories; 1 each, and a "
            "quarter of all for behaviour.",
        ),
    ] = None,
    scale: Annotated[str, typer.Option(help="Each embedding by energy, or whiten it first.")] = "energy",
    fuse: Annotated[str, typer.Option(help="Embeddings by svd, or gcca: what most of them agree on.")] = "svd",
    missing: Annotated[
        str, typer.Option(help="Embeddings an item lacks: regression on those it has, or mean.")
    ] = "regression",
    whiten: Annotated[float, typer.Option(help="Whitening of the components, 0 none to 1 full.")] = 0.0,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Turn the components at random, for opq without rotations of its own.")
    ] = False,
    quantiser: Annotated[str, typer.Option(help="rq-kmeans, rq-kmeans+, rq-vae, opq, or fsq.")] = "rq-kmeans",
    levels: Annotated[int, typer.Option(help="Codes an item.")] = 3,
    codes: Annotated[
        int | tuple[int, ...] | None,
        typer.Option(
            parser=options.one_or_more,
            metavar="K or K,K,…",
            show_default=False,
            help="Codes a level; by the number of items: many at the first level, few after it.",
        ),
    ] = None,
    option: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A further setting of the quantiser; repeatable.", show_default=False
        ),
    ] = [],  # noqa: B006
    side: Annotated[
        str | None,
        typer.Option(
            help="Embedding from behaviour for quantisers that use one; co-occurrence in training histories.",
            show_default=False,
        ),
    ] = None,
    collisions: Annotated[
        str, typer.Option(help="Items with equal codes: optimal, nearest, random-k, extra, or none.")
    ] = "optimal",
    collision_level: Annotated[
        int | None, typer.Option(help="Level at which nearest and random-k move items; last.")
    ] = None,
    collision_choices: Annotated[
        int, typer.Option(metavar="K", help="Nearest free codes of which random-k draws one.")
    ] = 8,
    overflow: Annotated[
        str, typer.Option(help="Where nearest finds no free code: spill, random, extra, or error.")
    ] = "spill",
    sample: Annotated[int | None, typer.Option(help="Most items to fit on; all.")] = None,
    seed: options.Seed = 0,
) -> None:
    """Learn semantic IDs from item embeddings."""
    from semid.data.dataset import Dataset
    from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
    from semid.tokenizers.tokenizer import TokenizerConfig

    dataset = Dataset.open(data)
    config = TokenizerConfig(
        **chosen_embeddings(dataset, emb, behaviour, None if isinstance(weights, str) else weights),
        svd=svd,
        scale=scale,
        fuse=fuse,
        missing=missing,
        whiten=whiten,
        rotate=rotate,
        levels=levels,
        codes=codes,
        quantiser=quantiser,
        options=options.assignments(option),
        collisions=collisions,
        collision_level=collision_level,
        collision_choices=collision_choices,
        overflow=overflow,
        sample=sample,
        seed=seed,
    )
    with progress_bar() as progress:
        settings = in_force(context, emb=config.content, behaviour=config.behaviour)
        tokenizer = fit_tokenizer(
            dataset, config, out, auto_weights=weights == "auto", side=side, settings=settings, progress=progress
        )
    _print_report(tokenizer.report_, f"Tokenizer {out}")


def encode_command(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE…",
            show_default=False,
            help="Vectors, one file an embedding: .npy, a row an item, or .parquet with item_id and emb. "
            "Without any: the items of --data.",
        ),
    ] = None,
    emb: Annotated[
        tuple[str, ...],
        typer.Option(
            parser=options.names,
            metavar="ID,ID",
            show_default=False,
            help="Which embedding each file is; the tokenizer's, in order.",
        ),
    ] = (),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Dataset the tokenizer was fitted on: its items get the codes they have.", show_default=False
        ),
    ] = None,
    tokenizer: options.Tokenizer = options.TOKENIZER,
    out: Annotated[
        Path | None,
        typer.Option(help="Result as .parquet or .jsonl; JSON lines on stdout without it.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run stood.")] = False,
) -> None:
    """Give codes to items, old or new."""
    from semid.data.dataset import Dataset
    from semid.pipeline.encoding import encode
    from semid.pipeline.resultfiles import check_result_path
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    if out is not None:
        check_result_path(out)
    if not files and data is None:
        raise InputError("There is nothing to encode: give a file of vectors, or --data for the items of a dataset.")
    if resume and out is None:
        raise InputError("There is nothing to resume on stdout: give --out.")
    fitted = SemanticIdTokenizer.load(tokenizer)
    dataset = None if data is None else Dataset.open(data)
    with progress_bar() as progress:
        encode(fitted, files or [], emb, dataset=dataset, out=out or sys.stdout, resume=resume, progress=progress)
    if out is not None:
        write_settings(out, in_force(context))


def inspect(
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Fitted tokenizer.")] = options.TOKENIZER,
    html: options.Html = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Dataset that it was fitted on, so that the page has ids and tells new items from old."),
    ] = None,
    titles: options.Titles = None,
    json: options.Json = None,
) -> None:
    """Show how good the codes of a tokenizer are."""
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    if html is None and (data is not None or titles is not None):
        raise InputError("--data and --titles are for the page: give --html FILE too.")
    if titles is not None and data is None:
        raise InputError("--titles names items by the ids of a dataset: give --data too.")
    fitted = SemanticIdTokenizer.load(tokenizer)
    report = fitted.report_
    if html is not None:
        _write_page(fitted, f"Tokenizer {tokenizer}", html, data, titles)
    if json != STDOUT:
        _print_report(report, f"Tokenizer {tokenizer}")
    if json is not None:
        write_json(json, report.to_dict())


def _write_page(
    tokenizer: "SemanticIdTokenizer", title: str, html: Path, data: Path | None, titles: str | None
) -> None:
    from semid.data.dataset import Dataset
    from semid.pages.page import check_page, write_page
    from semid.pages.tokenizer_page import tokenizer_sections
    from semid.pipeline.naming import Names
    from semid.pipeline.tokenizer_look import look_at

    check_page(html)
    dataset = None if data is None else Dataset.open(data)
    look = look_at(tokenizer, dataset, None if dataset is None else Names(dataset, titles))
    write_page(html, title, look.report.summary_rows(), tokenizer_sections(look))


def _print_report(report: "QualityReport", title: str) -> None:
    print_facts(report.summary_rows(), title=title)
    print_table(report.level_rows(), title="Levels")
    buckets = report.bucket_rows()
    if len(buckets) > 1:
        print_table(buckets, title="Most items with the same codes, before collisions were resolved")
    purity = report.purity_rows()
    if len(purity) > 1:
        print_table(purity, title="Pairs of items with the same codes up to a level that share a value")
