"""A folder of raw files that appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semid.artifacts import full_disk_named
from semid.errors import InputError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``, renamed to it when the body ends well and removed when it does not.

    Raises:
        InputError: there is already something at ``target``.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} already exists: choose another place or remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with full_disk_named(target):
            yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
