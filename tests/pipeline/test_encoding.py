from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.errors import InputError
from semid.pipeline import encoding
from semid.pipeline.encoding import encode, encode_catalogue, encode_items, open_items
from semid.tokenizers.tokenizer import SemanticIdTokenizer


@pytest.fixture(scope="module")
def tokenizer(road) -> SemanticIdTokenizer:
    return SemanticIdTokenizer.load(road.folder / "runs/tokenizer")


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture
def vectors(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ten new items in both embeddings, the last four lacking the second one."""
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(10, dim)).astype(np.float32) for dim in (8, 12))
    second[6:] = 0
    np.save(tmp_path / "82.npy", first)
    np.save(tmp_path / "85.npy", second)
    pq.write_table(pa.table({"item_id": np.arange(10), "emb": list(first)}), tmp_path / "82.parquet")
    other_order = [5, 4, 3, 2, 1, 0]
    pq.write_table(pa.table({"item_id": other_order, "emb": list(second[other_order])}), tmp_path / "85.parquet")
    return first, second


def expected(tokenizer: SemanticIdTokenizer, first: np.ndarray, second: np.ndarray) -> list[list[int]]:
    valid = [vectors.any(axis=1) for vectors in (first, second)]
    embeddings = [Embedding("82", first, valid[0]), Embedding("85", second, valid[1])]
    codes: list[list[int]] = tokenizer.encode(embeddings).tolist()
    return codes


def encode_files(tokenizer, files, names, dataset=None) -> pa.Table:
    with open_items(tokenizer, files, names) as items:
        return pa.Table.from_batches(encode_items(tokenizer, items, dataset=dataset))


@pytest.mark.parametrize("kind", ["npy", "parquet"])
@pytest.mark.parametrize("order", [("82", "85"), ("85", "82")])
def test_files_give_the_codes_of_their_vectors(tokenizer, tmp_path, vectors, kind, order):
    table = encode_files(tokenizer, [tmp_path / f"{name}.{kind}" for name in order], order)
    codes = dict(zip(table["item_id"].to_pylist(), table["codes"].to_pylist(), strict=True))
    assert [codes[item] for item in range(10)] == expected(tokenizer, *vectors)


def test_an_embedding_without_a_file_is_missing(tokenizer, tmp_path, vectors):
    first, second = vectors
    table = encode_files(tokenizer, [tmp_path / "82.npy"], ["82"])
    assert table["codes"].to_pylist() == expected(tokenizer, first, np.zeros_like(second))


def test_items_of_the_dataset_keep_their_codes(tokenizer, dataset, tmp_path):
    ids = [int(dataset.item_ids[7]), 12, int(dataset.item_ids[3])]
    vectors = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    pq.write_table(pa.table({"item_id": ids, "emb": list(vectors)}), tmp_path / "82.parquet")
    table = encode_files(tokenizer, [tmp_path / "82.parquet"], ["82"], dataset=dataset)
    own = tokenizer.semantic_ids_.codes
    assert table["item_id"].to_pylist() == ids
    assert table["codes"].to_pylist() == [
        own[7].tolist(),
        expected(tokenizer, vectors, np.zeros((3, 12), np.float32))[1],
        own[3].tolist(),
    ]


def test_the_catalogue_has_its_own_codes(tokenizer, dataset):
    table = pa.Table.from_batches(encode_catalogue(tokenizer, dataset))
    assert len(set(map(tuple, table["codes"].to_pylist()))) == dataset.num_items


def test_files_that_contradict_each_other(tokenizer, tmp_path, vectors):
    np.save(tmp_path / "short.npy", vectors[1][:4])
    with pytest.raises(InputError, match="different numbers of rows"):
        encode_files(tokenizer, [tmp_path / "82.npy", tmp_path / "short.npy"], ["82", "85"])
    with pytest.raises(InputError, match="all of one kind"):
        encode_files(tokenizer, [tmp_path / "82.npy", tmp_path / "85.parquet"], ["82", "85"])
    with pytest.raises(InputError, match="one file for each"):
        encode_files(tokenizer, [tmp_path / "82.npy"] * 2, ["82", "82"])
    strings = pa.table({"item_id": ["a"], "emb": [[1.0] * 12]})
    pq.write_table(strings, tmp_path / "text.parquet")
    with pytest.raises(InputError, match="integers in one file and strings in another"):
        encode_files(tokenizer, [tmp_path / "82.parquet", tmp_path / "text.parquet"], ["82", "85"])
    pq.write_table(
        pa.table({"item_id": [1], "emb": pa.array([None], pa.list_(pa.float32()))}), tmp_path / "e.parquet"
    )
    with pytest.raises(InputError, match="no vectors"):
        encode_files(tokenizer, [tmp_path / "e.parquet"], ["82"])


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_killed_encode_goes_on(tokenizer, tmp_path, vectors, monkeypatch, kind):
    monkeypatch.setattr(encoding, "BLOCK_ROWS", 3)
    files, out = [tmp_path / f"{name}.{kind}" for name in ("82", "85")], tmp_path / "codes.parquet"
    whole, calls = type(tokenizer).encode, []

    def stops_at_the_third(self, embeddings, **rest):
        calls.append(len(embeddings[0].vectors))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, embeddings, **rest)

    monkeypatch.setattr(type(tokenizer), "encode", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        encode(tokenizer, files, (), dataset=None, out=out)
    assert not out.exists()
    assert encode(tokenizer, files, (), dataset=None, out=out, resume=True) == 10
    assert calls == [3, 3, 3, 3, 1]  # blocks one and two were not made again
    monkeypatch.undo()
    rows = pq.read_table(out).to_pydict()
    codes = dict(zip(rows["item_id"], rows["codes"], strict=True))
    assert [codes[item] for item in range(10)] == expected(tokenizer, *vectors)
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "codes"))]
    assert left == ["codes.parquet"]


def test_resuming_with_other_input_is_refused(tokenizer, tmp_path, vectors, monkeypatch):
    monkeypatch.setattr(encoding, "BLOCK_ROWS", 3)
    first, _ = vectors
    first[8] = np.nan
    np.save(tmp_path / "82.npy", first)
    out = tmp_path / "codes.jsonl"
    with pytest.raises(InputError, match=r"item 8 of .*82.npy has NaN or infinity"):
        encode(tokenizer, [tmp_path / "82.npy"], ["82"], dataset=None, out=out)
    np.save(tmp_path / "82.npy", vectors[0][:7])
    with pytest.raises(InputError, match="other settings or inputs: start without --resume"):
        encode(tokenizer, [tmp_path / "82.npy"], ["82"], dataset=None, out=out, resume=True)
    assert encode(tokenizer, [tmp_path / "82.npy"], ["82"], dataset=None, out=out) == 7
