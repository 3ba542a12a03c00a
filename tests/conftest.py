"""A small road gone once: synthetic data, dataset, tokenizer and model, all made by the commands."""

import importlib.util
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

# Two threads of many libraries on one core wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what runs in the background with interrupts ignored; the tests of being interrupted send some.
signal.signal(signal.SIGINT, signal.default_int_handler)

SYNTH = ("--users", "260", "--items", "150", "--emb", "81:6,82:8,85:12", "--mean-events", "15")
FIT = ("--emb", "82,85", "--codes", "12", "--svd", "8")
TRAIN = ("--preset", "tiny", "--width", "16", "--heads", "2", "--kv-heads", "1", "--layers", "1", "--epochs", "2")


@dataclass(frozen=True)
class Road:
    """A folder with ``raw``, ``data``, ``runs/tokenizer`` and ``runs/model``, and what the commands printed."""

    folder: Path
    printed: dict[str, str]


def semid(*arguments: str | Path) -> Result:
    """Run one command in this process."""
    from semid.cli import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeded(*arguments: str | Path) -> str:
    """What a command prints, which must end well."""
    result = semid(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture(name="semid", scope="session")
def _semid() -> Callable[..., Result]:
    return semid


@pytest.fixture(name="succeeded", scope="session")
def _succeeded() -> Callable[..., str]:
    return succeeded


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Made once; tests only read it."""
    folder = tmp_path_factory.mktemp("road")
    printed = {"synth": succeeded("data", "synth", folder / "raw", *SYNTH)}
    printed["prepare"] = succeeded(
        "data", "prepare", folder / "raw", folder / "data", "--target-actions", "click,conversion"
    )
    places = ("--data", folder / "data")
    printed["fit"] = succeeded("fit", *FIT, *places, "--out", folder / "runs/tokenizer")
    tokenizer = ("--tokenizer", folder / "runs/tokenizer")
    printed["train"] = succeeded("train", *TRAIN, *places, *tokenizer, "--out", folder / "runs/model")
    return Road(folder, printed)


@pytest.fixture
def inside(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a test, where ``raw``, ``data`` and ``runs`` are those of the road."""
    (tmp_path / "runs").mkdir()
    for name in ("raw", "data", "runs/tokenizer", "runs/model"):
        (tmp_path / name).symlink_to(road.folder / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def leaking_events() -> Callable[..., Any]:
    """``leaks.leaking_events``. Test folders are no packages, so the file beside this one is loaded by its path."""
    spec = importlib.util.spec_from_file_location("leaks", Path(__file__).with_name("leaks.py"))
    assert spec is not None
    assert spec.loader is not None
    leaks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(leaks)
    function: Callable[..., Any] = leaks.leaking_events
    return function
