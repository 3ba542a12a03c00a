"""Item and query vectors like those of a trained two-tower model, and uniform random ones as the worst case.

Items of a trained model crowd round a common direction, in groups within groups of different sizes; a query points
to its target but lies apart from all items. The amounts were set so that cosines between items, between neighbours
and between queries and what they find come close to those of semid's own models of real data: on *Beauty*, 12,101
items, pairs of items have .66 on average (here .66), tenth neighbours .91 (.93), queries and their tenth items .59
(.58).
"""

from dataclasses import dataclass

import numpy as np

_CHUNK = 1 << 16
_COMMON, _OUTER, _INNER, _OWN = 1.0, 0.5, 0.4, 0.4  # lengths of what an item vector is the sum of
_PULL, _BLUR, _LEAN = 0.75, 0.4, 0.25  # of a query: to its item, anywhere, to the common direction


@dataclass(frozen=True, eq=False)
class Vectors:
    """Unit vectors of items (N, D) and of queries (Q, D), float32, and the item row (Q,) each query is for."""

    items: np.ndarray
    queries: np.ndarray
    targets: np.ndarray


def trained(num_items: int, width: int, num_queries: int, seed: int = 0) -> Vectors:
    """Like those of a trained model."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, width + 1) ** -0.5
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0] * (spread / np.linalg.norm(spread))[:, None]
    turn = turn.astype(np.float32)

    def drawn(count: int) -> np.ndarray:
        return rng.standard_normal((count, width), dtype=np.float32) @ turn

    groups = max(64, round(num_items**0.5))
    outer = drawn(max(8, round(groups**0.5)))
    centres = _OUTER * outer[rng.integers(0, len(outer), groups)] + _INNER * drawn(groups)
    common = _COMMON * _unit(rng.standard_normal((1, width), dtype=np.float32))
    share = np.arange(1, groups + 1) ** -0.7
    group = rng.choice(groups, num_items, p=share / share.sum())
    items = np.empty((num_items, width), np.float32)
    for first in range(0, num_items, _CHUNK):
        part = group[first : first + _CHUNK]
        items[first : first + _CHUNK] = _unit(common + centres[part] + _OWN * drawn(len(part)))
    targets = rng.integers(0, num_items, num_queries)
    queries = _unit(_PULL * (items[targets] - common) + _BLUR * drawn(num_queries) + _LEAN * common)
    return Vectors(items, queries, targets)


def uniform(num_items: int, width: int, num_queries: int, seed: int = 0) -> Vectors:
    """Items in all directions alike; queries at a cosine of .4 from theirs. No index can know where to look."""
    rng = np.random.default_rng(seed)
    items = rng.standard_normal((num_items, width), dtype=np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    targets = rng.integers(0, num_items, num_queries)
    away = _unit(rng.standard_normal((num_queries, width), dtype=np.float32))
    return Vectors(items, _unit(items[targets] + 2.3 * away), targets)


def _unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
