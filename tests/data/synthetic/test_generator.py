"""Synthetic data: the same from the same seed, shaped like the release, with a structure that can be learnt."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.formats.pickles import read_plain
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.data.synthetic.catalogue import Catalogue, Projection, shuffled
from semid.data.synthetic.generator import SyntheticConfig, synthesise
from semid.errors import InputError

TINY = SyntheticConfig(users=60, items=80, embeddings=(("81", 4), ("85", 3)), seed=1, mean_events=10)
MIDDLE = SyntheticConfig(users=2500, items=1500, embeddings=(("81", 32), ("82", 16), ("85", 8), ("new", 4)), seed=7)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("synthetic") / "h"
    synthesise(target, MIDDLE)
    return target


@pytest.fixture(scope="module")
def dataset(raw: Path) -> Dataset:
    return prepare(raw, raw.with_name("dataset"), PrepareConfig(float_dtype="float32"))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, config in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=2))):
        synthesise(tmp_path / name, config)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    assert set(first) == {
        "indexer.pkl",
        "seq/part-00000.parquet",
        "item_feat/part-00000.parquet",
        "user_feat/part-00000.parquet",
        "candidate/part-00000.parquet",
        "mm_emb/emb_81_4_parquet/part-00000.parquet",
        "mm_emb/emb_85_3_parquet/part-00000.parquet",
    }
    assert all(first[name] != other[name] for name in first if "indexer" not in name)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2049, 30)])
def test_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    users, items = size
    synthesise(tmp_path / "h", SyntheticConfig(users=users, items=items, embeddings=(("81", 1),)))
    dataset = prepare(tmp_path / "h", tmp_path / "dataset")
    assert (dataset.num_users, len(np.unique(dataset.user_ids))) == (users, users)
    assert dataset.events.items.max() < items <= dataset.num_items


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"users": 0}, "users=0"),
        ({"items": 0}, "items=0"),
        ({"seed": -1}, "seed=-1"),
        ({"mean_events": 0}, "mean_events=0"),
        ({"mean_events": 101}, "mean_events=101"),
        ({"cold_share": 1.0}, "cold_share=1.0"),
        ({"null_actions": -0.1}, "null_actions=-0.1"),
        ({"embeddings": (("81", 0),)}, "Embedding 81 has width 0"),
        ({"embeddings": (("81", 2), ("81", 3))}, "Embedding 81 is given twice"),
        ({"embeddings": (("a/b", 2),)}, "Embedding id 'a/b'"),
    ],
)
def test_bad_settings(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticConfig(**config)


def test_trouble_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        if what == "users":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path / "h", TINY, interrupt)
    assert not list(tmp_path.iterdir())
    (tmp_path / "h").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        synthesise(tmp_path / "h", TINY)


def test_it_has_the_shape_of_the_release(raw: Path, dataset: Dataset) -> None:
    indexer = read_plain(raw / "indexer.pkl")
    assert {len(indexer["u"]), len(set(indexer["u"].values()))} == {2500}
    assert sorted(indexer["i"].values()) == list(range(1, 1501))
    assert len(indexer["f"]) == 21
    candidates = pq.read_table(raw / "candidate")
    cold = ~np.isin(candidates["item_id"].to_numpy(), list(indexer["i"]))
    assert 0.17 < cold.mean() < 0.23
    flags = pc.struct_field(candidates["102"].combine_chunks(), "cold_start").to_numpy(zero_copy_only=False)
    assert not np.nan_to_num(flags)[~cold].any()
    assert 0.05 < np.nan_to_num(flags)[cold].mean() < 0.3
    users = pq.read_table(raw / "seq")["user_id"].to_numpy()
    assert (np.sort(users) == np.arange(1, 2501)).all()
    assert not (users == np.arange(1, 2501)).all(), "the order of users is not that of their re-ids"
    lengths = np.diff(dataset.events.offsets)
    assert 3 <= lengths.min() <= lengths.max() <= 100
    assert 36 < lengths.mean() < 42


def test_coverages(raw: Path, dataset: Dataset) -> None:
    for name, share in (("81", 0.99), ("82", 0.88), ("85", 0.39), ("new", 0.9)):
        assert abs(dataset.embedding(name).valid.mean() - share) < 0.04
    cold = dataset.embedding("82").valid[1500:]
    assert 0.75 < cold.mean() < 0.97
    table = pq.read_table(raw / "mm_emb/emb_85_8_parquet")
    assert 50 < table["emb"].null_count < len(table) / 2
    missing = dict(zip(dataset.item_fields.names, (dataset.item_fields.values == 0).mean(axis=0), strict=True))
    assert abs(missing["115"] - 0.68) < 0.04
    assert missing["121"] == 0.0
    assert 0.0 < missing["118"] < 0.05


def test_actions_sessions_and_repeats(dataset: Dataset) -> None:
    shares = np.bincount(dataset.events.actions, minlength=3) / dataset.events.num_events
    assert 0.8 < shares[0] < 0.93
    assert 0.05 < shares[1] < 0.15
    assert 0.01 < shares[2] < 0.06
    offsets = dataset.events.offsets
    inner = np.ones(dataset.events.num_events - 1, bool)
    inner[offsets[1:-1] - 1] = False
    gaps = np.diff(dataset.events.times)[inner]
    assert gaps.min() >= 0
    assert 0.08 < (gaps > 1800).mean() < 0.17, "a new session every eight events or so"
    assert np.median(gaps) < 120
    distinct = [len(np.unique(dataset.events.items[a:b])) / (b - a) for a, b in pairwise(offsets)]
    assert np.mean(distinct) > 0.95


def test_vectors_show_the_tree(dataset: Dataset) -> None:
    """The nearest neighbour by vector is far more often of the same leaf than a random item is."""
    catalogue = Catalogue(1500, dataset.num_items - 1500, MIDDLE.seed)
    embedding = dataset.embedding("81")
    numbers = np.arange(1500)
    leaves = np.empty(1500, np.int64)
    leaves[catalogue.reids(numbers) - 1] = np.searchsorted(catalogue.starts, numbers, side="right") - 1
    rows = np.flatnonzero(embedding.valid[:1500])
    vectors = embedding.vectors[rows] - embedding.vectors[rows].mean(axis=0)
    norms = np.linalg.norm(vectors, axis=1)
    assert norms.std() > 0.05 * norms.mean()
    cosine = (vectors / norms[:, None]) @ (vectors / norms[:, None]).T
    np.fill_diagonal(cosine, -1)
    same = leaves[rows] == leaves[rows][cosine.argmax(axis=1)]
    assert same.mean() > 0.5
    assert catalogue.num_leaves == 64


def test_popularity_is_far_below_what_the_sequence_tells(dataset: Dataset) -> None:
    """HR@10 of the most popular items, of the last item's leaf, and of what followed the last item in training."""
    catalogue = Catalogue(1500, dataset.num_items - 1500, MIDDLE.seed)
    numbers = np.arange(1500)
    leaves = np.full(dataset.num_items, -1)
    leaves[catalogue.reids(numbers) - 1] = np.searchsorted(catalogue.starts, numbers, side="right") - 1
    queries, counts = dataset.split("test"), dataset.train_counts
    targets, last = queries.target_items, dataset.events.items[queries.end - 1]
    popular = np.argsort(-counts)[:10]
    by_leaf = {leaf: sorted(np.flatnonzero(leaves == leaf), key=lambda i: -counts[i])[:10] for leaf in range(64)}
    from_popularity = np.isin(targets, popular).mean()
    from_leaf = np.mean([t in by_leaf[leaves[i]] for t, i in zip(targets, last, strict=True)])
    assert 0.01 < from_popularity < 0.1
    assert from_leaf > 0.3
    follows = np.zeros((dataset.num_items, dataset.num_items), np.int32)
    for start, end in zip(dataset.events.offsets[:-1], dataset.train_end, strict=True):
        history = dataset.events.items[start:end]
        np.add.at(follows, (history[:-1], history[1:]), 1)
    from_transitions = np.mean([t in np.argsort(-follows[i])[:10] for t, i in zip(targets, last, strict=True)])
    assert from_transitions > from_leaf


def test_clicks_tell_taste(dataset: Dataset) -> None:
    """Item columns of the large clusters agree more often between a user's clicks than between users."""
    column = dataset.item_fields.values[:, dataset.item_fields.names.index("101")]
    clicked = dataset.events.actions > 0
    owner = np.repeat(np.arange(dataset.num_users), np.diff(dataset.events.offsets))[clicked]
    values = column[dataset.events.items[clicked]]
    same_user = (owner[1:] == owner[:-1]) & (values[1:] > 1) & (values[:-1] > 1)
    agree = (values[1:] == values[:-1])[same_user].mean()
    apart = (values == np.roll(values, 1000)).mean()
    assert agree > 2 * apart


def test_permutation_and_blocks() -> None:
    for count in (1, 2, 10, 97, 1000):
        assert sorted(shuffled(np.arange(count), count)) == list(range(count))
    catalogue = Catalogue(3000, 500, 0)
    assert np.concatenate([catalogue.block(n).numbers for n in range(catalogue.num_blocks)]).tolist() == list(
        range(3500)
    )
    raw = catalogue.raw_ids(np.arange(3500))
    assert len(np.unique(raw)) == 3500
    assert raw.min() > 3500
    vectors, there = Projection(catalogue, "81", 6).vectors(catalogue.block(2), 2)
    assert vectors.shape == (len(there), 6)
    again, _ = Projection(catalogue, "81", 6).vectors(catalogue.block(2), 2)
    np.testing.assert_array_equal(vectors, again)
