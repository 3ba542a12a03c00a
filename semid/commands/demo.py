"""``semid demo``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from semid.commands import options
from semid.commands.console import STDOUT, print_comparison, progress_bar, write_json
from semid.commands.running import command, in_force


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    command(app, "demo")(demo)


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    users: Annotated[int | None, typer.Option(help="Users.", show_default="2500")] = None,
    items: Annotated[int | None, typer.Option(help="Items.", show_default="2000")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", show_default="4")] = None,
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    """Go the whole road on synthetic data, in under three minutes."""
    from semid.pipeline.demo import DATA, SPLIT, DemoConfig, run_demo

    config = DemoConfig(seed=seed)
    synthetic = replace(
        config.synthetic,
        users=config.synthetic.users if users is None else users,
        items=config.synthetic.items if items is None else items,
    )
    config = replace(config, synthetic=synthetic, epochs=config.epochs if epochs is None else epochs)
    with progress_bar() as progress:
        comparison = run_demo(out, config, progress)
    if json != STDOUT:
        print_comparison(comparison, f"{out / DATA}, split {SPLIT}")
        typer.echo(f"Go on from here: cd {out} && semid fit --emb 82,85 && semid train && semid generate --beam 50")
    if json is not None:
        write_json(json, comparison.to_dict(data=str(out / DATA), split=SPLIT), in_force(context))
