"""What a refit did to the codes of the items that were there before."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semid.codes import SemanticIds
from semid.tokenizers.lifecycle.refit import Kept
from semid.tokenizers.report import QualityReport


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CodeChanges:
    """Items whose codes changed.

    Attributes:
        rows: (n,) rising rows of the items in the catalogue as it is now.
        old, new: (n, L) int32, the codes before and after.
    """

    rows: np.ndarray
    old: np.ndarray
    new: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitReport:
    """A refit in figures; shares are of the items that were there before and still are.

    Attributes:
        keep: whether old codes were kept where possible.
        tolerance: rise of the error that was allowed for it; None without ``keep``.
        items: N now.
        added, removed: items that came and went.
        changed: items whose codes changed.
        changed_share: their share.
        first_changed_share: share whose first code changed.
        relative_error: mean squared error over the variance, after the refit.
        plain_changed_share: share whose codes a plain refit would have changed, its labels matched to the old ones as
            well as can be; None without ``keep``.
        error_over_plain: error over that of this plain refit; None without ``keep``.
    """

    keep: bool
    tolerance: float | None
    items: int
    added: int
    removed: int
    changed: int
    changed_share: float
    first_changed_share: float
    relative_error: float
    plain_changed_share: float | None = None
    error_over_plain: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def summary_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure."""
        rows = [
            ("items", f"{self.items:,} ({self.added:,} new, {self.removed:,} gone)"),
            ("changed codes", f"{self.changed:,} items, {100 * self.changed_share:.2f} %"),
            ("changed first code", f"{100 * self.first_changed_share:.2f} %"),
            ("relative error", f"{self.relative_error:.4f}"),
        ]
        if self.plain_changed_share is not None:
            rows.append(("plain refit", f"would change {100 * self.plain_changed_share:.2f} %"))
        if self.error_over_plain is not None:
            rows.append(("error over plain refit", f"{self.error_over_plain:.4f}"))
        return rows


def find_changes(before: SemanticIds, after: SemanticIds, rows: np.ndarray) -> CodeChanges:
    """Items whose codes differ; a level that only one side has counts as 0 on the other.

    Args:
        before: codes of the old catalogue.
        after: codes of the catalogue as it is now.
        rows: (N,) row that each item of ``after`` has in ``before``, -1 for new ones.
    """
    common = np.flatnonzero(rows >= 0)
    old, new = before.codes[rows[common]], after.codes[common]
    width = max(old.shape[1], new.shape[1])
    wide_old, wide_new = (np.pad(codes, ((0, 0), (0, width - codes.shape[1]))) for codes in (old, new))
    differ = np.flatnonzero((wide_old != wide_new).any(axis=1))
    return CodeChanges(rows=common[differ], old=old[differ], new=new[differ])


def report_refit(
    before: SemanticIds,
    after: SemanticIds,
    rows: np.ndarray,
    report: QualityReport,
    tolerance: float,
    kept: Kept | None,
) -> tuple[RefitReport, CodeChanges]:
    """Figures of a refit, and the items whose codes it changed.

    Args:
        before, after, rows: as for :func:`find_changes`.
        report: quality of the codes after it.
        tolerance, kept: what was allowed for keeping codes, and what came of it; None if none were kept.
    """
    changes = find_changes(before, after, rows)
    common = int((rows >= 0).sum())
    first = int((changes.old[:, 0] != changes.new[:, 0]).sum())
    figures = RefitReport(
        keep=kept is not None,
        tolerance=tolerance if kept is not None else None,
        items=after.num_items,
        added=after.num_items - common,
        removed=before.num_items - common,
        changed=len(changes.rows),
        changed_share=len(changes.rows) / max(common, 1),
        first_changed_share=first / max(common, 1),
        relative_error=report.relative_error,
        plain_changed_share=None if kept is None else kept.plain_changed / max(common, 1),
        error_over_plain=None if kept is None else kept.over_plain,
    )
    return figures, changes
