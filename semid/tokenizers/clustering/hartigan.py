"""Hartigan's moves: vectors change clusters where that lowers the error with both means moved.

Shapes: N vectors, D width, K clusters. Lloyd's algorithm compares distances to the means as they stand, but a vector
is part of its own mean, and pulls it: of n vectors, the mean of the others is n / (n − 1) times as far away. With few
vectors a cluster or many dimensions that keeps nearly all vectors where they are, good or bad, so that Lloyd stops
early. Hartigan and Wong (1979), "Algorithm AS 136"; Telgarsky and Vattani (2010) for when it stops later than Lloyd.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from semid.tokenizers.clustering.tiles import one_thread_each

# Vectors whose moves are decided together, with the same means.
_BATCH = 1024
# A gain below this share of a vector's distance is rounding.
_ROUNDING = 1e-5

Progress = Callable[[int, float], None]


def hartigan(
    vectors: np.ndarray,
    codes: np.ndarray,
    num_codes: int,
    rng: np.random.Generator,
    *,
    passes: int = 20,
    tolerance: float = 1e-4,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Move vectors between clusters while the sum of squared distances to the means falls.

    A vector moves from cluster a to b where n_b / (n_b + 1) · d_b < n_a / (n_a − 1) · d_a; d are squared distances to
    the means. Many move at once; if that does not lower the sum, which is checked exactly, then only some of them do,
    no two of which share a cluster: their gains add up, so that the sum falls for certain.

    Args:
        vectors: (N, D) float32.
        codes: (N,) clusters to begin with, below ``num_codes``; empty ones are put to use.
        num_codes: K.
        rng: of the order in which vectors are looked at.
        passes: most times that every vector is looked at.
        tolerance: stop once a pass lowers the error by less than this share.
        progress: called after each pass with its number, from 1, and the mean squared distance.

    Returns:
        (K, D) float32 means, zero for empty clusters, and (N,) int32 codes.
    """
    mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
    moved = vectors - mean
    total = float(np.einsum("nd,nd->", moved, moved, dtype=np.float64))
    clusters = _Clusters.of(moved, codes, num_codes)
    codes = codes.astype(np.int32)
    with one_thread_each():
        for number in range(1, passes + 1):
            before = total - clusters.explained
            order = rng.permutation(len(moved))
            for first in range(0, len(order), _BATCH):
                rows = np.sort(order[first : first + _BATCH])
                codes[rows] = clusters.improve(moved[rows], codes[rows])
            after = total - clusters.explained
            if progress is not None:
                progress(number, after / len(moved))
            if before - after <= tolerance * before:
                break
    means = np.where(clusters.counts[:, None] > 0, clusters.means() + mean, 0)
    return means.astype(np.float32), codes


@dataclass(slots=True)
class _Clusters:
    """Sums, all that the error depends on: it is Σ|x|² − Σ_k |s_k|² / n_k.

    Attributes:
        sums: (K, D) float64 of the vectors of each cluster.
        counts: (K,) float64, how many they are.
        explained: Σ_k |s_k|² / n_k.
    """

    sums: np.ndarray
    counts: np.ndarray
    explained: float

    @staticmethod
    def of(vectors: np.ndarray, codes: np.ndarray, num_codes: int) -> "_Clusters":
        sums = np.zeros((num_codes, vectors.shape[1]))
        for first in range(0, len(vectors), _BATCH):
            block = codes[first : first + _BATCH]
            sums += _marks(block, np.ones(len(block)), num_codes) @ vectors[first : first + _BATCH]
        counts = np.bincount(codes, minlength=num_codes).astype(np.float64)
        return _Clusters(sums, counts, _explained(sums, counts))

    def means(self) -> np.ndarray:
        return np.asarray(self.sums / np.maximum(self.counts, 1)[:, None])

    def improve(self, vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Codes of some vectors after the moves that lower the error."""
        targets, gains = self._best_moves(vectors, codes)
        moving = np.flatnonzero(gains > 0)
        for movers in (moving, _apart(moving, gains, codes, targets)):
            if len(movers) and self._move(vectors[movers], codes[movers], targets[movers]):
                result = codes.copy()
                result[movers] = targets[movers]
                return result
        return codes

    def _best_moves(self, vectors: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best other cluster of each vector, and by how much the error would fall if it alone moved there."""
        rows = np.arange(len(vectors))
        means = torch.from_numpy(self.means().astype(np.float32))
        points = torch.from_numpy(vectors)
        distances = torch.addmm((means * means).sum(1), points, means.T, alpha=-2)
        distances += (points * points).sum(1, keepdim=True)
        distances.clamp_(min=0)
        own = distances.numpy()[rows, codes].astype(np.float64)
        counts = self.counts[codes]
        leaving = np.where(counts > 1, own * counts / np.maximum(counts - 1, 1), 0)
        distances *= torch.from_numpy((self.counts / (self.counts + 1)).astype(np.float32))
        distances.numpy()[rows, codes] = np.inf
        joining, targets = distances.min(1)
        gains = leaving - joining.numpy()
        return targets.numpy().astype(np.int32), np.where(gains > _ROUNDING * leaving, gains, 0)

    def _move(self, vectors: np.ndarray, origins: np.ndarray, targets: np.ndarray) -> bool:
        """Move vectors unless that would not lower the error or empty a cluster; whether they were moved."""
        num_codes = len(self.counts)
        ones = np.ones(len(vectors))
        marks = _marks(targets, ones, num_codes) - _marks(origins, ones, num_codes)
        sums, counts = self.sums + marks @ vectors.astype(np.float64), self.counts + np.asarray(marks.sum(1)).ravel()
        explained = _explained(sums, counts)
        if explained <= self.explained or counts[origins].min() < 1:
            return False
        self.sums, self.counts, self.explained = sums, counts, explained
        return True


def _apart(moving: np.ndarray, gains: np.ndarray, origins: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of the moves, greatest gain first, those that touch no cluster of one taken before."""
    touched: set[int] = set()
    taken = []
    for row in moving[np.argsort(-gains[moving], kind="stable")].tolist():
        clusters = {int(origins[row]), int(targets[row])}
        if touched.isdisjoint(clusters):
            touched |= clusters
            taken.append(row)
    return np.array(taken, np.int64)


def _explained(sums: np.ndarray, counts: np.ndarray) -> float:
    return float((np.einsum("kd,kd->k", sums, sums) / np.maximum(counts, 1)).sum())


def _marks(codes: np.ndarray, values: np.ndarray, num_codes: int) -> sp.csr_matrix:
    """(K, n) matrix with each vector's value in the row of its code."""
    return sp.csr_matrix((values, (codes, np.arange(len(codes)))), shape=(num_codes, len(codes)))
