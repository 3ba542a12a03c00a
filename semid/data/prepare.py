"""Turns any supported input into one prepared dataset."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder
from semid.data.dataset import KIND, Dataset
from semid.data.leaks import check_leaks
from semid.data.reading import PrepareConfig
from semid.data.table.reader import read_table
from semid.data.tencentgr.layout_c import read_layout_c
from semid.data.tencentgr.layout_h import read_layout_h
from semid.errors import InputError
from semid.progress import Progress, silent

logger = logging.getLogger(__name__)
_READERS = {"tencentgr-h": read_layout_h, "tencentgr-c": read_layout_c, "table": read_table}


def prepare(
    source: Path,
    target: Path,
    config: PrepareConfig | None = None,
    progress: Progress | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Dataset:
    """Read the folder ``source`` and write the prepared dataset ``target``; memory stays flat as users grow.

    Args:
        settings: plain values of the command that made it; the configuration by default.

    Raises:
        InputError: no known layout there, something wrong in it, or something that leaks (see ``leaks.py``); nothing
            is written then.
    """
    config = config or PrepareConfig()
    layout = detect_layout(source) if config.layout == "auto" else config.layout
    made_by = {**asdict(config), "layout": layout, "source": str(source)} if settings is None else settings
    with create_artifact(target, KIND, settings=made_by) as writer:
        builder = DatasetBuilder(writer)
        _READERS[layout](source, builder, config, progress or silent)
        builder.finish(config.split)
        for note in check_leaks(Dataset.being_written(writer)).notes:
            logger.warning(note)
    return Dataset.open(target)


def detect_layout(source: Path) -> str:
    """The layout of a folder, from the files in it.

    Raises:
        InputError: no such folder, or none of the layouts.
    """
    if not source.is_dir():
        raise InputError(f"No folder {source}: give the folder that holds the data.")
    if (source / "indexer.pkl").is_file() and (source / "seq").is_dir():
        return "tencentgr-h"
    if (source / "seq.jsonl").is_file():
        return "tencentgr-c"
    if any(
        (source / f"{stem}.{end}").is_file() for stem in ("interactions", "samples") for end in ("parquet", "csv")
    ):
        return "table"
    raise InputError(
        f"{source} has no layout semid knows: expected seq/*.parquet with indexer.pkl (TencentGR release), seq.jsonl "
        "(TencentGR competition), or interactions.parquet, interactions.csv or samples.parquet (table)."
    )
