"""What a look at drift found: old and new items side by side, and the verdict."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupFacts:
    """Old or new items under the codes as they are. Shares are of all items of the group.

    Attributes:
        items: how many.
        known: how many of them have an embedding.
        relative_error: mean squared error of the nearest codes, over the variance of the old items.
        unseen_error: the same under a quantiser that saw none of them: of held-out old items, and of new ones.
        colliding: share whose nearest codes another item has too; among the old items for these, among all for new.
        crowded: share whose prefix, all levels but the last, more items want than it has codes.
        displaced: share whose codes begin with another prefix than their nearest codes do.
        perplexity: per level, of the nearest codes; of the old items in a sample as large as the new group.
        coverage: share with each embedding.
        captured: share of the energy that components hold which were fitted to none of them; None where not known.
    """

    items: int
    known: int
    relative_error: float
    unseen_error: float
    colliding: float
    crowded: float
    displaced: float
    perplexity: tuple[float, ...]
    coverage: dict[str, float]
    captured: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftReport:
    """New items against those the codes were fitted on.

    Attributes:
        verdict: ``"refit"`` or ``"fine"``.
        reasons: sentences that say why.
        old, new: the two groups; None where there are no new items.
        error_ratio: unseen error of new items over that of held-out old ones; None where it cannot be told.
        error_interval: its confidence interval.
        far: share of new items farther from their codes than 99 % of the held-out old ones.
        far_interval: confidence interval of how far it is above the share of other held-out old items.
        confidence: of all intervals together.
    """

    verdict: str
    reasons: tuple[str, ...]
    old: GroupFacts | None = None
    new: GroupFacts | None = None
    error_ratio: float | None = None
    error_interval: tuple[float, float] | None = None
    far: float | None = None
    far_interval: tuple[float, float] | None = None
    confidence: float = 0.95

    @property
    def refit(self) -> bool:
        """Whether to refit."""
        return self.verdict == "refit"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return asdict(self)

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> "DriftReport":
        """The report that :meth:`to_dict` wrote."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
        for group in ("old", "new"):
            if values[group] is not None:
                facts = dict(values[group])
                values[group] = GroupFacts(**{**facts, "perplexity": tuple(facts["perplexity"])})
        return DriftReport(**values)

    def group_rows(self) -> list[tuple[str, str, str]]:
        """A table of the two groups, its header first; only the header without new items."""
        rows = [("", "old", "new")]
        if self.old is None or self.new is None:
            return rows
        old, new = self.old, self.new
        rows += [
            ("items", f"{old.items:,}", f"{new.items:,}"),
            ("with an embedding", f"{old.known:,}", f"{new.known:,}"),
            ("relative error", f"{old.relative_error:.4f}", f"{new.relative_error:.4f}"),
            ("relative error, unseen", f"{old.unseen_error:.4f}", f"{new.unseen_error:.4f}"),
            ("codes wanted by others", percent(old.colliding), percent(new.colliding)),
            ("prefix wanted by too many", percent(old.crowded), percent(new.crowded)),
            ("in another prefix", percent(old.displaced), percent(new.displaced)),
        ]
        rows += [
            (f"perplexity, level {level}", f"{one:.1f}", f"{other:.1f}")
            for level, (one, other) in enumerate(zip(old.perplexity, new.perplexity, strict=True), 1)
        ]
        rows += [(f"has {name}", percent(old.coverage[name]), percent(new.coverage[name])) for name in old.coverage]
        if old.captured is not None and new.captured is not None:
            rows.append(("energy in the components", percent(old.captured), percent(new.captured)))
        return rows

    def summary_rows(self) -> list[tuple[str, str]]:
        """Name and value of what the verdict rests on."""
        rows = [("verdict", self.verdict)]
        if self.error_ratio is not None and self.error_interval is not None:
            low, high = self.error_interval
            rows.append(("error, new over unseen old", f"{self.error_ratio:.3f} ({low:.3f} to {high:.3f})"))
        if self.far is not None and self.far_interval is not None:
            low, high = self.far_interval
            rows.append(
                ("new items far from any code", f"{percent(self.far)} (rise {percent(low)} to {percent(high)})")
            )
        return rows + [("because", reason) for reason in self.reasons]


def percent(share: float) -> str:
    """``0.123`` → ``12.3 %``."""
    return f"{100 * share:.1f} %"
