"""Indexes of every kind: against exact search, as items come and go, saved, damaged, badly made."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from semid.errors import InputError
from semid.retrieval.ann import INDEX_NAME, ROWS_NAME, AnnIndex
from semid.retrieval.exact import exact_search

GENERATOR = np.random.default_rng(0)
VECTORS = GENERATOR.normal(size=(800, 16)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
QUERIES = GENERATOR.normal(size=(12, 16)).astype(np.float32)
ROWS = GENERATOR.permutation(2000)[:800]
FORGETTING = ("IVF16,Flat", "IVF16,SQfp16", "PCA16,IVF8,Flat")
KINDS = (*FORGETTING, "Flat", "SQ8", "HNSW16", "IVF8,PQ16x4fs,Refine(SQfp16)", "PCA16,HNSW16")


def _probe_all(index: AnnIndex) -> None:
    faiss: Any = pytest.importorskip("faiss")
    lists = faiss.extract_index_ivf(index.index)
    lists.nprobe = lists.nlist


def seen_best(depth: int) -> np.ndarray:
    """The best items of each query, so that the filter hurts most; the first query has seen nothing."""
    seen = exact_search(QUERIES, VECTORS, depth, item_rows=ROWS).items
    seen[0] = -1
    return seen


def test_flat_equals_exact_search() -> None:
    index = AnnIndex.build(VECTORS, ROWS)
    assert index.factory == "Flat"
    for seen in (None, seen_best(100)):
        found, truth = index.search(QUERIES, 10, seen), exact_search(QUERIES, VECTORS, 10, item_rows=ROWS, seen=seen)
        np.testing.assert_array_equal(found.items, truth.items)
        np.testing.assert_allclose(found.scores, truth.scores, rtol=1e-5)
        assert found.items.dtype == np.int64
        assert found.exact is not None
        assert found.exact.all()
    assert index.recall_against_exact(QUERIES, VECTORS, 10) == 1.0


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16", "PCA16,IVF8,Flat", "IVF16,SQ8,RFlat", "PCA16,HNSW16"])
def test_filter_widens_until_k_unseen_items_are_found(factory: str) -> None:
    index = AnnIndex.build(VECTORS, ROWS, factory)
    seen = seen_best(300)
    found = index.search(QUERIES, 20, seen)
    assert (found.items >= 0).all()
    assert np.isin(found.items, ROWS).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    for items, hidden in zip(found.items, seen, strict=True):
        assert len(set(items.tolist())) == 20
        assert not set(items.tolist()) & set(hidden.tolist())
    truth = exact_search(QUERIES, VECTORS, 20, item_rows=ROWS, seen=seen).items
    overlap = np.mean([len(set(a) & set(b)) for a, b in zip(found.items.tolist(), truth.tolist(), strict=True)])
    assert overlap >= 16


def test_scores_are_inner_products() -> None:
    found = AnnIndex.build(VECTORS, ROWS, "HNSW16").search(QUERIES, 5)
    position = {row: i for i, row in enumerate(ROWS.tolist())}
    for query, items, scores in zip(QUERIES, found.items.tolist(), found.scores, strict=True):
        np.testing.assert_allclose(scores, [VECTORS[position[i]] @ query for i in items], rtol=1e-5)
    assert found.exact is None


def test_fewer_items_than_asked_for() -> None:
    index = AnnIndex.build(np.eye(3, dtype=np.float32), np.array([7, 5, 9]), "IVF3,Flat")
    ranking = index.search(np.array([[1.0, 0, 0]]), 5, np.array([[9, -1]]))
    assert ranking.items.tolist() == [[7, 5, -1, -1, -1]]
    assert ranking.scores.tolist() == [[1, 0, -np.inf, -np.inf, -np.inf]]


def test_lists_are_probed_enough_by_default() -> None:
    vectors = np.random.default_rng(1).normal(size=(4000, 8)).astype(np.float32)
    index = AnnIndex.build(vectors, factory="IVF64,Flat")
    assert index.recall_against_exact(vectors[:100], vectors, 10) > 0.6
    assert AnnIndex.build(vectors, factory="IVF4,Flat").recall_against_exact(vectors[:50], vectors, 10) == 1.0


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,SQfp16"])
def test_kinds_that_compare_all_equal_exact_search_after_items_came_and_went(factory: str) -> None:
    """All lists are probed, so only what was added and removed decides."""
    index = AnnIndex.build(VECTORS[:500], ROWS[:500], factory)
    if factory != "Flat":
        _probe_all(index)
    index = index.with_items(VECTORS[500:700], ROWS[500:700]).without_items(ROWS[100:300])
    index = index.with_items(VECTORS[700:], ROWS[700:]).without_items(ROWS[650:750])
    left = np.r_[0:100, 300:650, 750:800]
    np.testing.assert_array_equal(np.sort(index.rows), np.sort(ROWS[left]))
    vectors = VECTORS.astype(np.float16).astype(np.float32) if "fp16" in factory else VECTORS
    found = index.search(QUERIES, 20)
    truth = exact_search(QUERIES, vectors[left], 20, item_rows=ROWS[left])
    np.testing.assert_allclose(found.scores, truth.scores, atol=2e-3 if "fp16" in factory else 1e-5)
    if "fp16" not in factory:
        np.testing.assert_array_equal(found.items, truth.items)
    assert index.changed == 600 / 500  # 300 came, 300 went
    assert index.is_worn


@pytest.mark.parametrize("factory", KINDS)
def test_removed_items_are_never_found_and_added_ones_are(factory: str) -> None:
    index = AnnIndex.build(VECTORS[:600], ROWS[:600], factory)
    old = index.search(VECTORS[:50], 5).items
    grown = index.with_items(VECTORS[600:], ROWS[600:])
    shrunk = grown.without_items(ROWS[:300])
    assert len(grown) == 800
    assert len(shrunk) == 500
    assert shrunk.hidden == (0 if factory in FORGETTING else 300)
    found = shrunk.search(np.concatenate([VECTORS[:50], VECTORS[600:]]), 5)
    assert (found.items >= 0).all()
    assert not np.isin(found.items, ROWS[:300]).any()
    own = (found.items[50:] == ROWS[600:, None]).any(axis=1)
    assert own.mean() > 0.95
    np.testing.assert_array_equal(index.search(VECTORS[:50], 5).items, old)  # is what it was


@pytest.mark.parametrize("factory", KINDS)
def test_search_for_all_items_finds_all_that_are_left(factory: str) -> None:
    left = ROWS[40:]
    index = AnnIndex.build(VECTORS, ROWS, factory).without_items(ROWS[:40])
    found = index.search(QUERIES[:3], 790).items
    for items in found.tolist():
        assert sorted(items)[30:] == sorted(left.tolist())
        assert items[760:] == [-1] * 30


def test_compressed_vectors_that_are_refined_rank_by_exact_scores() -> None:
    index = AnnIndex.build(VECTORS, ROWS, "IVF8,PQ8x4fs,RFlat")
    found = index.search(QUERIES, 10)
    position = np.argsort(ROWS)
    vectors = VECTORS[position[np.searchsorted(ROWS[position], found.items)]]
    np.testing.assert_allclose(found.scores, np.einsum("qkd,qd->qk", vectors, QUERIES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factory", KINDS)
def test_save_and_load(tmp_path: Path, factory: str) -> None:
    """Also those hidden, and positions that removed items left empty."""
    index = AnnIndex.build(VECTORS[:700], ROWS[:700], factory).without_items(ROWS[:60])
    index.save(tmp_path / "new")
    saved = sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
    assert 0 <= saved - index.nbytes < 1000  # the header of the rows
    again = AnnIndex.load(tmp_path / "new", dim=16)
    assert (again.factory, again.changed, again.hidden) == (factory, index.changed, index.hidden)
    np.testing.assert_array_equal(again.search(QUERIES, 10).items, index.search(QUERIES, 10).items)
    grown = again.with_items(VECTORS[700:], ROWS[700:])
    assert not np.isin(grown.search(VECTORS[:50], 5).items, ROWS[:60]).any()
    assert (grown.search(VECTORS[700:], 5).items == ROWS[700:, None]).any(axis=1).mean() > 0.95


@pytest.mark.parametrize(("changes", "worn"), [(0, False), (20, False), (40, True)])
def test_wear_counts_what_came_and_went(changes: int, worn: bool) -> None:
    index = AnnIndex.build(VECTORS[:200], ROWS[:200]).without_items(ROWS[:changes])
    index = index.with_items(VECTORS[200 : 200 + changes], ROWS[200 : 200 + changes])
    assert index.changed == 2 * changes / 200
    assert index.is_worn == worn


def test_a_device_without_faiss_for_it_is_searched_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    faiss: Any = pytest.importorskip("faiss")
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("this machine has a GPU that Faiss sees")
    caplog.set_level("INFO", logger="semid.retrieval.faiss_kinds")
    index = AnnIndex.build(VECTORS, ROWS, "IVF16,Flat", device="cuda")
    np.testing.assert_array_equal(
        index.search(QUERIES, 5).items, AnnIndex.build(VECTORS, ROWS, "IVF16,Flat").search(QUERIES, 5).items
    )
    assert "searched on the CPU" in caplog.text


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,SQfp16", "HNSW16"])
def test_on_a_gpu_the_same_items_are_found(factory: str) -> None:
    faiss: Any = pytest.importorskip("faiss")
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("needs faiss-gpu and a GPU")
    here = AnnIndex.build(VECTORS, ROWS, factory)
    there = AnnIndex.build(VECTORS, ROWS, factory, device="cuda")
    for seen in (None, seen_best(300)):
        found, truth = there.search(QUERIES, 20, seen), here.search(QUERIES, 20, seen)
        np.testing.assert_allclose(found.scores, truth.scores, atol=2e-3)
    gone = there.without_items(ROWS[:200]).search(QUERIES, 20)
    assert not np.isin(gone.items, ROWS[:200]).any()


def test_loading_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no index\.faiss"):
        AnnIndex.load(tmp_path)
    AnnIndex.build(VECTORS, ROWS).save(tmp_path)
    with pytest.raises(InputError, match="width 16, not 32"):
        AnnIndex.load(tmp_path, dim=32)
    save_file({"item_rows": np.arange(3)}, tmp_path / ROWS_NAME, metadata={"factory": "Flat", "num_built": "3"})
    with pytest.raises(InputError, match="800 vectors but 3 item rows"):
        AnnIndex.load(tmp_path)
    save_file({"item_rows": np.arange(800)}, tmp_path / ROWS_NAME)
    with pytest.raises(InputError, match="damaged"):
        AnnIndex.load(tmp_path)
    (tmp_path / ROWS_NAME).write_bytes(b"rubbish")
    with pytest.raises(InputError, match="damaged"):
        AnnIndex.load(tmp_path)
    (tmp_path / INDEX_NAME).write_bytes((tmp_path / INDEX_NAME).read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        AnnIndex.load(tmp_path)


def test_failing_to_write_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).mkdir()
    with pytest.raises(OSError, match="could not write"):
        AnnIndex.build(VECTORS, ROWS).save(tmp_path)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("Nonsense", "could not parse index string Nonsense"),
        ("PQ7", "PQ7"),
        ("LSH", "LSH"),
        ("nan", r"'nan' for width 16 \(could not parse index string nan\): use a Faiss factory string"),
        ("IVF0,Flat", "it has no lists"),
        ("HNSW0", "needs two links"),
        ("IVF4_HNSW1,Flat", "needs two links"),
        ("IVF-3,Flat", "use a Faiss factory string"),
        ("", "use a Faiss factory string"),
        ("IVF1024,Flat", "cannot train 'IVF1024,Flat' on 800 vectors"),
    ],
)
def test_bad_factory(factory: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        AnnIndex.build(VECTORS, ROWS, factory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vectors", "rows", "words"),
    [
        (np.zeros((0, 4)), None, "no items"),
        (np.ones(4), None, "give a matrix"),
        (np.full((2, 4), np.nan), None, "NaN"),
        (np.ones((2, 4)), np.array([1, 1]), "repeat"),
        (np.ones((2, 4)), np.array([1]), "2 item vectors but 1 item rows"),
    ],
)
def test_bad_vectors(vectors: np.ndarray, rows: np.ndarray | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        AnnIndex.build(vectors, rows)


def test_bad_queries() -> None:
    index = AnnIndex.build(VECTORS, ROWS)
    with pytest.raises(InputError, match="same width"):
        index.search(np.ones((1, 3)), 1)
    with pytest.raises(InputError, match="at least 1"):
        index.search(QUERIES, 0)
    with pytest.raises(InputError, match="NaN"):
        index.search(QUERIES * np.nan, 1)
    with pytest.raises(InputError, match="Seen items"):
        index.search(QUERIES, 1, np.zeros((3, 1), np.int64))


def test_without_faiss_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'semid\[cpu\]'"):
        AnnIndex.build(VECTORS, ROWS)
