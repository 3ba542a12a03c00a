import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semid.artifacts import create_artifact, open_artifact
from semid.data.features import Embedding, Fields
from semid.errors import InputError
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig


def catalogue(num_items: int = 600, seed: int = 0) -> list[Embedding]:
    """Twelve clusters seen through two embeddings, the second partly missing, three items without any."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(num_items) % 12
    found = []
    for name, dim in (("a", 16), ("b", 24)):
        centres = np.random.default_rng(dim).standard_normal((12, dim))
        vectors = centres[cluster] + 0.2 * rng.standard_normal((num_items, dim))
        valid = np.ones(num_items, bool) if name == "a" else rng.random(num_items) < 0.7
        valid[:3] = False
        found.append(Embedding(name, np.where(valid[:, None], vectors, 0).astype(np.float16), valid))
    return found


def config(**changes: Any) -> TokenizerConfig:
    return TokenizerConfig(**{"embeddings": ("a", "b"), "codes": 16, "svd": 12, **changes})


@pytest.fixture(scope="module")
def fitted() -> SemanticIdTokenizer:
    return SemanticIdTokenizer(config()).fit(catalogue())


def test_every_item_has_codes_of_its_own(fitted: SemanticIdTokenizer) -> None:
    ids = fitted.semantic_ids_
    assert ids.codes.shape == (600, 3)
    assert ids.num_codes == (16, 16, 16)
    assert ids.is_unique
    assert fitted.vectors_.shape == (600, 12)
    assert fitted.vectors_.dtype == np.float32
    np.testing.assert_array_equal(fitted.known_, np.arange(600) >= 3)
    assert fitted.report_.collisions.colliding_after == 0


def test_planted_clusters_share_their_first_code(fitted: SemanticIdTokenizer) -> None:
    cluster = np.arange(600) % 12
    first = fitted.semantic_ids_.codes[:, 0]
    majority = sum(np.bincount(cluster[(first == code) & fitted.known_]).max() for code in np.unique(first))
    assert majority / fitted.known_.sum() > 0.99


def test_decode_is_near_the_vectors(fitted: SemanticIdTokenizer) -> None:
    rest = fitted.vectors_ - fitted.decode(fitted.semantic_ids_.codes)
    error = (rest[fitted.known_] ** 2).sum() / (fitted.vectors_[fitted.known_] ** 2).sum()
    assert error == pytest.approx(fitted.report_.relative_error, rel=0.01)
    assert error < 0.3


def test_encode_gives_the_nearest_codes(fitted: SemanticIdTokenizer) -> None:
    codes = fitted.encode(catalogue())
    assert codes.dtype == np.int32
    moved = (codes != fitted.semantic_ids_.codes).any(1)
    assert moved.mean() == pytest.approx(fitted.report_.collisions.moved)
    others = fitted.encode(catalogue(60, seed=5))
    assert others.shape == (60, 3)
    cluster_of = {code: item % 12 for item, code in enumerate(fitted.semantic_ids_.codes[:, 0].tolist()) if item > 2}
    found = np.array([cluster_of[code] for code in others[3:, 0].tolist()])
    assert (found == np.arange(3, 60) % 12).mean() > 0.95


def test_fit_is_reproducible(fitted: SemanticIdTokenizer) -> None:
    again = SemanticIdTokenizer(config()).fit(catalogue())
    np.testing.assert_array_equal(again.semantic_ids_.codes, fitted.semantic_ids_.codes)
    assert again.report_ == fitted.report_
    other = SemanticIdTokenizer(config(seed=1)).fit(catalogue())
    assert not np.array_equal(other.semantic_ids_.codes, fitted.semantic_ids_.codes)


def test_save_and_load(fitted: SemanticIdTokenizer, tmp_path: Path) -> None:
    with create_artifact(tmp_path / "data", "dataset") as writer:
        writer.save_arrays("x.safetensors", {"x": np.arange(3)})
    dataset = open_artifact(tmp_path / "data", "dataset")
    artifact = fitted.save(tmp_path / "tokenizer", {"emb": "a,b"}, parents={"dataset": dataset})
    artifact.require_parent("dataset", dataset)
    loaded = SemanticIdTokenizer.load(tmp_path / "tokenizer")
    assert loaded.config == fitted.config
    assert loaded.report_ == fitted.report_
    assert loaded.artifact_ == artifact
    assert loaded.artifact_.settings == {"emb": "a,b"}
    np.testing.assert_array_equal(loaded.semantic_ids_.codes, fitted.semantic_ids_.codes)
    np.testing.assert_array_equal(loaded.vectors_, fitted.vectors_)
    np.testing.assert_array_equal(loaded.known_, fitted.known_)
    new = catalogue(50, seed=9)
    np.testing.assert_array_equal(loaded.encode(new), fitted.encode(new))
    np.testing.assert_array_equal(loaded.decode(loaded.encode(new)), fitted.decode(fitted.encode(new)))


@pytest.mark.parametrize(
    "changes",
    [
        {"collisions": "extra", "weights": (1.0, 3.0), "whiten": 0.5},
        {"collisions": "none", "codes": (8, 16), "levels": 2, "sample": 300},
        {"levels": 4, "collision_level": 3, "options": {"iterations": 5}},
        {"codes": (2, 4), "levels": 2, "collisions": "nearest", "overflow": "extra"},
        {"codes": (8, 128), "levels": 2, "collisions": "random-k", "collision_choices": 3},
    ],
)
def test_every_setting_survives_saving(changes: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = SemanticIdTokenizer(config(**changes)).fit(catalogue())
    tokenizer.save(tmp_path / "t")
    loaded = SemanticIdTokenizer.load(tmp_path / "t")
    assert loaded.config == tokenizer.config
    assert loaded.semantic_ids_.num_codes == tokenizer.semantic_ids_.num_codes
    np.testing.assert_array_equal(loaded.semantic_ids_.codes, tokenizer.semantic_ids_.codes)
    np.testing.assert_array_equal(loaded.encode(catalogue()), tokenizer.encode(catalogue()))
    assert tokenizer.semantic_ids_.is_unique == (changes.get("collisions") != "none")


def test_a_failed_save_leaves_the_old_one(
    fitted: SemanticIdTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path / "t")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semid.artifacts.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(tmp_path / "t")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["t"]
    np.testing.assert_array_equal(
        SemanticIdTokenizer.load(tmp_path / "t").semantic_ids_.codes, fitted.semantic_ids_.codes
    )


def test_damage_is_named(fitted: SemanticIdTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No tokenizer at"):
        SemanticIdTokenizer.load(tmp_path / "none")
    with create_artifact(tmp_path / "other", "model"):
        pass
    with pytest.raises(InputError, match="is a model, not a tokenizer"):
        SemanticIdTokenizer.load(tmp_path / "other")
    fitted.save(tmp_path / "t")
    arrays = tmp_path / "t" / "tokenizer.safetensors"
    contents = bytearray(arrays.read_bytes())
    contents[-5] ^= 1
    arrays.write_bytes(contents)
    with pytest.raises(InputError, match="checksum"):
        SemanticIdTokenizer.load(tmp_path / "t")
    arrays.write_bytes(contents[:-9])
    with pytest.raises(InputError, match="truncated"):
        SemanticIdTokenizer.load(tmp_path / "t")


def test_parts_that_do_not_belong_together_are_named(fitted: SemanticIdTokenizer, tmp_path: Path) -> None:
    fitted.save(tmp_path / "t")
    path = tmp_path / "t" / "config.json"
    saved = json.loads(path.read_text())
    saved["details"]["config"]["codes"] = 15
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError, match="do not belong together"):
        SemanticIdTokenizer.load(tmp_path / "t")
    del saved["details"]["report"]
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError, match="not a complete tokenizer"):
        SemanticIdTokenizer.load(tmp_path / "t")


def test_progress_and_purity() -> None:
    seen: list[tuple[str, int, int | None]] = []
    fields = Fields(("cluster",), (14,), (2 + np.arange(600) % 12).astype(np.int32)[:, None])
    tokenizer = SemanticIdTokenizer(config()).fit(
        catalogue(), fields=fields, progress=lambda *step: seen.append(step)
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages[:2] == ["read embeddings", "project items"]
    assert stages[-3:] == ["encode items", "resolve collisions", "measure quality"]
    assert all(total is None or done <= total for _, done, total in seen)
    (purity,) = tokenizer.report_.purity
    assert purity.by_level[0] is not None
    assert purity.by_level[0] > 0.95 > purity.chance


def test_balanced_codes_are_balanced_in_the_catalogue() -> None:
    given = catalogue()
    tokenizer = SemanticIdTokenizer(config(options={"balanced": 1.1}, collisions="none")).fit(given)
    counts = np.bincount(tokenizer.semantic_ids_.codes[:, 0], minlength=16)
    assert counts.max() <= 1.1 * np.ceil(600 / 16)
    free = SemanticIdTokenizer(config(collisions="none")).fit(given)
    assert np.bincount(free.semantic_ids_.codes[:, 0]).max() > counts.max()


def test_identical_items_get_codes_of_their_own() -> None:
    vectors = np.ones((300, 4), np.float32)
    tokenizer = SemanticIdTokenizer(TokenizerConfig(embeddings=("a",), codes=8)).fit(
        [Embedding("a", vectors, np.ones(300, bool))]
    )
    assert tokenizer.semantic_ids_.is_unique


def test_items_draw_among_as_many_codes_as_set() -> None:
    def codes_of(**changes: Any) -> np.ndarray:
        return SemanticIdTokenizer(config(levels=2, codes=(16, 128), **changes)).fit(catalogue()).semantic_ids_.codes

    nearest = codes_of(collisions="nearest")
    np.testing.assert_array_equal(codes_of(collisions="random-k", collision_choices=1), nearest)
    drawn = codes_of(collisions="random-k", collision_choices=30)
    assert (drawn != nearest).any()
    np.testing.assert_array_equal(drawn[:, 0], nearest[:, 0])


def test_input_mistakes_are_named() -> None:
    given = catalogue()

    def fit(embeddings: list[Embedding], **changes: Any) -> None:
        SemanticIdTokenizer(config(**changes)).fit(embeddings)

    with pytest.raises(InputError, match="512 codes a level are more than the 500 items: use at most 500"):
        fit(catalogue(500), codes=512)
    with pytest.raises(InputError, match="600 codes a level are more than the 597 items with an embedding"):
        fit(given, codes=600)
    with pytest.raises(InputError, match="more than the sample of 10 items"):
        fit(given, sample=10)
    with pytest.raises(InputError, match=r"600 items do not fit into the 512 .* 4 levels or 9 codes"):
        fit(given, codes=8)
    with pytest.raises(InputError, match="1 items: at least 2"):
        fit([dataclasses.replace(e, vectors=e.vectors[:1], valid=e.valid[:1]) for e in given])
    with pytest.raises(InputError, match="configured for the embeddings a, b but was given b, a"):
        fit(given[::-1])
    with pytest.raises(InputError, match="'b' has no valid row"):
        fit([given[0], dataclasses.replace(given[1], valid=np.zeros(600, bool))])
    broken = given[0].vectors.copy()
    broken[77, 2] = np.nan
    with pytest.raises(InputError, match="'a' has NaN or infinity in row 77"):
        fit([dataclasses.replace(given[0], vectors=broken), given[1]])


def test_mixed_dimensions_at_encode_are_named(fitted: SemanticIdTokenizer) -> None:
    one, two = catalogue()
    with pytest.raises(InputError, match="'a' has 8 dimensions but was fitted with 16"):
        fitted.encode([dataclasses.replace(one, vectors=one.vectors[:, :8]), two])
    with pytest.raises(InputError, match="but was given a"):
        fitted.encode([one])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embeddings": ()}, "No embedding"),
        ({"embeddings": ("a", "a")}, "named twice"),
        ({"weights": (1.0,)}, "1 weights were given for the embeddings a, b"),
        ({"weights": (1.0, 0.0)}, "positive"),
        ({"collisions": "best"}, "collision policy 'best'"),
        ({"overflow": "drop"}, "overflow policy 'drop'"),
        ({"collision_level": 4}, "must lie in 1..3"),
        ({"collision_choices": 0}, "collision choices is 0"),
        ({"options": {"iterations": 0}}, "iterations is 0"),
        ({"options": {"levels": 3}}, "'levels' has an option of its own"),
        ({"options": {"nonsense": 3}}, "has no setting 'nonsense'"),
        ({"quantiser": "best"}, "quantiser 'best'"),
        ({"levels": 0}, "levels is 0"),
        ({"codes": 0}, "codes is 0"),
        ({"codes": (4, 4)}, "2 codebook sizes"),
        ({"svd": 0}, "SVD components is 0"),
        ({"whiten": 2.0}, "whitening exponent"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(**changes)


def test_real_embeddings() -> None:
    """On MiniLM vectors of product texts the codes are as good as measured when the defaults were chosen."""
    folder = os.environ.get("SEMID_DATA")
    if not folder:
        pytest.skip("SEMID_DATA is not set")
    vectors = np.load(Path(folder) / "amazon18_industrial_minionerec" / "emb_minilm_384.f16.npy", mmap_mode="r")
    given = [Embedding("minilm", vectors, np.ones(len(vectors), bool))]
    report = SemanticIdTokenizer(TokenizerConfig(embeddings=("minilm",), codes=256)).fit(given).report_
    assert report.collisions.colliding_after == 0
    assert report.unresolved_error < 0.31
    assert min(level.perplexity for level in report.levels) > 180
    assert report.levels[0].neighbours_shared > 0.4
