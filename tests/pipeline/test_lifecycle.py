"""A shop in datasets: at the fit, a day later in another order, and with embeddings trained again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.artifacts import open_artifact
from semid.data.dataset import Dataset
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.errors import InputError
from semid.pipeline.fitting import COOCCURRENCE, chosen_embeddings, fit_tokenizer
from semid.pipeline.lifecycle import append_items, dataset_drift, match_rows, refit_tokenizer
from semid.tokenizers.lifecycle.drift import DriftConfig
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

VECTORS = (np.random.default_rng(0).standard_normal((400, 8)) * 0.8 ** np.arange(8)).astype(np.float32)
OLD = np.arange(300)
LATER = np.random.default_rng(1).permutation(np.arange(20, 400))  # 20 items are gone, 100 are new
QUICK = {"rounds": 4, "iterations": 10, "beam": 4}
CONFIG = TokenizerConfig(embeddings=("a",), codes=12, svd=6, options=QUICK)


def shop(folder: Path, items: np.ndarray, vectors: np.ndarray = VECTORS, name: str = "item-{}") -> Dataset:
    """A prepared dataset of some items, with a few histories."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    ids = [name.format(item) for item in items.tolist()]
    pq.write_table(
        pa.table({"item_id": ids, "shelf": [f"s{item % 6}" for item in items.tolist()]}), raw / "items.parquet"
    )
    seen = [(user, ids[(7 * user + 11 * place) % len(ids)], place) for user in range(30) for place in range(6)]
    users, taken, places = zip(*seen, strict=True)
    table = {"user_id": list(users), "item_id": list(taken), "timestamp": list(places)}
    pq.write_table(pa.table(table), raw / "interactions.parquet")
    np.save(raw / "emb_a.npy", vectors[items])
    prepare(raw, folder / "data", PrepareConfig())
    return Dataset.open(folder / "data")


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Dataset]:
    folder = tmp_path_factory.mktemp("shop")
    first, later = shop(folder / "first", OLD), shop(folder / "later", LATER)
    fit_tokenizer(first, CONFIG, folder / "tokenizer")
    return folder / "tokenizer", first, later


def codes_by_id(tokenizer: SemanticIdTokenizer, dataset: Dataset) -> dict[str, tuple[int, ...]]:
    return {
        raw: tuple(row) for raw, row in zip(dataset.item_ids, tokenizer.semantic_ids_.codes.tolist(), strict=True)
    }


def test_append_follows_the_ids(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    path, first, later = shops
    tokenizer = SemanticIdTokenizer.load(path)
    before = codes_by_id(tokenizer, first)
    report = append_items(tokenizer, later, tmp_path / "t", settings={"data": "later"})
    loaded = SemanticIdTokenizer.load(tmp_path / "t")
    after = codes_by_id(loaded, later)
    assert set(after) == {f"item-{item}" for item in LATER.tolist()}
    assert all(after[raw] == before[raw] for raw in after.keys() & before.keys())
    assert len(set(after.values())) == len(after) == 380
    assert (report.items, report.added, report.removed, report.since_fit) == (380, 100, 20, 100)
    assert report.in_use == 380 / 12**3
    assert report.relative_error == loaded.report_.relative_error
    assert loaded.artifact_ is not None
    loaded.artifact_.require_parent("dataset", open_artifact(later.artifact_or_raise.path, "dataset"))
    assert loaded.artifact_.settings == {"data": "later"}
    assert loaded.report_.purity[0].field == "shelf"
    np.testing.assert_array_equal(match_rows(loaded, later), np.arange(380))
    taken = set(before.values()) - {before[f"item-{item}"] for item in range(20)}
    nearest = [tuple(code) for code in loaded.encode([later.embedding("a")]).tolist()]
    new = [row for row, raw in enumerate(later.item_ids) if raw not in before]
    assert report.displaced >= np.mean([nearest[row] in taken for row in new])


def test_append_again_changes_nothing(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    path, _, later = shops
    tokenizer = SemanticIdTokenizer.load(path)
    append_items(tokenizer, later, tmp_path / "t")
    once = SemanticIdTokenizer.load(tmp_path / "t")
    report = append_items(SemanticIdTokenizer.load(tmp_path / "t"), later, tmp_path / "t")
    again = SemanticIdTokenizer.load(tmp_path / "t")
    assert (report.added, report.removed, report.displaced, report.since_fit) == (0, 0, 0.0, 100)
    np.testing.assert_array_equal(again.semantic_ids_.codes, once.semantic_ids_.codes)
    np.testing.assert_array_equal(again.fitted_, once.fitted_)


def test_drift_sees_what_came_since_the_fit(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    path, first, later = shops
    tokenizer = SemanticIdTokenizer.load(path)
    same = dataset_drift(tokenizer, first, DriftConfig())
    assert (same.verdict, same.new) == ("fine", None)
    before = dataset_drift(tokenizer, later, DriftConfig())
    assert before.verdict == "fine"
    assert before.new is not None
    assert before.new.items == 100
    append_items(tokenizer, later, None)
    tokenizer.save(tmp_path / "t", item_ids=later.item_ids)
    after = dataset_drift(SemanticIdTokenizer.load(tmp_path / "t"), later, DriftConfig())
    assert after.to_dict() == before.to_dict()


def test_refit_lists_the_items_that_changed(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    path, first, later = shops
    tokenizer = SemanticIdTokenizer.load(path)
    before = codes_by_id(tokenizer, first)
    report, _ = refit_tokenizer(tokenizer, later, tmp_path / "t", keep=False, changes=tmp_path / "changes.jsonl")
    loaded = SemanticIdTokenizer.load(tmp_path / "t")
    after = codes_by_id(loaded, later)
    changed = {raw for raw in after.keys() & before.keys() if after[raw] != before[raw]}
    assert report.changed == len(changed) > 0
    lines = (tmp_path / "changes.jsonl").read_text().splitlines()
    assert len(lines) == len(changed)
    assert loaded.fitted_.all()
    again = SemanticIdTokenizer.load(path)
    kept, _ = refit_tokenizer(again, later, None, keep=True, changes=tmp_path / "changes.parquet")
    table = pq.read_table(tmp_path / "changes.parquet").to_pydict()
    now = codes_by_id(again, later)
    assert kept.changed == len(table["item_id"]) < report.changed
    for raw, old, new in zip(table["item_id"], table["old_codes"], table["new_codes"], strict=True):
        assert before[raw] == tuple(old) != tuple(new) == now[raw]


def test_nothing_changed_is_an_empty_table(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    path, first, _ = shops
    tokenizer = SemanticIdTokenizer.load(path)
    report, _ = refit_tokenizer(tokenizer, first, None, tolerance=9.0, changes=tmp_path / "changes.parquet")
    assert report.changed == pq.read_table(tmp_path / "changes.parquet").num_rows == 0


def test_embeddings_trained_again(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    path, first, _ = shops
    turned = VECTORS @ np.linalg.qr(np.random.default_rng(3).standard_normal((8, 8)))[0].astype(np.float32)
    other = shop(tmp_path, LATER, turned)
    tokenizer = SemanticIdTokenizer.load(path)
    with pytest.raises(InputError, match=r"have changed by \d+ % of their variance .* refit --keep"):
        append_items(tokenizer, other, tmp_path / "t")
    assert not (tmp_path / "t").exists()
    drift = dataset_drift(tokenizer, other, DriftConfig())
    assert drift.refit
    assert "changed by" in drift.reasons[0]
    # the codes still say which items are alike, so a refit in the new space can keep them
    before = codes_by_id(tokenizer, first)
    report, _ = refit_tokenizer(tokenizer, other, None, keep=True)
    assert report.changed_share < 0.2
    assert sum(before[raw] == code for raw, code in codes_by_id(tokenizer, other).items() if raw in before) > 220


def test_codes_from_behaviour_too_go_on_by_content(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    _, first, later = shops
    config = TokenizerConfig(**chosen_embeddings(first), codes=12, svd=12, options=QUICK)
    tokenizer = fit_tokenizer(first, config, tmp_path / "t")
    assert tokenizer.config.behaviour == (COOCCURRENCE,)
    before = codes_by_id(tokenizer, first)
    assert dataset_drift(tokenizer, later, DriftConfig()).verdict == "fine"
    report = append_items(tokenizer, later, tmp_path / "t")
    after = codes_by_id(tokenizer, later)
    assert (report.added, report.removed) == (100, 20)
    assert all(after[raw] == before[raw] for raw in after.keys() & before.keys())
    trained_again = shop(tmp_path / "again", LATER, VECTORS[:, ::-1].copy())
    with pytest.raises(InputError, match="have changed by"):
        append_items(SemanticIdTokenizer.load(tmp_path / "t"), trained_again, None)
    refit, _ = refit_tokenizer(tokenizer, later, tmp_path / "t", changes=tmp_path / "changes.jsonl")
    assert refit.relative_error < 1
    assert SemanticIdTokenizer.load(tmp_path / "t").semantic_ids_.is_unique


def test_cooccurrence_of_other_histories(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    _, first, later = shops
    config = TokenizerConfig(embeddings=(COOCCURRENCE,), codes=8, levels=4, svd=6, options=QUICK)
    tokenizer = fit_tokenizer(first, config, tmp_path / "t")
    for act in (lambda: append_items(tokenizer, later, None), lambda: dataset_drift(tokenizer, later, DriftConfig())):
        with pytest.raises(InputError, match="from co-occurrence alone, which is computed anew"):
            act()
    report, _ = refit_tokenizer(tokenizer, later, None, keep=True)
    assert report.items == 380
    assert tokenizer.semantic_ids_.is_unique


def test_mistakes(shops: tuple[Path, Dataset, Dataset], tmp_path: Path) -> None:
    path, first, later = shops
    tokenizer = SemanticIdTokenizer.load(path)
    strangers = shop(tmp_path / "strangers", OLD, name="thing-{}")
    with pytest.raises(
        InputError, match=r"No item of .*strangers.*'thing-0'.* is among those of .*tokenizer.*'item-0'"
    ):
        append_items(tokenizer, strangers, tmp_path / "t")
    with pytest.raises(InputError, match=r"suffix '.txt'"):
        refit_tokenizer(tokenizer, later, tmp_path / "t", changes=tmp_path / "changes.txt")
    with pytest.raises(InputError, match="memory only"):
        match_rows(SemanticIdTokenizer(CONFIG), later)
    tokenizer.save(tmp_path / "nameless")
    with pytest.raises(InputError, match="does not name its items"):
        match_rows(SemanticIdTokenizer.load(tmp_path / "nameless"), later)
    small = TokenizerConfig(embeddings=("a",), codes=7, svd=6)
    full = fit_tokenizer(first, small, tmp_path / "full")
    with pytest.raises(InputError, match="380 items do not fit into the 343 different codes"):
        append_items(full, later, tmp_path / "full")
    assert SemanticIdTokenizer.load(tmp_path / "full").semantic_ids_.num_items == 300
    assert not (tmp_path / "t").exists()
