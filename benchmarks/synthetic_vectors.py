"""Synthetic embeddings with the structure of real ones: clusters within clusters, few directions that matter.

A vector is the sum of one offset a level of a tree (32 branches, each with 16, each with 16), of a continuous part
within its leaf, and of white noise; branches differ in size. The tree and the continuous part live in a latent space
whose directions have falling variance; the rest of the width holds nothing but noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BRANCHES = (32, 16, 16)
_SHARES = (0.48, 0.3, 0.12)  # of the variance, a level; the continuous part has the rest
_CHUNK = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """A hierarchical mixture.

    Attributes:
        vectors: N.
        width: D.
        latent: directions that hold all but ``noise`` of the variance.
        noise: share of the variance that is white.
        seed: of the mixture and of the vectors drawn from it.
    """

    vectors: int
    width: int
    latent: int = 64
    noise: float = 0.01
    seed: int = 0


def hierarchical_mixture(config: MixtureConfig) -> np.ndarray:
    """(N, D) float32 vectors in random order, of total variance about 1."""
    drawn = np.empty((config.vectors, config.width), np.float32)
    for rows, chunk in _chunks(config):
        drawn[rows] = chunk
    return drawn


def write_mixture(config: MixtureConfig, path: Path, dtype: type = np.float16) -> None:
    """The same vectors as a ``.npy`` file, never all in memory."""
    partial = path.with_suffix(".part")
    file = np.lib.format.open_memmap(partial, "w+", dtype, (config.vectors, config.width))
    for rows, chunk in _chunks(config):
        file[rows] = chunk
    file.flush()
    partial.replace(path)


def _chunks(config: MixtureConfig) -> Iterator[tuple[slice, np.ndarray]]:
    rng = np.random.default_rng(config.seed)
    latent = min(config.latent, config.width)
    spread = (np.arange(1, latent + 1) ** -0.5).astype(np.float32)
    spread /= np.sqrt((spread**2).sum())
    # Offsets of every node of the tree, level by level, and how likely each branch of a node is.
    widths = np.cumprod(_BRANCHES)
    offsets = [
        rng.standard_normal((width, latent), np.float32) * spread * np.float32(np.sqrt(share))
        for width, share in zip(widths, _SHARES, strict=True)
    ]
    likely = [np.cumsum(rng.dirichlet(np.full(branches, 2.0))) for branches in _BRANCHES]
    directions = np.linalg.qr(rng.standard_normal((config.width, latent)))[0].T.astype(np.float32)
    within = spread * np.float32(np.sqrt(1 - sum(_SHARES) - config.noise))
    white = np.float32(np.sqrt(config.noise / config.width))
    for first in range(0, config.vectors, _CHUNK):
        count = min(_CHUNK, config.vectors - first)
        node, points = np.zeros(count, np.int64), rng.standard_normal((count, latent), np.float32) * within
        for branches, offset, cumulative in zip(_BRANCHES, offsets, likely, strict=True):
            node = node * branches + np.minimum(np.searchsorted(cumulative, rng.random(count)), branches - 1)
            points += offset[node]
        noise = rng.standard_normal((count, config.width), np.float32) * white
        yield slice(first, first + count), points @ directions + noise
