"""Negatives where the catalogue is too large for the full softmax: several proposals in one bank, each corrected.

N items, P positives, M bank entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.generative.losses import Pairs, equal_pairs

PROPOSALS = ("uniform", "popular", "recent", "hard")
# Popularity tempered as in word2vec (arXiv 1310.4546).
_POPULARITY_EXPONENT = 0.75
_RECENT_SHARE = 0.1
_MOST_LOOKED_AT = 1 << 22
_REDRAWS = 3


@dataclass(frozen=True, eq=False)
class Bank:
    """Items that the positives of a batch are compared with: the positives themselves first, then the negatives.

    Attributes:
        rows: (M,) int64 item rows.
        log_expected: (M,) float32, log of how often each entry's item is expected in such a bank.
        excluded: positions and entries that are no negatives for them: the same item, or another target of the same
            history, wherever it comes from.
    """

    rows: Tensor
    log_expected: Tensor
    excluded: Pairs


@dataclass(frozen=True, eq=False)
class NegativeSampler:
    """Draws banks; everything lies on the device of training.

    The positives of the batch are always in it. Further negatives come from

    * ``uniform``: any item;
    * ``popular``: items by their number of training events to the power of 3/4;
    * ``recent``: items of the latest tenth of the training events;
    * ``hard``: items whose first code is that of some positive of the batch.

    An entry is corrected by the expected count of its item from *all* of them together, the balance heuristic of
    multiple importance sampling, so that an item that several proposals favour is not counted too much.

    Attributes:
        share: (N,) share of each item among training events.
        recent: (R,) items of the latest training events, one entry an event.
        cells: (N,) first code of each item.
        counts: how many negatives come from each proposal.
    """

    share: Tensor
    recent: Tensor
    cells: Tensor
    counts: Mapping[str, int]

    @staticmethod
    def of(dataset: Dataset, cells: Tensor, counts: Mapping[str, int]) -> "NegativeSampler":
        """Read popularity and the latest events off a dataset's training events.

        Args:
            cells: (N,) first code of each item, on the device of training.
            counts: of each proposal.
        """
        popularity = torch.from_numpy(dataset.train_counts).to(cells.device).float()
        recent = latest_items(dataset) if counts.get("recent") else np.empty(0, np.int64)
        share = popularity / popularity.sum().clamp(min=1)
        return NegativeSampler(share, torch.from_numpy(recent).to(cells.device), cells, counts)

    def draw(self, targets: Tensor, histories: Tensor) -> Bank:
        """A bank for the positives ``targets`` (P,), each from one of the ``histories`` (P,)."""
        rows, expected = [targets], len(targets) * self.share
        for name in PROPOSALS:
            count = self.counts.get(name, 0)
            if count:
                drawn, probability = getattr(self, f"_{name}")(count, targets)
                rows.append(drawn)
                expected = expected + count * probability
        bank = torch.cat(rows)
        positions, companions = equal_pairs(histories, histories)
        pair, entries = equal_pairs(targets[companions], bank)
        return Bank(bank, expected[bank].clamp(min=1e-12).log(), (positions[pair], entries))

    def draw_own(self, count: int, targets: Tensor, histories: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:
        """(P, count) uniform items for each of the positives (P,), drawn again where their history has them.

        Args:
            histories: (P,) of each positive.
            seen: histories and items of events, (E,) each.
        """
        size = len(self.share)
        known = torch.cat([seen[0] * size + seen[1], histories * size + targets]).sort().values
        drawn = torch.randint(size, (len(targets), count), device=targets.device)
        for _ in range(_REDRAWS):
            key = histories[:, None] * size + drawn
            place = torch.searchsorted(known, key).clamp(max=len(known) - 1)
            drawn = torch.where(known[place] == key, torch.randint_like(drawn, size), drawn)
        return drawn

    def _uniform(self, count: int, _: Tensor) -> tuple[Tensor, Tensor]:
        size = len(self.share)
        return torch.randint(size, (count,), device=self.share.device), self.share.new_tensor(1 / size)

    def _popular(self, count: int, _: Tensor) -> tuple[Tensor, Tensor]:
        return _inverse(self._tempered_sums, count), self._tempered

    def _recent(self, count: int, _: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.randint(len(self.recent), (count,), device=self.recent.device)
        return self.recent[places], self._recent_share

    def _hard(self, count: int, targets: Tensor) -> tuple[Tensor, Tensor]:
        """A random positive each, then any item of its cell."""
        order, sizes, starts = self._by_cell
        cells = self.cells[targets]
        chosen = cells[torch.randint(len(cells), (count,), device=cells.device)]
        place = (torch.rand(count, device=cells.device, dtype=torch.float64) * sizes[chosen]).long()
        asked = cells.bincount(minlength=len(sizes)) / len(cells)
        return order[starts[chosen] + place], (asked / sizes.clamp(min=1)).float()[self.cells]

    @cached_property
    def _tempered(self) -> Tensor:
        tempered = self.share**_POPULARITY_EXPONENT
        return tempered / tempered.sum()

    @cached_property
    def _tempered_sums(self) -> Tensor:
        return self._tempered.double().cumsum(0)

    @cached_property
    def _recent_share(self) -> Tensor:
        return self.recent.bincount(minlength=len(self.share)).float() / len(self.recent)

    @cached_property
    def _by_cell(self) -> tuple[Tensor, Tensor, Tensor]:
        sizes = self.cells.bincount()
        return self.cells.argsort(stable=True), sizes, sizes.cumsum(0) - sizes


def latest_items(dataset: Dataset) -> np.ndarray:
    """(R,) int64 items of the latest tenth of the training events, or of a sample of these if they are very many.

    Latest by time; where an event has none, by how near it is to the end of its user's history.
    """
    log, starts = dataset.events, dataset.events.offsets[:-1]
    ends = np.cumsum(dataset.train_end - starts)
    total = int(ends[-1]) if len(ends) else 0
    if total > _MOST_LOOKED_AT:
        drawn = np.sort(np.random.default_rng(0).integers(total, size=_MOST_LOOKED_AT))
    else:
        drawn = np.arange(total)
    users = np.searchsorted(ends, drawn, side="right")
    rows = dataset.train_end[users] - ends[users] + drawn
    times = log.times[rows]
    age = (ends[users] - 1 - drawn) / (dataset.train_end - starts)[users]
    when = -age if (times == TIME_MISSING).any() else times
    latest = when >= np.quantile(when, 1 - _RECENT_SHARE, method="lower") if total else np.zeros(0, bool)
    items: np.ndarray = log.items[rows[latest]].astype(np.int64)
    return items


def _inverse(sums: Tensor, count: int) -> Tensor:
    """``count`` draws from the distribution with these cumulative sums."""
    points = torch.rand(count, device=sums.device, dtype=torch.float64) * sums[-1]
    return torch.searchsorted(sums, points, right=True).clamp(max=len(sums) - 1)
