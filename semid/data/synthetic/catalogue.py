"""The items of synthetic data: a tree of clusters, places within the leaves, features and vectors.

Everything about a block of items follows from the seed and the block's number, so that a catalogue of any size
is written by stream. Items 0..N-1 are in the logs, items N..N+C-1 are cold.
"""

from dataclasses import dataclass
from math import gcd

import numpy as np

from semid.data.synthetic.effects import STYLE_SCALES, Turnover, growth, planted_kinds
from semid.data.synthetic.places import Places

BLOCK = 1024
LATENT_DIM = 16
_LEVEL_SCALES = (1.0, 0.7, 0.5)
_PLACE_SCALE = 0.3
_KIND_SCALE = 0.5
_ITEMS_A_LEAF = 25
_MOST_LEAVES = 100_000
_KIND_KEY = 10
_RAW_BASE = 20_000_000_000
_RAW_PRIME = 9_999_999_967

# Share of items that have each embedding, and how much noise hides the clusters in it.
COVERAGES = {"81": 0.99, "82": 0.88, "83": 0.88, "84": 0.5, "85": 0.39, "86": 0.375}
_NOISES = {"81": 0.5, "82": 0.8, "83": 0.7, "84": 0.9, "85": 1.0, "86": 1.0}
_NUISANCE_RANK = 24

# Item fields: number of values (a share of the items where it is below one), level of the tree, coverage.
ITEM_FIELDS: dict[str, tuple[float, int, float]] = {
    "100": (6, 0, 0.9993),
    "101": (51, 1, 0.9993),
    "102": (0.02, 2, 0.9903),
    "112": (30, 0, 0.9794),
    "114": (20, 1, 0.9991),
    "115": (691, 2, 0.3202),
    "116": (18, 1, 0.9990),
    "117": (497, 1, 0.9794),
    "118": (1426, 2, 0.9792),
    "119": (4191, 2, 0.9790),
    "120": (3392, 2, 0.9780),
    "121": (0.45, 3, 1.0),
    "122": (0.019, 2, 0.9993),
}
_FIELD_NOISE = 0.1
_LEVEL_OF_ITEM = 3


def shuffled(values: np.ndarray, count: int) -> np.ndarray:
    """A fixed permutation of 0..count-1 applied to values, without a table: steps of a number prime to count."""
    step = max(1, int(count * 0.6180339887))
    while gcd(step, count) != 1:
        step += 1
    return (values.astype(np.int64) * step + count // 3) % count


def mixed(*keys: "np.ndarray | int") -> np.ndarray:
    """Integers scrambled into one well-spread uint64 (splitmix64)."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = state + np.asarray(key).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


@dataclass(frozen=True, eq=False)
class Items:
    """n consecutive items: number, leaf, angle of the place within the leaf. (n,) each"""

    numbers: np.ndarray
    leaves: np.ndarray
    angles: np.ndarray


class Catalogue:
    """The tree and its items.

    Attributes:
        num_items: N items of the logs.
        num_cold: C items after them.
        seed: of everything.
        effects: what is planted.
        branching: children of each node on each of three levels.
        num_leaves: clusters at the bottom.
        starts: (leaves + 1,) first item of each leaf.
        kinds: what items of a place differ by.
        places: where the items of a leaf lie.
        turnover: which of the places are on show when.
        leaf_weights: (leaves,) popularity of each leaf, sums to one.
    """

    def __init__(self, num_items: int, num_cold: int, seed: int, effects: tuple[str, ...] = ()) -> None:
        self.num_items = num_items
        self.num_cold = num_cold
        self.seed = seed
        self.effects = effects
        leaves = min(num_items / (_ITEMS_A_LEAF * growth(effects)), _MOST_LEAVES)
        self.branching = max(1, round(leaves ** (1 / 3)))
        self.num_leaves = self.branching**3
        rng = self.generator(0)
        sizes = 1 + rng.multinomial(num_items - self.num_leaves, rng.dirichlet(np.full(self.num_leaves, 4.0)))
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.kinds = planted_kinds(effects)
        self.places = Places(sizes, self.kinds.count)
        self.turnover = Turnover(effects, self.places.lengths, self.generator(10).integers(self.places.lengths))
        weights = 1 / (3.0 + rng.permutation(self.num_leaves))
        self.leaf_weights = weights / weights.sum()
        self._centres = self._leaf_centres(rng)
        self._looks = self._kind_looks()
        self._directions = rng.standard_normal((2, 64, LATENT_DIM), np.float32) * np.float32(_PLACE_SCALE)

    def generator(self, *purpose: int) -> np.random.Generator:
        """Random numbers that depend on the seed and the purpose alone."""
        return np.random.default_rng([self.seed, *purpose])

    def _leaf_centres(self, rng: np.random.Generator) -> np.ndarray:
        leaves = np.arange(self.num_leaves)
        centres = np.zeros((self.num_leaves, LATENT_DIM), np.float32)
        for level, scale in enumerate(_LEVEL_SCALES):
            nodes = rng.standard_normal((self.branching ** (level + 1), LATENT_DIM), np.float32)
            centres += np.float32(scale) * nodes[self.ancestors(leaves, level)]
        return centres

    def _kind_looks(self) -> np.ndarray:
        """What pace and price add to the items of each kind; the style adds nothing. (kinds, LATENT_DIM) float32"""
        rng = self.generator(11)
        kinds = np.arange(self.kinds.count)
        looks = np.zeros((len(kinds), LATENT_DIM), np.float32)
        for values in (self.kinds.price(kinds), self.kinds.pace(kinds)):
            if values.max():
                looks += np.float32(_KIND_SCALE) * rng.standard_normal((2, LATENT_DIM), np.float32)[values]
        return looks

    def ancestors(self, leaves: np.ndarray, level: int) -> np.ndarray:
        """Node of each leaf at level 0, 1 or 2; level 2 is the leaf itself."""
        ancestors: np.ndarray = leaves // self.branching ** (2 - level)
        return ancestors

    @property
    def num_blocks(self) -> int:
        return -(-(self.num_items + self.num_cold) // BLOCK)

    def block(self, number: int) -> Items:
        """Items of one block, cold ones too."""
        numbers = np.arange(number * BLOCK, min((number + 1) * BLOCK, self.num_items + self.num_cold))
        rng = self.generator(1, number)
        cold_leaves = rng.choice(self.num_leaves, len(numbers), p=self.leaf_weights)
        cold_angles = rng.random(len(numbers))
        logged = np.searchsorted(self.starts, np.minimum(numbers, self.num_items - 1), side="right") - 1
        leaves = np.where(numbers < self.num_items, logged, cold_leaves)
        sizes = np.diff(self.starts)[leaves]
        angles = np.where(numbers < self.num_items, (numbers - self.starts[leaves]) / sizes, cold_angles)
        return Items(numbers, leaves, angles)

    def reids(self, numbers: np.ndarray) -> np.ndarray:
        """Re-ids 1..N of items of the logs."""
        return shuffled(numbers, self.num_items) + 1

    def raw_ids(self, numbers: np.ndarray) -> np.ndarray:
        """Raw ids of any items."""
        raw: np.ndarray = _RAW_BASE + (numbers.astype(np.int64) * 618_033_988 + 31_415_926) % _RAW_PRIME
        return raw

    def latents(self, items: Items) -> np.ndarray:
        """Where items lie: the centre of the leaf, a place on a circle around it, the kind. (n, LATENT_DIM) float32

        Neighbours on the circle are neighbours in the log, so that vectors tell what comes next.
        """
        pair = self._directions[:, items.leaves % self._directions.shape[1]]
        turn = (2 * np.pi * items.angles).astype(np.float32)[:, None]
        latents: np.ndarray = self._centres[items.leaves] + np.cos(turn) * pair[0] + np.sin(turn) * pair[1]
        latents += self._looks[self.kinds_of(items)]
        return latents

    def kinds_of(self, items: Items) -> np.ndarray:
        """Kind of each item, cold or not. (n,)"""
        drawn = (mixed(self.seed, _KIND_KEY, items.numbers) % np.uint64(self.kinds.count)).astype(np.int64)
        logged = self.places.kind(items.numbers - self.starts[items.leaves])
        return np.where(items.numbers < self.num_items, logged, drawn)

    def field_sizes(self) -> dict[str, int]:
        """Number of values of each item field, smaller for small catalogues."""
        sizes = {}
        for name, (size, _, _) in ITEM_FIELDS.items():
            share = int(size * self.num_items) if size < 1 else int(size)
            sizes[name] = max(2, share if size < 60 else min(share, self.num_items // 10))
        return sizes

    def features(self, items: Items, number: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Re-ids of each field's values and which of them are there: (n,) int64, (n,) bool."""
        columns = {}
        for name, (_, level, coverage) in ITEM_FIELDS.items():
            rng = self.generator(2, number, int(name))
            size = self.field_sizes()[name]
            node = items.numbers if level == _LEVEL_OF_ITEM else self.ancestors(items.leaves, level)
            values = (mixed(self.seed, int(name), node) % np.uint64(size)).astype(np.int64)
            noisy = rng.random(len(values)) < _FIELD_NOISE
            values = np.where(noisy, rng.integers(size, size=len(values)), values)
            columns[name] = values + 1, rng.random(len(values)) < coverage
        return columns


class Projection:
    """One embedding of the catalogue: what a model with its own view and its own blind spots would give."""

    def __init__(self, catalogue: Catalogue, name: str, dim: int) -> None:
        self._catalogue = catalogue
        self._key = int.from_bytes(name.encode(), "little") % 2**63
        rng = catalogue.generator(3, self._key, 0)
        self._signal = rng.standard_normal((LATENT_DIM, dim), np.float32) / np.float32(LATENT_DIM**0.5)
        self._nuisance = rng.standard_normal((_NUISANCE_RANK, dim), np.float32) / np.float32(_NUISANCE_RANK**0.5)
        self._offset = rng.standard_normal(dim, np.float32)
        styles = catalogue.generator(3, self._key, 2).standard_normal((catalogue.kinds.styles, dim), np.float32)
        strength = STYLE_SCALES.get(name, 0.0) if "modality" in catalogue.effects else 0.0
        self._styles = styles * np.float32(strength)
        self._noise = np.float32(_NOISES.get(name, 0.8))
        self._coverage = COVERAGES.get(name, 0.9)

    def vectors(self, items: Items, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (n, D) float32 of a block and which items have one; lengths of vectors differ."""
        rng = self._catalogue.generator(3, self._key, 1, number)
        count = len(items.numbers)
        there = rng.random(count) < self._coverage
        nuisance = rng.standard_normal((count, _NUISANCE_RANK), np.float32) * self._noise
        vectors = self._catalogue.latents(items) @ self._signal + nuisance @ self._nuisance + self._offset
        vectors += self._styles[self._catalogue.kinds.style(self._catalogue.kinds_of(items))]
        vectors += rng.standard_normal(vectors.shape, np.float32) * (np.float32(0.5) * self._noise)
        lengths = np.exp(rng.standard_normal((count, 1), np.float32) * np.float32(0.1))
        return vectors * lengths, there
