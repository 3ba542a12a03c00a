"""How every command runs: options that all have, settings from a file, every mistake as one sentence."""

import functools
import inspect
import logging
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EPIPE
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from semid.errors import InputError

# Not options that describe a result: they are not written beside it.
_UNRECORDED = ("resume", "config", "verbose")


class OptionGroup(dict[str, Any]):
    """Options that several commands share; a command with a parameter of such a class gets their values in it."""

    parameters: Sequence[inspect.Parameter]


def options_under(panel: str) -> Callable[..., inspect.Parameter]:
    """Declares options of a group under one heading of the help, which are None where they are not given."""

    def option(name: str, kind: Any, help: str, *flags: str, default: str | bool = False, **more: Any) -> Any:
        info = typer.Option(*flags, help=help, rich_help_panel=panel, show_default=default, **more)
        kind = Annotated[kind | None, info]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    return option


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command that also takes ``--config`` and ``--verbose``."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(function).parameters.values()
        groups = {one.name: one.annotation for one in declared if _is_group(one.annotation)}
        shared = [parameter for group in groups.values() for parameter in group.parameters]
        own = [_as_parsed(parameter) for parameter in declared if parameter.name not in groups]

        @functools.wraps(function)
        def run(*, config: Path | None, verbose: bool, **values: Any) -> None:
            _log_to_stderr(verbose)
            for group, kind in groups.items():
                values[group] = kind({parameter.name: values.pop(parameter.name) for parameter in kind.parameters})
            with one_sentence(verbose):
                function(**values)

        options = [*own, *map(_as_parsed, shared), *_COMMON]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        return app.command(name)(run)

    return register


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, OptionGroup)


def _as_parsed(parameter: inspect.Parameter) -> inspect.Parameter:
    """Typer must not look at the type of what a parser makes."""
    metadata = getattr(parameter.annotation, "__metadata__", ())
    annotation = parameter.annotation
    if any(getattr(info, "parser", None) for info in metadata):
        annotation = Annotated[Any, *metadata]
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


@contextmanager
def one_sentence(verbose: bool = False) -> Iterator[None]:
    """End with status 1 and one sentence on stderr, whatever goes wrong; the traceback only if verbose."""
    try:
        yield
    except (typer.Exit, typer.BadParameter):
        raise
    except KeyboardInterrupt as stop:
        _fail(str(stop) or "Interrupted: nothing half-written was left behind.", verbose)
    except InputError as error:
        _fail(str(error), verbose)
    except OSError as error:
        if error.errno == EPIPE:  # the reader of a pipe had enough
            raise
        _fail(_about_files(error), verbose)
    except Exception as error:
        unexpected = f"Unexpected {type(error).__name__}: {error} (run again with -v for the traceback)."
        _fail(_about_sizes(error) or unexpected, verbose)


def _about_sizes(error: Exception) -> str | None:
    """Of what did not fit; torch says so in its text alone."""
    if isinstance(error, OverflowError):
        return f"A number is too large ({error}): give a smaller one."
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return "There is not enough memory for these sizes: make the model, the batches or the beam smaller."
    return None


def _fail(sentence: str, verbose: bool) -> NoReturn:
    if verbose:
        traceback.print_exc()
    typer.echo(" ".join(sentence.split()), err=True)
    raise typer.Exit(1)


def _about_files(error: OSError) -> str:
    from semid.artifacts import FULL_DISK

    place = error.filename2 or error.filename or "a file"
    reason = error.strerror or str(error)
    if error.errno in FULL_DISK:
        return f"{reason} while writing {place}: free some room or write elsewhere; nothing half-written was left."
    return f"{place}: {reason}: check the path and its permissions."


class _StderrHandler(logging.StreamHandler[Any]):
    """Follows sys.stderr, which a progress bar exchanges so that lines appear above it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_to_stderr(verbose: bool) -> None:
    logger = logging.getLogger("semid")
    logger.handlers = [_StderrHandler()]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)


def _read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a settings file the defaults of the command, so that its own options win."""
    if path is not None and not context.resilient_parsing:
        with one_sentence():
            context.default_map = _settings(context, path)
    return path


def _settings(context: typer.Context, path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML ({error}): correct it.") from None
    parameters = {_option_name(p): p for p in context.command.params if p.name not in ("config", "verbose", "help")}
    given: dict[str, Any] = {}
    for key, value in table.items():
        parameter = parameters.get(key.replace("_", "-"))
        if parameter is None:
            known = ", ".join(sorted(parameters))
            raise InputError(f"{path} has the unknown setting {key!r}; {context.command_path} knows: {known}.")
        if isinstance(value, Mapping):
            raise InputError(f"{path} has a table {key!r}, but settings are plain values: write {key} = value.")
        assert parameter.name is not None
        given[parameter.name] = _as_typed(
            value, several=parameter.nargs == -1 or getattr(parameter, "multiple", False)
        )
    return given


def _option_name(parameter: Any) -> str:
    """The long name of an option without its dashes, the name of an argument."""
    name = next((option for option in parameter.opts if option.startswith("--")), parameter.name)
    return str(name).lstrip("-").replace("_", "-")


def _as_typed(value: Any, *, several: bool) -> Any:
    """A TOML value as the shell would have given it."""
    if isinstance(value, list):
        parts = [":".join(map(str, part)) if isinstance(part, list) else str(part) for part in value]
        return parts if several else ",".join(parts)
    return value if isinstance(value, bool) else str(value)


def in_force(context: typer.Context, **changed: Any) -> dict[str, Any]:
    """All settings of a command by the names a settings file gives them, to be written beside its result.

    Args:
        changed: what was decided since, by parameter name.
    """
    values = {**context.params, **changed}
    names = {parameter.name: _option_name(parameter).replace("-", "_") for parameter in context.command.params}
    plain = {names[name]: value for name, value in values.items() if name in names and name not in _UNRECORDED}
    return {name: list(map(str, value)) if _of_paths(value) else value for name, value in plain.items()}


def _of_paths(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(part, Path) for part in value)


_COMMON = [
    inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            Path | None,
            typer.Option(
                "--config",
                metavar="FILE",
                is_eager=True,
                callback=_read_settings,
                help="TOML file with any of these options; what is given here wins.",
            ),
        ],
    ),
    inspect.Parameter(
        "verbose",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[
            bool, typer.Option("--verbose", "-v", show_default=False, help="Show what happens, and tracebacks.")
        ],
    ),
]
