"""Embeddings in, semantic IDs out: fusion, a quantiser and collision resolution as one estimator."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semid.artifacts import Artifact
from semid.codes import SemanticIds
from semid.data.features import Embedding, Fields
from semid.errors import InputError
from semid.progress import Progress, silent
from semid.tokenizers.collisions.resolution import Resolution, resolve
from semid.tokenizers.config import TokenizerConfig
from semid.tokenizers.fusion.preprocessing import Preprocessor
from semid.tokenizers.lifecycle.append import CollisionPolicy, encode_rows
from semid.tokenizers.lifecycle.catalogue import appended, carried_over, coded, old_rows, without
from semid.tokenizers.lifecycle.drift import DriftConfig, measure_drift
from semid.tokenizers.lifecycle.drift_report import DriftReport
from semid.tokenizers.lifecycle.refit import KEEP_TOLERANCE
from semid.tokenizers.lifecycle.refit_report import CodeChanges, RefitReport, report_refit
from semid.tokenizers.lifecycle.refitting import refitted
from semid.tokenizers.measuring import measure_purity, measure_quality
from semid.tokenizers.near_codes import near_codes
from semid.tokenizers.quantiser import Quantiser
from semid.tokenizers.report import QualityReport
from semid.tokenizers.rq_kmeans import RQKMeans
from semid.tokenizers.storage import load_tokenizer, save_tokenizer
from semid.tokenizers.vectors import Latents, Vectors, collect_vectors

__all__ = ["SemanticIdTokenizer", "TokenizerConfig"]

# Vectors to fit on: so many bytes, of which k-means makes a few copies, and at least so many items a code.
_FIT_BYTES = 128 << 20
_ROWS_PER_CODE = 64


class SemanticIdTokenizer:
    """Learns codes for the items of a catalogue from their embeddings.

    Memory: the embeddings are read in blocks, and fused vectors of more than 256 MiB lie in a file; what grows with
    the catalogue are its codes and a few integers an item.

    Attributes:
        config: how.
        semantic_ids_: the codes of the catalogue.
        vectors_: (N, S) float32 fused vectors of the catalogue, in memory or on disk; random where not ``known_``.
        valid_: (N, E) bool, whether the item has each of the embeddings.
        known_: (N,) bool, whether it has any of them.
        fitted_: (N,) bool, whether it was there at the fit, not appended since.
        report_: quality of the codes.
        preprocessor_, quantiser_: the fitted parts.
        artifact_: where it was loaded from or saved to; None before.
    """

    semantic_ids_: SemanticIds
    vectors_: Vectors
    valid_: np.ndarray
    fitted_: np.ndarray
    report_: QualityReport
    preprocessor_: Preprocessor
    quantiser_: Quantiser
    artifact_: Artifact | None = None

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def known_(self) -> np.ndarray:
        """(N,) bool, whether the item has any of the embeddings."""
        return np.asarray(self.valid_.any(axis=1))

    @property
    def collision_policy(self) -> CollisionPolicy:
        """How items that want the same codes are told apart."""
        config = self.config
        level = (config.collision_level or config.levels) - 1
        return CollisionPolicy(
            policy=config.collisions,
            overflow=config.overflow,
            level=level,
            choices=config.collision_choices,
            seed=config.seed,
        )

    def fit(
        self,
        embeddings: Sequence[Embedding],
        *,
        fields: Fields | None = None,
        side: Embedding | None = None,
        scratch: Path | None = None,
        progress: Progress | None = None,
    ) -> "SemanticIdTokenizer":
        """Fit to the embeddings of a catalogue, in the order of ``config.embeddings``.

        Args:
            embeddings: one row an item.
            fields: columns of the items to compare the codes with in the report.
            side: vectors of the same items from behaviour, for quantisers that use them.
            scratch: folder for vectors that do not fit into memory; the system's temporary folder by default.
            progress: told of every stage.

        Raises:
            InputError: embeddings that do not fit the configuration or each other, NaN or infinity, fewer items than
                codes, or a catalogue too large for the codes.
        """
        self._check_names(embeddings)
        tell = progress or silent
        num_items = len(embeddings[0].vectors)
        known = int(np.logical_or.reduce([embedding.valid for embedding in embeddings]).sum())
        self.config = self.config.for_items(num_items, known)
        self.config.check_size(num_items)
        tell("read embeddings", 0, None)
        self.preprocessor_ = Preprocessor(self.config.preprocessing).fit(embeddings)
        self.read_catalogue(embeddings, scratch=scratch, progress=tell)
        rows = self.rows_to_fit_on()
        tell("fit codes", 0, None)
        self.quantiser_ = self.config.new_quantiser().fit(
            self.vectors_[rows], side=None if side is None else _side_rows(side, rows), progress=tell
        )
        self._number_items(tell)
        self._compare(fields)
        return self

    def read_catalogue(
        self,
        embeddings: Sequence[Embedding],
        *,
        scratch: Path | None = None,
        progress: Progress | None = None,
        first_row: int = 0,
    ) -> None:
        """Take over the embeddings of a catalogue: sets ``vectors_``, in memory or in a scratch file, and ``valid_``.

        Args:
            embeddings: one row an item.
            scratch: folder for vectors that do not fit into memory.
            progress: told of every block.
            first_row: number of the first item; items without any embedding get a random vector by their number.

        Raises:
            InputError: other embeddings or dimensions than the preprocessor was fitted with, or NaN or infinity.
        """
        embeddings = self._completed(embeddings)
        blocks = self._transform_blocks(embeddings, first_row, progress or silent)
        self.take_vectors((vectors for _, vectors, _ in blocks), len(embeddings[0].vectors), scratch)
        self.valid_ = np.stack([np.asarray(embedding.valid, bool) for embedding in embeddings], axis=1)

    def take_vectors(self, blocks: Iterable[np.ndarray], num_items: int, scratch: Path | None = None) -> None:
        """Set ``vectors_`` to blocks of rows, one after the other."""
        dim = self.preprocessor_.num_components
        self.vectors_, self._scratch = collect_vectors(blocks, num_items, dim, scratch)

    def _transform_blocks(
        self, embeddings: Sequence[Embedding], first_row: int, tell: Progress
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        num_items = len(embeddings[0].vectors)
        for rows, vectors, known in self.preprocessor_.blocks(embeddings, first_row=first_row):
            yield rows, vectors, known
            tell("project items", rows.stop, num_items)

    def rows_to_fit_on(self) -> np.ndarray:
        """Rows of the catalogue, a sample of those with an embedding, that a quantiser is fitted to in memory."""
        rows = np.flatnonzero(self.known_)
        largest = max(self.config.num_codes)
        if largest > len(rows):
            raise InputError(
                f"{largest} codes a level are more than the {len(rows)} items with an embedding: "
                f"use at most {len(rows)} codes."
            )
        sample = self.config.sample or max(_FIT_BYTES // (4 * self.vectors_.shape[1]), _ROWS_PER_CODE * largest)
        if sample >= len(rows):
            return rows
        return np.sort(np.random.default_rng(self.config.seed).choice(rows, sample, replace=False))

    def _number_items(self, tell: Progress) -> None:
        quantiser = self.quantiser_
        if isinstance(quantiser, RQKMeans) and quantiser.config.balanced is not None:
            codes = quantiser.encode_together(np.asarray(self.vectors_))  # balance is between all items
        else:
            codes = encode_rows(self.vectors_, quantiser, tell)
        tell("resolve collisions", 0, None)
        latents = Latents(self.vectors_, self.quantiser_)
        resolution = resolve(codes, latents, self.quantiser_.codebooks_, **self.collision_policy.arguments)
        self.fitted_ = np.ones(len(codes), bool)
        self.take_codes(codes, resolution, tell)

    def take_codes(self, nearest: np.ndarray, resolution: Resolution, progress: Progress | None = None) -> None:
        """Make codes those of the catalogue, and measure them.

        Args:
            nearest: (N, L) int32, the codes that the items would have if several might share them.
            resolution: what they have.
            progress: told of the stage.
        """
        self.semantic_ids_ = SemanticIds(resolution.codes, resolution.num_codes)
        (progress or silent)("measure quality", 0, None)
        self.report_ = measure_quality(
            vectors=self.vectors_,
            known=self.known_,
            valid=dict(zip(self.config.embeddings, self.valid_.T, strict=True)),
            preprocessor=self.preprocessor_,
            quantiser=self.quantiser_,
            codes=nearest,
            resolution=resolution,
            seed=self.config.seed,
        )

    def append(
        self, embeddings: Sequence[Embedding], *, scratch: Path | None = None, progress: Progress | None = None
    ) -> np.ndarray:
        """Add items to the catalogue: they become rows N, N + 1, … and get free codes; no other item is moved.

        Args:
            embeddings: of the new items alone, one row each; those from behaviour may be left out.

        Returns:
            (M, L) int32 codes of the new items.

        Raises:
            InputError: more items than codes, other embeddings or dimensions than fitted, NaN or infinity; then
                nothing has changed.
        """
        num_items = self.semantic_ids_.num_items
        self._become(appended(self, embeddings, scratch, progress))
        return self.semantic_ids_.codes[num_items:]

    def remove(self, rows: np.ndarray, *, scratch: Path | None = None) -> None:
        """Remove items from the catalogue: their codes are free, the rows of later items move up.

        Raises:
            InputError: a row that there is not, or all rows.
        """
        self._become(without(self, rows, scratch))

    def carry_over(
        self,
        embeddings: Sequence[Embedding],
        rows: np.ndarray | None = None,
        *,
        fields: Fields | None = None,
        scratch: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Change to a later catalogue: items that were there keep their codes, new ones get free codes.

        Args:
            embeddings: of the later catalogue, one row an item; those from behaviour may be left out.
            rows: (N',) row that each item had before, -1 for new items; by default the first N are the old ones.
            fields, scratch, progress: as for :meth:`fit`.

        Raises:
            InputError: as :meth:`append`.
        """
        self._become(carried_over(self, embeddings, rows, scratch, progress))
        self._compare(fields)

    def drift(
        self,
        embeddings: Sequence[Embedding] | None = None,
        rows: np.ndarray | None = None,
        *,
        config: DriftConfig | None = None,
        scratch: Path | None = None,
        progress: Progress | None = None,
    ) -> DriftReport:
        """Compare the items that came after the fit with those before; the tokenizer stays as it is.

        Args:
            embeddings, rows: a later catalogue, as for :meth:`carry_over`; by default the catalogue as it is.
            config: when to refit.

        Raises:
            InputError: as :meth:`append`, or too few old items to tell.
        """
        if embeddings is None and not self.fitted_.all() and self.config.behaviour:
            raise InputError(
                "Items that came since the fit lack what others have from behaviour: give the embeddings of their "
                "content, by which all of them can be compared."
            )
        late = (
            self if embeddings is None else carried_over(self, embeddings, rows, scratch, progress, to_compare=True)
        )
        (progress or silent)("compare old and new items", 0, None)
        how = config or DriftConfig()
        return measure_drift(coded(late, embeddings, how.seed), self.quantiser_, self.config.new_quantiser, how)

    def refit(
        self,
        embeddings: Sequence[Embedding],
        rows: np.ndarray | None = None,
        *,
        keep: bool = True,
        tolerance: float = KEEP_TOLERANCE,
        fields: Fields | None = None,
        side: Embedding | None = None,
        scratch: Path | None = None,
        progress: Progress | None = None,
    ) -> tuple[RefitReport, CodeChanges]:
        """Fit anew to a later catalogue.

        Args:
            embeddings, rows: as for :meth:`carry_over`.
            keep: whether items keep the codes they had where these still serve them (see ``lifecycle/refit.py``).
            tolerance: share by which the error may rise for it.
            fields, side, scratch, progress: as for :meth:`fit`.

        Raises:
            InputError: as :meth:`fit`; a negative tolerance; or ``keep`` for another quantiser than rq-kmeans.
        """
        self._check_names(embeddings)
        before = self.semantic_ids_
        rows = old_rows(rows, len(embeddings[0].vectors), before.num_items)
        kept = None
        if keep:
            fresh, kept = refitted(self, embeddings, rows, tolerance, scratch, progress)
        else:
            fresh = SemanticIdTokenizer(self.config).fit(embeddings, side=side, scratch=scratch, progress=progress)
        self._become(fresh)
        self._compare(fields)
        return report_refit(before, self.semantic_ids_, rows, self.report_, tolerance, kept)

    def _become(self, other: "SemanticIdTokenizer") -> None:
        """Take over all of another one that is complete; what was saved is no longer this."""
        other.report_ = replace(other.report_, weighting=self.report_.weighting)
        self.__dict__.update({**other.__dict__, "artifact_": None})

    def _compare(self, fields: Fields | None) -> None:
        if fields is not None:
            self.report_ = self.report_.with_purity(measure_purity(self.semantic_ids_.codes, fields))

    def transform(self, embeddings: Sequence[Embedding], *, first_row: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Fused vectors of any items: (M, S) float32, and (M,) bool whether the item has any embedding.

        Args:
            embeddings: one row an item; those from behaviour may be left out.
            first_row: number of the first item; items without any embedding get a random vector by their number.

        Raises:
            InputError: other embeddings or dimensions than fitted, or NaN or infinity.
        """
        return self.preprocessor_.transform(self._completed(embeddings), first_row=first_row)

    def encode(self, embeddings: Sequence[Embedding], *, first_row: int = 0) -> np.ndarray:
        """The nearest codes of any items: (M, L) int32.

        They are *not* made unique: two items may get the same codes, and codes that an item of the catalogue has.
        Items of the catalogue whose codes were moved keep their place in ``semantic_ids_`` only.

        Raises:
            InputError: other embeddings or dimensions than fitted, or NaN or infinity.
        """
        embeddings = self._completed(embeddings)
        codes = np.empty((len(embeddings[0].vectors), self.config.levels), np.int32)
        for rows, vectors, _ in self._transform_blocks(embeddings, first_row, silent):
            codes[rows] = self.quantiser_.encode(vectors)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (M, S) float32 vectors that (M, L) codes stand for."""
        return self.quantiser_.decode(codes)

    def near_codes(self, k: int) -> np.ndarray:
        """For each code of each item of the catalogue the k nearest ones: (N, L, k) int32.

        The item's own code comes first, then the others by rising distance of their centroids to what the item's own
        codes before leave of it; see ``near_codes.py``. Of every quantiser; an additional level that tells items
        apart, and items without any embedding, have their own code k times.

        Raises:
            InputError: k below 1, or above the number of codes of a level.
        """
        latents = Latents(self.vectors_, self.quantiser_)
        return near_codes(latents, self.semantic_ids_.codes, self.quantiser_.codebooks_, k, known=self.known_)

    def save(
        self,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        parents: Mapping[str, Artifact] | None = None,
        item_ids: np.ndarray | None = None,
    ) -> Artifact:
        """Write the fitted tokenizer as an artifact directory.

        Args:
            path: the directory.
            settings: plain values of the command that made it; the configuration by default.
            parents: artifacts it was made from, such as ``{"dataset": …}``.
            item_ids: (N,) ids of the items outside, by which another dataset finds them again.
        """
        self.artifact_ = save_tokenizer(self, Path(path), settings, parents, item_ids)
        return self.artifact_

    @staticmethod
    def load(path: str | Path) -> "SemanticIdTokenizer":
        """Read what :meth:`save` wrote; codes and vectors come back identical.

        Raises:
            InputError: no tokenizer there, another version, a damaged file, or parts that do not belong together.
        """
        return load_tokenizer(Path(path), SemanticIdTokenizer)

    def _check_names(self, embeddings: Sequence[Embedding]) -> None:
        names = tuple(embedding.name for embedding in embeddings)
        if names != self.config.embeddings:
            raise InputError(
                f"The tokenizer is configured for the embeddings {', '.join(self.config.embeddings)} "
                f"but was given {', '.join(names) or 'none'}: give the same ones in the same order."
            )

    def _completed(self, embeddings: Sequence[Embedding]) -> Sequence[Embedding]:
        """All embeddings of the fit, of which those from behaviour need not be given: no item has them then."""
        config, given = self.config, {embedding.name: embedding for embedding in embeddings}
        if tuple(given) == config.content:
            num_items = len(embeddings[0].vectors)
            dims = zip(config.embeddings, self.preprocessor_.dims, strict=True)
            return [given.get(name) or Embedding.absent(name, num_items, dim) for name, dim in dims]
        self._check_names(embeddings)
        return embeddings


def _side_rows(side: Embedding, rows: np.ndarray) -> np.ndarray:
    vectors = np.asarray(side.vectors[rows], np.float32)
    vectors[~np.asarray(side.valid)[rows]] = 0
    return vectors
