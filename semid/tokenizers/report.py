"""How good a set of codes is, before any recommender is trained on it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from semid.data.features import FIELD_RESERVED, Embedding, Fields
from semid.tokenizers.collisions.resolution import CollisionReport, Resolution, bucket_sizes
from semid.tokenizers.rq_kmeans import decode

NUM_NEIGHBOURS = 10
_QUERIES = 1000
_QUERY_BLOCK = 64


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
        relative_error: mean squared error of the reconstruction up to this level, over the variance of the vectors.
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
class QualityReport:
    """Quality of the codes of one catalogue. Shares are of all items, errors of those with an embedding.

    Attributes:
        items: N.
        dim: width of the vectors that were quantised.
        captured: share of the embeddings' energy that these vectors hold.
        missing: share of items lacking each embedding.
        missing_all: share lacking every embedding, whose codes say nothing.
        relative_error: mean squared error over variance, after collisions were resolved.
        unresolved_error: the same before.
        collisions: what resolving them did.
        levels: from coarse to fine; an additional level that only tells items apart included.
        purity: against columns of the items, where given.
    """

    items: int
    dim: int
    captured: float
    missing: dict[str, float]
    missing_all: float
    relative_error: float
    unresolved_error: float
    collisions: CollisionReport
    levels: tuple[LevelQuality, ...]
    purity: tuple[FieldPurity, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        plain = asdict(self)
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
        return QualityReport(
            **{
                **plain,
                "collisions": CollisionReport(**plain["collisions"]),
                "levels": tuple(LevelQuality(**level) for level in levels),
                "purity": tuple(FieldPurity(**field) for field in purity),
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
            ("collisions", f"{_percent(found.colliding_before)} before, {_percent(found.colliding_after)} after"),
            ("largest bucket", f"{found.largest_before} before, {found.largest_after} after"),
            ("moved", f"{_percent(found.moved)}, of all {_percent(found.prefix_changed)} to another prefix"),
            ("added distortion", added),
        ]
        rows += [(f"lacking {name}", _percent(share)) for name, share in self.missing.items() if share > 0]
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

    def with_purity(self, codes: np.ndarray, fields: Fields) -> "QualityReport":
        """The same with the purity of the (N, L) codes against each single-value column."""
        return replace(self, purity=measure_purity(codes, fields))


def measure_quality(
    *,
    vectors: np.ndarray,
    known: np.ndarray,
    captured: float,
    embeddings: Sequence[Embedding],
    codes: np.ndarray,
    resolution: Resolution,
    codebooks: Sequence[np.ndarray],
    seed: int = 0,
) -> QualityReport:
    """Measure the codes of one catalogue.

    Args:
        vectors: (N, D) float32 that were quantised.
        known: (N,) bool, whether the item has any embedding.
        captured: share of the embeddings' energy in the vectors.
        embeddings: what the vectors were made from.
        codes: (N, L) before collisions were resolved.
        resolution: after.
        codebooks: L arrays (K_l, D).
        seed: of the sample for neighbours.
    """
    final, num_levels = resolution.codes, len(codebooks)
    variance = float(vectors[known].var(axis=0, dtype=np.float64).sum())
    errors = [_relative_error(vectors, final, codebooks, depth + 1, known, variance) for depth in range(num_levels)]
    errors += errors[-1:] * (final.shape[1] - num_levels)
    shared = _neighbours_shared(vectors, known, final, seed)
    levels = [
        _level_quality(final, depth, resolution.num_codes[depth], errors[depth], shared[depth])
        for depth in range(final.shape[1])
    ]
    return QualityReport(
        items=len(vectors),
        dim=vectors.shape[1],
        captured=captured,
        missing={embedding.name: float(1 - np.mean(embedding.valid)) for embedding in embeddings},
        missing_all=float(1 - known.mean()),
        relative_error=errors[-1],
        unresolved_error=_relative_error(vectors, codes, codebooks, num_levels, known, variance),
        collisions=resolution.report,
        levels=tuple(levels),
    )


def measure_purity(codes: np.ndarray, fields: Fields) -> tuple[FieldPurity, ...]:
    """Purity of the prefixes of (N, L) codes against each single-value column; missing values are left out."""
    found = []
    for number, name in enumerate(fields.names):
        values = np.asarray(fields.values[:, number])
        has = values >= FIELD_RESERVED
        chance = _pairs_alike(np.zeros((int(has.sum()), 0), np.int32), values[has])
        if chance is not None:
            levels = tuple(_pairs_alike(codes[has, : depth + 1], values[has]) for depth in range(codes.shape[1]))
            found.append(FieldPurity(field=name, by_level=levels, chance=chance))
    return tuple(found)


def _pairs_alike(codes: np.ndarray, values: np.ndarray) -> float | None:
    """Share of the pairs of rows with equal codes that have equal values."""
    pairs = int((bucket_sizes(codes) - 1).sum())
    alike = int((bucket_sizes(np.column_stack([codes, values])) - 1).sum())
    return alike / pairs if pairs else None


def _level_quality(codes: np.ndarray, depth: int, num_codes: int, error: float, shared: float) -> LevelQuality:
    counts = np.bincount(codes[:, depth], minlength=num_codes)
    share = counts[counts > 0] / len(codes)
    sizes = bucket_sizes(codes[:, : depth + 1])
    num_pairs = len(codes) * (len(codes) - 1)
    return LevelQuality(
        level=depth + 1,
        codes=num_codes,
        used=int((counts > 0).sum()),
        perplexity=float(np.exp(-(share * np.log(share)).sum())),
        prefixes=round(float((1 / sizes).sum())),
        largest_prefix=int(sizes.max()),
        relative_error=error,
        neighbours_shared=shared,
        chance_shared=float((sizes - 1).sum() / num_pairs),
    )


def _relative_error(
    vectors: np.ndarray,
    codes: np.ndarray,
    codebooks: Sequence[np.ndarray],
    depth: int,
    known: np.ndarray,
    variance: float,
) -> float:
    difference = vectors - decode(codes[:, :depth], codebooks[:depth])
    error = float(np.einsum("nd,nd->n", difference, difference)[known].mean(dtype=np.float64))
    return error / variance if variance > 0 else 0.0


def _neighbours_shared(vectors: np.ndarray, known: np.ndarray, codes: np.ndarray, seed: int) -> list[float]:
    """Per depth, the share of the nearest neighbours of sampled items with equal codes up to there."""
    rows = np.flatnonzero(known)
    count = min(NUM_NEIGHBOURS, len(rows) - 1)
    if count < 1:
        return [0.0] * codes.shape[1]
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.choice(rows, min(_QUERIES, len(rows)), replace=False))
    pool, pool_codes = vectors[rows], codes[rows]
    lengths = np.einsum("nd,nd->n", pool, pool)
    same = np.zeros(codes.shape[1])
    for first in range(0, len(queries), _QUERY_BLOCK):
        block = queries[first : first + _QUERY_BLOCK]
        distances = lengths - 2 * (vectors[block] @ pool.T)
        distances[np.arange(len(block)), np.searchsorted(rows, block)] = np.inf
        nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
        equal = pool_codes[nearest] == codes[block][:, None]
        same += np.logical_and.accumulate(equal, axis=2).sum(axis=(0, 1))
    return [float(share) for share in same / (len(queries) * count)]


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
