"""A dataset that is nothing but histories."""

from collections.abc import Callable

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.data.events import EventLog
from semid.data.features import Fields


def make_dataset(
    histories: list[list[int]], num_items: int, held_out: int = 0, times: list[list[int]] | None = None
) -> Dataset:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    items = np.array([item for history in histories for item in history], np.int32)
    moments = np.array([time for user in times for time in user] if times else np.zeros(len(items)), np.int64)
    events = EventLog(items, np.zeros(len(items), np.int8), moments, offsets)
    return Dataset(
        events=events,
        train_end=np.maximum(offsets[1:] - held_out, offsets[:-1]),
        queries={},
        candidates=np.arange(num_items, dtype=np.int32),
        item_fields=Fields((), (), np.zeros((num_items, 0), np.int32)),
        user_fields=Fields((), (), np.zeros((len(histories), 0), np.int32)),
        embeddings={},
        action_names=("interaction",),
        action_weights=(1.0,),
    )


@pytest.fixture(name="make_dataset", scope="session")
def _make_dataset() -> Callable[..., Dataset]:
    return make_dataset
