"""Against loops over histories and items."""

import numpy as np
import pytest

from semid.data.plain_queries import queries_from_histories, seen_items
from semid.errors import InputError
from semid.retrieval import content_neighbours
from semid.retrieval.content_neighbours import ContentNeighbours

HISTORIES = [[1, 2], [5, 5, 3], [0]]


def test_nearest_by_content() -> None:
    rng = np.random.default_rng(0)
    content, known = rng.normal(size=(9, 4)), np.ones(9, bool)
    content[4], known[[4, 0]] = 0, False
    queries = queries_from_histories(HISTORIES, 9)
    candidates = np.array([0, 2, 4, 5, 6, 8])
    found = ContentNeighbours.of(content * 7, known).ranking(queries, candidates, 3, seen_items(queries))
    unit = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-30) * known[:, None]
    for row, history in enumerate(HISTORIES[:2]):
        wanted = sum(0.7**age * unit[item] for age, item in enumerate(history[::-1]))
        allowed = [item for item in candidates if known[item] and item not in history]
        expected = sorted(allowed, key=lambda item: -float(unit[item] @ wanted))[:3]
        assert found.items[row].tolist() == expected
    assert found.items[2].tolist() == [-1, -1, -1]  # nothing is known of item 0
    with pytest.raises(InputError, match="No candidate has content"):
        ContentNeighbours.of(content, known).ranking(queries, np.array([0, 4]), 1)


@pytest.mark.parametrize("gathered", [1, 40, 1 << 20])
def test_cosines_of_profiles_and_items(monkeypatch, gathered) -> None:
    monkeypatch.setattr(content_neighbours, "_GATHERED", gathered)
    rng = np.random.default_rng(1)
    content, known = rng.normal(size=(9, 4)).astype(np.float32), np.ones(9, bool)
    known[0] = False
    neighbours = ContentNeighbours.of(content, known)
    profiles = neighbours.profiles(queries_from_histories(HISTORIES, 9))
    items = np.array([[8, 0, -1, 2], [1, 2, 3, 4], [1, 2, 3, 4]])
    found = neighbours.cosines(profiles, items)
    for row, history in enumerate(HISTORIES):
        wanted = sum(
            0.7**age * content[item] / np.linalg.norm(content[item]) for age, item in enumerate(history[::-1])
        )
        for place, item in enumerate(items[row]):
            cosine = wanted @ content[item] / np.linalg.norm(wanted) / np.linalg.norm(content[item])
            expected = cosine if item > 0 and history != [0] else 0
            assert found[row, place] == pytest.approx(expected, abs=1e-6)
