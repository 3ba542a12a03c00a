"""What a model must beat: popularity, neighbours by who took them, neighbours by what they are."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING, Queries
from semid.data.plain_queries import seen_items
from semid.errors import InputError
from semid.generative.catalogue import Catalogue
from semid.ranking import Ranking
from semid.retrieval.content_neighbours import ContentNeighbours
from semid.retrieval.neighbours import followers_ranking, item_knn
from semid.retrieval.popularity import popularity_ranking

POPULARITY, RECENT, ITEM_KNN, CONTENT_KNN = "popularity", "recent", "item-knn", "content-knn"
BASELINES = (POPULARITY, RECENT, ITEM_KNN, CONTENT_KNN)
# Share of the training events, the latest, that recent popularity counts.
_RECENT = 0.1

Rank = Callable[[Queries], Ranking]


def check_baselines(names: Sequence[str]) -> None:
    """Raise InputError unless these are some of BASELINES."""
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise InputError(f"Unknown baseline {unknown[0]!r}: use any of {', '.join(BASELINES)}.")


def baselines(
    names: Sequence[str], dataset: Dataset, catalogue: Catalogue, candidates: np.ndarray, k: int, *, filter_seen: bool
) -> dict[str, Rank]:
    """How each baseline ranks queries; those for which the data has nothing are left out.

    * ``popularity``: training events of an item.
    * ``recent``: those among the latest tenth, by time.
    * ``item-knn``: cosine of the sets of users, summed over the history, ``0.7 ** age``.
    * ``content-knn``: cosine of the content that the model is told of, the history's summed likewise.

    Args:
        catalogue: whose content is compared.
        candidates: (C,) item rows that may be recommended.
        k: results per query.
        filter_seen: leave out what is in the history.
    """

    def by_counts(counts: np.ndarray) -> Rank:
        return lambda queries: popularity_ranking(counts, candidates, len(queries), k, hidden(queries))

    def hidden(queries: Queries) -> np.ndarray | None:
        return seen_items(queries) if filter_seen else None

    def by_users() -> Rank:
        neighbours = item_knn(dataset)
        return lambda queries: followers_ranking(neighbours, queries, candidates, k, hidden(queries))

    def by_content() -> Rank | None:
        known = catalogue.known.cpu().numpy()
        if not known[candidates].any():
            return None
        neighbours = ContentNeighbours.of(catalogue.content.float().cpu().numpy(), known)
        return lambda queries: neighbours.ranking(queries, candidates, k, hidden(queries))

    def by_recent_counts() -> Rank | None:
        counts = recent_counts(dataset)
        return None if counts is None else by_counts(counts)

    makers: Mapping[str, Callable[[], Rank | None]] = {
        POPULARITY: lambda: by_counts(dataset.train_counts),
        RECENT: by_recent_counts,
        ITEM_KNN: by_users,
        CONTENT_KNN: by_content,
    }
    made = {name: makers[name]() for name in names}
    return {name: rank for name, rank in made.items() if rank is not None}


def recent_counts(dataset: Dataset) -> np.ndarray | None:
    """(N,) events of each item among the latest tenth of the training events; None where no event has a time."""
    blocks = [dataset.events.times[rows] for rows in dataset.training_rows()]
    times = np.concatenate([*blocks, np.empty(0, np.int64)])
    times = times[times != TIME_MISSING]
    if not len(times):
        return None
    since = np.partition(times, int(len(times) * (1 - _RECENT)))[int(len(times) * (1 - _RECENT))]
    counts = np.zeros(dataset.num_items, np.int64)
    for rows in dataset.training_rows():
        late = rows[dataset.events.times[rows] >= since]
        counts += np.bincount(dataset.events.items[late], minlength=dataset.num_items)
    return counts
