"""Oracle: embeddings looked up one by one."""

from typing import Any

import numpy as np
import pytest
import torch

from semid.data.dataset import Dataset
from semid.generative import fields
from semid.generative.catalogue import Catalogue, ListColumn
from semid.generative.fields import FieldsEncoder, HashedIds

WIDTH = 8


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
    parts = made(catalogue.item_fields, catalogue.item_lists, rows)
    assert len(parts) == len(made) == 3
    torch.testing.assert_close(torch.stack(parts).sum(0), torch.stack(expected))


def test_fields_of_lists_alone_and_of_no_rows(build: Any) -> None:
    torch.manual_seed(0)
    column = ListColumn.of(build.list_field([[1, 2], [], [0]], 3))
    made = FieldsEncoder((), (3,), WIDTH)
    table = made.lists.tables[0].weight
    (result,) = made(torch.zeros((3, 0), dtype=torch.long), (column,), torch.tensor([1, 0, 2, 0]))
    mean = (table[1] + table[2]) / 2
    torch.testing.assert_close(result, torch.stack([torch.zeros(WIDTH), mean, table[0], mean]))
    (nothing,) = made(torch.zeros((3, 0), dtype=torch.long), (column,), torch.empty(0, dtype=torch.long))
    assert nothing.shape == (0, WIDTH)


def test_values_of_long_columns_share_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_FIELD_ROWS", 3)
    made = FieldsEncoder((8, 2), (), WIDTH)
    assert [table.num_embeddings for table in made.single.tables] == [3, 2]
    values = torch.tensor([[1, 0], [4, 0], [2, 0]])
    result = torch.stack(made(values, (), torch.arange(3))).sum(0)
    assert torch.equal(result[0], result[1])
    assert not torch.equal(result[0], result[2])


def test_only_looked_up_rows_of_large_columns_have_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "SPARSE_FIELD_ROWS", 5)
    made = FieldsEncoder((8, 2), (9,), WIDTH, sparse=True)
    column = ListColumn(torch.tensor([0, 2, 3]), torch.tensor([1, 8, 1]), 9)
    parts = made(torch.tensor([[3, 0], [7, 1]]), (column,), torch.tensor([0, 1]))
    torch.stack(parts).sum().backward()
    large, small, listed = made.single.tables[0].weight, made.single.tables[1].weight, made.lists.tables[0].weight
    assert large.grad.coalesce().indices().tolist() == [[3, 7]]
    assert listed.grad.coalesce().indices().tolist() == [[1, 8]]
    assert not small.grad.is_sparse
    assert not any(table.sparse for table in FieldsEncoder((8, 2), (9,), WIDTH).single.tables)


def test_many_ids_are_hashed_into_two_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HashedIds, "MAX_ID_ROWS", 10)
    monkeypatch.setattr(HashedIds, "PRIMES", (5, 7))
    assert [table.num_embeddings for table in HashedIds(10, WIDTH, sparse=False).tables.tables] == [10]
    made = HashedIds(24, WIDTH, sparse=True)
    first, second = (table.weight for table in made.tables.tables)
    assert (len(first), len(second)) == (5, 7)
    vectors = made(torch.arange(24))
    torch.testing.assert_close(vectors, torch.stack([first[row % 5] + second[row % 7] for row in range(24)]))
    assert len(vectors.unique(dim=0)) == 24  # 24 < 5 · 7: no two ids share both
    vectors.sum().backward()
    assert first.grad.is_sparse
