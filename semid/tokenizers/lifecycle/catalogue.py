"""A fitted tokenizer on a catalogue that changed: items added, gone or in another order, codes untouched."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semid.codes import SemanticIds
from semid.data.features import Embedding
from semid.errors import InputError
from semid.progress import Progress, silent
from semid.tokenizers.collisions.placement import needs_room
from semid.tokenizers.collisions.resolution import Resolution, check_capacity, report_moves
from semid.tokenizers.collisions.rows import ChosenRows
from semid.tokenizers.lifecycle.append import add_items, encode_rows
from semid.tokenizers.lifecycle.drift import Coded
from semid.tokenizers.lifecycle.energy import unseen_energies
from semid.tokenizers.vectors import Latents, Vectors, row_blocks

if TYPE_CHECKING:
    from semid.tokenizers.tokenizer import SemanticIdTokenizer


def appended(
    tokenizer: "SemanticIdTokenizer", embeddings: Sequence[Embedding], scratch: Path | None, progress: Progress | None
) -> "SemanticIdTokenizer":
    """The tokenizer with more items, which come after those it has; see ``SemanticIdTokenizer.append``."""
    num_old = tokenizer.semantic_ids_.num_items
    newcomers = _same_codes(tokenizer)
    newcomers.read_catalogue(embeddings, scratch=scratch, progress=progress, first_row=num_old)
    grown = _same_codes(tokenizer)
    parts = tokenizer.vectors_, newcomers.vectors_
    grown.take_vectors(chain(*map(_blocks, parts)), sum(map(len, parts)), scratch)
    grown.valid_ = np.concatenate([tokenizer.valid_, newcomers.valid_])
    grown.fitted_ = np.concatenate([tokenizer.fitted_, np.zeros(len(newcomers.vectors_), bool)])
    _number(grown, tokenizer.semantic_ids_, np.arange(len(grown.vectors_)) >= num_old, progress)
    return grown


def without(tokenizer: "SemanticIdTokenizer", rows: np.ndarray, scratch: Path | None) -> "SemanticIdTokenizer":
    """The tokenizer without some items; see ``SemanticIdTokenizer.remove``."""
    ids = tokenizer.semantic_ids_
    rows = np.unique(np.asarray(rows, np.int64))
    if len(rows) and (rows[0] < 0 or rows[-1] >= ids.num_items):
        wrong = rows[0] if rows[0] < 0 else rows[-1]
        raise InputError(f"There is no item row {wrong} to remove: the catalogue has rows 0 to {ids.num_items - 1}.")
    if len(rows) == ids.num_items:
        raise InputError("All items would be removed: keep at least one.")
    kept = np.setdiff1d(np.arange(ids.num_items), rows)
    shrunk = _same_codes(tokenizer)
    shrunk.take_vectors(_blocks(tokenizer.vectors_, kept), len(kept), scratch)
    shrunk.valid_, shrunk.fitted_ = tokenizer.valid_[kept], tokenizer.fitted_[kept]
    _number(shrunk, SemanticIds(ids.codes[kept], ids.num_codes), np.zeros(len(kept), bool), None)
    return shrunk


def carried_over(
    tokenizer: "SemanticIdTokenizer",
    embeddings: Sequence[Embedding],
    rows: np.ndarray | None,
    scratch: Path | None,
    progress: Progress | None,
    *,
    to_compare: bool = False,
) -> "SemanticIdTokenizer":
    """The tokenizer on another catalogue; see ``SemanticIdTokenizer.carry_over``.

    Args:
        to_compare: see all items by the embeddings given alone, and measure nothing: the result has no report.
    """
    ids = tokenizer.semantic_ids_
    num_items = len(embeddings[0].vectors) if embeddings else 0
    rows = old_rows(rows, num_items, ids.num_items)
    policy = tokenizer.collision_policy
    if needs_room(policy.policy, policy.overflow):
        check_capacity(num_items, tokenizer.config.num_codes)  # before anything is read
    moved = _same_codes(tokenizer)
    moved.read_catalogue(embeddings, scratch=scratch, progress=progress)
    stays = rows >= 0
    if not to_compare:
        _keep_what_is_lost(tokenizer, moved, rows, scratch)
    moved.fitted_ = np.zeros(num_items, bool)
    moved.fitted_[stays] = tokenizer.fitted_[rows[stays]]
    _number(moved, SemanticIds(ids.codes[rows[stays]], ids.num_codes), ~stays, progress, measured=not to_compare)
    return moved


def coded(tokenizer: "SemanticIdTokenizer", embeddings: Sequence[Embedding] | None, seed: int) -> Coded:
    """The catalogue as :func:`measure_drift` looks at it; without embeddings, nothing is known of their energy."""
    is_new, config = ~tokenizer.fitted_, tokenizer.config
    energies = None
    if embeddings is not None:  # new items have no histories yet
        content = [embedding for embedding in embeddings if embedding.name in config.content]
        energies = unseen_energies(config.content_preprocessing, content, is_new, np.random.default_rng(seed))
    return Coded(
        vectors=tokenizer.vectors_,
        known=tokenizer.known_,
        codes=tokenizer.semantic_ids_.codes,
        is_new=is_new,
        energies=energies,
        coverage={
            name: has
            for name, has in zip(config.embeddings, tokenizer.valid_.T, strict=True)
            if name in config.content
        },
    )


def old_rows(rows: np.ndarray | None, num_items: int, num_old: int) -> np.ndarray:
    """Checked: the row that each item had before, -1 for new ones; by default the first rows are the old items.

    Raises:
        InputError: another number of rows than items, a row that there is not, or one given twice.
    """
    if rows is None:
        if num_items < num_old:
            raise InputError(
                f"The catalogue has {num_items} items but had {num_old}: say which row each item had before."
            )
        numbers = np.arange(num_items)
        return np.where(numbers < num_old, numbers, -1)
    rows = np.asarray(rows, np.int64)
    if len(rows) != num_items:
        raise InputError(f"{len(rows)} old rows were given for {num_items} items: give one each, -1 for new items.")
    found = np.sort(rows[rows >= 0])
    if len(found) and found[-1] >= num_old:
        raise InputError(f"There is no old row {found[-1]}: the catalogue had rows 0 to {num_old - 1}.")
    twice = found[1:][np.diff(found) == 0]
    if len(twice):
        raise InputError(f"Old row {twice[0]} is given for two items: an item can go on as one only.")
    return rows


def _keep_what_is_lost(
    old: "SemanticIdTokenizer", moved: "SemanticIdTokenizer", rows: np.ndarray, scratch: Path | None
) -> None:
    """Old items that lack an embedding they had, such as one from earlier histories, keep the vectors they had."""
    stays = np.flatnonzero(rows >= 0)
    had = old.valid_[rows[stays]]
    lost = (had & ~moved.valid_[stays]).any(axis=1)
    if not lost.any():
        return
    moved.valid_[stays[lost]] = had[lost]
    sources = np.full(len(rows), -1)
    sources[stays[lost]] = rows[stays[lost]]

    def blocks() -> Iterator[np.ndarray]:
        for block in row_blocks(len(rows)):
            vectors, own = np.array(vectors_now[block]), np.flatnonzero(sources[block] >= 0)
            vectors[own] = old.vectors_[sources[block][own]]
            yield vectors

    vectors_now = moved.vectors_
    moved.take_vectors(blocks(), len(rows), scratch)


def _same_codes(tokenizer: "SemanticIdTokenizer") -> "SemanticIdTokenizer":
    """Another tokenizer with the same fitted parts and no catalogue yet."""
    other = type(tokenizer)(tokenizer.config)
    other.preprocessor_, other.quantiser_ = tokenizer.preprocessor_, tokenizer.quantiser_
    return other


def _blocks(vectors: Vectors, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    if rows is None:
        return (vectors[block] for block in row_blocks(len(vectors)))
    return (vectors[rows[block]] for block in row_blocks(len(rows)))


def _number(
    tokenizer: "SemanticIdTokenizer",
    taken: SemanticIds,
    is_new: np.ndarray,
    progress: Progress | None,
    *,
    measured: bool = True,
) -> None:
    """Give a catalogue its codes: the old ones to items that have them, free ones to the others.

    Args:
        taken: codes of the items that are not new, in the order of their rows.
        is_new: (N,) bool.
    """
    quantiser, policy = tokenizer.quantiser_, tokenizer.collision_policy
    tell = progress or silent
    nearest = encode_rows(tokenizer.vectors_, quantiser, tell)
    latents, codebooks = Latents(tokenizer.vectors_, quantiser), quantiser.codebooks_
    tell("resolve collisions", 0, None)
    new = np.flatnonzero(is_new)
    both = add_items(taken, nearest[new], ChosenRows(latents, new), codebooks, policy)
    codes = np.empty((len(nearest), both.num_levels), np.int32)
    codes[~is_new], codes[new] = both.codes[: taken.num_items], both.codes[taken.num_items :]
    tokenizer.semantic_ids_ = SemanticIds(codes, both.num_codes)
    if measured:
        tokenizer.take_codes(nearest, described(nearest, tokenizer.semantic_ids_, tokenizer), progress)


def described(nearest: np.ndarray, ids: SemanticIds, tokenizer: "SemanticIdTokenizer") -> Resolution:
    """Codes of a catalogue with the report of how they differ from the nearest ones."""
    quantiser, policy = tokenizer.quantiser_, tokenizer.collision_policy
    elsewhere = (nearest[:, :-1] != ids.codes[:, : nearest.shape[1] - 1]).any(axis=1)
    report = report_moves(
        nearest,
        ids.codes,
        Latents(tokenizer.vectors_, quantiser),
        quantiser.codebooks_,
        policy.policy,
        policy.overflow,
        int(elsewhere.sum()),
    )
    return Resolution(codes=ids.codes, num_codes=ids.num_codes, report=report)
