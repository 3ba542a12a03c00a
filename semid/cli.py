"""The command line: ``semid COMMAND …``. Every command is one library call that Python can make too."""

import os
import signal
from types import FrameType
from typing import Annotated

import typer

import semid
from semid.commands import data, demo, explain, lifecycle, model, sweep, tokenizer

app = typer.Typer(
    name="semid",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Item embeddings → semantic IDs → one model that generates, retrieves, and joins both.",
)
app.add_typer(data.app, name="data")
tokenizer.register(app)
lifecycle.register(app)
model.register(app)
app.add_typer(explain.app, name="explain")
sweep.register(app)
demo.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"semid {semid.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of ``semid``; a polite kill ends it as Ctrl-C does."""
    # Threads that wait by spinning slow training down tenfold and more where other work shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors on large pages: a training step on a CPU takes a seventh less.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    signal.signal(signal.SIGTERM, _stop)
    app()
