"""Oracle: the dataset it is made from."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.features import Fields
from semid.errors import InputError
from semid.generative.catalogue import Catalogue
from semid.generative.config import FEATURES


def test_catalogue_gathers_the_dataset(rich: Dataset, catalogue: Catalogue) -> None:
    assert catalogue.num_items == 24
    assert catalogue.num_actions == 3
    assert catalogue.has_times
    times = rich.events.times
    assert catalogue.time_origin == int(np.median(times[times != TIME_MISSING]))
    assert catalogue.available() == FEATURES
    known = catalogue.content[catalogue.known]
    torch.testing.assert_close(known.square().mean(), torch.ones(()))
    assert (catalogue.content[~catalogue.known] == 0).all()
    assert torch.equal(catalogue.user_fields[:-1], torch.from_numpy(rich.user_fields.values).long())
    assert (catalogue.user_fields[-1] == 0).all()
    likes = catalogue.user_lists[0]
    assert likes.offsets[rich.num_users] == likes.offsets[rich.num_users + 1] == len(likes.values)


def test_the_trie_holds_all_items(catalogue: Catalogue) -> None:
    assert sorted(catalogue.trie.items.tolist()) == list(range(24))
    assert catalogue.trie.num_codes == catalogue.num_codes
    assert catalogue.to(torch.device("cpu")).trie.num_items == 24


def test_content_of_unknown_items_is_never_read(rich: Dataset) -> None:
    ids = SemanticIds(np.arange(24, dtype=np.int32)[:, None], (24,))
    known = torch.arange(24) < 20
    content = torch.full((24, 4), torch.nan).masked_fill(known[:, None], 3.0)
    made = Catalogue.of(rich, ids, content, known)
    torch.testing.assert_close(made.content[:20], torch.ones(20, 4))
    assert (made.content[20:] == 0).all()
    nobody = Catalogue.of(rich, ids, content, torch.zeros(24, dtype=torch.bool))
    assert (nobody.content == 0).all()
    assert "content" not in nobody.available()


def test_features_that_the_data_lacks_are_not_available(build: Any) -> None:
    bare = build.catalogue(build.dataset(build.log([[0, 1], [2]]), 4))
    assert bare.available() == ("id", "codes", "prefixes", "content", "user")
    timed = build.catalogue(build.dataset(build.log([[0, 1], [2]], [[TIME_MISSING, -5], [TIME_MISSING]]), 4))
    assert {"time", "session", "popularity", "fourier"} <= set(timed.available())
    lists = Fields((), (), np.zeros((4, 0), np.int32), {"tags": build.list_field([[1]] * 4, 3)})
    assert "fields" in build.catalogue(build.dataset(build.log([[0, 1]]), 4, item_fields=lists)).available()


def test_another_number_of_items_is_refused(rich: Dataset) -> None:
    ids = SemanticIds(np.zeros((5, 1), np.int32), (3,))
    with pytest.raises(InputError, match=r"has codes for 5 items but this dataset has 24: fit the tokenizer"):
        Catalogue.of(rich, ids, torch.zeros(5, 2), torch.ones(5, dtype=torch.bool))


def test_mapped_files_are_read_without_warnings(build: Any, rich: Dataset) -> None:
    """A dataset on disk hands out arrays that cannot be written, which torch warns of unless they are copied."""

    def frozen(array: np.ndarray) -> np.ndarray:
        view = array.view()
        view.setflags(write=False)
        return view

    def freeze(fields: Fields) -> Fields:
        lists = {
            name: replace(column, offsets=frozen(column.offsets), values=frozen(column.values))
            for name, column in fields.lists.items()
        }
        return replace(fields, values=frozen(fields.values), lists=lists)

    mapped = replace(rich, item_fields=freeze(rich.item_fields), user_fields=freeze(rich.user_fields))
    ids = SemanticIds(frozen(np.arange(24, dtype=np.int32)[:, None]), (24,))
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = Catalogue.of(mapped, ids, torch.ones(24, 2), torch.ones(24, dtype=torch.bool))
    finally:
        torch.set_warn_always(False)
    assert torch.equal(made.item_fields, torch.from_numpy(rich.item_fields.values).long())


def test_moving_keeps_the_contents(catalogue: Catalogue) -> None:
    moved = catalogue.to(torch.device("cpu"))
    assert torch.equal(moved.codes, catalogue.codes)
    assert moved.item_lists[0].size == catalogue.item_lists[0].size
    assert torch.equal(moved.user_lists[0].values, catalogue.user_lists[0].values)
    assert moved.available() == catalogue.available()


def test_actions_that_no_event_names_are_no_feature(build: Any, rich: Dataset) -> None:
    unnamed = replace(rich, events=replace(rich.events, actions=np.full_like(rich.events.actions, -1)))
    assert "action" in build.catalogue(rich, (3, 3, 3)).available()
    assert "action" not in build.catalogue(unnamed, (3, 3, 3)).available()
