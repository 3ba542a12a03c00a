"""Oracle: embeddings looked up one by one."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.features import Fields
from semid.errors import InputError
from semid.generative import features
from semid.generative.features import (
    FEATURES,
    Catalogue,
    ContextEncoder,
    FieldsEncoder,
    ItemEncoder,
    ListColumn,
    NextActionCondition,
)
from semid.generative.histories import BatchBuilder, training_segments

WIDTH = 8


def encoder(catalogue: Catalogue, *names: str, id_dropout: float = 0.0) -> ItemEncoder:
    torch.manual_seed(0)
    made = ItemEncoder(catalogue, WIDTH, names, id_dropout)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def rows_of(catalogue: Catalogue) -> torch.Tensor:
    return torch.arange(catalogue.num_items)


def test_fields_equal_a_loop(rich: Dataset, catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    made = FieldsEncoder(catalogue.item_sizes, tuple(c.size for c in catalogue.item_lists), WIDTH)
    rows = torch.tensor([3, 0, 23, 3, 11, 7])
    tags = rich.item_fields.lists["tags"]
    counts = np.diff(tags.offsets)[rows]
    assert counts.min() == 0
    assert counts.max() > 1
    expected = []
    for row in rows.tolist():
        vector = torch.zeros(WIDTH)
        for column, value in enumerate(rich.item_fields.values[row]):
            vector = vector + made.single.tables[column].weight[int(value)]
        values = tags.values[tags.offsets[row] : tags.offsets[row + 1]]
        if len(values):
            vector = vector + sum(made.lists.tables[0].weight[int(v)] for v in values) / len(values)
        expected.append(vector)
    actual = made(catalogue.item_fields, catalogue.item_lists, rows)
    torch.testing.assert_close(actual, torch.stack(expected))


def test_fields_of_lists_alone_and_of_no_rows(build: Any) -> None:
    torch.manual_seed(0)
    column = ListColumn.of(build.list_field([[1, 2], [], [0]], 3))
    made = FieldsEncoder((), (3,), WIDTH)
    table = made.lists.tables[0].weight
    result = made(torch.zeros((3, 0), dtype=torch.long), (column,), torch.tensor([1, 0, 2, 0]))
    mean = (table[1] + table[2]) / 2
    torch.testing.assert_close(result, torch.stack([torch.zeros(WIDTH), mean, table[0], mean]))
    nothing = made(torch.zeros((3, 0), dtype=torch.long), (column,), torch.empty(0, dtype=torch.long))
    assert nothing.shape == (0, WIDTH)


def test_values_of_long_columns_share_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_FIELD_ROWS", 3)
    made = FieldsEncoder((8, 2), (), WIDTH)
    assert [table.num_embeddings for table in made.single.tables] == [3, 2]
    values = torch.tensor([[1, 0], [4, 0], [2, 0]])
    result = made(values, (), torch.arange(3))
    assert torch.equal(result[0], result[1])
    assert not torch.equal(result[0], result[2])


def test_only_looked_up_rows_of_large_columns_have_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SPARSE_FIELD_ROWS", 5)
    made = FieldsEncoder((8, 2), (9,), WIDTH, sparse=True)
    column = ListColumn(torch.tensor([0, 2, 3]), torch.tensor([1, 8, 1]), 9)
    made(torch.tensor([[3, 0], [7, 1]]), (column,), torch.tensor([0, 1])).sum().backward()
    large, small, listed = made.single.tables[0].weight, made.single.tables[1].weight, made.lists.tables[0].weight
    assert large.grad.coalesce().indices().tolist() == [[3, 7]]
    assert listed.grad.coalesce().indices().tolist() == [[1, 8]]
    assert not small.grad.is_sparse
    assert not any(table.sparse for table in FieldsEncoder((8, 2), (9,), WIDTH).single.tables)


def test_each_part_of_an_item_is_a_switch(catalogue: Catalogue) -> None:
    """All parts together are the sum of the parts alone, each computed here by hand."""
    made = encoder(catalogue, "id", "codes", "content", "fields")
    rows = torch.tensor([0, 5, 6, 22, 23, 5])
    assert (made.ids, made.codes, made.content, made.unknown, made.fields) != (None,) * 5
    ids = made.ids.tables[0].weight[rows] * catalogue.trained[rows, None]
    codes = torch.stack(
        [
            sum(made.codes.tables[level].weight[code] for level, code in enumerate(catalogue.codes[row].tolist()))
            for row in rows.tolist()
        ]
    )
    content = torch.stack(
        [
            made.content.weight @ catalogue.content[row] + made.content.bias if catalogue.known[row] else made.unknown
            for row in rows.tolist()
        ]
    )
    fields = made.fields(catalogue.item_fields, catalogue.item_lists, rows)
    torch.testing.assert_close(made(catalogue, rows), ids + codes + content + fields)

    for name, expected in {"id": ids, "codes": codes, "content": content, "fields": fields}.items():
        alone = encoder(catalogue, name)
        alone.load_state_dict({key: made.state_dict()[key] for key in alone.state_dict()})
        torch.testing.assert_close(alone(catalogue, rows), expected)


def test_cold_items_have_no_id_part(rich: Dataset, catalogue: Catalogue) -> None:
    assert catalogue.trained.tolist() == (rich.train_counts > 0).tolist()
    assert not catalogue.trained[22:].any()
    vectors = encoder(catalogue, "id")(catalogue, rows_of(catalogue))
    assert ((vectors == 0).all(dim=1) == ~catalogue.trained).all()


def test_ids_are_dropped_while_training_only(catalogue: Catalogue) -> None:
    made = encoder(catalogue, "id", id_dropout=0.25)
    rows = torch.full((4000,), int(catalogue.trained.nonzero()[0]))
    assert (made(catalogue, rows) != 0).all()
    dropped = (made.train()(catalogue, rows) == 0).all(dim=1).float().mean()
    assert 0.22 < dropped < 0.28


def test_large_catalogues_hash_ids_into_two_tables(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_ID_ROWS", 10)
    monkeypatch.setattr(features, "ID_PRIMES", (5, 7))
    everything = replace(catalogue, trained=torch.ones(catalogue.num_items, dtype=torch.bool))
    made = encoder(everything, "id")
    first, second = (table.weight for table in made.ids.tables)
    assert (len(first), len(second)) == (5, 7)
    vectors = made(everything, rows_of(everything))
    expected = torch.stack([first[row % 5] + second[row % 7] for row in range(everything.num_items)])
    torch.testing.assert_close(vectors, expected)
    assert len(vectors.unique(dim=0)) == everything.num_items  # 24 < 5 · 7: no two items share both


def test_context_adds_action_and_time(rich: Dataset) -> None:
    segments = training_segments(rich, 6, profile=False)
    batch = BatchBuilder(segments, profile=False).build([[g] for g in range(len(segments))], 6)
    torch.manual_seed(0)
    made = ContextEncoder(3, WIDTH, ("id", "action", "time"))
    action, gap, hour, weekday = (
        *[table.weight for table in made.action.tables],
        *[table.weight for table in made.time.tables],
    )
    expected = action[batch.actions] + gap[batch.gaps] + hour[batch.hours] + weekday[batch.weekdays]
    torch.testing.assert_close(made(batch), expected)
    only = ContextEncoder(3, WIDTH, ("action",))
    assert only.time is None
    torch.testing.assert_close(only(batch), only.action.tables[0].weight[batch.actions])
    assert ContextEncoder(3, WIDTH, ("id",))(batch) is None


def test_next_action_is_film_and_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    made, states, actions = NextActionCondition(2, WIDTH), torch.randn(5, WIDTH), torch.tensor([0, 1, 2, 1, 0])
    assert torch.equal(made(states, actions), states)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    for row, action in enumerate(actions.tolist()):
        hidden = F.silu(made.action.weight[action])
        out = made.film.weight @ hidden + made.film.bias
        torch.testing.assert_close(made(states, actions)[row], states[row] * (1 + out[:WIDTH]) + out[WIDTH:])


def test_catalogue_gathers_the_dataset(rich: Dataset, catalogue: Catalogue) -> None:
    assert catalogue.num_items == 24
    assert catalogue.num_actions == 3
    assert catalogue.has_times
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
    assert catalogue.to(torch.device("cpu")).trie.num_candidates == 24


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
    assert bare.available() == ("id", "codes", "content")
    timed = build.catalogue(build.dataset(build.log([[0, 1], [2]], [[TIME_MISSING, -5], [TIME_MISSING]]), 4))
    assert "time" in timed.available()
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
