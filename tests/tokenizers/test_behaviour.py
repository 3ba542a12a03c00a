"""Embeddings from behaviour: they shape codes, and later items do without them."""

import numpy as np
import pytest

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

QUICK = {"rounds": 2, "iterations": 8, "beam": 4}
CONFIG = TokenizerConfig(
    embeddings=("text", "seen"), behaviour=("seen",), weights=(1, 0.6), codes=8, levels=4, svd=10, options=QUICK
)
N = 400
KIND, CROWD = np.arange(N) % 4, np.arange(N) // 4 % 2  # what items are, and who takes them


def embedding(name: str, group: np.ndarray, noise: float = 0.3) -> Embedding:
    rng = np.random.default_rng(len(name) + len(group))
    centres = np.random.default_rng(len(name)).standard_normal((8, 6))
    vectors = (centres[group] + noise * rng.standard_normal((len(group), 6))).astype(np.float32)
    return Embedding(name, vectors, np.ones(len(group), bool))


TEXT, SEEN = embedding("text", KIND), embedding("seen", CROWD)


def first_rows(source: Embedding, rows: np.ndarray) -> Embedding:
    return Embedding(source.name, source.vectors[rows], source.valid[rows])


@pytest.fixture(scope="module")
def fitted() -> SemanticIdTokenizer:
    return SemanticIdTokenizer(CONFIG).fit([TEXT, SEEN])


def together(tokenizer: SemanticIdTokenizer) -> float:
    """Share of pairs of the same kind but another crowd that share their first code."""
    code = tokenizer.semantic_ids_.codes[:, 0]
    pairs = (KIND[:, None] == KIND) & (CROWD[:, None] != CROWD)
    return float((code[:, None] == code)[pairs].mean())


def test_items_that_others_take_get_other_codes(fitted: SemanticIdTokenizer) -> None:
    content = TokenizerConfig(embeddings=("text",), codes=8, levels=4, svd=10, options=QUICK)
    assert together(fitted) < 0.1 < together(SemanticIdTokenizer(content).fit([TEXT]))


def test_behaviour_may_be_left_out_of_new_items(fitted: SemanticIdTokenizer) -> None:
    absent = Embedding.absent("seen", N, 6)
    codes = fitted.encode([TEXT])
    np.testing.assert_array_equal(codes, fitted.encode([TEXT, absent]))
    np.testing.assert_array_equal(fitted.transform([TEXT])[0], fitted.transform([TEXT, absent])[0])
    assert (codes != fitted.encode([TEXT, SEEN])).any()
    with pytest.raises(InputError, match="configured for the embeddings text, seen but was given seen"):
        fitted.encode([SEEN])
    with pytest.raises(InputError, match="was given text"):
        SemanticIdTokenizer(CONFIG).fit([TEXT])


def test_a_later_catalogue_without_behaviour(fitted: SemanticIdTokenizer, tmp_path) -> None:
    fitted.save(tmp_path / "t")
    rows = np.random.default_rng(0).permutation(np.concatenate([np.arange(50, N), np.full(30, -1)]))
    text = embedding("text", np.where(rows >= 0, KIND[rows], 1))
    text.vectors[rows >= 0] = TEXT.vectors[rows[rows >= 0]]
    later = SemanticIdTokenizer.load(tmp_path / "t")
    assert later.config == CONFIG
    later.carry_over([text], rows)
    old, before = rows >= 0, rows[rows >= 0]
    np.testing.assert_array_equal(later.semantic_ids_.codes[old], fitted.semantic_ids_.codes[before])
    np.testing.assert_array_equal(later.vectors_[old], fitted.vectors_[before])
    np.testing.assert_array_equal(later.valid_[:, 1], old)
    np.testing.assert_array_equal(later.vectors_[~old], fitted.transform([first_rows(text, ~old)])[0])
    assert later.semantic_ids_.is_unique


def test_drift_goes_by_what_all_items_have(fitted: SemanticIdTokenizer, tmp_path) -> None:
    fitted.save(tmp_path / "t")
    grown = SemanticIdTokenizer.load(tmp_path / "t")
    more = embedding("text", np.arange(60) % 4)
    assert grown.append([more]).shape == (60, 4)
    with pytest.raises(InputError, match="lack what others have from behaviour"):
        grown.drift()

    def drift(new: np.ndarray):
        vectors = np.concatenate([TEXT.vectors, new])
        return fitted.drift([Embedding("text", vectors, np.ones(len(vectors), bool))])

    found = drift(more.vectors)
    assert found.verdict == "fine"
    assert set(found.new.coverage) == {"text"}
    assert drift(more.vectors + 4).refit


def test_behaviour_must_be_among_the_embeddings() -> None:
    with pytest.raises(InputError, match="'seen' is named as behaviour but is none of the embeddings"):
        TokenizerConfig(embeddings=("text",), behaviour=("seen",))
    with pytest.raises(InputError, match="2 weights were given for the embeddings text"):
        TokenizerConfig(embeddings=("text",), weights=(1, 2))


def test_nothing_but_behaviour_counts_as_content() -> None:
    assert TokenizerConfig(embeddings=("seen",), behaviour=("seen",)).content == ("seen",)
