"""Directory artifacts: ``config.json`` with checksums, data files beside it, replaced atomically.

An artifact is written under a temporary name beside its target and renamed into place, so a crash, a full
disk or an interrupt leaves either the old artifact or the new one, never half of one.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from semid.errors import InputError

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
SETTINGS_NAME = "settings.toml"
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(kw_only=True)
class ArtifactWriter:
    """A directory being written. Put files under ``path`` and facts into ``details``."""

    path: Path
    details: dict[str, Any] = field(default_factory=dict)

    def save_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays as the safetensors file ``name``."""
        # not ascontiguousarray, which would turn a scalar into a vector
        save_file({key: np.asarray(value, order="C") for key, value in arrays.items()}, self.path / name)
        (self.path / name).chmod(self.path.stat().st_mode & 0o666)  # safetensors keeps its files to their owner

    def save_lines(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Write one line of JSON a record."""
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (self.path / name).write_text(lines, encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished artifact. ``checksum`` identifies its contents, whatever the settings that made them."""

    path: Path
    kind: str
    settings: dict[str, Any]
    details: dict[str, Any]
    parents: dict[str, str]
    files: dict[str, dict[str, Any]]
    checksum: str

    def verified(self, name: str) -> Path:
        """Path of one file after comparing its sha256 with the recorded one.

        Raises:
            InputError: the file is not part of the artifact or its contents have changed.
        """
        if name not in self.files:
            raise InputError(f"{self.path} has no file {name}; it is not a complete {self.kind} artifact.")
        path = self.path / name
        if _sha256(path) != self.files[name]["sha256"]:
            raise InputError(f"{path} does not match its checksum; it was changed or damaged: {_again(self.kind)}.")
        return path

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read a safetensors file written by :meth:`ArtifactWriter.save_arrays`, checksum verified."""
        path = self.verified(name)
        try:
            arrays: dict[str, np.ndarray] = load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a readable safetensors file ({error}): {_again(self.kind)}.") from None
        return arrays

    def load_lines(self, name: str) -> list[dict[str, Any]]:
        """Read the records written by :meth:`ArtifactWriter.save_lines`, checksum verified."""
        return [json.loads(line) for line in self.verified(name).read_text(encoding="utf-8").splitlines()]

    def require_parent(self, name: str, parent: "Artifact") -> None:
        """Raise InputError unless this artifact was made from ``parent``."""
        if self.parents.get(name) != parent.checksum:
            raise InputError(
                f"{self.path} was made from another {name} than {parent.path}; "
                f"use the {name} it was made from, or make it again from this one."
            )


@contextmanager
def create_artifact(
    path: Path,
    kind: str,
    *,
    settings: Mapping[str, Any] | None = None,
    parents: Mapping[str, Artifact] | None = None,
) -> Iterator[ArtifactWriter]:
    """Write an artifact: the body fills ``writer.path``; leaving it without an error puts it in place.

    Args:
        path: target directory; an artifact already there is replaced, anything else is refused.
        kind: what it is, such as ``"dataset"``; checked on opening.
        settings: plain values that reproduce it; also written as ``settings.toml``.
        parents: artifacts it was made from; their checksums are recorded.

    Raises:
        InputError: as :func:`check_target`.
    """
    check_target(path, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    partial.mkdir()
    try:
        with full_disk_named(path):
            writer = ArtifactWriter(path=partial)
            yield writer
            plain = plain_settings(settings or {})
            (partial / SETTINGS_NAME).write_text(tomli_w.dumps(plain), encoding="utf-8")
            config = {
                "kind": kind,
                "format_version": FORMAT_VERSION,
                "settings": plain,
                "details": writer.details,
                "parents": {name: parent.checksum for name, parent in (parents or {}).items()},
                "files": _describe_files(partial),
            }
            (partial / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        _replace_directory(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(path: Path, kind: str) -> None:
    """What may be written to: nothing, an empty directory, or an artifact of the same kind; call before long work.

    Raises:
        InputError: there is anything else.
    """
    if not path.name:
        raise InputError(f"{path} has no name of its own: say where the {kind} goes, such as runs/{kind}.")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, but an artifact is a directory: choose another place.")
    if not path.is_dir() or not any(path.iterdir()):
        return
    try:
        found = json.loads((path / CONFIG_NAME).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} exists and is not a semid artifact: choose another place or remove it.") from None
    if found != kind:
        raise InputError(f"{path} holds a {found}: choose another place for the {kind}, or remove it.")


@contextmanager
def create_file(path: Path) -> Iterator[Path]:
    """Write one result file: the body fills the path it is given; leaving it without an error puts it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with full_disk_named(path):
            yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Make every way in which libraries report a full disk an OSError that names ``path``."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if not found:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
    except OSError as error:
        number = error.errno
        if number is None and str(error).endswith("written"):  # numpy counts what it could write, and no more
            number = errno.ENOSPC
        if number not in FULL_DISK or error.filename is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def open_artifact(path: Path, kind: str) -> Artifact:
    """Open an artifact, checking kind, format version and that every file has its recorded size.

    Raises:
        InputError: nothing there, another kind, another version, or a file missing or truncated.
    """
    config_path = path / CONFIG_NAME
    if not config_path.is_file():
        raise InputError(f"No {kind} at {path}: {_HOW_TO_MAKE.get(kind, 'check the path')}.")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        found, version = config["kind"], config["format_version"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise InputError(f"{config_path} is not a semid artifact description: {_again(kind)}.") from None
    if found != kind:
        raise InputError(f"{path} is a {found}, not a {kind}: {_HOW_TO_MAKE.get(kind, 'check the path')}.")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version} but this semid reads version {FORMAT_VERSION}: {_again(kind)}."
        )
    for name, entry in config["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise InputError(f"{file} is missing or truncated: {_again(kind)}.")
    contents = json.dumps([kind, version, sorted((n, e["sha256"]) for n, e in config["files"].items())])
    return Artifact(
        path=path,
        kind=kind,
        settings=config["settings"],
        details=config["details"],
        parents=config["parents"],
        files=config["files"],
        checksum=hashlib.sha256(contents.encode()).hexdigest(),
    )


_HOW_TO_MAKE = {
    "dataset": "make one with `semid data prepare SRC DST`",
    "tokenizer": "make one with `semid fit`",
    "model": "make one with `semid train`",
    "embedding": "make one with `semid embed`",
    "checkpoint": "start without --resume",
}


def _again(kind: str) -> str:
    return _HOW_TO_MAKE[kind] if kind == "checkpoint" else f"make the {kind} again"


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as TOML and JSON can hold them: None left out, tuples as lists, paths as strings."""
    plain: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            plain[key] = plain_settings(value)
        elif isinstance(value, list | tuple):
            plain[key] = list(value)
        elif isinstance(value, Path):
            plain[key] = str(value)
        elif value is not None:
            plain[key] = value
    return plain


def _partial(path: Path) -> Path:
    """Where a target is written; what processes that are no more have left there is removed."""
    for left in path.parent.glob(f".{escape(path.name)}.*.partial"):
        found = re.fullmatch(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.partial", left.name)
        if found and (int(found[1]) == os.getpid() or not _runs(int(found[1]))):
            with suppress(OSError):  # somebody else's
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.parent / f".{path.name}.{os.getpid()}.partial"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    # settings.toml only repeats what config.json says, and must not change the identity of the contents.
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != SETTINGS_NAME)
    return {p.relative_to(directory).as_posix(): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace_directory(new: Path, target: Path) -> None:
    """Put ``new`` at ``target``; a directory already there is swapped out in one step, then removed."""
    if not target.exists():
        new.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    exchange = getattr(libc, "renameat2", None)
    swapped = (
        exchange is not None
        and exchange(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0
    )
    if not swapped:  # not Linux, or a file system without exchange: two renames, a short gap between them
        old = new.with_suffix(".old")
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old, ignore_errors=True)
