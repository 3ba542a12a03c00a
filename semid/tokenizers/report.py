"""How good a set of codes is, before any recommender is trained on it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from semid.tokenizers.collisions.resolution import CollisionReport

# Of the JSON form; goes up when a figure changes its name or meaning, not when one is added.
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelQuality:
    """One level of the codes, after collisions were resolved.

    Attributes:
        level: from 1.
        codes: K.
        used: codes that some item has.
        perplexity: exp of the entropy of the code, K if all are equally frequent.
        prefixes: distinct codes up to this level.
        largest_prefix: most items with the same codes up to this level.
        relative_error: mean squared error of the sum of the centroids up to this level over the variance, of the
            quantiser's latents: for k-means, the vectors themselves.
        neighbours_shared: share of an item's 10 nearest neighbours with the same codes up to this level; of a sample.
        chance_shared: the same share for two items drawn at random.
    """

    level: int
    codes: int
    used: int
    perplexity: float
    prefixes: int
    largest_prefix: int
    relative_error: float
    neighbours_shared: float
    chance_shared: float

    @property
    def utilisation(self) -> float:
        """Share of the codes that some item has."""
        return self.used / self.codes


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldPurity:
    """Whether items with the same codes have the same value in one column.

    Attributes:
        field: name of the column.
        by_level: per level, how often two items with the same codes up to there share the value; None without pairs.
        chance: how often two items drawn at random do.
    """

    field: str
    by_level: tuple[float | None, ...]
    chance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Items that had the same codes before collisions were resolved.

    Attributes:
        codes: L codes.
        size: how many items.
        rows: item rows of the first few.
    """

    codes: tuple[int, ...]
    size: int
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """Weights of the embeddings chosen by behaviour.

    Attributes:
        weights: by embedding.
        agreement: of the neighbours under these weights with what is taken together in training histories, 0 to 1.
        equal: the same of equal weights.
        alone: the same of each embedding by itself.
    """

    weights: dict[str, float]
    agreement: float
    equal: float
    alone: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityReport:
    """Quality of the codes of one catalogue. Shares are of all items, errors of those with an embedding.

    Attributes:
        items: N.
        dim: width of the vectors that were quantised.
        captured: share of the embeddings' energy that these vectors hold.
        captured_by: the same of each embedding alone.
        missing: share of items lacking each embedding.
        missing_all: share lacking every embedding, whose codes say nothing.
        relative_error: mean squared error of what the codes decode to over the variance of the vectors, after
            collisions were resolved.
        unresolved_error: the same before.
        neighbour_recall: share of an item's 10 nearest neighbours that are among the 10 nearest by decoded codes; of
            a sample.
        collisions: what resolving them did.
        levels: from coarse to fine; an additional level that only tells items apart included.
        worst_buckets: the largest before collisions were resolved.
        purity: against columns of the items, where given.
        weighting: how the weights of the embeddings were chosen, where they were.
    """

    items: int
    dim: int
    captured: float
    captured_by: dict[str, float]
    missing: dict[str, float]
    missing_all: float
    relative_error: float
    unresolved_error: float
    neighbour_recall: float
    collisions: CollisionReport
    levels: tuple[LevelQuality, ...]
    worst_buckets: tuple[Bucket, ...] = ()
    purity: tuple[FieldPurity, ...] = ()
    weighting: Weighting | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        plain = {"version": VERSION, **asdict(self)}
        for level, quality in zip(plain["levels"], self.levels, strict=True):
            level["utilisation"] = quality.utilisation
        return plain

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> "QualityReport":
        """The report that :meth:`to_dict` wrote."""
        levels = [
            {name: value for name, value in level.items() if name != "utilisation"} for level in plain["levels"]
        ]
        purity = [{**field, "by_level": tuple(field["by_level"])} for field in plain["purity"]]
        buckets = [
            {**bucket, "codes": tuple(bucket["codes"]), "rows": tuple(bucket["rows"])}
            for bucket in plain["worst_buckets"]
        ]
        return QualityReport(
            **{
                **{name: value for name, value in plain.items() if name != "version"},
                "worst_buckets": tuple(Bucket(**bucket) for bucket in buckets),
                "collisions": CollisionReport(**plain["collisions"]),
                "levels": tuple(LevelQuality(**level) for level in levels),
                "purity": tuple(FieldPurity(**field) for field in purity),
                "weighting": Weighting(**plain["weighting"]) if plain["weighting"] else None,
            }
        )

    def summary_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure of the whole."""
        found = self.collisions
        added = "–" if found.added_distortion is None else _percent(found.added_distortion, 2)
        rows = [
            ("items", f"{self.items:,}"),
            ("vector", f"{self.dim} components, {_percent(self.captured)} of the energy"),
            (
                "relative error",
                f"{self.relative_error:.4f} ({self.unresolved_error:.4f} before resolving collisions)",
            ),
            ("neighbours", f"{_percent(self.neighbour_recall)} of the 10 nearest are nearest by codes too"),
            ("collisions", f"{_percent(found.colliding_before)} before, {_percent(found.colliding_after)} after"),
            ("largest bucket", f"{found.largest_before} before, {found.largest_after} after"),
            ("moved", f"{_percent(found.moved)}, of all {_percent(found.prefix_changed)} to another prefix"),
            ("added distortion", added),
        ]
        rows += [
            (f"embedding {name}", f"{_percent(1 - share)} of items, {_percent(self.captured_by[name])} of its energy")
            for name, share in self.missing.items()
        ]
        if self.weighting is not None:
            listed = ", ".join(f"{name} {weight:.3g}" for name, weight in self.weighting.weights.items())
            gain = f"agreement {self.weighting.agreement:.4f}, {self.weighting.equal:.4f} with equal ones"
            rows.append(("weights", f"{listed} ({gain})"))
        if self.missing_all > 0:
            rows.append(("lacking every embedding", _percent(self.missing_all)))
        return rows

    def level_rows(self) -> list[tuple[str, ...]]:
        """A table of the levels, its header first."""
        header = ("level", "codes", "used", "perplexity", "prefixes", "largest", "error", "neighbours", "chance")
        rows = [
            (
                str(level.level),
                str(level.codes),
                _percent(level.utilisation),
                f"{level.perplexity:.1f}",
                f"{level.prefixes:,}",
                f"{level.largest_prefix:,}",
                f"{level.relative_error:.4f}",
                _percent(level.neighbours_shared),
                _percent(level.chance_shared),
            )
            for level in self.levels
        ]
        return [header, *rows]

    def purity_rows(self) -> list[tuple[str, ...]]:
        """A table of the columns' purity, its header first; only the header without columns."""
        header = ("field", *(f"level {level.level}" for level in self.levels), "chance")
        rows = [
            (field.field, *("–" if p is None else _percent(p) for p in field.by_level), _percent(field.chance))
            for field in self.purity
        ]
        return [header, *rows]

    def bucket_rows(self) -> list[tuple[str, ...]]:
        """A table of the worst buckets, its header first; only the header without collisions."""
        return [
            ("bucket", "items", "rows"),
            *(
                ("-".join(map(str, found.codes)), str(found.size), ", ".join(map(str, found.rows)))
                for found in self.worst_buckets
            ),
        ]

    def with_purity(self, purity: tuple[FieldPurity, ...]) -> "QualityReport":
        """The same with the purity against columns."""
        return replace(self, purity=purity)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
