from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers import vectors as vectors_module
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig


def catalogue(num_items: int = 700) -> list[Embedding]:
    """Twelve clusters seen through two embeddings, the second partly missing, a few items without any."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(12, size=num_items)
    found = []
    for name, dim in (("a", 8), ("b", 12)):
        centres = rng.standard_normal((12, dim))
        vectors = centres[cluster] + 0.3 * rng.standard_normal((num_items, dim))
        valid = np.ones(num_items, bool) if name == "a" else rng.random(num_items) < 0.7
        valid[::100] = False
        found.append(Embedding(name, np.where(valid[:, None], vectors, 0).astype(np.float16), valid))
    return found


def chosen(embeddings: list[Embedding], rows: Any) -> list[Embedding]:
    return [Embedding(e.name, e.vectors[rows], e.valid[rows]) for e in embeddings]


ALL = catalogue()
OLD = np.arange(600)
QUICK = {"rounds": 4, "iterations": 10, "beam": 4}


def fitted(**changes: Any) -> SemanticIdTokenizer:
    config = TokenizerConfig(**{"embeddings": ("a", "b"), "codes": 16, "svd": 8, "options": QUICK, **changes})
    return SemanticIdTokenizer(config).fit(chosen(ALL, OLD))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lifecycle") / "tokenizer"
    fitted().save(path)
    return path


def test_append_moves_nobody(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    before = tokenizer.semantic_ids_.codes.copy()
    codes = tokenizer.append(chosen(ALL, np.arange(600, 700)))
    assert codes.shape == (100, 3)
    np.testing.assert_array_equal(tokenizer.semantic_ids_.codes, np.concatenate([before, codes]))
    assert tokenizer.semantic_ids_.is_unique
    assert tokenizer.artifact_ is None
    assert tokenizer.report_.items == len(tokenizer.vectors_) == 700
    np.testing.assert_array_equal(tokenizer.fitted_, np.arange(700) < 600)
    np.testing.assert_array_equal(tokenizer.known_, ALL[0].valid | ALL[1].valid)
    assert tokenizer.report_.missing["b"] == pytest.approx(1 - ALL[1].valid.mean())


def test_new_items_get_their_nearest_codes_where_these_are_free(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    new = chosen(ALL, np.arange(600, 700))
    nearest = tokenizer.encode(new, first_row=600)
    taken = {tuple(code) for code in tokenizer.semantic_ids_.codes.tolist()}
    codes = tokenizer.append(new)
    wanted = [tuple(code) for code in nearest.tolist()]
    free = np.array([code not in taken and wanted.count(code) == 1 for code in wanted])
    assert 0.3 < free.mean() < 1
    np.testing.assert_array_equal(codes[free], nearest[free])


def test_day_after_day_is_as_good_as_at_once_for_the_items_before(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    seen = tokenizer.semantic_ids_.codes.copy()
    for first in range(600, 700, 25):
        tokenizer.append(chosen(ALL, np.arange(first, first + 25)))
        np.testing.assert_array_equal(tokenizer.semantic_ids_.codes[: len(seen)], seen)
        seen = tokenizer.semantic_ids_.codes.copy()
    assert tokenizer.semantic_ids_.is_unique
    assert tokenizer.semantic_ids_.num_items == 700


def test_removed_items_are_gone_and_their_codes_are_free(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    before = tokenizer.semantic_ids_.codes.copy()
    tokenizer.remove(np.array([5, 17, 17, 599]))
    kept = np.setdiff1d(OLD, [5, 17, 599])
    np.testing.assert_array_equal(tokenizer.semantic_ids_.codes, before[kept])
    np.testing.assert_array_equal(tokenizer.semantic_ids_.items_of(before[[5, 17, 599]]), [-1, -1, -1])
    assert tokenizer.report_.items == 597
    nearest = tokenizer.encode(chosen(ALL, [17]))
    codes = tokenizer.append(chosen(ALL, [17]))
    assert tokenizer.semantic_ids_.is_unique
    assert (tokenizer.semantic_ids_.items_of(nearest) >= 0).all()
    assert tokenizer.semantic_ids_.items_of(codes)[0] == 597


def test_the_same_items_again_get_codes_of_their_own(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    tokenizer.append(chosen(ALL, np.full(40, 3)))
    assert tokenizer.semantic_ids_.is_unique


def test_carry_over_to_another_order(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    before = tokenizer.semantic_ids_.codes.copy()
    order = np.random.default_rng(1).permutation(np.setdiff1d(np.arange(700), [3, 4]))
    rows = np.where(order < 600, order, -1)
    tokenizer.carry_over(chosen(ALL, order), rows)
    np.testing.assert_array_equal(tokenizer.semantic_ids_.codes[order < 600], before[order[order < 600]])
    assert tokenizer.semantic_ids_.is_unique
    np.testing.assert_array_equal(tokenizer.fitted_, order < 600)
    other = SemanticIdTokenizer.load(saved)
    known = other.known_[order[order < 600]]
    expected = np.asarray(other.vectors_)[order[order < 600]][known]
    np.testing.assert_allclose(np.asarray(tokenizer.vectors_)[order < 600][known], expected, atol=1e-5)


def test_what_is_carried_over_is_saved(saved: Path, tmp_path: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    tokenizer.append(chosen(ALL, np.arange(600, 700)))
    tokenizer.save(tmp_path / "t")
    loaded = SemanticIdTokenizer.load(tmp_path / "t")
    np.testing.assert_array_equal(loaded.semantic_ids_.codes, tokenizer.semantic_ids_.codes)
    np.testing.assert_array_equal(loaded.fitted_, tokenizer.fitted_)
    np.testing.assert_array_equal(loaded.valid_, tokenizer.valid_)
    assert loaded.report_ == tokenizer.report_
    assert loaded.drift().to_dict() == tokenizer.drift().to_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"collisions": "optimal"},
        {"collisions": "extra"},
        {"collisions": "none"},
        {"levels": 2, "codes": (16, 64), "collision_level": 1},
        {"quantiser": "rq-vae", "options": {"steps": 20, "hidden": (16,), "dim": 8}},
    ],
)
def test_every_policy_and_quantiser(changes: dict[str, Any]) -> None:
    tokenizer = fitted(**changes)
    before = tokenizer.semantic_ids_.codes.copy()
    tokenizer.append(chosen(ALL, np.arange(600, 640)))
    np.testing.assert_array_equal(tokenizer.semantic_ids_.codes[:600], before)
    assert tokenizer.semantic_ids_.is_unique == (changes.get("collisions") != "none")


def test_vectors_larger_than_memory(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inside = SemanticIdTokenizer.load(saved)
    monkeypatch.setattr(vectors_module, "MEMORY_BYTES", 1000)
    outside = SemanticIdTokenizer.load(saved)
    for tokenizer in (inside, outside):
        tokenizer.append(chosen(ALL, np.arange(600, 700)), scratch=tmp_path)
        tokenizer.remove(np.arange(50), scratch=tmp_path)
    assert isinstance(outside.vectors_, vectors_module.StoredVectors)
    np.testing.assert_array_equal(outside.vectors_[:], np.asarray(inside.vectors_))
    np.testing.assert_array_equal(outside.semantic_ids_.codes, inside.semantic_ids_.codes)
    assert outside.drift().to_dict() == inside.drift().to_dict()


def test_refit_keeps_codes_and_knows_what_it_changed(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    before = tokenizer.semantic_ids_.codes.copy()
    report, changes = tokenizer.refit(ALL, keep=True)
    after = tokenizer.semantic_ids_.codes
    different = np.flatnonzero((after[:600] != before).any(axis=1))
    np.testing.assert_array_equal(changes.rows, different)
    np.testing.assert_array_equal(changes.old, before[different])
    np.testing.assert_array_equal(changes.new, after[different])
    assert (report.items, report.added, report.removed, report.changed) == (700, 100, 0, len(different))
    assert report.changed_share == len(different) / 600
    assert tokenizer.semantic_ids_.is_unique
    assert tokenizer.fitted_.all()
    assert report.relative_error == tokenizer.report_.relative_error
    plain = SemanticIdTokenizer.load(saved)
    plainly, _ = plain.refit(ALL, keep=False)
    assert report.changed_share < 0.2 < 0.9 < plainly.changed_share
    assert report.plain_changed_share is not None
    assert report.changed_share < report.plain_changed_share <= plainly.changed_share
    assert report.relative_error < 1.1 * plainly.relative_error
    fresh = SemanticIdTokenizer(plain.config).fit(ALL)
    np.testing.assert_array_equal(plain.semantic_ids_.codes, fresh.semantic_ids_.codes)


def test_refit_to_the_same_catalogue_changes_nothing(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    before, error = tokenizer.semantic_ids_.codes.copy(), tokenizer.report_.relative_error
    report, changes = tokenizer.refit(chosen(ALL, OLD))
    assert report.changed == len(changes.rows) == 0
    assert report.relative_error <= 1.01 * error
    assert report.plain_changed_share == 0  # the same fit again, its labels matched
    np.testing.assert_array_equal(tokenizer.semantic_ids_.codes, before)


def test_mistakes_leave_everything_as_it_was(saved: Path) -> None:
    tokenizer = SemanticIdTokenizer.load(saved)
    before = dict(tokenizer.__dict__)
    new = chosen(ALL, np.arange(600, 700))
    wide = [new[0], Embedding("b", np.ones((100, 13), np.float32), np.ones(100, bool))]
    broken = [new[0], Embedding("b", np.full((100, 12), np.nan, np.float32), np.ones(100, bool))]
    many = chosen(ALL, np.zeros(16**3 - 599, np.int64))
    every = np.arange(600)
    for act, sentence in (
        (lambda: tokenizer.append(wide), "'b' has 13 dimensions but was fitted with 12"),
        (lambda: tokenizer.append(broken), "NaN or infinity in row 0"),
        (lambda: tokenizer.append(new[:1]), "configured for the embeddings a, b but was given a"),
        (
            lambda: tokenizer.append(many),
            "4097 items do not fit into the 4096 different codes .* 4 levels or 17 codes",
        ),
        (lambda: tokenizer.carry_over(chosen(ALL, np.zeros(4097, int))), "4097 items do not fit into the 4096"),
        (lambda: tokenizer.remove(np.array([600])), "no item row 600 .* rows 0 to 599"),
        (lambda: tokenizer.remove(np.array([-1])), "no item row -1"),
        (lambda: tokenizer.remove(every), "keep at least one"),
        (lambda: tokenizer.carry_over(new), "has 100 items but had 600"),
        (lambda: tokenizer.carry_over(new, np.arange(99)), "99 old rows were given for 100 items"),
        (lambda: tokenizer.carry_over(new, np.arange(100) + 501), "no old row 600"),
        (lambda: tokenizer.carry_over(new, np.zeros(100, int)), "Old row 0 is given for two items"),
        (lambda: tokenizer.refit(ALL, tolerance=-1), "tolerance is -1"),
        (lambda: tokenizer.refit(new, np.full(100, -1)), "no codes to keep"),
    ):
        with pytest.raises(InputError, match=sentence):
            act()
        assert tokenizer.__dict__ == before or all(
            tokenizer.__dict__[name] is value for name, value in before.items()
        )


def test_codes_are_kept_by_rq_kmeans_only() -> None:
    tokenizer = fitted(quantiser="rq-vae", options={"steps": 20, "hidden": (16,), "dim": 8})
    with pytest.raises(InputError, match="rq-kmeans only, but this tokenizer uses rq-vae"):
        tokenizer.refit(ALL)
