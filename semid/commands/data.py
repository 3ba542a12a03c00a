"""``semid data …``: prepare, synth, convert, info, check."""

from pathlib import Path
from typing import Annotated

import typer

from semid.commands import options
from semid.commands.console import STDOUT, print_facts, progress_bar, write_json
from semid.commands.running import command, in_force

app = typer.Typer(no_args_is_help=True, help="Prepare, make, convert, describe and check datasets.")

Source = Annotated[Path, typer.Argument(metavar="SRC", help="Folder with the raw files.", show_default=False)]
Target = Annotated[Path, typer.Argument(metavar="DST", help="Where it goes.", show_default=False)]
_SPLITS = "How queries are cut"


@command(app, "prepare")
def prepare(
    context: typer.Context,
    source: Source,
    target: Target = options.DATA,
    layout: Annotated[str, typer.Option(help="tencentgr-h, tencentgr-c, table, or auto.")] = "auto",
    emb: Annotated[
        tuple[str, ...] | None, typer.Option(parser=options.names, metavar="ID,ID", help="Embeddings to take; all.")
    ] = None,
    float_type: Annotated[
        str, typer.Option("--float", help="How embeddings are stored: float16 or float32.")
    ] = "float16",
    null_action: Annotated[
        str, typer.Option(help="What an event without an action becomes: unknown, drop (the event), or error.")
    ] = "unknown",
    min_join_rate: Annotated[
        float, typer.Option(help="Least share of embedding rows or items that must match.")
    ] = 0.5,
    split_protocol: Annotated[
        str,
        typer.Option(help="leave-last-out, time, user, given, or auto.", rich_help_panel=_SPLITS),
    ] = "auto",
    target_actions: Annotated[
        tuple[str, ...],
        typer.Option(
            parser=options.names,
            metavar="NAME,…",
            help="Actions a target needs to have; click and stronger where there are clicks, else any.",
            show_default=False,
            rich_help_panel=_SPLITS,
        ),
    ] = (),
    test_users: Annotated[
        float, typer.Option(help="Share of users held out for testing by user.", rich_help_panel=_SPLITS)
    ] = 0.1,
    valid_users: Annotated[
        float, typer.Option(help="Share of users held out for validation by user.", rich_help_panel=_SPLITS)
    ] = 0.05,
    time_cuts: Annotated[
        tuple[int, int] | None,
        typer.Option(
            parser=options.two_integers,
            metavar="A,B",
            help="Unix seconds where validation and test start.",
            rich_help_panel=_SPLITS,
        ),
    ] = None,
    time_shares: Annotated[
        tuple[float, float],
        typer.Option(
            parser=options.two_floats,
            metavar="A,B",
            help="Share of events before each cut, without --time-cuts.",
            show_default="0.8,0.9",
            rich_help_panel=_SPLITS,
        ),
    ] = (0.8, 0.9),
    candidates_only: Annotated[
        bool | None,
        typer.Option(help="Drop targets that are no candidates; only by user.", rich_help_panel=_SPLITS),
    ] = None,
    hold_out_items: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the trained items made new, to judge cold start: no events, but queries ask for them.",
            rich_help_panel=_SPLITS,
        ),
    ] = 0.0,
    hold_out_among: Annotated[
        str, typer.Option(help="Which items these may be: all, or candidates.", rich_help_panel=_SPLITS)
    ] = "all",
    seed: Annotated[
        int, typer.Option(help="Of the choice of users and of items held out.", rich_help_panel=_SPLITS)
    ] = 2025,
) -> None:
    """Turn raw files into one prepared dataset."""
    from semid.data.prepare import prepare as prepare_dataset
    from semid.data.reading import PrepareConfig
    from semid.data.splits import SplitConfig
    from semid.pipeline.describing import describe_dataset

    split = SplitConfig(
        protocol=split_protocol,
        target_actions=target_actions,
        seed=seed,
        test_users=test_users,
        valid_users=valid_users,
        time_cuts=time_cuts,
        time_shares=time_shares,
        candidates_only=candidates_only,
        hold_out_items=hold_out_items,
        hold_out_among=hold_out_among,
    )
    config = PrepareConfig(
        layout=layout,
        split=split,
        embeddings=emb,
        float_dtype=float_type,
        min_join_rate=min_join_rate,
        null_action=null_action,
    )
    with progress_bar() as progress:
        dataset = prepare_dataset(source, target, config, progress, settings=in_force(context))
    description = describe_dataset(dataset)
    print_facts(description.rows(), title=f"Dataset {target}")


@command(app, "synth")
def synth(
    target: Target,
    users: Annotated[int, typer.Option(help="Users.")] = 5_000,
    items: Annotated[int, typer.Option(help="Items in the logs; cold ones come on top.")] = 3_000,
    emb: Annotated[
        tuple[tuple[str, int], ...],
        typer.Option(
            parser=options.widths,
            metavar="ID:WIDTH,…",
            help="Embeddings to make.",
            show_default="81:32,82:1024,85:3584",
        ),
    ] = (("81", 32), ("82", 1024), ("85", 3584)),
    mean_events: Annotated[float, typer.Option(help="Events of a user on average.")] = 40.0,
    cold_share: Annotated[float, typer.Option(help="Share of candidates that nobody has seen.")] = 0.2,
    null_actions: Annotated[float, typer.Option(help="Share of events without an action.")] = 0.0,
    effects: Annotated[
        tuple[str, ...],
        typer.Option(
            parser=options.names,
            metavar="NAME,…",
            help="What decides the next item besides: some of time, action, popularity, modality.",
            show_default=False,
        ),
    ] = (),
    seed: options.Seed = 0,
) -> None:
    """Make synthetic data with structure to find, in TencentGR's release layout."""
    from semid.data.synthetic.generator import SyntheticConfig, synthesise

    config = SyntheticConfig(
        users=users,
        items=items,
        embeddings=emb,
        seed=seed,
        mean_events=mean_events,
        cold_share=cold_share,
        null_actions=null_actions,
        effects=effects,
    )
    with progress_bar() as progress:
        synthesise(target, config, progress)
    typer.echo(f"Wrote {target}: `semid data prepare {target}` turns it into a dataset.", err=True)


@command(app, "convert")
def convert(source: Source, target: Target) -> None:
    """Write TencentGR's release layout (H) as its competition layout (C)."""
    from semid.data.tencentgr.convert import convert_h_to_c

    with progress_bar() as progress:
        convert_h_to_c(source, target, progress)
    typer.echo(f"Wrote {target}: `semid data prepare {target}` turns it into a dataset.", err=True)


@command(app, "info")
def info(
    data: Annotated[Path, typer.Argument(metavar="DST", help="Prepared dataset.")] = options.DATA,
    json: options.Json = None,
) -> None:
    """Describe a prepared dataset."""
    from semid.data.dataset import Dataset
    from semid.pipeline.describing import describe_dataset

    description = describe_dataset(Dataset.open(data))
    if json != STDOUT:
        print_facts(description.rows(), title=f"Dataset {data}")
    if json is not None:
        write_json(json, description.to_dict())


@command(app, "check")
def check(
    data: Annotated[Path, typer.Argument(metavar="DST", help="Prepared dataset.")] = options.DATA,
    json: options.Json = None,
) -> None:
    """See that nothing from after a query can be learned; fails if something leaks."""
    from semid.data.dataset import Dataset
    from semid.data.leaks import check_leaks

    report = check_leaks(Dataset.open(data))
    if json != STDOUT:
        print_facts(report.rows(), title=f"Nothing leaks in dataset {data}")
    if json is not None:
        write_json(json, report.to_dict())
