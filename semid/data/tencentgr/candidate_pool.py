"""TencentGR's candidates: those the indexer knows are its items, the others become items of their own."""

from typing import Any

import numpy as np

from semid.data.tencentgr.feature_spool import Features, FeatureSpool
from semid.data.tencentgr.indexer import ItemLookup


class CandidatePool:
    """Gives every candidate an item row: known raw ids theirs, cold ones the rows after, in file order.

    Features of known items come from the item features, those of cold ones from the candidate file. A raw id
    given twice counts once.

    Args:
        items: the items of the indexer.
        features: of the items; those of cold candidates are added.
    """

    def __init__(self, items: ItemLookup, features: FeatureSpool) -> None:
        self._items = items
        self._features = features
        self._cold: dict[int, int] = {}
        self._rows: list[np.ndarray] = []
        self._num_read = 0

    def append(self, raw: np.ndarray, features: Features, where: str) -> None:
        """Add candidates by raw id (n,)."""
        rows = self._items.rows(raw)
        fresh = np.zeros(len(raw), np.bool_)
        for place in np.flatnonzero(rows < 0):
            raw_id = int(raw[place])
            fresh[place] = raw_id not in self._cold
            rows[place] = self._cold.setdefault(raw_id, len(self._items.raw) + len(self._cold))
        self._rows.append(rows)
        self._num_read += len(raw)
        if fresh.any():
            self._features.append(rows[fresh], selected(features, fresh), where)

    def all_items(self) -> ItemLookup:
        """Every item, cold ones included, by raw id."""
        return ItemLookup(np.concatenate([self._items.raw, np.fromiter(self._cold, np.int64, len(self._cold))]))

    def rows(self) -> np.ndarray:
        """Item rows of the candidates, sorted; empty if there are none. (C,) int64"""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self._rows]))

    def facts(self) -> dict[str, Any]:
        """Numbers for the report."""
        distinct = len(self.rows())
        return {"rows": self._num_read, "repeated": self._num_read - distinct, "cold": len(self._cold)}


def selected(features: Features, kept: np.ndarray) -> Features:
    """The features of the rows where ``kept`` (n,) is true."""
    lists = {}
    for name, (lengths, codes) in features.lists.items():
        lists[name] = lengths[kept], codes[np.repeat(kept, lengths)]
    return Features({name: codes[kept] for name, codes in features.single.items()}, lists)
