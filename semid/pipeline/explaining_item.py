"""Why an item has the codes it has: what each level explains, who shares them, and whether it had to give way."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.pipeline.cells import shortened, without_empty_columns, written
from semid.pipeline.naming import Named, Names
from semid.tokenizers.tokenizer import SemanticIdTokenizer
from semid.tokenizers.vectors import row_blocks


@dataclass(frozen=True, kw_only=True)
class ItemLevel:
    """One code of an item.

    Attributes:
        code: at this level.
        items: that have the same codes up to here, itself among them.
        share: of the squared length of the item's vector (for some quantisers: its latent) that this level explains;
            negative where the code lies off, as it may for an item that had to give way.
    """

    code: int
    items: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another item, how many codes it shares from the first on, and how far its vector is."""

    item: Named
    codes: tuple[int, ...]
    shared: int
    distance: float


@dataclass(frozen=True, kw_only=True)
class ItemExplanation:
    """One item of a tokenizer.

    Attributes:
        item: it.
        train_events: of it.
        candidate, held_out: whether it may be recommended, and whether it was made new.
        embeddings: it has; without any its codes stand for a random vector.
        levels: its codes.
        rest: of its squared length that no level explains.
        nearest: the codes it would have if several items might share them.
        holder: the item that has those, where it is another one.
        neighbours: for each number of shared codes, the most first, the nearest items with just that many.
    """

    item: Named
    train_events: int
    candidate: bool
    held_out: bool
    embeddings: tuple[str, ...]
    levels: tuple[ItemLevel, ...]
    rest: float
    nearest: tuple[int, ...]
    holder: Named | None
    neighbours: tuple[Neighbour, ...]

    @property
    def codes(self) -> tuple[int, ...]:
        """All of its codes."""
        return tuple(level.code for level in self.levels)

    @property
    def moved(self) -> bool:
        """Whether its codes are not the nearest."""
        return self.codes[: len(self.nearest)] != self.nearest

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "codes": self.codes, "moved": self.moved}

    def summary_rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        kind = "held out" if self.held_out else f"{self.train_events:,} training events"
        rows = [("item", f"{self.item.id}, {kind}{'' if self.candidate else ', no candidate'}")]
        if self.item.title:
            rows.append(("title", self.item.title))
        rows.append(("embeddings", ", ".join(self.embeddings) or "none: its codes stand for a random vector"))
        rows.append(("codes", written(self.codes)))
        sharing = self.levels[-1].items - 1
        if self.moved:
            there = f", which item {self.holder.id} has" if self.holder else ""
            rows.append(("collision", f"it gave way: the nearest codes are {written(self.nearest)}{there}"))
        elif sharing:
            rows.append(("collision", f"{sharing:,} other items have the same codes"))
        else:
            rows.append(("collision", "none: these are its nearest codes, and its alone"))
        return rows

    def level_rows(self) -> list[tuple[str, ...]]:
        """A header, a row a level, and what is left."""
        rows: list[tuple[str, ...]] = [("level", "code", "items with the same codes", "explains")]
        rows += [
            (str(number), str(level.code), f"{level.items:,}", f"{level.share:.1%}")
            for number, level in enumerate(self.levels, 1)
        ]
        return [*rows, ("rest", "", "", f"{self.rest:.1%}")]

    def neighbour_rows(self) -> list[tuple[str, ...]]:
        """A header, and a row a neighbour."""
        rows: list[tuple[str, ...]] = [("item", "shared", "codes", "distance", "title")]
        rows += [
            (str(n.item.id), str(n.shared), written(n.codes), f"{n.distance:.3f}", shortened(n.item.title))
            for n in self.neighbours
        ]
        return without_empty_columns(rows)


def explain_item(
    tokenizer: SemanticIdTokenizer, dataset: Dataset, item: int, *, names: Names | None = None, neighbours: int = 3
) -> ItemExplanation:
    """Explain the codes of one item row.

    Args:
        tokenizer: fitted on ``dataset``.
        names: of its items; by default their raw ids and the dataset's own titles.
        neighbours: how many to name for each number of shared codes.

    Raises:
        InputError: the tokenizer belongs to another dataset, or fewer than 0 neighbours.
    """
    if neighbours < 0:
        raise InputError(f"{neighbours} neighbours cannot be named: ask for at least 0.")
    if tokenizer.artifact_ is not None and dataset.artifact is not None:
        tokenizer.artifact_.require_parent("dataset", dataset.artifact)
    ids = tokenizer.semantic_ids_
    vector = tokenizer.vectors_[item : item + 1]
    nearest = tokenizer.quantiser_.encode(vector)[0]
    shared = np.logical_and.accumulate(ids.codes == ids.codes[item], axis=1).sum(axis=1)
    shares, rest = _shares(tokenizer, vector, ids.codes[item])
    holder = int(ids.items_of(nearest[None])[0]) if len(nearest) == ids.num_levels else -1
    near = list(_nearest(tokenizer, item, shared, neighbours)) if tokenizer.known_[item] else []
    named = (names or Names(dataset)).items([item, max(holder, 0), *(row for row, _ in near)])
    return ItemExplanation(
        item=named[item],
        train_events=int(dataset.train_counts[item]),
        candidate=bool(np.isin(item, dataset.candidates)),
        held_out=bool(np.isin(item, dataset.held_out)),
        embeddings=tuple(np.array(tokenizer.config.embeddings)[tokenizer.valid_[item]].tolist()),
        levels=tuple(
            ItemLevel(code=int(code), items=int((shared > depth).sum()), share=share)
            for depth, (code, share) in enumerate(zip(ids.codes[item], shares, strict=True))
        ),
        rest=rest,
        nearest=tuple(nearest.tolist()),
        holder=named[holder] if holder not in (-1, item) else None,
        neighbours=tuple(
            Neighbour(
                item=named[row], codes=tuple(ids.codes[row].tolist()), shared=int(shared[row]), distance=distance
            )
            for row, distance in near
        ),
    )


def _shares(tokenizer: SemanticIdTokenizer, vector: np.ndarray, codes: np.ndarray) -> tuple[list[float], float]:
    """Which share of the squared length of an item's latent each level takes off, and which share is left."""
    left = tokenizer.quantiser_.latents(vector)[0].astype(np.float64)
    energies = [left @ left]
    for codebook, code in zip(tokenizer.quantiser_.codebooks_, codes, strict=False):  # a level may only tell apart
        left = left - codebook[code]
        energies.append(left @ left)
    energies += energies[-1:] * (1 + len(codes) - len(energies))
    relative = np.array(energies) / (energies[0] or 1.0)
    return (-np.diff(relative)).tolist(), float(relative[-1])


def _nearest(
    tokenizer: SemanticIdTokenizer, item: int, shared: np.ndarray, count: int
) -> Iterator[tuple[int, float]]:
    """Rows and distances: for each number of shared codes the ``count`` nearest other items with an embedding."""
    vectors, own = tokenizer.vectors_, tokenizer.vectors_[item : item + 1]
    distances = np.empty(len(vectors), np.float32)
    for block in row_blocks(len(vectors)):
        distances[block] = np.linalg.norm(vectors[block] - own, axis=1)
    others = tokenizer.known_.copy()
    others[item] = False
    for depth in range(tokenizer.semantic_ids_.num_levels, -1, -1):
        rows = np.flatnonzero(others & (shared == depth))
        for row in rows[np.argsort(distances[rows], kind="stable")[:count]].tolist():
            yield row, float(distances[row])
