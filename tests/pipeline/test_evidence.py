"""What of a history is judged again, and what may be claimed of the rest."""

import numpy as np

from semid.generative.recommender import queries_from_histories
from semid.pipeline.evidence import Past

HISTORIES = [[4, 1, 4, 7], [2], [9, 8, 1]]


def test_the_latest_different_candidates_are_judged_again() -> None:
    past = Past.of(queries_from_histories(HISTORIES, 10), np.array([1, 2, 4, 7, 9]), 20)
    assert past.again.tolist() == [[7, 4, 1], [2, -1, -1], [1, 9, -1]]
    assert past.items.tolist() == [[4, 1, 4, 7], [2, -1, -1, -1], [9, 8, 1, -1]]
    assert past.all_judged.tolist() == [True, True, True]


def test_of_long_histories_only_the_latest_and_then_nothing_is_claimed() -> None:
    past = Past.of(queries_from_histories(HISTORIES, 10), np.array([1, 2, 4, 7, 9]), 2)
    assert past.again.tolist() == [[7, 4], [2, -1], [1, 9]]
    assert past.all_judged.tolist() == [False, True, True]
    longer = Past.of(queries_from_histories(HISTORIES, 10), np.array([1, 2, 4, 7, 9]), 3)
    assert longer.again.tolist() == [[7, 4, 1], [2, -1, -1], [1, 9, -1]]
    assert longer.all_judged.all()


def test_nothing_is_judged_again_where_the_seen_is_left_out() -> None:
    past = Past.of(queries_from_histories(HISTORIES, 10), np.arange(10), 20, filter_seen=True)
    assert past.again.shape == (3, 0)
    assert past.all_judged.all()
    assert past.items.shape == (3, 4)
