"""Embeddings in, semantic IDs out: preprocessing, residual k-means and collision resolution as one estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semid.artifacts import Artifact, create_artifact, open_artifact
from semid.codes import SemanticIds
from semid.data.features import Embedding, Fields
from semid.errors import InputError
from semid.progress import Progress, silent
from semid.tokenizers.collisions.resolution import OVERFLOWS, POLICIES, check_capacity, resolve
from semid.tokenizers.fusion.preprocessing import Preprocessor, PreprocessorConfig
from semid.tokenizers.report import QualityReport, measure_quality
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

KIND = "tokenizer"
_ARRAYS = "tokenizer.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How to make semantic IDs.

    Attributes:
        embeddings: ids of the embeddings to fuse.
        weights: share of the energy of each; None for equal shares.
        svd: components of the fused vector.
        whiten: whitening exponent of the components, from 0 (none) to 1 (full).
        levels: L codes an item.
        codes: K codes a level, one number for all or one a level.
        collisions: ``nearest``, ``extra`` or ``none``; see ``collisions.py``.
        collision_level: level, from 1, at which ``nearest`` moves items; None for the last.
        overflow: ``spill``, ``random``, ``extra`` or ``error``.
        sample: most items to fit on; None for all.
        iterations: most passes of k-means a level.
        seed: of every random choice.
    """

    embeddings: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    svd: int = 128
    whiten: float = 0.0
    levels: int = 3
    codes: int | tuple[int, ...] = 256
    collisions: str = "nearest"
    collision_level: int | None = None
    overflow: str = "spill"
    sample: int | None = None
    iterations: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.embeddings:
            raise InputError("No embedding was named: give at least one.")
        if len(set(self.embeddings)) < len(self.embeddings):
            raise InputError(f"An embedding is named twice in {', '.join(self.embeddings)}: name each once.")
        if self.weights is not None and len(self.weights) != len(self.embeddings):
            raise InputError(
                f"{len(self.weights)} weights were given for {len(self.embeddings)} embeddings: give one each."
            )
        if self.collisions not in POLICIES:
            raise InputError(f"Unknown collision policy {self.collisions!r}: use one of {', '.join(POLICIES)}.")
        if self.overflow not in OVERFLOWS:
            raise InputError(f"Unknown overflow policy {self.overflow!r}: use one of {', '.join(OVERFLOWS)}.")
        if self.collision_level is not None and not 1 <= self.collision_level <= self.levels:
            raise InputError(f"The collision level is {self.collision_level} but must lie in 1..{self.levels}.")
        if self.iterations < 1:
            raise InputError(f"The number of iterations is {self.iterations} but must be at least 1.")
        _ = self.preprocessing, self.quantiser  # their configurations check the rest

    @property
    def preprocessing(self) -> PreprocessorConfig:
        return PreprocessorConfig(
            svd=self.svd, weights=self.weights, whiten=self.whiten, sample=self.sample, seed=self.seed
        )

    @property
    def quantiser(self) -> RQKMeansConfig:
        return RQKMeansConfig(
            levels=self.levels, codes=self.codes, iterations=self.iterations, sample=self.sample, seed=self.seed
        )


class SemanticIdTokenizer:
    """Learns codes for the items of a catalogue from their embeddings.

    Attributes:
        config: how.
        semantic_ids_: the codes of the catalogue.
        vectors_: (N, S) float32 fused vectors of the catalogue; random where ``known_`` is False.
        known_: (N,) bool, whether the item has any of the embeddings.
        report_: quality of the codes.
        preprocessor_, quantiser_: the fitted parts.
        artifact_: where it was loaded from or saved to; None before.
    """

    semantic_ids_: SemanticIds
    vectors_: np.ndarray
    known_: np.ndarray
    report_: QualityReport
    preprocessor_: Preprocessor
    quantiser_: RQKMeans
    artifact_: Artifact | None = None

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config

    def fit(
        self, embeddings: Sequence[Embedding], *, fields: Fields | None = None, progress: Progress | None = None
    ) -> "SemanticIdTokenizer":
        """Fit to the embeddings of a catalogue, in the order of ``config.embeddings``.

        Args:
            embeddings: one row an item.
            fields: columns of the items to compare the codes with in the report.
            progress: called with the stage, the steps done and the steps of the whole fit.

        Raises:
            InputError: embeddings that do not fit the configuration or each other, NaN or infinity, fewer items than
                codes, or a catalogue too large for the codes.
        """
        self._check_names(embeddings)
        num_steps = 3 + self.config.levels
        tell = progress or silent
        self._check_size(len(embeddings[0].vectors))
        tell("project embeddings", 0, num_steps)
        self.preprocessor_ = Preprocessor(self.config.preprocessing).fit(embeddings)
        self.vectors_, self.known_ = self.preprocessor_.transform(embeddings)
        num_known = int(self.known_.sum())
        self._check_codes(num_known, f"{num_known} items with an embedding")
        tell("fit level 1", 1, num_steps)
        self.quantiser_ = RQKMeans(self.config.quantiser).fit(
            self.vectors_[self.known_],
            progress=lambda level, _: tell(_after_level(level, self), 1 + level, num_steps),
        )
        self._number_items(embeddings)
        tell("measure quality", num_steps - 1, num_steps)
        if fields is not None:
            self.report_ = self.report_.with_purity(self.semantic_ids_.codes, fields)
        tell("done", num_steps, num_steps)
        return self

    def _number_items(self, embeddings: Sequence[Embedding]) -> None:
        config, codebooks = self.config, self.quantiser_.codebooks_
        codes = self.quantiser_.encode(self.vectors_)
        resolution = resolve(
            codes,
            self.vectors_,
            codebooks,
            policy=config.collisions,
            overflow=config.overflow,
            level=(config.collision_level or config.levels) - 1,
            seed=config.seed,
        )
        self.semantic_ids_ = SemanticIds(resolution.codes, resolution.num_codes)
        self.report_ = measure_quality(
            vectors=self.vectors_,
            known=self.known_,
            captured=self.preprocessor_.captured_,
            embeddings=embeddings,
            codes=codes,
            resolution=resolution,
            codebooks=codebooks,
            seed=config.seed,
        )

    def transform(self, embeddings: Sequence[Embedding]) -> tuple[np.ndarray, np.ndarray]:
        """Fused vectors of any items: (M, S) float32, and (M,) bool whether the item has any embedding.

        Raises:
            InputError: other embeddings or dimensions than fitted, or NaN or infinity.
        """
        self._check_names(embeddings)
        return self.preprocessor_.transform(embeddings)

    def encode(self, embeddings: Sequence[Embedding]) -> np.ndarray:
        """The nearest codes of any items: (M, L) int32.

        They are *not* made unique: two items may get the same codes, and codes that an item of the catalogue has.
        Items of the catalogue whose codes were moved keep their place in ``semantic_ids_`` only.

        Raises:
            InputError: other embeddings or dimensions than fitted, or NaN or infinity.
        """
        vectors, _ = self.transform(embeddings)
        return self.quantiser_.encode(vectors)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (M, S) float32 vectors that (M, L) codes stand for."""
        return self.quantiser_.decode(codes)

    def save(
        self,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        parents: Mapping[str, Artifact] | None = None,
    ) -> Artifact:
        """Write the fitted tokenizer as an artifact directory.

        Args:
            path: the directory.
            settings: plain values of the command that made it; the configuration by default.
            parents: artifacts it was made from, such as ``{"dataset": …}``.
        """
        path = Path(path)
        plain = asdict(self.config)
        arrays = {
            "codes": self.semantic_ids_.codes,
            "vectors": self.vectors_,
            "known": self.known_,
            **{f"codebook.{level}": codebook for level, codebook in enumerate(self.quantiser_.codebooks_)},
            **{f"preprocessor.{name}": array for name, array in self.preprocessor_.to_arrays().items()},
        }
        with create_artifact(path, KIND, settings=plain if settings is None else settings, parents=parents) as writer:
            writer.save_arrays(_ARRAYS, arrays)
            writer.details |= {
                "config": plain,
                "num_codes": list(self.semantic_ids_.num_codes),
                "report": self.report_.to_dict(),
            }
        self.artifact_ = open_artifact(path, KIND)
        return self.artifact_

    @staticmethod
    def load(path: str | Path) -> "SemanticIdTokenizer":
        """Read what :meth:`save` wrote; codes and vectors come back identical.

        Raises:
            InputError: no tokenizer there, another version, a damaged file, or parts that do not belong together.
        """
        artifact = open_artifact(Path(path), KIND)
        arrays = artifact.load_arrays(_ARRAYS)
        try:
            return _restore(artifact, arrays)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a complete tokenizer ({error!r}): make it again.") from None

    def _check_names(self, embeddings: Sequence[Embedding]) -> None:
        names = tuple(embedding.name for embedding in embeddings)
        if names != self.config.embeddings:
            raise InputError(
                f"The tokenizer is configured for the embeddings {', '.join(self.config.embeddings)} "
                f"but was given {', '.join(names) or 'none'}: give the same ones in the same order."
            )

    def _check_size(self, num_items: int) -> None:
        if num_items < 2:
            raise InputError(f"The catalogue has {num_items} items: at least 2 are needed for semantic IDs.")
        self._check_codes(num_items, f"{num_items} items")
        if self.config.collisions == "nearest" and self.config.overflow != "extra":
            check_capacity(num_items, self.config.quantiser.num_codes)

    def _check_codes(self, num_vectors: int, vectors: str) -> None:
        largest = max(self.config.quantiser.num_codes)
        if largest > num_vectors:
            raise InputError(f"{largest} codes a level are more than the {vectors}: use at most {num_vectors} codes.")
        if self.config.sample is not None and largest > self.config.sample:
            raise InputError(
                f"{largest} codes a level are more than the sample of {self.config.sample} items: "
                "use fewer codes or a larger sample."
            )


def _after_level(level: int, tokenizer: SemanticIdTokenizer) -> str:
    return f"fit level {level + 1}" if level < tokenizer.config.levels else "resolve collisions"


def _restore(artifact: Artifact, arrays: Mapping[str, np.ndarray]) -> SemanticIdTokenizer:
    plain = artifact.details["config"]
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in plain.items()}
    config = TokenizerConfig(**values)
    tokenizer = SemanticIdTokenizer(config)
    tokenizer.semantic_ids_ = SemanticIds(arrays["codes"], tuple(artifact.details["num_codes"]))
    tokenizer.vectors_, tokenizer.known_ = arrays["vectors"], arrays["known"]
    tokenizer.report_ = QualityReport.from_dict(artifact.details["report"])
    preprocessing = {
        name.removeprefix("preprocessor."): array
        for name, array in arrays.items()
        if name.startswith("preprocessor.")
    }
    tokenizer.preprocessor_ = Preprocessor.from_arrays(config.preprocessing, preprocessing)
    tokenizer.quantiser_ = RQKMeans(config.quantiser)
    tokenizer.quantiser_.codebooks_ = [arrays[f"codebook.{level}"] for level in range(config.levels)]
    tokenizer.artifact_ = artifact
    _check_parts(tokenizer)
    return tokenizer


def _check_parts(tokenizer: SemanticIdTokenizer) -> None:
    num_items, dim = tokenizer.vectors_.shape
    sizes = tokenizer.config.quantiser.num_codes
    shapes = [codebook.shape for codebook in tokenizer.quantiser_.codebooks_]
    belong = (
        tokenizer.semantic_ids_.num_items == num_items == len(tokenizer.known_)
        and shapes == [(size, dim) for size in sizes]
        and tokenizer.semantic_ids_.num_codes[: len(sizes)] == sizes
        and tokenizer.preprocessor_.basis_.shape == (sum(tokenizer.preprocessor_.dims), dim)
    )
    if not belong:
        assert tokenizer.artifact_ is not None
        raise InputError(f"The parts of {tokenizer.artifact_.path} do not belong together: make the tokenizer again.")
