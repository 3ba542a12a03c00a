from pathlib import Path

import numpy as np
import pytest

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers import tokenizer as module
from semid.tokenizers import vectors as stored
from semid.tokenizers.rq_kmeans import RQKMeans
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig
from semid.tokenizers.vectors import StoredVectors, read_vectors, row_blocks, write_vectors


@pytest.fixture
def pair(tmp_path: Path) -> tuple[np.ndarray, StoredVectors]:
    """The same vectors in memory and on disk."""
    vectors = np.random.default_rng(0).standard_normal((9000, 5)).astype(np.float32)
    write_vectors(tmp_path / "v.npy", vectors)
    return vectors, StoredVectors(tmp_path / "v.npy")


def test_rows_on_disk_are_those_in_memory(pair: tuple[np.ndarray, StoredVectors]) -> None:
    vectors, on_disk = pair
    assert (len(on_disk), on_disk.shape, on_disk.dtype) == (9000, (9000, 5), np.float32)
    shuffled = np.random.default_rng(1).permutation(9000)
    for rows in (slice(3, 12), slice(None), slice(8999, 9500), shuffled, shuffled % 7 == 0, np.array([], np.int64)):
        np.testing.assert_array_equal(on_disk[rows], vectors[rows])
    np.testing.assert_array_equal(np.asarray(on_disk), vectors)


def test_blocks_cover_every_row_once() -> None:
    blocks = list(row_blocks(10, 4))
    assert blocks == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(row_blocks(0)) == []


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="does not hold vectors"):
        read_vectors(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", np.zeros((3, 2)))
    with pytest.raises(InputError, match="holds float64"):
        read_vectors(tmp_path / "v.npy")


def test_a_fit_on_disk_is_the_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    valid = rng.random(500) < 0.9
    given = [Embedding("a", np.where(valid[:, None], rng.standard_normal((500, 12)), 0).astype(np.float16), valid)]
    config = TokenizerConfig(embeddings=("a",), codes=16, svd=8, sample=400)
    in_memory = SemanticIdTokenizer(config).fit(given)
    monkeypatch.setattr(stored, "MEMORY_BYTES", 1000)
    on_disk = SemanticIdTokenizer(config).fit(given, scratch=tmp_path)
    assert isinstance(on_disk.vectors_, StoredVectors)
    assert on_disk.report_ == in_memory.report_
    np.testing.assert_array_equal(on_disk.semantic_ids_.codes, in_memory.semantic_ids_.codes)
    on_disk.save(tmp_path / "t")
    loaded = SemanticIdTokenizer.load(tmp_path / "t")
    assert isinstance(loaded.vectors_, StoredVectors)
    np.testing.assert_array_equal(np.asarray(loaded.vectors_), in_memory.vectors_)
    del on_disk, loaded
    assert [path.name for path in tmp_path.iterdir()] == ["t"]  # the scratch file went with its owner


def test_a_large_catalogue_is_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    given = [Embedding("a", vectors, np.ones(3000, bool))]
    config = TokenizerConfig(embeddings=("a",), codes=16, svd=8)
    monkeypatch.setattr(module, "_FIT_BYTES", 2000 * 4 * 8)
    sampled = SemanticIdTokenizer(config).fit(given)
    seen = []
    monkeypatch.setattr(RQKMeans, "fit", lambda self, rows, **_: seen.append(len(rows)) or sampled.quantiser_)
    again = SemanticIdTokenizer(config).fit(given)
    assert seen == [2000]
    assert again.semantic_ids_.is_unique
    monkeypatch.setattr(module, "_FIT_BYTES", 1)
    SemanticIdTokenizer(config).fit(given)
    assert seen[1] == 64 * 16
