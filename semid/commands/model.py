"""``semid train``, ``semid generate``, ``semid compare`` and ``semid embed``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semid.commands import options
from semid.commands.architecture import Architecture
from semid.commands.console import (
    STDOUT,
    print_comparison,
    print_facts,
    print_table,
    progress_bar,
    write_json,
    write_settings,
)
from semid.commands.running import command, in_force
from semid.commands.training import Training
from semid.errors import InputError

if TYPE_CHECKING:
    from semid.pipeline.histories import QueryBatch


def register(app: typer.Typer) -> None:
    """Add the commands to the top level."""
    command(app, "train")(train)
    command(app, "generate")(generate)
    command(app, "compare")(compare)
    command(app, "embed")(embed)


def train(
    context: typer.Context,
    architecture: Architecture,
    training: Training,
    data: options.Data = options.DATA,
    tokenizer: options.Tokenizer = options.TOKENIZER,
    out: Annotated[Path, typer.Option(help="Where the model goes.")] = options.MODEL,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of a stopped training.")
    ] = False,
    device: options.Device = "cpu",
    preset: options.Preset = "small",
    seed: options.Seed = 0,
    load_plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With experts: draw how evenly they were used there, as SVG."),
    ] = None,
) -> None:
    """Train the model that generates and retrieves."""
    from semid.artifacts import open_artifact
    from semid.data.dataset import Dataset
    from semid.errors import InputError
    from semid.evaluation.plotting import draw_expert_load, require_plotting
    from semid.generative.recommender import KIND
    from semid.pipeline.training import train_recommender
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    chosen = options.preset_named(preset)
    model_config = architecture.config(chosen.model)
    train_config = training.config(chosen, seed=seed)
    options.check_device(device)
    if load_plot is not None:
        if model_config.moe is None:
            raise InputError("--load-plot draws the load of experts, and this model has none: add --experts.")
        require_plotting()
    dataset, fitted = Dataset.open(data), SemanticIdTokenizer.load(tokenizer)
    try:
        with progress_bar() as progress:
            train_recommender(
                dataset,
                fitted,
                model_config,
                train_config,
                out,
                settings=in_force(context),
                resume=resume,
                progress=progress,
                device=device,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted: {out} is as it was; `semid train --resume` with the same options goes on from the last "
            "checkpoint, if there is one."
        ) from None
    if load_plot is not None:
        draw_expert_load(load_plot, open_artifact(out, KIND).load_lines("log.jsonl"))
    typer.echo(f"Wrote {out}: `semid generate` and `semid compare` use it.", err=True)


def generate(
    context: typer.Context,
    data: options.Data = options.DATA,
    model: options.ModelPath = options.MODEL,
    split: Annotated[
        str, typer.Option(help="Whose queries are answered: valid, test, or next, after all events of every user.")
    ] = "test",
    histories: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Answer these instead: .parquet or .jsonl with history (raw item ids, oldest first), "
            "and where known user_id, actions, timestamps.",
        ),
    ] = None,
    beam: options.Beam = 50,
    top_k: Annotated[int, typer.Option(help="Items per query.")] = 10,
    mode: Annotated[
        tuple[str, ...],
        typer.Option(
            parser=options.names, metavar="MODE,…", help="generative, ann, hybrid.", show_default="generative"
        ),
    ] = ("generative",),
    filter_seen: options.FilterSeen = False,
    allow: options.Allow = None,
    deny: options.Deny = None,
    action: options.Action = "usual",
    eta: options.Eta = None,
    budget: Annotated[
        tuple[tuple[str, int], ...],
        typer.Option(
            parser=options.budget,
            metavar="ACTION:N,…",
            help="Fill N places of each list with ACTION wanted, in place of --top-k and --action.",
            show_default=False,
        ),
    ] = (),
    fusion: options.Fusion = "auto",
    fallback: options.Fallback = ("short",),
    sure: options.Sure = 0.1,
    distinct: options.Distinct = "",
    index: options.Index = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Result as .jsonl or .parquet; JSON lines on stdout without it.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run stood.")] = False,
) -> None:
    """Recommend the next items."""
    from semid.data.dataset import Dataset
    from semid.generative.recommender import GenerativeRecommender
    from semid.pipeline.answer import AnswerConfig
    from semid.pipeline.answering import Answerer
    from semid.pipeline.histories import HistoryReader, queries_of_split
    from semid.pipeline.item_lists import restrict
    from semid.pipeline.recommending import write_recommendations
    from semid.pipeline.resultfiles import check_result_path

    if out is not None:
        check_result_path(out)
    elif resume:
        raise InputError("There is nothing to resume on stdout: give --out.")
    config = AnswerConfig(
        k=sum(places for _, places in budget) or top_k,
        **options.beam_settings(beam),
        filter_seen=filter_seen,
        action=action,
        eta=eta,
        budget=budget,
        factory=index,
        fusion=fusion,
        fallback=fallback,
        sure=sure,
        distinct=distinct,
    )
    options.check_device(device)
    dataset = Dataset.open(data)
    recommender = GenerativeRecommender.load(model, device, precision)
    if allow is not None or deny is not None:
        recommender = recommender.among(restrict(recommender.candidates, dataset, allow=allow, deny=deny))
    answerer = Answerer(recommender, config, dataset.item_fields)

    def batches() -> "Iterator[QueryBatch]":
        return queries_of_split(dataset, split) if histories is None else HistoryReader(histories, dataset).batches()

    with progress_bar() as progress:
        write_recommendations(
            answerer,
            dataset,
            batches,
            mode,
            out=out or sys.stdout,
            source=histories,
            resume=resume,
            progress=progress,
        )
    if out is not None:
        write_settings(out, in_force(context))


def compare(
    context: typer.Context,
    data: options.Data = options.DATA,
    model: options.ModelPath = options.MODEL,
    split: Annotated[str, typer.Option(help="Whose queries are answered: valid or test.")] = "test",
    k: Annotated[
        tuple[int, ...],
        typer.Option("--k", parser=options.integers, metavar="K or K,K", help="List lengths.", show_default="10"),
    ] = (10,),
    beam: options.Beam = 50,
    filter_seen: options.FilterSeen = False,
    action: options.Action = "usual",
    eta: options.Eta = None,
    fusion: options.Fusion = "auto",
    fallback: options.Fallback = ("short",),
    sure: options.Sure = 0.1,
    distinct: options.Distinct = "",
    index: options.Index = "auto",
    precision: options.Precision = "auto",
    queries: Annotated[int, typer.Option(help="Take a fixed random sample of so many queries; 0 for all.")] = 0,
    baselines: Annotated[
        tuple[str, ...] | None,
        typer.Option(
            parser=options.names_or_none,
            metavar="NAME,…",
            help="popularity, recent, item-knn, content-knn, or none.",
            show_default="all",
        ),
    ] = None,
    beside: Annotated[
        tuple[tuple[str, Path], ...],
        typer.Option(
            parser=options.places,
            metavar="NAME=MODEL,…",
            help="Other models of the same dataset, such as sasrec=runs/sasrec.",
            show_default=False,
        ),
    ] = (),
    lists: Annotated[
        tuple[tuple[str, Path], ...],
        typer.Option(
            parser=options.places,
            metavar="NAME=FILE,…",
            help="Lists made elsewhere: .jsonl or .parquet with query, items, and where known user_id, mode, scores.",
            show_default=False,
        ),
    ] = (),
    trade_off: Annotated[
        bool, typer.Option("--trade-off", help="Also quality over time, for beams of 10 to 500 and several indexes.")
    ] = False,
    latencies: Annotated[
        bool, typer.Option("--latencies/--no-latencies", help="Take the time of single queries and of batches of 64.")
    ] = True,
    html: options.Html = None,
    titles: options.Titles = None,
    device: options.Device = "cpu",
    json: options.Json = None,
) -> None:
    """Compare baselines, generative, ANN, hybrid, other models and given lists on the same queries."""
    from semid.data.dataset import Dataset
    from semid.generative.recommender import GenerativeRecommender
    from semid.pages.comparison_page import comparison_facts, comparison_sections
    from semid.pages.page import check_page, write_page
    from semid.pipeline.answer import AnswerConfig
    from semid.pipeline.answering import Answerer
    from semid.pipeline.baselines import BASELINES
    from semid.pipeline.comparing import Rivals, compare_modes
    from semid.pipeline.conditions import conditions
    from semid.pipeline.example_users import example_users
    from semid.pipeline.naming import Names
    from semid.pipeline.trade_off import trade_off_rows, trade_offs

    config = AnswerConfig(
        k=max(k),
        **options.beam_settings(beam),
        filter_seen=filter_seen,
        action=action,
        eta=eta,
        factory=index,
        fusion=fusion,
        fallback=fallback,
        sure=sure,
        distinct=distinct,
    )
    options.check_device(device)
    if html is not None:
        check_page(html)
    elif titles is not None:
        raise InputError("--titles are for the page: give --html FILE too.")
    dataset = Dataset.open(data)
    names = Names(dataset, titles)
    rivals = Rivals(
        baselines=BASELINES if baselines is None else baselines,
        models={name: GenerativeRecommender.load(place, device, precision) for name, place in beside},
        lists=dict(lists),
    )
    answerer = Answerer(GenerativeRecommender.load(model, device, precision), config, dataset.item_fields)
    with progress_bar() as progress:
        comparison = compare_modes(
            answerer,
            dataset,
            split,
            ks=k,
            max_queries=queries,
            rivals=rivals,
            timed=latencies,
            progress=progress,
        )
        points = trade_offs(answerer, dataset.split(split), k=max(k), progress=progress) if trade_off else []
    told = conditions(answerer, dataset, split)
    if html is not None:
        sections = comparison_sections(comparison, points, example_users(answerer, dataset, split, names))
        write_page(html, f"{data}, split {split}", comparison_facts(comparison, told), sections)
    if json != STDOUT:
        print_comparison(comparison, f"{data}, split {split}")
        if points:
            print_table(
                trade_off_rows(points, max(k)),
                title=f"Quality over time of {points[0].queries:,} queries, 64 at once; * none is better and as fast",
            )
    if json is not None:
        result = comparison.to_dict(data=str(data), split=split)
        result |= {"conditions": told}
        result |= {"trade_off": [point.to_dict() for point in points]} if points else {}
        write_json(json, result, in_force(context))


def embed(
    context: typer.Context,
    data: options.Data = options.DATA,
    model: options.ModelPath = options.MODEL,
    name: Annotated[str, typer.Option(help="Name of the embedding in the dataset.")] = "collab",
    device: options.Device = "cpu",
) -> None:
    """Add the model's item vectors to the dataset as an embedding, for codes made of what users do with items."""
    from semid.data.dataset import Dataset
    from semid.generative.recommender import GenerativeRecommender
    from semid.pipeline.embedding import export_items

    options.check_device(device)
    recommender = GenerativeRecommender.load(model, device)
    report = export_items(recommender, Dataset.open(data), name, settings=in_force(context))
    print_facts(
        report.summary_rows(), title=f"Embedding {name} of {data}: `semid fit --emb …,{name}` makes codes of it"
    )
