"""A tokenizer on a later dataset: items matched by id, new ones appended, drift measured, codes refitted."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from semid.artifacts import check_target
from semid.data.cooccurrence import COOCCURRENCE
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.data.table.id_index import IdIndex
from semid.errors import InputError
from semid.pipeline.fitting import item_embedding, save_tokenizer, scratch_folder, side_embedding
from semid.pipeline.resultfiles import check_result_path, write_rows
from semid.progress import Progress
from semid.tokenizers.collisions.rows import ChosenRows
from semid.tokenizers.lifecycle.append import encode_rows
from semid.tokenizers.lifecycle.drift import DriftConfig
from semid.tokenizers.lifecycle.drift_report import DriftReport
from semid.tokenizers.lifecycle.refit import KEEP_TOLERANCE
from semid.tokenizers.lifecycle.refit_report import CodeChanges, RefitReport
from semid.tokenizers.storage import KIND, read_item_ids
from semid.tokenizers.tokenizer import SemanticIdTokenizer

_BATCH_ROWS = 1 << 16
# Old items whose vectors are compared with those they had, and the change, over the variance, that is too much: an
# embedding trained again is as far from the former one as two items are from each other, which is 2.
_COMPARED = 4096
_OTHER_SPACE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class AppendReport:
    """What became of a catalogue. The codes of items that were there before are as they were.

    Attributes:
        items: N now.
        added, removed: items that came and went.
        since_fit: items that came since the last fit, these included.
        displaced: share of the new items whose nearest codes were not free.
        in_use: share of all codes that some item has.
        relative_error: mean squared error over the variance, of all items.
    """

    items: int
    added: int
    removed: int
    since_fit: int
    displaced: float
    in_use: float
    relative_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def summary_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure."""
        return [
            ("items", f"{self.items:,} ({self.added:,} new, {self.removed:,} gone)"),
            ("came since the fit", f"{self.since_fit:,}"),
            ("new, nearest code taken", f"{100 * self.displaced:.1f} %"),
            ("codes in use", f"{100 * self.in_use:.2g} %"),
            ("relative error", f"{self.relative_error:.4f}"),
        ]


def append_items(
    tokenizer: SemanticIdTokenizer,
    dataset: Dataset,
    out: Path | None,
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> AppendReport:
    """Take a tokenizer over to a later dataset: items keep their codes, new ones get codes that are free then.

    Args:
        tokenizer: as loaded; it changes.
        dataset: the later one; its items are found by their ids.
        out: where the tokenizer of this dataset goes, such as the old place; None saves nothing.
        settings: of the caller, written beside it.
        progress: told of every stage.

    Raises:
        InputError: no item in common, more items than codes, embeddings that are not those of the fit, whose
            vectors of the old items changed, or something else than a tokenizer at ``out``.
    """
    if out is not None:
        check_target(out, KIND)
    report = take_over(tokenizer, dataset, scratch_folder(out), progress)
    if out is not None:
        save_tokenizer(tokenizer, dataset, out, settings=settings)
    return report


def take_over(
    tokenizer: SemanticIdTokenizer, dataset: Dataset, scratch: Path | None, progress: Progress | None
) -> AppendReport:
    """As :func:`append_items`, saving nothing; vectors may lie in ``scratch`` meanwhile."""
    rows = match_rows(tokenizer, dataset)
    embeddings = _comparable(tokenizer, dataset)
    change = _change(tokenizer, embeddings, rows)
    if change > _OTHER_SPACE:
        raise InputError(
            f"The vectors of items that were there before have changed by {100 * change:.0f} % of their variance "
            f"in {dataset.location}, so their codes no longer describe them: fit again with `semid refit --keep`."
        )
    removed = tokenizer.semantic_ids_.num_items - int((rows >= 0).sum())
    tokenizer.carry_over(embeddings, rows, fields=dataset.item_fields, scratch=scratch, progress=progress)
    return _describe_append(tokenizer, np.flatnonzero(rows < 0), removed)


def dataset_drift(
    tokenizer: SemanticIdTokenizer,
    dataset: Dataset,
    config: DriftConfig,
    *,
    progress: Progress | None = None,
) -> DriftReport:
    """Compare the items of a dataset that came after the fit with those before; see ``lifecycle/drift.py``.

    Raises:
        InputError: as :func:`append_items`, or too few old items to tell.
    """
    rows = match_rows(tokenizer, dataset)
    embeddings = _comparable(tokenizer, dataset)
    change = _change(tokenizer, embeddings, rows)
    if change > _OTHER_SPACE:
        reason = f"the vectors of items that were there before changed by {100 * change:.0f} % of their variance"
        return DriftReport(verdict="refit", reasons=(reason,), confidence=config.confidence)
    return tokenizer.drift(embeddings, rows, config=config, progress=progress)


def refit_tokenizer(
    tokenizer: SemanticIdTokenizer,
    dataset: Dataset,
    out: Path | None,
    *,
    keep: bool = True,
    tolerance: float = KEEP_TOLERANCE,
    side: str | None = None,
    changes: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[RefitReport, CodeChanges]:
    """Fit a tokenizer anew to a later dataset.

    Args:
        tokenizer: as loaded; it changes.
        dataset: the later one; its items are found by their ids.
        out: where the tokenizer of this dataset goes; None saves nothing.
        keep: whether items keep the codes they had where these still serve them.
        tolerance: share by which the error may rise for it.
        side: embedding from behaviour, as for a fit.
        changes: ``.parquet`` or ``.jsonl`` file for the items whose codes changed.
        settings, progress: as for :func:`append_items`.

    Raises:
        InputError: as for a fit, or no item in common.
    """
    if changes is not None:
        check_result_path(changes)
    if out is not None:
        check_target(out, KIND)
    rows = match_rows(tokenizer, dataset)
    config = tokenizer.config
    report, found = tokenizer.refit(
        [item_embedding(dataset, name, config.seed) for name in config.embeddings],
        rows,
        keep=keep,
        tolerance=tolerance,
        fields=dataset.item_fields,
        side=None if keep else side_embedding(dataset, config, side),
        scratch=scratch_folder(out),
        progress=progress,
    )
    if changes is not None:
        write_rows(_change_batches(found, dataset), changes)
    if out is not None:
        save_tokenizer(tokenizer, dataset, out, settings=settings)
    return report, found


def match_rows(tokenizer: SemanticIdTokenizer, dataset: Dataset) -> np.ndarray:
    """The row that each item of a dataset has in the tokenizer's catalogue, -1 for new ones. (N,) int64

    Raises:
        InputError: the tokenizer was saved without ids, or has none of the items.
    """
    if tokenizer.artifact_ is None:
        raise InputError("This tokenizer lives in memory only: save it with the ids of its items first.")
    path = tokenizer.artifact_.path
    index = IdIndex(read_item_ids(tokenizer.artifact_), lambda row: f"item row {row} of {path}")
    rows = index.rows(pa.array(dataset.item_ids))
    if not (rows >= 0).any():
        examples = ", ".join(repr(value) for value in dataset.item_ids[:3].tolist())
        raise InputError(
            f"No item of {dataset.location}, such as {examples}, is among those of {path}, such as "
            f"{index.examples()}: give a later dataset of the same catalogue, or fit anew."
        )
    return rows


def _comparable(tokenizer: SemanticIdTokenizer, dataset: Dataset) -> list[Embedding]:
    """The embeddings of a later dataset, which must lie in the space of the fit; those from behaviour do not."""
    names = tokenizer.config.content
    if COOCCURRENCE in names and COOCCURRENCE not in dataset.embeddings:
        raise InputError(
            "The codes are from co-occurrence alone, which is computed anew from other histories and cannot be "
            "compared with that of the fit: fit again with `semid refit --keep`."
        )
    return [dataset.embedding(name) for name in names]


def _change(tokenizer: SemanticIdTokenizer, embeddings: list[Embedding], rows: np.ndarray) -> float:
    """Mean squared change of the vectors of old items, over their variance; 0 where there are none to compare."""
    common = np.flatnonzero(rows >= 0)
    if len(common) > _COMPARED:
        common = np.sort(np.random.default_rng(tokenizer.config.seed).choice(common, _COMPARED, replace=False))
    now, known = tokenizer.transform([Embedding(e.name, e.vectors[common], e.valid[common]) for e in embeddings])
    both = known & tokenizer.known_[rows[common]]
    before = tokenizer.vectors_[rows[common]][both].astype(np.float64)
    variance = float(before.var(axis=0).sum()) if len(before) else 0.0
    return float(((now[both] - before) ** 2).sum(axis=1).mean()) / variance if variance > 0 else 0.0


def _describe_append(tokenizer: SemanticIdTokenizer, new: np.ndarray, removed: int) -> AppendReport:
    ids = tokenizer.semantic_ids_
    nearest = encode_rows(ChosenRows(tokenizer.vectors_, new), tokenizer.quantiser_)
    elsewhere = (nearest != ids.codes[new, : nearest.shape[1]]).any(axis=1)
    return AppendReport(
        items=ids.num_items,
        added=len(new),
        removed=removed,
        since_fit=int((~tokenizer.fitted_).sum()),
        displaced=float(elsewhere.mean()) if len(new) else 0.0,
        in_use=ids.num_items / prod(ids.num_codes),
        relative_error=tokenizer.report_.relative_error,
    )


def _change_batches(changes: CodeChanges, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """``item_id``, ``old_codes``, ``new_codes``; at least one batch, of no rows where nothing changed."""
    ids = pa.array(dataset.item_ids)
    codes_type = pa.list_(pa.int32())
    for first in range(0, max(len(changes.rows), 1), _BATCH_ROWS):
        part = slice(first, first + _BATCH_ROWS)
        yield pa.record_batch(
            {
                "item_id": ids.take(pa.array(changes.rows[part])),
                "old_codes": pa.array(changes.old[part].tolist(), codes_type),
                "new_codes": pa.array(changes.new[part].tolist(), codes_type),
            }
        )
