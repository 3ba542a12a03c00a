"""Residual quantisation: k-means on the vectors, then on what is left of them, level by level.

RQ-KMeans as in QARM (arXiv 2411.11739): x ≈ Σ_l e^l_{c_l}, where e^l are the centroids of the residuals of level l.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from semid.errors import InputError
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import assign, distance_tiles
from semid.tokenizers.quantiser import FitProgress

# Candidate paths of one block of rows in a beam: rows × beam × K.
_BEAM_ELEMENTS = 1 << 22

Engine = Callable[[np.ndarray, KMeansConfig], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class RQKMeansConfig:
    """How to fit residual codebooks.

    Attributes:
        levels: L.
        codes: K, one for all levels or one a level.
        iterations: most passes of Lloyd's algorithm a level.
        seed: of every random choice.
    """

    levels: int = 3
    codes: int | tuple[int, ...] = 256
    iterations: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise InputError(f"The number of levels is {self.levels} but must be at least 1.")
        if self.iterations < 1:
            raise InputError(f"The number of iterations is {self.iterations} but must be at least 1.")
        if isinstance(self.codes, tuple) and len(self.codes) != self.levels:
            raise InputError(f"{len(self.codes)} codebook sizes were given for {self.levels} levels: give one each.")
        if min(self.num_codes) < 1:
            raise InputError(f"The number of codes is {min(self.num_codes)} but must be at least 1.")

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.codes if isinstance(self.codes, tuple) else (self.codes,) * self.levels


class RQKMeans:
    """Residual k-means quantiser.

    Args:
        config: how to fit.
        engine: fits one level, ``(residuals, config) -> centroids``.

    Attributes:
        codebooks_: L arrays (K_l, D) float32.
    """

    codebooks_: list[np.ndarray]

    def __init__(self, config: RQKMeansConfig, *, engine: Engine = fit_kmeans) -> None:
        self.config = config
        self.engine = engine

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.config.num_codes

    def fit(
        self, vectors: np.ndarray, *, side: np.ndarray | None = None, progress: FitProgress | None = None
    ) -> "RQKMeans":
        """Fit the codebooks level by level to (N, D) float32 vectors.

        Args:
            vectors: what to quantise.
            side: not used.
            progress: called after each level.

        Raises:
            InputError: fewer vectors than codes at a level.
        """
        config = self.config
        rng = np.random.default_rng(config.seed)
        residuals = np.array(vectors, np.float32)
        level_config = KMeansConfig(num_codes=1, iterations=config.iterations)
        self.codebooks_ = []
        for level, num_codes in enumerate(config.num_codes):
            seed = int(rng.integers(2**31))
            codebook = self.engine(residuals, replace(level_config, num_codes=num_codes, seed=seed))
            self.codebooks_.append(codebook)
            codes, _ = assign(residuals, codebook)
            residuals -= codebook[codes]
            if progress is not None:
                progress("fit levels", level + 1, config.levels)
        return self

    def latents(self, vectors: np.ndarray) -> np.ndarray:
        """The vectors themselves."""
        return vectors

    def encode(self, vectors: np.ndarray, *, beam: int = 1) -> np.ndarray:
        """Codes of (N, D) float32 vectors: (N, L) int32.

        Args:
            vectors: what to quantise.
            beam: partial paths kept at each level; 1 takes the nearest centroid of every level in turn. More paths
                never end at a worse one of those compared, and usually at a better one.
        """
        if beam > 1:
            return _beam_encode(vectors, self.codebooks_, beam)
        residuals = np.array(vectors, np.float32)
        codes = np.empty((len(vectors), len(self.codebooks_)), np.int32)
        for level, codebook in enumerate(self.codebooks_):
            codes[:, level], _ = assign(residuals, codebook)
            residuals -= codebook[codes[:, level]]
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (N, D) float32 reconstruction of (N, L) codes."""
        return decode(codes, self.codebooks_)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The codebooks."""
        return {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "RQKMeans":
        """Take over the codebooks of :meth:`to_arrays`."""
        self.codebooks_ = [arrays[f"codebook.{level}"] for level in range(self.config.levels)]
        return self


def decode(codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of the centroids of each row of codes. Columns beyond the codebooks, which tell apart items, add nothing.

    Args:
        codes: (N, L) or wider, int.
        codebooks: L arrays (K_l, D) float32.

    Returns:
        (N, D) float32.
    """
    total: np.ndarray = codebooks[0][codes[:, 0]]
    for level, codebook in enumerate(codebooks[1:], start=1):
        total = total + codebook[codes[:, level]]
    return total


def _beam_encode(vectors: np.ndarray, codebooks: Sequence[np.ndarray], beam: int) -> np.ndarray:
    largest = max(len(codebook) for codebook in codebooks)
    size = max(1, _BEAM_ELEMENTS // (beam * largest))
    blocks = [vectors[first : first + size] for first in range(0, len(vectors), size)]
    codes = [_beam_encode_block(np.asarray(block, np.float32), codebooks, beam) for block in blocks]
    return np.concatenate(codes) if codes else np.empty((0, len(codebooks)), np.int32)


def _beam_encode_block(vectors: np.ndarray, codebooks: Sequence[np.ndarray], beam: int) -> np.ndarray:
    num_rows, dim = vectors.shape
    residuals = vectors[:, None, :]
    paths = np.empty((num_rows, 1, 0), np.int32)
    for codebook in codebooks:
        flat = residuals.reshape(-1, dim)
        lengths = ((flat - codebook.mean(0, dtype=np.float64).astype(np.float32)) ** 2).sum(1)
        cost = np.concatenate([tile + lengths[rows, None] for rows, tile in distance_tiles(flat, codebook)])
        cost = cost.reshape(num_rows, -1)
        kept = min(beam, cost.shape[1])
        best = np.argpartition(cost, kept - 1, axis=1)[:, :kept]
        best = np.take_along_axis(best, np.argsort(np.take_along_axis(cost, best, 1), axis=1, kind="stable"), 1)
        parent, code = np.divmod(best, len(codebook))
        residuals = np.take_along_axis(residuals, parent[:, :, None], 1) - codebook[code]
        paths = np.take_along_axis(paths, parent[:, :, None], 1)
        paths = np.concatenate([paths, code[:, :, None].astype(np.int32)], axis=2)
    nearest: np.ndarray = paths[:, 0]
    return nearest
