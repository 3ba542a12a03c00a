"""Some queries with the lists of every mode, so that people see what figures stand for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from semid.data.dataset import Dataset
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.pipeline.answering import Answerer
from semid.pipeline.naming import Named, Names

_ASKED = 500
_HISTORY = 8


@dataclass(frozen=True, kw_only=True)
class ExampleUser:
    """One query.

    Attributes:
        user: raw id.
        events: of the whole history.
        history: its last items, oldest first.
        targets: items that came next.
        lists: by mode, the best first.
    """

    user: int | str
    events: int
    history: tuple[Named, ...]
    targets: tuple[Named, ...]
    lists: Mapping[str, tuple[Named, ...]]

    def hits(self, mode: str) -> tuple[bool, ...]:
        """Which items of a list came next."""
        return tuple(item in self.targets for item in self.lists[mode])


def example_users(
    answerer: Answerer, dataset: Dataset, split: str, names: Names | None = None, *, count: int = 12
) -> list[ExampleUser]:
    """Queries of a fixed sample: in turns such that only one mode hits, that all hit, that none does.

    Args:
        names: of the items; by default those of the dataset.

    Raises:
        InputError: no such split.
    """
    queries = dataset.split(split).sample(_ASKED)
    rankings = {mode: answer.ranking for mode, answer in answerer.answers(queries, answerer.modes).items()}
    targets = Targets.of(queries)
    hits = np.stack([query_metrics(r, targets, answerer.config.k).hit_rate > 0 for r in rankings.values()])
    kinds = [
        *(hits[mode] & (hits.sum(axis=0) == 1) for mode in range(len(hits))),
        hits.all(axis=0),
        ~hits.any(axis=0),
    ]
    rows = _in_turns([np.flatnonzero(kind).tolist() for kind in kinds], count)
    listed = [ranking.items[rows] for ranking in rankings.values()]
    begins = np.maximum(queries.start, queries.end - _HISTORY)
    histories = [queries.log.items[begins[row] : queries.end[row]] for row in rows]
    wanted = [targets.items[targets.offsets[row] : targets.offsets[row + 1]] for row in rows]
    every = np.concatenate([*(items.ravel() for items in listed), *histories, *wanted, np.empty(0, np.int64)])
    named = (names or Names(dataset)).items(every[every >= 0])

    def all_of(items: np.ndarray) -> tuple[Named, ...]:
        return tuple(named[row] for row in items.tolist() if row >= 0)

    return [
        ExampleUser(
            user=dataset.user_ids[queries.users[row : row + 1]].tolist()[0] if queries.users[row] >= 0 else "unknown",
            events=int(queries.end[row] - queries.start[row]),
            history=all_of(histories[place]),
            targets=all_of(wanted[place]),
            lists={mode: all_of(items[place]) for mode, items in zip(rankings, listed, strict=True)},
        )
        for place, row in enumerate(rows)
    ]


def _in_turns(groups: list[list[int]], count: int) -> list[int]:
    """The first of each group, then the second of each, and so on; each once."""
    longest = max(map(len, groups), default=0)
    order = [group[place] for place in range(longest) for group in groups if place < len(group)]
    return list(dict.fromkeys(order))[:count]
