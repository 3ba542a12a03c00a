"""What there is to see of a tokenizer: its code tree, how full its codes are, neighbours, new items beside old ones.

All is put together here, so that a catalogue of millions is drawn as quickly as one of thousands.

Legend: N items, S width of the vectors, P prefixes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from semid.data.dataset import Dataset
from semid.pipeline.naming import Named, Names
from semid.tokenizers.report import QualityReport
from semid.tokenizers.tokenizer import SemanticIdTokenizer
from semid.tokenizers.vectors import row_blocks

# Of the tree: the largest first codes; of so many of them the largest codes that follow; items of each of these.
_FIRST, _DIVIDED, _SECOND, _ITEMS = 300, 100, 6, 3
_POINTS = 200
_EXAMPLES = 6
_NEIGHBOURS = 5
COSINE = "cosine"


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A node of the code tree.

    Attributes:
        codes: from the first level on.
        items: below it.
        purity: how alike they are, see :class:`TokenizerLook`; None where that is not known.
        examples: rows of some of its items, where it is not divided further.
    """

    codes: tuple[int, ...]
    items: int
    purity: float | None
    examples: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Example:
    """The row of an item, and those nearest to it by its vector, and by what its codes decode to."""

    item: int
    by_vector: tuple[int, ...]
    by_codes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some of the items.

    Attributes:
        items: how many.
        unknown: share without any embedding.
        relative_error: mean squared error of what their codes decode to, over the variance of all vectors; None
            where none has an embedding.
        first_codes: different first codes among them.
        alone: share that shares its codes before the last level with no other item of the catalogue.
    """

    items: int
    unknown: float
    relative_error: float | None
    first_codes: int
    alone: float


@dataclass(frozen=True, kw_only=True)
class TokenizerLook:
    """What there is to see.

    Attributes:
        report: of its quality.
        purity_of: the column of which the share of the commonest value is a prefix's purity; ``cosine`` where there
            is none: the mean cosine of its items with their mean direction.
        tree: the largest prefixes of one and two codes.
        usage: per level, items of each code that is used, the most first, thinned out.
        sizes: per level, how many prefixes have 1, 2, 3–4, 5–8, … items, by the largest of these numbers.
        examples: items with their neighbours.
        groups: of items, by name.
        names, codes: of all items that are named above or among the worst buckets of the report, by row.
    """

    report: QualityReport
    purity_of: str
    tree: tuple[Prefix, ...]
    usage: tuple[tuple[int, ...], ...]
    sizes: tuple[Mapping[int, int], ...]
    examples: tuple[Example, ...]
    groups: Mapping[str, Group]
    names: Mapping[int, Named]
    codes: Mapping[int, tuple[int, ...]]


def look_at(
    tokenizer: SemanticIdTokenizer, dataset: Dataset | None = None, names: Names | None = None, seed: int = 0
) -> TokenizerLook:
    """Put together what there is to see.

    Args:
        dataset: that it was fitted on; without it nothing is known of columns and training events.
        names: of the items; by default those of the dataset, and row numbers without one.
        seed: of the examples.

    Raises:
        InputError: the tokenizer belongs to another dataset.
    """
    if dataset is not None and dataset.artifact is not None and tokenizer.artifact_ is not None:
        tokenizer.artifact_.require_parent("dataset", dataset.artifact)
    return _Look(tokenizer, dataset, names or (Names(dataset) if dataset else None), seed).whole()


class _Look:
    def __init__(
        self, tokenizer: SemanticIdTokenizer, dataset: Dataset | None, names: Names | None, seed: int
    ) -> None:
        self._tokenizer, self._dataset, self._names = tokenizer, dataset, names
        self._codes, self._known = tokenizer.semantic_ids_.codes, tokenizer.known_
        self._rng = np.random.default_rng(seed)

    def whole(self) -> TokenizerLook:
        ids, report = self._tokenizer.semantic_ids_, self._tokenizer.report_
        column = self._purest_column()
        prefixes = [
            np.unique(ids.keys(levels=depth), return_counts=True)[1] for depth in range(1, ids.num_levels + 1)
        ]
        tree, examples = tuple(self._tree(column)), tuple(self._examples())
        named = [row for prefix in tree for row in prefix.examples]
        named += [row for example in examples for row in (example.item, *example.by_vector, *example.by_codes)]
        named += [row for bucket in report.worst_buckets for row in bucket.rows]
        rows = np.unique(np.array(named, np.int64))
        return TokenizerLook(
            report=report,
            purity_of=column or COSINE,
            tree=tree,
            usage=tuple(_thinned(np.bincount(codes)) for codes in self._codes.T),
            sizes=tuple(_by_size(counts) for counts in prefixes),
            examples=examples,
            groups=self._groups(),
            names=self._names.items(rows) if self._names else {row: Named(row) for row in rows.tolist()},
            codes={row: tuple(self._codes[row].tolist()) for row in rows.tolist()},
        )

    def _purest_column(self) -> str | None:
        """The column that the first code tells most of."""
        if self._dataset is None:
            return None
        known = set(self._dataset.item_fields.names)
        told = {
            purity.field: purity.by_level[0] - purity.chance
            for purity in self._tokenizer.report_.purity
            if purity.field in known and purity.by_level[0] is not None
        }
        return max(told, key=lambda name: told[name], default=None)

    def _tree(self, column: str | None) -> Iterator[Prefix]:
        first = self._codes[:, 0].astype(np.int64)
        is_last = self._codes.shape[1] == 1
        yield from self._largest((), first, np.arange(len(first)), _FIRST, column, _ITEMS if is_last else 0)
        for code in [] if is_last else _largest(first, _DIVIDED).tolist():
            rows = np.flatnonzero(first == code)
            yield from self._largest((code,), self._codes[rows, 1].astype(np.int64), rows, _SECOND, column, _ITEMS)

    def _largest(
        self, above: tuple[int, ...], codes: np.ndarray, rows: np.ndarray, most: int, column: str | None, items: int
    ) -> Iterator[Prefix]:
        """The largest of the prefixes that go on from one by these codes of its rows, with some items each."""
        shown = _largest(codes, most)
        place = np.full(int(codes.max()) + 1, -1)
        place[shown] = np.arange(len(shown))
        group = place[codes]
        if column is None:
            purities = self._cosines(group, rows, len(shown))
        else:
            purities = self._column_purities(group, rows, len(shown), column)
        for number, code in enumerate(shown.tolist()):
            inside = rows[group == number]
            examples = tuple(inside[:items].tolist())
            yield Prefix(codes=(*above, code), items=len(inside), purity=purities[number], examples=examples)

    def _column_purities(self, group: np.ndarray, rows: np.ndarray, count: int, column: str) -> list[float | None]:
        """Of each group the share of the commonest value among the items that have one."""
        assert self._dataset is not None
        values = self._dataset.item_fields.groups(column)[rows]
        there = (group >= 0) & (values >= 0)
        table = sp.csr_matrix(
            (np.ones(int(there.sum())), (group[there], values[there])), shape=(count, int(values.max(initial=0)) + 1)
        )
        most, total = table.max(axis=1).toarray().ravel(), np.asarray(table.sum(axis=1)).ravel()
        return [float(m / t) if t else None for m, t in zip(most, total, strict=True)]

    def _cosines(self, group: np.ndarray, rows: np.ndarray, count: int) -> list[float | None]:
        """Of each group the mean cosine of its vectors with their mean direction: the length of the mean of units."""
        kept = np.flatnonzero((group >= 0) & self._known[rows])
        sums, sizes = np.zeros((count, self._tokenizer.vectors_.shape[1])), np.bincount(group[kept], minlength=count)
        for block in row_blocks(len(kept)):
            part = kept[block]
            vectors = self._tokenizer.vectors_[rows[part]]
            units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            shape = (count, len(part))
            sums += sp.csr_matrix((np.ones(len(part)), (group[part], np.arange(len(part)))), shape=shape) @ units
        lengths = np.linalg.norm(sums, axis=1)
        return [float(length / size) if size else None for length, size in zip(lengths, sizes, strict=True)]

    def _examples(self) -> Iterator[Example]:
        known = np.flatnonzero(self._known)
        wanted = np.sort(self._rng.choice(known, min(_EXAMPLES, len(known)), replace=False))
        if not len(wanted):
            return
        own, decoded = self._tokenizer.vectors_[wanted], self._tokenizer.decode(self._codes[wanted])
        by_vector, by_codes = (np.empty((len(wanted), len(self._codes)), np.float32) for _ in range(2))
        for block in row_blocks(len(self._codes)):
            by_vector[:, block] = _distances(own, self._tokenizer.vectors_[block])
            by_codes[:, block] = _distances(decoded, self._tokenizer.decode(self._codes[block]))
        for number, row in enumerate(wanted.tolist()):
            near = [self._nearest(distances[number], row) for distances in (by_vector, by_codes)]
            yield Example(item=row, by_vector=near[0], by_codes=near[1])

    def _nearest(self, distances: np.ndarray, item: int) -> tuple[int, ...]:
        distances = np.where(self._known, distances, np.inf)
        distances[item] = np.inf
        rows = np.argsort(distances, kind="stable")[:_NEIGHBOURS]
        return tuple(rows[np.isfinite(distances[rows])].tolist())

    def _groups(self) -> dict[str, Group]:
        everything = np.ones(len(self._codes), bool)
        parts = {"all": everything}
        if self._dataset is not None:
            seen = self._dataset.train_counts > 0
            parts |= {"with training events": seen, "new, without": ~seen}
        if not self._tokenizer.fitted_.all():
            parts |= {"there at the fit": self._tokenizer.fitted_, "appended since": ~self._tokenizer.fitted_}
        errors, variance = self._errors()
        ids = self._tokenizer.semantic_ids_
        above = ids.keys(levels=max(ids.num_levels - 1, 1))
        _, place, counts = np.unique(above, return_inverse=True, return_counts=True)
        alone = counts[place] == 1

        def group(part: np.ndarray) -> Group:
            known = errors[part & self._known]
            return Group(
                items=int(part.sum()),
                unknown=float((~self._known[part]).mean()),
                relative_error=float(known.mean() / variance) if len(known) else None,
                first_codes=len(np.unique(self._codes[part, 0])),
                alone=float(alone[part].mean()),
            )

        return {name: group(part) for name, part in parts.items() if part.any()}

    def _errors(self) -> tuple[np.ndarray, float]:
        """Squared error of each item, and the variance of all vectors that stand for an embedding."""
        errors = np.empty(len(self._codes))
        total, squares, count = np.zeros(self._tokenizer.vectors_.shape[1]), 0.0, max(int(self._known.sum()), 1)
        for block in row_blocks(len(self._codes)):
            vectors = np.asarray(self._tokenizer.vectors_[block], np.float64)
            errors[block] = ((vectors - self._tokenizer.decode(self._codes[block])) ** 2).sum(axis=1)
            known = vectors[self._known[block]]
            total, squares = total + known.sum(axis=0), squares + float((known**2).sum())
        return errors, squares / count - float(((total / count) ** 2).sum()) or 1.0


def _largest(codes: np.ndarray, most: int) -> np.ndarray:
    """The codes of the most items, the most first, equal ones by code."""
    counts = np.bincount(codes)
    order = np.argsort(-counts, kind="stable")[:most]
    return order[counts[order] > 0]


def _thinned(counts: np.ndarray) -> tuple[int, ...]:
    """Those above 0, the most first; of many, some at even places."""
    falling = np.sort(counts[counts > 0])[::-1]
    places = np.unique(np.linspace(0, len(falling) - 1, min(len(falling), _POINTS)).round().astype(int))
    return tuple(falling[places].tolist())


def _by_size(counts: np.ndarray) -> dict[int, int]:
    """How many counts are 1, 2, up to 4, up to 8, …"""
    powers, times = np.unique(np.ceil(np.log2(counts)).astype(int), return_counts=True)
    return {1 << power: time for power, time in zip(powers.tolist(), times.tolist(), strict=True)}


def _distances(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Squared, (Q, M), but for what is the same for all vectors."""
    found: np.ndarray = (vectors**2).sum(axis=1) - 2 * queries @ vectors.T
    return found
