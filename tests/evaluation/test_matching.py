import numpy as np
import pytest

from semid.errors import InputError
from semid.evaluation import matching
from semid.evaluation.matching import check_lists, target_places
from semid.evaluation.targets import Targets
from semid.ranking import Ranking


def random_case(seed: int) -> tuple[np.ndarray, Targets]:
    """Lists of up to 6 of 12 items, 1 to 4 targets a query."""
    rng = np.random.default_rng(seed)
    items = np.argsort(rng.random((50, 12)), axis=1)[:, :6]
    items[np.arange(6) >= rng.integers(0, 7, 50)[:, None]] = -1
    counts = rng.integers(1, 5, 50) if seed % 2 else np.ones(50, np.int64)
    wanted = np.concatenate([rng.choice(12, count, replace=False) for count in counts])
    offsets = np.append(0, np.cumsum(counts))
    return items, Targets(items=wanted, weights=np.ones(len(wanted)), offsets=offsets)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [1, 60, 1 << 17])
def test_places_are_those_of_a_search_by_hand(seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_BLOCK_PLACES", block)
    items, targets = random_case(seed)
    for k in (1, 4, 6):
        lists = [items[query, :k].tolist() for query in targets.rows]
        expected = [row.index(item) if item in row else k for row, item in zip(lists, targets.items, strict=True)]
        assert target_places(items, targets, k).tolist() == expected


@pytest.mark.parametrize("seed", range(4))
def test_items_with_one_name_are_alike_and_the_first_counts(seed: int) -> None:
    items, targets = random_case(seed)
    names = np.append(np.arange(12) // 4, -1)
    lists = [[item // 4 if item >= 0 else None for item in items[query]] for query in targets.rows]
    expected = [
        row.index(item // 4) if item // 4 in row else 6 for row, item in zip(lists, targets.items, strict=True)
    ]
    assert target_places(items, targets, 6, names).tolist() == expected


def ranking(items: list[list[int]], scores: list[list[float]] | None = None) -> Ranking:
    rows = np.array(items)
    return Ranking(rows, np.zeros(rows.shape, np.float32) if scores is None else np.array(scores, np.float32))


def test_good_lists_pass() -> None:
    check_lists(ranking([[1, 2, -1], [-1, -1, -1]], [[2, 1, -np.inf], [-np.inf] * 3]), 2, [1, 3])
    check_lists(ranking([[1, 2, 2]]), 1, [2])  # what lies beyond k is not judged


@pytest.mark.parametrize(
    ("lists", "ks", "words"),
    [
        (ranking([[1, 2], [3, 3]]), [2], "query 1 names item 3 twice"),
        (ranking([[1, 2], [3, 4]], [[1, 0], [np.nan, 0]]), [2], "list of query 1 is not a number"),
        (ranking([[1, 2]]), [2], "1 ranked lists but 2 queries"),
        (ranking([[1, 2], [3, 4]]), [2, 3], "Lists of 2 items cannot be judged at k = 3"),
        (ranking([[1, 2], [3, 4]]), [2, 0], "at 0 were asked for: k must be at least 1"),
    ],
)
@pytest.mark.parametrize("block", [1, 1 << 17])
def test_bad_lists(lists: Ranking, ks: list[int], words: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_BLOCK_PLACES", block)
    with pytest.raises(InputError, match=words):
        check_lists(lists, 2, ks)
