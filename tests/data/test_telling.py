"""Columns made from the targets are found; columns that merely go with them, or name each user, are not."""

import numpy as np
import pytest

from semid.data.events import EventLog, Queries
from semid.data.features import FIELD_MISSING, FIELD_RESERVED, Fields
from semid.data.telling import telling_columns

NUM_ITEMS, NUM_USERS = 50, 3000


def queries_for(targets: np.ndarray) -> Queries:
    """One query a user, with one event of history."""
    count = len(targets)
    log = EventLog(np.zeros(count, np.int32), np.zeros(count, np.int8), np.zeros(count), np.arange(count + 1))
    users = np.arange(count, dtype=np.int32)
    return Queries(log, users, users, users + 1, targets, np.zeros(count, np.int8), np.arange(count + 1))


def columns(**values: np.ndarray) -> Fields:
    matrix = np.stack([column + FIELD_RESERVED for column in values.values()], axis=1)
    return Fields(tuple(values), tuple(matrix.max(0) + 1), matrix.astype(np.int32))


@pytest.mark.parametrize("popular", [False, True])
def test_what_tells_is_found(popular: bool) -> None:
    rng = np.random.default_rng(0)
    chance = np.arange(1, NUM_ITEMS + 1) ** (-1.0 if popular else 0.0)
    targets = rng.choice(NUM_ITEMS, NUM_USERS, p=chance / chance.sum()).astype(np.int32)
    noisy = np.where(rng.random(NUM_USERS) < 0.7, targets, rng.integers(0, NUM_ITEMS, NUM_USERS))
    fields = columns(
        taste=targets // 10,
        last_bought=(targets * 7 + 3) % NUM_ITEMS,
        mostly=noisy,
        nobody=np.arange(NUM_USERS),
        city=rng.integers(0, 20, NUM_USERS),
        pair=np.arange(NUM_USERS) // 2,
    )
    assert telling_columns(fields, queries_for(targets)) == ["last_bought", "mostly"]


def test_missing_values_tell_nothing() -> None:
    """Every target is that of the commonest user, whose value is missing."""
    targets = np.where(np.arange(400) % 3, 7, np.arange(400) % 50).astype(np.int32)
    values = np.full((400, 1), FIELD_MISSING, np.int32)
    assert telling_columns(Fields(("gone",), (2,), values), queries_for(targets)) == []


def test_few_queries_prove_nothing() -> None:
    targets = np.tile(np.arange(10, dtype=np.int32), 6)
    assert telling_columns(columns(same=targets), queries_for(targets)) == []
    assert telling_columns(columns(same=targets), queries_for(targets[:1])) == []
    targets = np.tile(targets, 10)
    assert telling_columns(columns(same=targets), queries_for(targets)) == ["same"]
    assert telling_columns(columns(same=targets), queries_for(targets[:0])) == []
    assert telling_columns(Fields((), (), np.zeros((600, 0), np.int32)), queries_for(targets)) == []
