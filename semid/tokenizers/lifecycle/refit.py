"""A refit that keeps the codes it can: warm start, old labels, and new codes only where they pay.

1. Joint least squares give the codebooks that the old codes stand for; centroids hardly missed are moved to where
   they are missed (``warm.py``), and the fit goes on from there. Beside it stands a plain fit. The centroids of both
   get the old labels that most of their items have (``labels.py``).
2. Codes without regard for the old ones, with codebooks fitted to them by joint least squares, have some error. The
   larger one of both fits is allowed, as seeds differ by a few percent anyway, and a share of it more, the tolerance.
3. If codebooks fitted to the old codes reach that, no item moves: never where the catalogue is as it was.
4. Otherwise an item keeps its old codes unless new ones lower the error enough: those whose old codes cost least
   stay, as many as the error allowed admits; for given codebooks no other choice keeps more. The others, new items
   among them, get the codes that are free then. The codebooks are fitted to these codes, which lowers the error, so
   that more can stay: both repeat while codes are won back. This begins at the codebooks fitted to the old codes, and
   once more at those fitted freely; what changes fewer codes is taken, if it is within twice the tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.codes import SemanticIds
from semid.progress import Progress
from semid.tokenizers.collisions.packing import pack
from semid.tokenizers.collisions.placement import place, squared_errors
from semid.tokenizers.collisions.rows import ChosenRows, Rows
from semid.tokenizers.lifecycle.append import CollisionPolicy, encode_rows
from semid.tokenizers.lifecycle.labels import relabel
from semid.tokenizers.lifecycle.warm import spread_out
from semid.tokenizers.residual.least_squares import solve_codebooks
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

# Fits with other seeds differ by as much; codes are not worth less than that luck.
KEEP_TOLERANCE = 0.05
_ROUNDS = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inherited:
    """A catalogue of which some items have codes from before.

    Attributes:
        vectors: (N, D) float32.
        known: (N,) bool, whether the item has any embedding; those without keep their codes, whatever they cost.
        rows: (n,) rising rows of the items that have old codes.
        codes: their codes, in this order.
    """

    vectors: Rows
    known: np.ndarray
    rows: np.ndarray
    codes: SemanticIds


def fit_from_codes(
    vectors: np.ndarray, codes: np.ndarray, config: RQKMeansConfig, *, progress: Progress | None = None
) -> RQKMeans:
    """Residual codebooks that begin at those the old codes stand for, and keep their labels.

    The old codes alone carry over, not the old centroids: the vectors may come from another projection than before.

    Args:
        vectors: (n, D) float32, old and new items.
        codes: (n, L) or wider, -1 throughout for items without old codes; at least one has some.
        config: how to fit.
        progress: as for a fit.
    """
    has = np.flatnonzero(codes[:, 0] >= 0)
    old, own = vectors[has], codes[has, : config.levels]
    mean = old.mean(0, dtype=np.float64).astype(np.float32)
    nothing = [np.tile(mean if level == 0 else 0 * mean, (size, 1)) for level, size in enumerate(config.num_codes)]
    quantiser = RQKMeans(config)
    start = spread_out(vectors, solve_codebooks(old, own, nothing), quantiser)
    return relabel(quantiser.fit_from(start, vectors, progress=progress), vectors, codes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kept:
    """A catalogue refitted with old codes kept.

    Attributes:
        ids: the codes of all items.
        nearest: (N, L) int32, their nearest codes.
        quantiser: with the codebooks fitted to the codes.
        plain_changed: old items whose codes a plain fit would have changed, its labels matched to the old ones.
        over_plain: error over that of the plain fit; None where that is zero.
    """

    ids: SemanticIds
    nearest: np.ndarray
    quantiser: RQKMeans
    plain_changed: int
    over_plain: float | None


def keep_codes(items: Inherited, warm: RQKMeans, plain: RQKMeans, how: CollisionPolicy, *, tolerance: float) -> Kept:
    """Codes of a catalogue, with as many old ones as the tolerance allows; the codebooks are fitted to them.

    Args:
        items: the catalogue and the old codes.
        warm: fitted from the old codes; its codebooks are replaced.
        plain: fitted without them, labels matched.
        how: the collision policy.
        tolerance: share by which the error may exceed that of the two without regard for old codes.

    Raises:
        InputError: more items than codes.
    """
    keeper = _Keeper(items, how, warm)
    free_books, _, free_error = keeper.forget(warm.codebooks_)
    _, plain_codes, plain_error = keeper.forget(plain.codebooks_)
    allowed = (1 + tolerance) * max(free_error, plain_error)
    warm.codebooks_ = free_books
    codes = keeper.keep_all()
    if keeper.total(codes) > allowed:
        codes = keeper.keep_most(allowed, (1 + tolerance) * allowed, starts=(warm.codebooks_, free_books))
    num_codes = warm.num_codes
    if codes.shape[1] > len(num_codes):
        num_codes = (*num_codes, int(codes[:, -1].max(initial=0)) + 1)
    return Kept(
        ids=SemanticIds(codes, num_codes),
        nearest=encode_rows(items.vectors, warm),
        quantiser=warm,
        plain_changed=keeper.count_changed(plain_codes),
        over_plain=keeper.total(codes) / plain_error if plain_error > 0 else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """Codes of all items, the codebooks fitted to them, the error, and how many old items have other codes."""

    codes: np.ndarray
    codebooks: list[np.ndarray]
    error: float
    changed: int


class _Keeper:
    """Chooses codes for a catalogue, and fits the codebooks of a quantiser to them."""

    def __init__(self, items: Inherited, how: CollisionPolicy, quantiser: RQKMeans) -> None:
        self.items, self.how, self.quantiser = items, how, quantiser
        self.known_rows = np.flatnonzero(items.known)

    def forget(self, codebooks: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, float]:
        """Codes without regard for the old ones, the codebooks fitted to them, and their error."""
        self.quantiser.codebooks_ = list(codebooks)
        codes = self._free_codes(self._nearest())
        self._fit_to(codes)
        return self.quantiser.codebooks_, codes, self.total(codes)

    def keep_all(self) -> np.ndarray:
        """Codes of all items where every old one stays, after fitting the codebooks to them."""
        items, levels = self.items, len(self.quantiser.codebooks_)
        old = np.flatnonzero(items.known[items.rows])
        there = ChosenRows(items.vectors, items.rows[old])
        own = items.codes.codes[old, :levels]
        self.quantiser.codebooks_ = solve_codebooks(there, own, self.quantiser.codebooks_)
        codes = self._place_around(np.ones(len(items.rows), bool), self._nearest())
        self._fit_to(codes)
        return codes

    def keep_most(self, allowed: float, enough: float, starts: Sequence[list[np.ndarray]]) -> np.ndarray:
        """Codes of all items with few changes among those that have the error allowed, after fitting to them.

        Args:
            allowed: the error sought.
            enough: an error above it; of choices that have no more the one with the fewest changes is taken, and
                without any that of the least error.
            starts: codebooks to begin with; each is tried.
        """
        found = [self._keep_most_from(start, allowed) for start in starts]
        near = [choice for choice in found if choice.error <= enough]
        best = min(near or found, key=lambda choice: choice.changed if near else choice.error)
        self.quantiser.codebooks_ = best.codebooks
        return best.codes

    def _keep_most_from(self, start: list[np.ndarray], allowed: float) -> "_Choice":
        self.quantiser.codebooks_ = start
        best: _Choice | None = None
        granted, credit = 0.0, 0.0
        for _ in range(_ROUNDS):
            codes = self._keep_cheapest(allowed + credit)
            self._fit_to(codes)
            found = _Choice(codes, self.quantiser.codebooks_, self.total(codes), self.count_changed(codes))
            left = allowed - found.error
            if best is None or (best.error > allowed and found.error < best.error):
                best = found
            elif left < 0 and best.error <= allowed:  # too much was granted
                self.quantiser.codebooks_, credit = best.codebooks, (granted + credit) / 2
                continue
            elif left >= 0 and found.changed >= best.changed:
                break
            elif left >= 0:
                best = found
            if left >= 0:  # what fitting the codebooks took off the error, the next round may spend on old codes
                granted, credit = credit, credit + left
        assert best is not None
        return best

    def count_changed(self, codes: np.ndarray) -> int:
        """Old items whose codes are others than before."""
        return len(self._changed(codes))

    def total(self, codes: np.ndarray) -> float:
        """Sum of squared errors of the items with an embedding."""
        return float(self._errors(codes, self.items.vectors)[self.items.known].sum())

    def _nearest(self) -> np.ndarray:
        return encode_rows(self.items.vectors, self.quantiser)

    def _errors(self, codes: np.ndarray, vectors: Rows) -> np.ndarray:
        codebooks = self.quantiser.codebooks_
        return squared_errors(codes[:, : len(codebooks)], vectors, codebooks).astype(np.float64)

    def _fit_to(self, codes: np.ndarray) -> None:
        codebooks, rows = self.quantiser.codebooks_, self.known_rows
        own = codes[rows, : len(codebooks)]
        self.quantiser.codebooks_ = solve_codebooks(ChosenRows(self.items.vectors, rows), own, codebooks)

    def _changed(self, codes: np.ndarray) -> np.ndarray:
        old = self.items.codes.codes
        shared = min(old.shape[1], codes.shape[1])
        return np.flatnonzero((codes[self.items.rows, :shared] != old[:, :shared]).any(axis=1))

    def _free_codes(self, wanted: np.ndarray) -> np.ndarray:
        nobody = np.empty((0, wanted.shape[1]), np.int32)
        return place(nobody, wanted, self.items.vectors, self.quantiser.codebooks_, **self.how.arguments).codes

    def _keep_cheapest(self, allowed: float) -> np.ndarray:
        """Codes of all items: old ones where they cost least, up to the error allowed, and free ones for the rest."""
        items = self.items
        wanted = self._nearest()
        free_errors = self._errors(self._free_codes(wanted), items.vectors)
        old_errors = self._errors(items.codes.codes, ChosenRows(items.vectors, items.rows))
        budget = max(allowed - float(free_errors[items.known].sum()), 0.0)
        costs = np.where(items.known[items.rows], old_errors - free_errors[items.rows], 0)
        codes = self._place_around(_cheapest(costs, budget), wanted)
        self._return_home(codes, old_errors)
        return codes

    def _place_around(self, kept: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Old codes for the old items marked, and what is free then for all others."""
        items, old = self.items, self.items.codes
        stays = np.zeros(len(wanted), bool)
        stays[items.rows[kept]] = True
        others = np.flatnonzero(~stays)
        latents, codebooks = ChosenRows(items.vectors, others), self.quantiser.codebooks_
        placed = place(old.codes[kept], wanted[others], latents, codebooks, **self.how.arguments).codes
        codes = np.zeros((len(wanted), max(placed.shape[1], old.num_levels)), np.int32)
        codes[others, : placed.shape[1]] = placed
        codes[stays, : old.num_levels] = old.codes[kept]
        return codes

    def _return_home(self, codes: np.ndarray, old_errors: np.ndarray) -> None:
        """Give items that were moved back what they had, where nobody took it and it serves them no worse."""
        rows, old = self.items.rows, self.items.codes
        changed = self._changed(codes)
        now = self._errors(codes[rows[changed]], ChosenRows(self.items.vectors, rows[changed]))
        changed = changed[old_errors[changed] <= now]
        home = np.zeros((len(changed), codes.shape[1]), codes.dtype)
        home[:, : old.num_levels] = old.codes[changed]
        keys = pack(np.concatenate([home, codes]))
        free = ~np.isin(keys[: len(changed)], keys[len(changed) :])
        codes[rows[changed[free]]] = home[free]


def _cheapest(costs: np.ndarray, budget: float) -> np.ndarray:
    """(n,) bool: as many as possible whose costs together stay within the budget."""
    order = np.argsort(costs, kind="stable")
    chosen = np.zeros(len(costs), bool)
    # gains are no budget for others: what costs nothing stays anyway
    chosen[order[np.cumsum(np.maximum(costs[order], 0)) <= budget]] = True
    return chosen
