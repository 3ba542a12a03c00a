"""Matching by auction: every item gets a leaf of its own, at nearly the least sum of costs.

Bertsekas' auction for the asymmetric assignment problem (Annals of Operations Research 14, 1988), all items at once.
Leaves have prices, zero at first. An item without a leaf bids for the one of least cost + price, so high that this
and the second best would be as good, and a little more; the highest bid gets it, and whoever had it bids again.
Every item ends within that little of its best at the final prices, and leaves without an owner still cost nothing:
the sum of costs is then within the sum of those littles of the optimum.
"""

import numpy as np

from semid.tokenizers.collisions.paths import PathLists

# What a bid adds: a share of what the item's place costs it by now, above its first choice; and of the mean cost.
_RAISE = 0.05
_LEAST_RAISE = 1e-4
# Values compared in one ``enter`` before those who still bid must step back: seconds.
_PATIENCE = 1 << 30


class Auction:
    """Leaves, their prices and owners.

    Items know a list of leaves each, and what is left out costs at least their horizon; those who would pay more
    step back until they are told of more leaves.

    Attributes:
        leaf: (n,) int64 leaf that each item has, -1 for none.
    """

    def __init__(self, num_items: int) -> None:
        self._lists: list[tuple[np.ndarray, PathLists]] = []
        self._widths = np.empty(0, np.int64)
        self._list = np.full(num_items, -1)
        self._row = np.full(num_items, -1)
        self._first_choice = np.zeros(num_items, np.float32)
        self._known = _Numbering()  # the place of a leaf in the two arrays below
        self._price = np.empty(0, np.float32)
        self._owner = np.empty(0, np.int64)
        self._place = np.full(num_items, -1)
        self._least_raise = np.float32(0)

    @property
    def leaf(self) -> np.ndarray:
        found: np.ndarray = np.append(self._known.values(), -1)[self._place]
        return found

    def enter(self, items: np.ndarray, lists: PathLists) -> np.ndarray:
        """Tell items without a leaf of theirs about leaves, and let bid until none wants more.

        Args:
            items: (n,) distinct items.
            lists: their leaves; these replace those they were told before.

        Returns:
            the items that have stepped back, rising.
        """
        if not len(items):
            return items
        self._list[items], self._row[items] = len(self._lists), np.arange(len(items))
        self._lists.append((self._known.numbers(lists.leaves), lists))
        new = self._known.count - len(self._price)
        self._price = np.append(self._price, np.zeros(new, np.float32))
        self._owner = np.append(self._owner, np.full(new, -1))
        self._widths = np.append(self._widths, lists.leaves.shape[1])
        self._first_choice[items] = lists.costs.min(1)
        finite = lists.costs[np.isfinite(lists.costs)]
        mean = finite.mean(dtype=np.float64) if len(finite) else 0.0
        self._least_raise = max(self._least_raise, np.float32(_LEAST_RAISE * mean), np.finfo(np.float32).tiny)
        back, active, compared = [items[:0]], items, 0
        while len(active) and compared < _PATIENCE:
            compared += int(self._widths[self._list[active]].sum())
            active, stepped_back = self._round(active)
            back.append(stepped_back)
        return np.sort(np.concatenate([*back, active]))

    def _round(self, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All active items bid once: those still active, and those that stepped back."""
        numbers = self._list[active]
        bids = [self._bids(number, active[numbers == number]) for number in np.unique(numbers)]
        bidder, place, bid, back = (np.concatenate(parts) for parts in zip(*bids, strict=True))
        order = np.lexsort((bidder, -bid, place))
        highest = np.ones(len(order), bool)
        highest[1:] = place[order[1:]] != place[order[:-1]]
        won, lost = order[highest], order[~highest]
        evicted = self._owner[place[won]]
        evicted = evicted[evicted >= 0]
        self._place[evicted] = -1
        self._owner[place[won]], self._price[place[won]] = bidder[won], bid[won]
        self._place[bidder[won]] = place[won]
        return np.concatenate([bidder[lost], evicted]), back

    def _bids(self, number: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Bidders, the places they bid for, their bids, and the items that step back, of those with one list."""
        places, lists = self._lists[number]
        rows, lines = self._row[items], np.arange(len(items))
        values = lists.costs[rows] + self._price[places[rows]]
        best = values.argmin(1)
        first = values[lines, best]
        values[lines, best] = np.inf
        second = np.minimum(values.min(1), lists.horizon[rows])
        bidding = (first <= lists.horizon[rows]) & np.isfinite(first)
        bidder, first, second = items[bidding], first[bidding], second[bidding]
        place = places[rows[bidding], best[bidding]]
        raised = _RAISE * (first - self._first_choice[bidder]) + self._least_raise
        return bidder, place, self._price[place] + (second - first) + raised, items[~bidding]


class _Numbering:
    """Numbers values from 0 in the order in which they are first met.

    Values already met lie in stretches, each rising, that are merged before they become many.

    Attributes:
        count: of different values.
    """

    def __init__(self) -> None:
        self.count = 0
        self._stretches: list[tuple[np.ndarray, np.ndarray]] = []

    def values(self) -> np.ndarray:
        """(count,) int64 by number."""
        values = np.empty(self.count, np.int64)
        for met, theirs in self._stretches:
            values[theirs] = met
        return values

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """The numbers of values, none below zero. Like ``values``"""
        flat = values.reshape(-1)
        order = _order(flat)
        ranked = flat[order]
        differs = np.ones(len(ranked), bool)
        differs[1:] = ranked[1:] != ranked[:-1]
        numbers = np.empty(len(flat), np.int64)
        numbers[order] = self._of_rising(ranked[differs])[np.cumsum(differs) - 1]
        return numbers.reshape(values.shape)

    def _of_rising(self, values: np.ndarray) -> np.ndarray:
        numbers = np.full(len(values), -1)
        for met, theirs in self._stretches:
            at = np.minimum(np.searchsorted(met, values), len(met) - 1)
            same = met[at] == values
            numbers[same] = theirs[at[same]]
        new = np.flatnonzero(numbers < 0)
        numbers[new] = self.count + np.arange(len(new))
        if len(new):
            self.count += len(new)
            self._add(values[new], numbers[new])
        return numbers

    def _add(self, values: np.ndarray, numbers: np.ndarray) -> None:
        while self._stretches and len(self._stretches[-1][0]) < 4 * len(values):
            met, theirs = self._stretches.pop()
            values, numbers = np.concatenate([met, values]), np.concatenate([theirs, numbers])
            order = _order(values)
            values, numbers = values[order], numbers[order]
        self._stretches.append((values, numbers))


def _order(values: np.ndarray) -> np.ndarray:
    """Positions of values that are not negative, the smallest value first."""
    bits = len(values).bit_length()
    if int(values.max(initial=0)) >= 1 << (63 - bits):
        return np.argsort(values)
    ranked = values << bits | np.arange(len(values))
    ranked.sort()  # three times as fast as argsort
    return ranked & ((1 << bits) - 1)
