from math import prod

import numpy as np
import pytest

from semid.data.features import Embedding
from semid.tokenizers.shape import usual_shape
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 8])
def test_any_catalogue_has_room_and_enough_items(levels: int) -> None:
    for num_items in [*range(2, 300), 2_475, 12_101, 100_000, 10**6, 10**7]:
        shape = usual_shape(num_items, num_items, levels)
        assert len(shape) == levels
        assert max(shape) <= num_items
        if levels > 2:
            assert prod(shape) >= min(num_items, 128) * num_items / 128
        assert all(size & (size - 1) == 0 for size in shape)


def test_many_codes_first_and_few_after() -> None:
    assert usual_shape(12_101, 12_101, 3) == (4096, 64, 64)  # 12,101 / 3 = 4,034; (512 · 12,101 / 4,096)^½ = 39
    assert usual_shape(10**6, 10**6, 3) == (8192, 256, 256)


def test_the_fit_decides_unless_told() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    given = [Embedding("a", vectors, np.ones(300, bool))]
    quick = {"rounds": 0, "iterations": 3}
    tokenizer = SemanticIdTokenizer(TokenizerConfig(embeddings=("a",), options=quick)).fit(given)
    assert tokenizer.config.codes == tokenizer.semantic_ids_.num_codes == (128, 64, 64)
    told = SemanticIdTokenizer(TokenizerConfig(embeddings=("a",), codes=16, options=quick)).fit(given)
    assert told.semantic_ids_.num_codes == (16, 16, 16)
    parallel = TokenizerConfig(embeddings=("a",), quantiser="opq", levels=4)
    assert SemanticIdTokenizer(parallel).fit(given).semantic_ids_.num_codes == (256,) * 4


def test_few_items_with_an_embedding_or_a_small_sample() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    given = [Embedding("a", vectors, np.arange(300) < 20)]
    settings = {"embeddings": ("a",), "options": {"rounds": 0, "iterations": 3}}
    assert SemanticIdTokenizer(TokenizerConfig(**settings)).fit(given).semantic_ids_.num_codes == (8, 16, 16)
    given = [Embedding("a", vectors, np.ones(300, bool))]
    tokenizer = SemanticIdTokenizer(TokenizerConfig(sample=40, **settings)).fit(given)
    assert tokenizer.semantic_ids_.num_codes == (16, 32, 32)
    assert tokenizer.semantic_ids_.is_unique
