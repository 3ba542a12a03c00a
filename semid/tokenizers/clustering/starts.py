"""Starts of k-means: k-means++ in rounds, its Markov chain form AFK-MC², spherical and shrunk starts.

Shapes: N vectors, D width, K centroids. A start is (K, D) float32; every draw comes from the generator passed in, so
that a seed gives the same start whatever the number of threads.
"""

from collections.abc import Callable

import numpy as np

from semid.tokenizers.clustering.lloyd import ClusterSums
from semid.tokenizers.clustering.nearest import assign, nearest_codes

# Most vectors proposed in one round of k-means++: their distances among each other are held, 32 MB.
_ROUND_LIMIT = 2048
# Proposed vectors nearer than this share of their squared lengths count as equal: float64 products leave 1e-15.
_EQUAL = 1e-12
# Chains of AFK-MC² that run on distances computed together.
_CHAIN_BLOCK = 32


def sample_rows(vectors: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """As many of the vectors at random, in their order; all, and nothing drawn, where there are no more."""
    if most >= len(vectors):
        return vectors
    drawn: np.ndarray = vectors[np.sort(rng.choice(len(vectors), most, replace=False))]
    return drawn


def plus_plus(vectors: np.ndarray, num_codes: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors drawn one after the other, each with a chance proportional to its squared distance to those before it.

    The distribution is that of k-means++ (Arthur and Vassilvitskii 2007), in about log2(K) passes over the vectors
    instead of K: a round proposes as many vectors as are chosen already, by the distances at its beginning, and takes
    each with a chance of its distance now over its distance then (rejection sampling; Cohen-Addad et al. 2020).

    Args:
        vectors: (N, D) float32.
        num_codes: K; at most N, unless equal vectors may be drawn.
        rng: of the draws.

    Returns:
        (K, D) float32, distinct while distinct vectors are left.
    """
    return vectors[_finish(vectors, [int(rng.integers(len(vectors)))], num_codes, rng)]


def afkmc2(vectors: np.ndarray, num_codes: int, rng: np.random.Generator, chain: int = 200) -> np.ndarray:
    """Vectors drawn nearly as k-means++ draws them, without a pass over all vectors for each.

    Every draw is the end of a Metropolis-Hastings chain whose proposals are half uniform, half by squared distance to
    the first vector (Bachem et al. 2016, "Fast and provably good seedings for k-means", assumption-free). It computes
    chain × K² / 2 distances where ``plus_plus`` computes N × K: it pays from N > chain × K / 2.

    Args:
        vectors: (N, D) float32.
        num_codes: K.
        rng: of the draws.
        chain: proposals of a chain; the longer, the nearer to k-means++. 200 is the authors' choice.

    Returns:
        (K, D) float32, distinct while distinct vectors are left.
    """
    first = int(rng.integers(len(vectors)))
    chosen = [first]
    distances = assign(vectors, vectors[first : first + 1])[1].astype(np.float64)
    total = distances.sum()
    if total == 0:
        return vectors[_finish(vectors, chosen, num_codes, rng)]
    proposal = distances / (2 * total) + 1 / (2 * len(vectors))
    cumulative = np.cumsum(proposal)
    while len(chosen) < num_codes:
        count = min(_CHAIN_BLOCK, num_codes - len(chosen))
        rows = _draw(cumulative, count * chain, rng)
        nearest = assign(vectors[rows], vectors[chosen])[1].astype(np.float64)
        uniform = rng.random((count, chain))
        for number in range(count):
            span = slice(number * chain, (number + 1) * chain)
            end = _run_chain(nearest[span], proposal[rows[span]], uniform[number])
            if nearest[span][end] == 0:  # the chain met nothing new: few distinct vectors are left
                return vectors[_finish(vectors, chosen, num_codes, rng)]
            chosen.append(int(rows[span][end]))
            later = slice(span.stop, None)
            nearest[later] = np.minimum(nearest[later], assign(vectors[rows[later]], vectors[chosen[-1:]])[1])
    return vectors[chosen]


def spherical(vectors: np.ndarray, num_codes: int, rng: np.random.Generator, passes: int = 6) -> np.ndarray:
    """Means of the clusters that the directions of the vectors from their mean form.

    Spherical k-means (Dhillon and Modha 2001) from a k-means++ draw. On residuals of real embeddings lengths are
    mostly noise, and plain draws favour the long ones.

    Args:
        vectors: (N, D) float32.
        num_codes: K.
        rng: of the draws.
        passes: passes over the directions.

    Returns:
        (K, D) float32. A cluster that lost its vectors keeps the vector it started from.
    """
    moved = vectors - vectors.mean(0, dtype=np.float64).astype(np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", moved, moved))
    directions = moved / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    rows = _finish(directions, [int(rng.integers(len(directions)))], num_codes, rng)
    centroids, codes = directions[rows], np.zeros(len(vectors), np.int32)
    sums = ClusterSums(directions, num_codes)
    for _ in range(passes):
        codes = nearest_codes(directions, centroids)
        sums.update(codes)
        centroids = sums.means(centroids)
        lengths = np.sqrt(np.einsum("kd,kd->k", centroids, centroids))
        centroids /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    sums = ClusterSums(vectors, num_codes)
    sums.update(codes)
    return sums.means(vectors[rows])


def shrunk(centroids: np.ndarray, vectors: np.ndarray, factor: float) -> np.ndarray:
    """The centroids moved towards the mean of the vectors: ``factor`` 1 leaves them, 0 puts them all there.

    Centroids that start far out strand on noisy residuals: they keep single vectors and leave the others to a few.
    Nearer starts mend that, but may merge well parted clusters, so fit from both and keep the better.
    """
    mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
    return np.asarray(mean + np.float32(factor) * (centroids - mean))


def draw_rows(
    distances_to: Callable[[list[int]], np.ndarray],
    take: Callable[[np.ndarray], np.ndarray],
    num_rows: int,
    chosen: list[int],
    num_codes: int,
    rng: np.random.Generator,
) -> list[int]:
    """Rows of K vectors, those chosen already and draws of k-means++, for vectors wherever they are.

    Args:
        distances_to: of (N,) squared distances to the nearest of some rows.
        take: of the vectors at some rows.
        num_rows: N.
        chosen: at least one row.
        num_codes: K.
        rng: of the draws.
    """
    nearest = np.full(num_rows, np.inf)
    chosen = fresh = list(chosen)
    while len(chosen) < num_codes:
        nearest = np.minimum(nearest, distances_to(fresh))
        count = min(len(chosen), num_codes - len(chosen), _ROUND_LIMIT)
        cumulative = np.cumsum(nearest)
        if cumulative[-1] == 0:  # no distinct vectors are left
            fresh = [int(row) for row in rng.integers(num_rows, size=num_codes - len(chosen))]
        else:
            rows = _draw(cumulative, count, rng)
            fresh = [int(row) for row in rows[_accepted(take(rows), nearest[rows], rng.random(count))]]
        chosen = chosen + fresh
    return chosen


def _finish(vectors: np.ndarray, chosen: list[int], num_codes: int, rng: np.random.Generator) -> list[int]:
    def distances_to(rows: list[int]) -> np.ndarray:
        return assign(vectors, vectors[rows])[1]

    return draw_rows(distances_to, vectors.__getitem__, len(vectors), chosen, num_codes, rng)


def _draw(cumulative: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows, each with a chance in proportion to its step in the cumulative sum; never one without a step."""
    rows = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    return np.asarray(np.minimum(rows, np.searchsorted(cumulative, cumulative[-1])))


def _accepted(proposed: np.ndarray, before: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Which proposals to take, in their order: each with the chance (distance now) / (distance ``before``).

    The first is always taken, so that every round makes progress.
    """
    moved = proposed - proposed.mean(0, dtype=np.float64)
    lengths = (moved * moved).sum(1)
    sums = lengths[:, None] + lengths
    between = sums - 2 * (moved @ moved.T)
    between[between < _EQUAL * sums] = 0
    now, taken = before.copy(), []
    for row, limit in enumerate(uniform * before):
        if limit < now[row]:
            taken.append(row)
            np.minimum(now, between[row], out=now)
    return np.array(taken)


def _run_chain(distances: np.ndarray, proposal: np.ndarray, uniform: np.ndarray) -> int:
    """The position at which a Metropolis-Hastings chain over the proposals ends."""
    ratios, uniform = distances / proposal, uniform.tolist()
    state = 0
    value, *values = ratios.tolist()
    for position, candidate in enumerate(values, 1):
        if candidate >= value or candidate > uniform[position] * value:
            state, value = position, candidate
    return state
