"""Product quantisation with a learned rotation: long codes whose levels do not depend on each other.

PQ (Jégou, Douze and Schmid 2011) cuts the space into L parts and runs k-means in each; OPQ (Ge, He, Ke and Sun 2013)
first rotates it so that the parts carry alike and are independent. RPG (arXiv 2506.05781) predicts all codes at once.

Shapes: N vectors, D width, L levels = parts, K centroids of a part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from semid.errors import InputError
from semid.progress import Progress
from semid.tokenizers.checks import check_at_least, check_trainable, check_width, codes_per_level
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import nearest_codes
from semid.tokenizers.clustering.starts import sample_rows
from semid.tokenizers.rq_kmeans import decode

# Passes of k-means before the rotation first changes, and after it last did.
_FIRST_PASSES, _LAST_PASSES = 5, 25
# Most vectors that the rotation is learned on, as a multiple of the largest K.
_ROWS_PER_CODE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class OPQConfig:
    """How to fit.

    Attributes:
        levels: L parts of the space.
        codes: K, one for all levels or one a level.
        seed: of every random choice.
        rotations: times the rotation is learned anew; 0 cuts the space as it is, which is plain PQ.
    """

    levels: int = 16
    codes: int | tuple[int, ...] = 256
    seed: int = 0
    rotations: int = 50

    def __post_init__(self) -> None:
        codes_per_level(self.levels, self.codes)
        check_at_least("number of rotations", self.rotations, 0)

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return codes_per_level(self.levels, self.codes)


class OPQ:
    """Product quantiser.

    Args:
        config: how to fit.

    Attributes:
        rotation_: (D, D) float32, orthogonal; its columns are the axes of the parts.
        parts_: L arrays (K_l, D_l) float32, the centroids of each part.
        codebooks_: L arrays (K_l, D) float32, the same in the space of the vectors, where they are zero across the
            axes of other parts.
    """

    rotation_: np.ndarray
    parts_: list[np.ndarray]
    codebooks_: list[np.ndarray]

    def __init__(self, config: OPQConfig) -> None:
        self.config = config

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.config.num_codes

    def fit(self, vectors: np.ndarray, *, side: np.ndarray | None = None, progress: Progress | None = None) -> Self:
        """Fit to (N, D) float32 vectors.

        Args:
            vectors: what to quantise.
            side: not used.
            progress: told each rotation and each level.

        Raises:
            InputError: fewer vectors than codes at a level, fewer columns than levels, NaN or infinity.
        """
        check_trainable(vectors, self.num_codes)
        dim, levels = vectors.shape[1], self.config.levels
        if dim < levels:
            raise InputError(f"Vectors of width {dim} cannot be cut into {levels} levels: use at most {dim} levels.")
        steps = self.config.rotations + levels
        tell = progress or (lambda stage, done, total: None)
        parts: list[np.ndarray | None] = [None] * levels
        rotation = np.eye(dim, dtype=np.float32)
        if self.config.rotations:
            rng = np.random.default_rng(self.config.seed)
            sample = sample_rows(vectors, _ROWS_PER_CODE * max(self.num_codes), rng)
            rotation = balanced_axes(sample, _widths(dim, levels))
            for turn in range(self.config.rotations):
                parts, rotation = self._turn(sample, parts, rotation)
                tell("learn rotation", turn + 1, steps)
        rotated = vectors @ rotation
        fitted = []
        for level, columns in enumerate(_columns(dim, levels)):
            fitted.append(self._cluster(rotated[:, columns], level, parts[level], _LAST_PASSES))
            tell("fit levels", self.config.rotations + level + 1, steps)
        self._take(rotation, fitted)
        return self

    def _turn(
        self, vectors: np.ndarray, parts: list[np.ndarray | None], rotation: np.ndarray
    ) -> tuple[list[np.ndarray | None], np.ndarray]:
        """One pass of k-means in every part, then the rotation that suits the centroids best."""
        rotated = vectors @ rotation
        nearest = np.empty_like(rotated)
        moved: list[np.ndarray | None] = []
        for level, columns in enumerate(_columns(vectors.shape[1], len(parts))):
            part = np.ascontiguousarray(rotated[:, columns])
            passes = _FIRST_PASSES if parts[level] is None else 1
            book = self._cluster(part, level, parts[level], passes)
            nearest[:, columns] = book[nearest_codes(part, book)]
            moved.append(book)
        return moved, closest_rotation(vectors, nearest)

    def _cluster(self, part: np.ndarray, level: int, start: np.ndarray | None, passes: int) -> np.ndarray:
        config = KMeansConfig(num_codes=self.num_codes[level], iterations=passes, seed=self.config.seed + level)
        return fit_kmeans(np.ascontiguousarray(part), config, start=start)

    def latents(self, vectors: np.ndarray) -> np.ndarray:
        """The vectors themselves."""
        check_width(vectors, len(self.rotation_))
        return vectors

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of (N, D) float32 vectors, the nearest centroid of every part: (N, L) int32.

        Raises:
            InputError: another width than fitted, NaN or infinity.
        """
        check_width(vectors, len(self.rotation_))
        rotated = vectors @ self.rotation_
        codes = np.empty((len(vectors), len(self.parts_)), np.int32)
        for level, columns in enumerate(_columns(len(self.rotation_), len(self.parts_))):
            codes[:, level] = nearest_codes(np.ascontiguousarray(rotated[:, columns]), self.parts_[level])
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (N, D) float32 vectors that (N, L) codes stand for; further columns add nothing."""
        return decode(codes, self.codebooks_)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The rotation and the centroids of each part."""
        return {"rotation": self.rotation_, **{f"part.{level}": part for level, part in enumerate(self.parts_)}}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take over what :meth:`to_arrays` gave."""
        self._take(arrays["rotation"], [arrays[f"part.{level}"] for level in range(self.config.levels)])
        return self

    def _take(self, rotation: np.ndarray, parts: list[np.ndarray]) -> None:
        columns = _columns(len(rotation), len(parts))
        self.rotation_, self.parts_ = rotation, parts
        self.codebooks_ = [part @ rotation[:, own].T for part, own in zip(parts, columns, strict=True)]


def balanced_axes(vectors: np.ndarray, widths: list[int]) -> np.ndarray:
    """The principal axes, dealt to parts so that the products of their variances are alike: (D, D) float32.

    The start of OPQ and, for Gaussian vectors, its solution (Ge et al. 2013, section 4): from the largest on, each
    axis goes to the part with the least product so far that has room.
    """
    centred = vectors - vectors.mean(0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(vectors))
    logs = np.log(np.maximum(variances, 1e-12 * max(float(variances[-1]), 1e-300)))
    logs -= logs.min()
    dealt: list[list[int]] = [[] for _ in widths]
    load = np.zeros(len(widths))
    for axis in range(len(variances) - 1, -1, -1):
        part = int(load.argmin())
        dealt[part].append(axis)
        load[part] = load[part] + logs[axis] if len(dealt[part]) < widths[part] else np.inf
    dealt_axes: np.ndarray = axes[:, [axis for part in dealt for axis in part]].astype(np.float32)
    return dealt_axes


def closest_rotation(vectors: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The orthogonal R with the least ‖X R − Y‖² (Schönemann 1966): (D, D) float32."""
    left, _, right = np.linalg.svd(_product(vectors, targets))
    rotation: np.ndarray = (left @ right).astype(np.float32)
    return rotation


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """XᵀY in float64, in blocks of rows."""
    total, block = np.zeros((left.shape[1], right.shape[1])), 1 << 14
    for first in range(0, len(left), block):
        rows = slice(first, first + block)
        total += left[rows].astype(np.float64).T @ right[rows].astype(np.float64)
    return total


def _widths(dim: int, levels: int) -> list[int]:
    """D columns dealt to L parts as evenly as possible, the wider first."""
    return [dim // levels + (level < dim % levels) for level in range(levels)]


def _columns(dim: int, levels: int) -> list[slice]:
    ends = np.cumsum([0, *_widths(dim, levels)])
    return [slice(int(first), int(last)) for first, last in pairwise(ends)]
