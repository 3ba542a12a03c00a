"""Refining all levels at once: codebooks for the codes, codes for the codebooks, in turn, with noise that cools down.

Shapes: N vectors, D width, L levels, K codes a level, P paths. Three things keep this from standing still where the
fit level by level ended:

* codes are sought by beam search instead of level by level;
* a vector is part of its own centroids. Its present path is compared with others as though it were not: Hartigan's
  rule, carried over to sums of centroids. With n_l vectors a centroid its error is then 1 / (1 − Σ_l 1/n_l) as great;
* centroids are moved at random before codes are sought, by what the sampling of their vectors would move them, less
  from round to round (stochastic relaxation; Martinez et al. 2018, "LSQ++").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from semid.tokenizers.clustering.tiles import one_thread_each
from semid.tokenizers.residual.beam import beam_encode, search_paths
from semid.tokenizers.residual.least_squares import RIDGE, solve_codebooks

# The last rounds go without noise: this share of them, at least one.
_QUIET = 0.25
# Vectors that are enough to know the spread.
_SPREAD_ROWS = 1 << 14
# Most of its error that a vector may be taken to have hidden by being part of its centroids.
_MOST_HIDDEN = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Refinement:
    """How to refine.

    Attributes:
        rounds: of solving for codebooks and seeking codes.
        beam: P paths among which codes are sought.
        noise: of the first round, in units of the vectors' spread over √n; falls with the root of the rounds left.
        leave_one_out: compare paths as though the vector were no part of its centroids.
    """

    rounds: int
    beam: int
    noise: float
    leave_one_out: bool


def refine(
    vectors: np.ndarray,
    codes: np.ndarray,
    codebooks: Sequence[np.ndarray],
    how: Refinement,
    rng: np.random.Generator,
    *,
    progress: Callable[[], None] | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Codebooks with less error.

    Args:
        vectors: (N, D) float32.
        codes: (N, L) int32 to begin with.
        codebooks: L arrays (K_l, D) float32 to begin with.
        how: to refine.
        rng: of the noise.
        progress: called after each round.

    Returns:
        L arrays (K_l, D) float32 and the (N, L) int32 codes they were solved for, which are not always the best ones.
    """
    books, spread = list(codebooks), _spread(vectors)
    loud = how.rounds - max(1, round(_QUIET * how.rounds))
    for number in range(how.rounds):
        books = _revived(vectors, codes, solve_codebooks(vectors, codes, books))
        if number < loud and how.noise > 0:
            books = _shaken(books, codes, np.float32(how.noise * (1 - number / loud) ** 0.5) * spread, rng)
        if how.leave_one_out:
            codes = reconsider(vectors, codes, books, how.beam)
        else:
            codes = beam_encode(vectors, books, how.beam)
        if progress is not None:
            progress()
    return solve_codebooks(vectors, codes, books), codes


def reconsider(vectors: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray], beam: int) -> np.ndarray:
    """Better codes, were the codebooks solved anew after each vector's move.

    Without vector i the error of all others falls by e / (1 − h) against e = |r|² at present, where h = Σ_l 1/n_l is
    the weight that a vector has in its own sum of centroids; with it on a path of weight h', but of centroids that do
    not know it, it rises by e' / (1 + h'). Levels where both paths have the same centroid lose the vector first: that
    adds g / (1 − h) · r to the residual of the other path; g is the weight of these levels. (The weights of the joint
    equations also have terms for pairs of levels, which are small.)

    Args:
        vectors: (N, D) float32.
        codes: (N, L) int32, the present ones.
        codebooks: L arrays (K_l, D) float32.
        beam: paths compared.

    Returns:
        (N, L) int32.
    """
    sizes = np.array([len(book) for book in codebooks])
    offsets = torch.from_numpy(np.cumsum(sizes) - sizes)
    stacked = torch.from_numpy(np.concatenate(codebooks))
    counts = _counts(codes, sizes)
    found = np.empty_like(codes)

    def take(rows: slice, found_paths: np.ndarray, found_errors: np.ndarray) -> None:
        points, own = torch.from_numpy(vectors[rows]), torch.from_numpy(codes[rows]).long()
        paths, errors = torch.from_numpy(found_paths), torch.from_numpy(found_errors)
        sums = embedding_bag((paths + offsets).reshape(-1, len(sizes)), stacked, mode="sum").view(*errors.shape, -1)
        residual = points - embedding_bag(own + offsets, stacked, mode="sum")
        error = (residual * residual).sum(1, keepdim=True)
        alike = ((points * residual).sum(1, keepdim=True)) - torch.bmm(sums, residual[:, :, None])[:, :, 0]
        weights = 1 / (counts[own + offsets] + RIDGE)
        hidden = weights.sum(1, keepdim=True).clamp(max=_MOST_HIDDEN)
        same = (paths == own[:, None]).float()
        pull = (same * weights[:, None]).sum(2) / (1 - hidden)
        joining = (1 / (counts[paths + offsets] - same + RIDGE)).sum(2)
        costs = (errors + 2 * pull * alike + pull * pull * error) / (1 + joining)
        least, best = costs.min(1)
        better = paths[torch.arange(len(paths)), best]
        moves = least < error[:, 0] / (1 - hidden[:, 0])
        found[rows] = torch.where(moves[:, None], better, own).numpy()

    search_paths(vectors, codebooks, beam, take)
    return found


def _revived(vectors: np.ndarray, codes: np.ndarray, codebooks: list[np.ndarray]) -> list[np.ndarray]:
    """Put each centroid that no vector has half-way between one that has and a vector that is badly off with it."""
    dead = [np.setdiff1d(np.arange(len(book)), codes[:, level]) for level, book in enumerate(codebooks)]
    needed = max(len(unused) for unused in dead)
    if not needed:
        return codebooks
    residuals = vectors - sum(book[codes[:, level]] for level, book in enumerate(codebooks))
    errors = np.einsum("nd,nd->n", residuals, residuals)
    worst = np.argsort(-errors, kind="stable")[:needed]
    for level, (book, unused) in enumerate(zip(codebooks, dead, strict=True)):
        rows = worst[: len(unused)]
        book[unused[: len(rows)]] = book[codes[rows, level]] + residuals[rows] / 2
    return codebooks


def _shaken(
    codebooks: list[np.ndarray], codes: np.ndarray, spread: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Codebooks with noise of the given covariance root over the number of vectors of each centroid."""
    shaken = []
    for level, book in enumerate(codebooks):
        counts = np.bincount(codes[:, level], minlength=len(book)) + RIDGE
        drawn = rng.standard_normal(book.shape, np.float32) / np.sqrt(counts, dtype=np.float32)[:, None]
        with one_thread_each():
            noise = (torch.from_numpy(drawn) @ torch.from_numpy(spread)).numpy()
        shaken.append(book + noise)
    return shaken


def _spread(vectors: np.ndarray) -> np.ndarray:
    """A root of the covariance of some of the vectors: (D, D) float32."""
    some = vectors[:: max(1, len(vectors) // _SPREAD_ROWS)]
    with one_thread_each():
        moved = torch.from_numpy(some - some.mean(0, dtype=np.float64).astype(np.float32))
        values, directions = torch.linalg.eigh((moved.T @ moved / len(moved)).double())
        root: np.ndarray = (values.clamp(min=0).sqrt()[:, None] * directions.T).float().numpy()
    return root


def _counts(codes: np.ndarray, sizes: np.ndarray) -> torch.Tensor:
    """How many vectors each centroid has, all levels in a row: (M,) float32."""
    counts = [np.bincount(codes[:, level], minlength=size) for level, size in enumerate(sizes)]
    return torch.from_numpy(np.concatenate(counts).astype(np.float32))
