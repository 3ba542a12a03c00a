import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semid.data.events import EventLog, Queries


def make_queries(target_counts: list[int]) -> Queries:
    log = EventLog(np.arange(20, dtype=np.int32), np.zeros(20, np.int8), np.arange(20), np.array([0, 12, 20]))
    offsets = np.concatenate([[0], np.cumsum(target_counts)]).astype(np.int64)
    number = len(target_counts)
    return Queries(
        log=log,
        users=np.arange(number, dtype=np.int32) % 2,
        start=np.zeros(number, np.int64),
        end=np.arange(number),
        target_items=np.arange(offsets[-1], dtype=np.int32),
        target_actions=(np.arange(offsets[-1]) % 3).astype(np.int8),
        target_offsets=offsets,
    )


def test_log_counts() -> None:
    log = make_queries([1]).log
    assert (log.num_users, log.num_events) == (2, 20)


def test_batches_hold_few_queries_where_one_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories of 0, 1, …, 9 events, padded to the longest: at most 12 events a batch, or one query."""
    monkeypatch.setattr("semid.data.events._PADDED_EVENTS", 12)
    ends = [batch.end.tolist() for batch in make_queries([1] * 10).batches(4)]
    assert ends == [[0, 1, 2, 3], [4, 5], [6], [7], [8], [9]]
    monkeypatch.setattr("semid.data.events._PADDED_EVENTS", 5)
    assert [batch.end.tolist() for batch in make_queries([1] * 4).batches(2)] == [[0, 1], [2], [3]]
    assert list(make_queries([]).batches(4)) == []


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_select_takes_each_query_with_its_targets(counts: list[int], data: st.DataObject) -> None:
    queries = make_queries(counts)
    rows = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10))
    chosen = queries.select(np.array(rows, np.int64))
    assert len(chosen) == len(rows)
    for new, old in enumerate(rows):
        assert (chosen.users[new], chosen.end[new]) == (queries.users[old], queries.end[old])
        mine = slice(*chosen.target_offsets[new : new + 2])
        its = slice(*queries.target_offsets[old : old + 2])
        np.testing.assert_array_equal(chosen.target_items[mine], queries.target_items[its])
        np.testing.assert_array_equal(chosen.target_actions[mine], queries.target_actions[its])
    assert chosen.log is queries.log
