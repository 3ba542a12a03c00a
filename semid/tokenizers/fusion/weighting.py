"""Weights of embeddings chosen by behaviour: those under which items taken together lie close together.

With each embedding centred and scaled to the same energy, squared distances of the fused vectors are the weighted sum
of the embeddings' own. So distances of a sample of items are taken once an embedding, and any weighting is judged by
one sum: for every pair of items that follow each other in training histories, the rank of the one among the nearest
of the other, at a gain of 10 / (9 + rank): 1 for the nearest, about a half for the tenth, next to nothing for the
thousandth. The weights are searched coordinate by coordinate on a logarithmic grid, on one half of the items, and
compared with equal weights on the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion.moments import scales_to
from semid.tokenizers.fusion.reading import RowSource, slabs_of
from semid.tokenizers.fusion.workers import Workers

# Steps of the base-2 logarithm of a weight; none gets further than the bound from equal.
_STEPS = (4.0, 2.0, 1.0, 0.5)
_BOUND = 8.0
_ROUNDS = 4
_FEWEST_QUERIES = 16
# Items before a partner that halve its gain.
_HALVED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightingConfig:
    """How to judge weights.

    Attributes:
        queries: most items whose neighbours are looked at, taken as pairs come: items in many pairs sooner.
        candidates: most items that may be neighbours, partners of the queries included.
        partners: most items taken together with one query.
        seed: of the sample.
    """

    queries: int = 1024
    candidates: int = 4096
    partners: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "candidates", "partners"):
            if getattr(self, name) < 1:
                raise InputError(f"The number of {name} is {getattr(self, name)} but must be at least 1.")


@dataclass(frozen=True)
class WeightChoice:
    """Chosen weights and what speaks for them.

    Attributes:
        weights: one an embedding; they sum to their number.
        agreement: of the chosen weights, from 0 to 1, on items that were not used to choose them.
        equal: the same of equal weights; never above ``agreement``.
        alone: the same of each embedding by itself.
    """

    weights: tuple[float, ...]
    agreement: float
    equal: float
    alone: tuple[float, ...]


def search_weights(
    embeddings: Sequence[Embedding], pairs: np.ndarray, config: WeightingConfig | None = None
) -> WeightChoice:
    """Weights under which the nearest neighbours of items agree best with what is taken together.

    An embedding that was made from the very histories of the pairs knows them, and is trusted more than it deserves:
    make it from the histories of other users here.

    Args:
        embeddings: one row an item.
        pairs: (P, 2) int rows of items that are taken near each other in *training* histories.
        config: the sample.

    Returns:
        Weights of energy, for ``PreprocessorConfig.weights``: equal ones where nothing else is better on the half of
        the items that is held out.

    Raises:
        InputError: embeddings that do not fit together, no pairs of items that have embeddings, or NaN or infinity.
    """
    config = config or WeightingConfig()
    RowSource(embeddings)  # checks them
    sample = _sample(embeddings, pairs, config)
    with Workers() as workers:
        distances = [_distances(embedding, sample, workers) for embedding in embeddings]
        half = len(sample.queries) // 2
        chosen_on, held_out = (
            _Judge(distances, sample, queries, workers) for queries in (slice(0, half), slice(half, None))
        )
        exponents = _search(chosen_on.agreement, len(embeddings))
        equal = held_out.agreement(np.ones(len(embeddings)))
        weights = 2.0**exponents
        agreement = held_out.agreement(weights)
        alone = tuple(held_out.agreement(row) for row in np.eye(len(embeddings)))
    if agreement <= equal:
        weights, agreement = np.ones(len(embeddings)), equal
    weights = weights * (len(weights) / weights.sum())
    return WeightChoice(tuple(float(weight) for weight in weights), agreement, equal, alone)


@dataclass(frozen=True, eq=False)
class _Sample:
    """Q query rows in random order, C candidate rows, and pairs as (query number, candidate number)."""

    queries: np.ndarray
    candidates: np.ndarray
    pairs: np.ndarray


def _sample(embeddings: Sequence[Embedding], pairs: np.ndarray, config: WeightingConfig) -> _Sample:
    num_items = len(embeddings[0].valid)
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= num_items):
        raise InputError(f"Pairs of items name rows up to {pairs.max()}, but there are {num_items} items.")
    known = np.any([embedding.valid for embedding in embeddings], axis=0)
    pairs = np.unique(pairs[known[pairs].all(axis=1) & (pairs[:, 0] != pairs[:, 1])], axis=0)
    rng = np.random.default_rng(config.seed)
    pairs = rng.permutation(pairs)
    _, first = np.unique(pairs[:, 0], return_index=True)
    queries = rng.permutation(pairs[np.sort(first)[: config.queries], 0])  # those of many pairs are taken sooner
    if len(queries) < _FEWEST_QUERIES:
        raise InputError(
            f"Only {len(queries)} items with an embedding are taken together with others: give weights as numbers."
        )
    pairs = pairs[np.isin(pairs[:, 0], queries)]
    pairs = pairs[_number_within(pairs[:, 0]) < config.partners]
    partners = rng.permutation(np.unique(pairs[:, 1]))[: config.candidates]
    pairs = pairs[np.isin(pairs[:, 1], partners)]
    others = np.setdiff1d(np.flatnonzero(known), partners)
    others = rng.permutation(others)[: config.candidates - len(partners)]
    candidates = np.sort(np.concatenate([partners, others]))
    order = np.argsort(queries)
    numbers = order[np.searchsorted(queries, pairs[:, 0], sorter=order)]
    return _Sample(queries, candidates, np.stack([numbers, np.searchsorted(candidates, pairs[:, 1])], axis=1))


def _number_within(keys: np.ndarray) -> np.ndarray:
    """How many equal keys come before each."""
    order = np.argsort(keys, kind="stable")
    starts = np.r_[True, keys[order][1:] != keys[order][:-1]]
    positions = np.arange(len(keys))
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = positions - np.maximum.accumulate(np.where(starts, positions, 0))
    return numbers


def _distances(embedding: Embedding, sample: _Sample, workers: Workers) -> torch.Tensor:
    """Squared distances of queries and candidates at unit energy; the mean one where either is missing. (Q, C)"""
    ends, ends_valid = [], []
    for rows in (sample.queries, sample.candidates):
        parts = list(_read(embedding, rows, workers))
        ends.append(torch.cat([part for part, _ in parts]))
        ends_valid.append(torch.from_numpy(np.concatenate([valid for _, valid in parts])[:, 0]))
    (queries, candidates), (queried, offered) = ends, ends_valid
    distances = torch.full((len(queries), len(candidates)), 1.0)
    if not queried.any() or not offered.any():
        return distances
    mean = candidates[offered].mean(0)
    queries, candidates = queries - mean, candidates - mean
    energy = np.array([float(candidates[offered].square().sum(1).mean())])
    scale = float(scales_to(np.ones(1), energy)[0])
    queries, candidates = queries * scale, candidates * scale
    lengths = candidates.square().sum(1)

    def fill(rows: slice) -> None:
        some = queries[rows]
        distances[rows] = some.square().sum(1)[:, None] + lengths - 2 * some @ candidates.T

    workers.run(fill, slabs_of(len(queries)))
    both = queried[:, None] & offered
    distances[~both] = distances[both].mean()
    return distances


def _read(embedding: Embedding, rows: np.ndarray, workers: Workers) -> list[tuple[torch.Tensor, np.ndarray]]:
    source = RowSource([embedding], rows)
    nothing = [torch.zeros(embedding.dim)]
    return [(part.clone(), valid) for part, valid in source.centred(nothing, workers)]


class _Judge:
    """Agreement of any weights on some of the queries."""

    def __init__(self, distances: Sequence[torch.Tensor], sample: _Sample, queries: slice, workers: Workers) -> None:
        self._workers = workers
        self._distances = [distance[queries] for distance in distances]
        first, last, _ = queries.indices(len(sample.queries))
        pairs = sample.pairs[(sample.pairs[:, 0] >= first) & (sample.pairs[:, 0] < last)]
        self._pairs = torch.from_numpy(pairs - [first, 0])
        self._same = torch.from_numpy(sample.queries[queries][:, None] == sample.candidates)

    def agreement(self, weights: np.ndarray) -> float:
        """Mean of 10 / (9 + rank) over the pairs; equal distances share their ranks."""
        fused = torch.zeros_like(self._distances[0])
        for weight, distance in zip(weights, self._distances, strict=True):
            fused.add_(distance, alpha=float(weight))
        fused[self._same] = torch.inf
        gains = torch.zeros(len(self._pairs))

        def judge(some: slice) -> None:
            number, partner = self._pairs[some].T
            row = fused[number]
            own = row[torch.arange(len(row)), partner][:, None]
            before = (row < own).sum(1) + 0.5 * ((row == own).sum(1) - 1)
            gains[some] = _HALVED / (_HALVED + before)

        self._workers.run(judge, slabs_of(len(gains)))
        return float(gains.mean(dtype=torch.float64)) if len(gains) else 0.0


def _search(agreement: Callable[[np.ndarray], float], count: int) -> np.ndarray:
    """Base-2 logarithms of weights: steps along one coordinate at a time, each half the last."""
    exponents = np.zeros(count)
    best = agreement(2.0**exponents)
    for step in _STEPS:
        for _ in range(_ROUNDS):
            before = best
            for number in range(count):
                for move in (step, -step):
                    tried = exponents.copy()
                    tried[number] += move
                    if abs(tried[number]) > _BOUND:
                        continue
                    found = agreement(2.0**tried)
                    if found > best:
                        exponents, best = tried, found
            if best <= before:
                break
    return exponents
