"""What of a history is judged again, and what may be claimed of the rest."""

import numpy as np

from semid.data.events import TIME_MISSING
from semid.data.plain_queries import queries_from_histories
from semid.data.timeline import Timeline
from semid.pipeline.evidence import Past, _of_popularity

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


def test_popularity_is_that_before_the_last_event_of_the_history() -> None:
    """Item 3 was taken 10 seconds, 2 days and 9 days before; item 1 only at that very moment, and later."""
    day, now = 86_400, 1_600_000_000
    times = np.array([now, now + 50, now - 9 * day, now - 2 * day, now - 10])
    timeline = Timeline(offsets=np.array([0, 0, 2, 2, 5]), times=times - (now - 9 * day), first=now - 9 * day)
    queries = queries_from_histories([[0], [0]], 4)
    queries.log.times[:] = [now, TIME_MISSING]
    found = _of_popularity(timeline, queries, np.array([[1, 3, -1], [1, 3, -1]]))
    np.testing.assert_allclose(found["day"], [[0, np.log(2), 0], [0, 0, 0]])
    np.testing.assert_allclose(found["week"], [[0, np.log(3), 0], [0, 0, 0]])
    np.testing.assert_allclose(found["freshness"], [[0, 1 / (1 + 10 / day), 0], [0, 0, 0]])
    assert not np.any(list(_of_popularity(None, queries, np.array([[1], [3]])).values()))
