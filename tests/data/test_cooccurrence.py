import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from semid.data.cooccurrence import (
    cooccurrence_counts,
    cooccurrence_embedding,
    positive_pointwise_information,
    sample_pairs,
    split_users,
)
from semid.data.dataset import Dataset
from semid.errors import InputError

MakeDataset = Callable[..., Dataset]


def cluster_histories(rng: np.random.Generator, num_users: int = 300) -> list[list[int]]:
    """Users who stay in one of five clusters of ten items, nine times out of ten."""
    histories = []
    for user in range(num_users):
        inside = rng.random(12) < 0.9
        cluster = user % 5
        histories.append(
            np.where(inside, cluster * 10 + rng.integers(10, size=12), rng.integers(50, size=12)).tolist()
        )
    return histories


def test_counts_by_hand(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([[0, 1, 2], [1, 0], [3, 3]], num_items=4)
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2
    expected[1, 2] = expected[2, 1] = 1
    expected[0, 2] = expected[2, 0] = 0.5
    np.testing.assert_allclose(cooccurrence_counts(dataset, window=2).toarray(), expected)


def test_information_follows_its_formula(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(cluster_histories(np.random.default_rng(0), 40), num_items=50)
    counts = cooccurrence_counts(dataset, window=3)
    dense = counts.toarray()
    totals = dense.sum(1)
    contexts = totals**0.75 / (totals**0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.maximum(np.log((dense / dense.sum()) / np.outer(totals / dense.sum(), contexts)), 0)
    np.testing.assert_allclose(
        positive_pointwise_information(counts).toarray(), np.where(dense > 0, expected, 0), atol=1e-12
    )


def test_planted_clusters_are_recovered(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(cluster_histories(np.random.default_rng(1)), num_items=50)
    embedding = cooccurrence_embedding(dataset, dim=8)
    assert embedding.name == "cooccurrence"
    assert embedding.vectors.shape == (50, 8)
    assert embedding.vectors.dtype == np.float32
    similarity = embedding.vectors @ embedding.vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1)[:, :9]
    assert (nearest // 10 == np.arange(50)[:, None] // 10).mean() > 0.95


def test_held_out_events_do_not_matter(make_dataset: MakeDataset) -> None:
    rng = np.random.default_rng(2)
    dataset = make_dataset(cluster_histories(rng), num_items=50, held_out=2)
    changed = np.array(dataset.events.items)
    last = dataset.events.offsets[1:]
    changed[last - 1] = rng.integers(50, size=len(last))
    changed[last - 2] = rng.integers(50, size=len(last))
    assert (changed != dataset.events.items).any()
    other = dataclasses.replace(dataset, events=dataclasses.replace(dataset.events, items=changed))
    one, two = cooccurrence_embedding(dataset, dim=8), cooccurrence_embedding(other, dim=8)
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.valid, two.valid)


def test_items_without_company_are_not_valid(make_dataset: MakeDataset) -> None:
    embedding = cooccurrence_embedding(make_dataset([[0, 1], [0, 1], [2, 3], [4], [5, 5]], num_items=7), dim=4)
    np.testing.assert_array_equal(embedding.valid, [True, True, True, True, False, False, False])
    assert not embedding.vectors[4:].any()
    np.testing.assert_allclose(np.linalg.norm(embedding.vectors[:4], axis=1), 1, rtol=1e-5)


def test_items_beyond_the_width_are_not_valid(make_dataset: MakeDataset) -> None:
    embedding = cooccurrence_embedding(make_dataset([[0, 1]] * 5 + [[2, 3]], num_items=4), dim=2)
    np.testing.assert_array_equal(embedding.valid, [False, False, True, True])  # the rarer pair tells more
    assert not embedding.vectors[~embedding.valid].any()


def test_blocks_of_users_change_nothing(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(cluster_histories(np.random.default_rng(3), 50), num_items=50)
    whole = cooccurrence_counts(dataset, window=4).toarray()
    monkeypatch.setattr("semid.data.dataset._BLOCK_USERS", 7)
    np.testing.assert_allclose(cooccurrence_counts(dataset, window=4).toarray(), whole)


def test_mistakes_are_named(make_dataset: MakeDataset) -> None:
    with pytest.raises(InputError, match="No two items"):
        cooccurrence_embedding(make_dataset([[0], [1]], num_items=2))
    with pytest.raises(InputError, match="window 0"):
        cooccurrence_embedding(make_dataset([[0, 1]], num_items=2), window=0)


def test_pairs_are_those_that_are_counted(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(cluster_histories(np.random.default_rng(0)), 50, held_out=3)
    counted = np.stack(cooccurrence_counts(dataset, window=2).nonzero(), axis=1)
    pairs = sample_pairs(dataset, window=2)
    np.testing.assert_array_equal(pairs, counted[np.lexsort(counted.T[::-1])])


def test_some_pairs_of_many(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(cluster_histories(np.random.default_rng(0)), 50)
    every = {tuple(pair) for pair in sample_pairs(dataset)}
    some = sample_pairs(dataset, count=100, seed=1)
    assert len({tuple(pair) for pair in some}) == 100
    assert {tuple(pair) for pair in some} <= every
    np.testing.assert_array_equal(some, sample_pairs(dataset, count=100, seed=1))
    assert not np.array_equal(some, sample_pairs(dataset, count=100, seed=2))


def test_pairs_come_from_training_alone(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([[0, 1, 2, 3], [4, 5, 2, 3], [6, 2, 3]], 7, held_out=2)
    np.testing.assert_array_equal(sample_pairs(dataset), [[0, 1], [1, 0], [4, 5], [5, 4]])
    with pytest.raises(InputError, match="No two items"):
        sample_pairs(make_dataset([[0, 1], [2, 3]], 4, held_out=1))
    with pytest.raises(InputError, match="window 0"):
        sample_pairs(dataset, window=0)


def test_users_are_split(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(cluster_histories(np.random.default_rng(0)), 50)
    most, some = split_users(dataset, share=0.25, seed=3)
    counts = [cooccurrence_counts(part, window=3) for part in (dataset, most, some)]
    assert abs(counts[1] + counts[2] - counts[0]).max() < 1e-9
    assert 0.15 < counts[2].sum() / counts[0].sum() < 0.35
    np.testing.assert_array_equal(split_users(dataset, share=0.25, seed=3)[1].train_end, some.train_end)
