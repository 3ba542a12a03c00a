"""Measures a set of codes: errors, neighbours, buckets and purity, block by block."""

from collections.abc import Mapping, Sequence

import numpy as np

from semid.data.features import FIELD_RESERVED, Fields
from semid.tokenizers.collisions.resolution import Resolution, bucket_sizes
from semid.tokenizers.fusion.preprocessing import Preprocessor
from semid.tokenizers.quantiser import Quantiser
from semid.tokenizers.report import Bucket, FieldPurity, LevelQuality, QualityReport
from semid.tokenizers.vectors import Vectors, row_blocks

NUM_NEIGHBOURS = 10
_QUERIES = 1000
_QUERY_BLOCK = 64
# Neighbours are looked for among at most so many items.
_POOL = 100_000
_BUCKETS, _BUCKET_ROWS = 5, 5


def measure_quality(
    *,
    vectors: Vectors,
    known: np.ndarray,
    valid: Mapping[str, np.ndarray],
    preprocessor: Preprocessor,
    quantiser: Quantiser,
    codes: np.ndarray,
    resolution: Resolution,
    seed: int = 0,
) -> QualityReport:
    """Measure the codes of one catalogue.

    Args:
        vectors: (N, D) float32 that were quantised.
        known: (N,) bool, whether the item has any embedding.
        valid: by embedding that the vectors were made from, in order, (N,) bool whether the item has it.
        preprocessor: that made the vectors.
        quantiser: that made the codes.
        codes: (N, L) before collisions were resolved.
        resolution: after.
        seed: of the sample for neighbours.
    """
    final = resolution.codes
    unresolved, *resolved = _relative_errors(vectors, known, quantiser, [codes, final])
    level_errors = _level_errors(vectors, known, quantiser, final)
    shared, recall = _neighbours(vectors, known, quantiser, final, seed)
    levels = [
        _level_quality(final, depth, resolution.num_codes[depth], level_errors[depth], shared[depth])
        for depth in range(final.shape[1])
    ]
    return QualityReport(
        items=len(vectors),
        dim=vectors.shape[1],
        captured=preprocessor.captured_,
        captured_by=preprocessor.captured_by(tuple(valid)),
        missing={name: float(1 - np.mean(has)) for name, has in valid.items()},
        missing_all=float(1 - known.mean()),
        relative_error=resolved[0],
        unresolved_error=unresolved,
        neighbour_recall=recall,
        collisions=resolution.report,
        levels=tuple(levels),
        worst_buckets=_worst_buckets(codes),
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


def _relative_errors(
    vectors: Vectors, known: np.ndarray, quantiser: Quantiser, choices: Sequence[np.ndarray]
) -> list[float]:
    """Mean squared error over variance of the known vectors, of several choices of codes."""
    spread, errors = _Spread(vectors.shape[1]), np.zeros(len(choices))
    for rows in row_blocks(len(vectors)):
        block = vectors[rows][known[rows]]
        spread.add(block)
        for number, codes in enumerate(choices):
            errors[number] += _squares(block - quantiser.decode(codes[rows][known[rows]]))
    return spread.relative(errors)


def _level_errors(vectors: Vectors, known: np.ndarray, quantiser: Quantiser, codes: np.ndarray) -> list[float]:
    """Per level, the same of the latents and the sum of their centroids so far."""
    codebooks = quantiser.codebooks_
    spread, errors = _Spread(codebooks[0].shape[1]), np.zeros(len(codebooks))
    for rows in row_blocks(len(vectors)):
        rest = quantiser.latents(vectors[rows][known[rows]])
        spread.add(rest)
        for level, codebook in enumerate(codebooks):
            rest = rest - codebook[codes[rows, level][known[rows]]]
            errors[level] += _squares(rest)
    found = spread.relative(errors)
    added = int(codes.shape[1]) - len(codebooks)
    return found + found[-1:] * added  # a level that tells items apart adds nothing


class _Spread:
    """Variance of vectors that come in blocks."""

    def __init__(self, dim: int) -> None:
        self._count, self._shift, self._sum, self._squares = 0, np.zeros(dim, np.float32), np.zeros(dim), 0.0

    def add(self, block: np.ndarray) -> None:
        if not self._count and len(block):  # around zero, vectors far from it would cancel
            self._shift = block.mean(0, dtype=np.float64).astype(np.float32)
        moved = block - self._shift
        self._count += len(block)
        self._sum += moved.sum(0, dtype=np.float64)
        self._squares += _squares(moved)

    def relative(self, errors: np.ndarray) -> list[float]:
        """Sums of squares over that of the differences from the mean; zero where all vectors are the same."""
        total = self._squares - float(self._sum @ self._sum) / max(self._count, 1)
        return [float(error / total) if total > 0 else 0.0 for error in errors]


def _squares(block: np.ndarray) -> float:
    return float(np.einsum("nd,nd->n", block, block).sum(dtype=np.float64))


def _neighbours(
    vectors: Vectors, known: np.ndarray, quantiser: Quantiser, codes: np.ndarray, seed: int
) -> tuple[list[float], float]:
    """Per depth, the share of the nearest neighbours of sampled items with equal codes up to there; and the share of
    them that are nearest by decoded codes."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(known)
    if len(rows) > _POOL:
        rows = np.sort(rng.choice(rows, _POOL, replace=False))
    count = min(NUM_NEIGHBOURS, len(rows) - 1)
    if count < 1:
        return [0.0] * codes.shape[1], 0.0
    queries = np.sort(rng.choice(len(rows), min(_QUERIES, len(rows)), replace=False))
    pool, pool_codes = vectors[rows], codes[rows]
    decoded = quantiser.decode(pool_codes)
    same, found = np.zeros(codes.shape[1]), 0
    for first in range(0, len(queries), _QUERY_BLOCK):
        block = queries[first : first + _QUERY_BLOCK]
        nearest = _nearest(pool, block, count)
        equal = pool_codes[nearest] == pool_codes[block][:, None]
        same += np.logical_and.accumulate(equal, axis=2).sum(axis=(0, 1))
        found += int((nearest[:, :, None] == _nearest(decoded, block, count)[:, None]).sum())
    total = len(queries) * count
    return [float(share) for share in same / total], found / total


def _nearest(pool: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The nearest other rows of some rows. (len(queries), count)"""
    distances = np.einsum("nd,nd->n", pool, pool) - 2 * (pool[queries] @ pool.T)
    distances[np.arange(len(queries)), queries] = np.inf
    nearest: np.ndarray = np.argpartition(distances, count - 1, axis=1)[:, :count]
    return nearest


def _worst_buckets(codes: np.ndarray) -> tuple[Bucket, ...]:
    sizes = bucket_sizes(codes)
    order = np.lexsort((*codes.T[::-1], -sizes))
    shared = order[sizes[order] > 1]
    found: list[Bucket] = []
    place = 0
    while place < len(shared) and len(found) < _BUCKETS:
        row, size = shared[place], int(sizes[shared[place]])
        members = np.sort(shared[place : place + size])[:_BUCKET_ROWS]
        found.append(Bucket(codes=tuple(codes[row].tolist()), size=size, rows=tuple(members.tolist())))
        place += size
    return tuple(found)
