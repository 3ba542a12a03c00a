"""Hand-worked lists."""

import numpy as np
import pytest

from semid.errors import InputError
from semid.ranking import Ranking
from semid.retrieval.budget import fill_budget


def ranking(*rows: list[int]) -> Ranking:
    items = np.array(rows)
    return Ranking(items, np.where(items < 0, -np.inf, -np.arange(items.shape[1])).astype(np.float32))


def test_places_alternate_by_share() -> None:
    clicks, conversions = ranking([1, 2, 3, 4]), ranking([11, 12, 13, 14])
    assert fill_budget([clicks, conversions], (3, 1)).items.tolist() == [[1, 2, 11, 3]]
    assert fill_budget([clicks, conversions], (2, 2)).items.tolist() == [[1, 11, 2, 12]]
    assert fill_budget([clicks, conversions], (0, 4)).items.tolist() == [[11, 12, 13, 14]]


def test_nothing_is_listed_twice_and_each_has_its_number() -> None:
    generator = np.random.default_rng(0)
    rows = [[generator.permutation(30)[:10].tolist() for _ in range(50)] for _ in range(3)]
    places = (5, 3, 2)
    filled = fill_budget([ranking(*row) for row in rows], places)
    assert filled.items.shape == (50, 10)
    assert (np.diff(filled.scores, axis=1) < 0).all()
    for query, items in enumerate(filled.items.tolist()):
        assert len(set(items)) == 10
        # Without regard to repetition each ranking would fill its places with its first items.
        for count, row in zip(places, rows, strict=True):
            assert set(row[query][:count]) <= set(items)


def test_others_take_the_places_of_a_list_that_ends() -> None:
    clicks, conversions = ranking([1, 2, 3, 4], [1, -1, -1, -1]), ranking([11, -1, -1, -1], [1, -1, -1, -1])
    filled = fill_budget([clicks, conversions], (1, 3))
    assert filled.items.tolist() == [[11, 1, 2, 3], [1, -1, -1, -1]]
    assert filled.scores[1].tolist() == [0, -np.inf, -np.inf, -np.inf]


@pytest.mark.parametrize("places", [(1,), (0, 0), (2, -1), ()])
def test_budgets_that_do_not_fit(places: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not fit 2 rankings"):
        fill_budget([ranking([1]), ranking([2])], places)
