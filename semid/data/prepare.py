"""Turns any supported input into one prepared dataset."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder
from semid.data.dataset import KIND, Dataset
from semid.data.splits import SplitConfig
from semid.errors import InputError

LAYOUTS = ("auto", "tencentgr-h", "tencentgr-c", "table")
NULL_ACTIONS = ("unknown", "drop", "error")
FLOAT_TYPES = ("float16", "float32")

# Called with what is being read, how much of it is done, and how much there is, None where not known.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How an input is read.

    Attributes:
        layout: ``tencentgr-h`` (parquet release), ``tencentgr-c`` (competition files), ``table``, or ``auto``.
        split: how queries are cut.
        embeddings: ids of the embeddings to take; None takes all there are.
        float_dtype: how embeddings are stored, ``float16`` or ``float32``.
        min_join_rate: an embedding file keyed by item id must match at least this share of the smaller of its
            rows and the items.
        null_action: what an event without an action becomes: ``unknown``, ``drop`` (the event), or ``error``.
    """

    layout: str = "auto"
    split: SplitConfig = field(default_factory=SplitConfig)
    embeddings: tuple[str, ...] | None = None
    float_dtype: str = "float16"
    min_join_rate: float = 0.5
    null_action: str = "unknown"

    def __post_init__(self) -> None:
        for name, known in (("layout", LAYOUTS), ("float_dtype", FLOAT_TYPES), ("null_action", NULL_ACTIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"Unknown {name} {getattr(self, name)!r}: use one of {', '.join(known)}.")
        if not 0 <= self.min_join_rate <= 1:
            raise InputError(f"min_join_rate={self.min_join_rate} must be a share between 0 and 1.")


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
        InputError: no known layout there, or something wrong in it; nothing is written then.
    """
    config = config or PrepareConfig()
    layout = detect_layout(source) if config.layout == "auto" else config.layout
    made_by = {**asdict(config), "layout": layout, "source": str(source)} if settings is None else settings
    with create_artifact(target, KIND, settings=made_by) as writer:
        builder = DatasetBuilder(writer)
        _read(layout, source, builder, config, progress or _silent)
        builder.finish(config.split)
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


def _read(layout: str, source: Path, builder: DatasetBuilder, config: PrepareConfig, progress: Progress) -> None:
    if layout == "tencentgr-h":
        from semid.data.tencentgr.layout_h import read_layout_h

        read_layout_h(source, builder, config, progress)
    elif layout == "tencentgr-c":
        from semid.data.tencentgr.layout_c import read_layout_c

        read_layout_c(source, builder, config, progress)
    else:
        from semid.data.table.reader import read_table

        read_table(source, builder, config, progress)


def _silent(what: str, done: int, total: int | None) -> None:
    pass
