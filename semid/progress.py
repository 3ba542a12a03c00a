"""How long work tells where it stands; the command line draws a bar from it."""

from collections.abc import Callable

# Called with what is being done, how much of it is done, and how much there is, None where not known.
Progress = Callable[[str, int, int | None], None]


def silent(what: str, done: int, total: int | None) -> None:
    """The progress that nobody watches."""
