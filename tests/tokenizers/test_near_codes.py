"""Codes near those of an item, beside a search through all of them in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.near_codes import near_codes
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

NUM_ITEMS, DIM, UNKNOWN = 500, 16, [3, 77]


def clusters(num_items: int = NUM_ITEMS, seed: int = 0) -> np.ndarray:
    """(N, D) float32 vectors off the origin."""
    centres = np.random.default_rng(9).standard_normal((10, DIM)) + 2
    rng = np.random.default_rng(seed)
    noise = 0.4 * rng.standard_normal((num_items, DIM))
    return (centres[rng.integers(10, size=num_items)] + noise).astype(np.float32)


def fitted(**changes: Any) -> SemanticIdTokenizer:
    """A tokenizer of a catalogue in which some items have no vector."""
    valid = ~np.isin(np.arange(NUM_ITEMS), UNKNOWN)
    embedding = Embedding("a", clusters() * valid[:, None], valid)
    config = TokenizerConfig(embeddings=("a",), **{"codes": 8, "svd": 12, **changes})
    return SemanticIdTokenizer(config).fit([embedding])


def distances_by_search(latents: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Per level, (N, K) squared distances in float64 of all centroids to what the item's codes before it leave."""
    found = []
    for item, latent in enumerate(latents.astype(np.float64)):
        left = latent
        found.append([])
        for level, codebook in enumerate(codebooks):
            found[-1].append(((left - codebook.astype(np.float64)) ** 2).sum(1))
            left = left - codebook[codes[item, level]]
    return [np.array(level) for level in zip(*found, strict=True)]


def assert_own_first_then_nearest(near: np.ndarray, own: np.ndarray, distances: np.ndarray) -> None:
    """Of one level: (N, k) codes, the (N,) own ones, and (N, K) distances. Centroids as far may change places."""
    np.testing.assert_array_equal(near[:, 0], own)
    assert (np.diff(np.sort(near, axis=1), axis=1) > 0).all()
    others = distances.copy()
    np.put_along_axis(others, own[:, None].astype(np.int64), np.inf, axis=1)
    expected = np.sort(others, axis=1)[:, : near.shape[1] - 1]
    found = np.take_along_axis(distances, near[:, 1:].astype(np.int64), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


KINDS: dict[str, dict[str, Any]] = {
    "rq-kmeans": {},
    "levels of different size": {"codes": (16, 12, 9)},
    "drawn codes": {"collisions": "random-k", "collision_choices": 4, "codes": (8, 128), "levels": 2},
    "rq-kmeans+": {"quantiser": "rq-kmeans+", "options": {"hidden": (16,), "steps": 40, "device": "cpu"}},
    "rq-vae": {"quantiser": "rq-vae", "options": {"hidden": (16,), "dim": 6, "steps": 60, "device": "cpu"}},
    "opq": {"quantiser": "opq", "options": {"rotations": 2}},
    "fsq": {"quantiser": "fsq", "options": {"hidden": (16,), "steps": 40, "device": "cpu"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_own_code_then_the_nearest_others(kind: str) -> None:
    tokenizer = fitted(**{"codes": 9 if kind != "fsq" else 8, **KINDS[kind]})
    codes, books, k = tokenizer.semantic_ids_.codes, tokenizer.quantiser_.codebooks_, 5
    near = tokenizer.near_codes(k)
    assert (near.shape, near.dtype) == ((*codes.shape, k), np.int32)
    np.testing.assert_array_equal(near[UNKNOWN], np.repeat(codes[UNKNOWN, :, None], k, axis=2))
    known = tokenizer.known_
    latents = tokenizer.quantiser_.latents(np.asarray(tokenizer.vectors_))[known]
    for level, distances in enumerate(distances_by_search(latents, codes[known], books)):
        assert_own_first_then_nearest(near[known, level], codes[known, level], distances)


def test_parts_of_a_product_quantiser_are_compared_in_their_own_space() -> None:
    tokenizer = fitted(quantiser="opq", options={"rotations": 2}, codes=9)
    opq: Any = tokenizer.quantiser_
    rotated = np.asarray(tokenizer.vectors_, np.float64) @ opq.rotation_
    first, known, near = 0, tokenizer.known_, tokenizer.near_codes(4)
    for level, part in enumerate(opq.parts_):
        own = rotated[:, first : first + part.shape[1]]
        distances = ((own[:, None] - part.astype(np.float64)) ** 2).sum(2)
        assert_own_first_then_nearest(near[known, level], near[known, level, 0], distances[known])
        first += part.shape[1]


def test_by_hand() -> None:
    """Residuals follow the item's own codes, which are not the nearest ones."""
    books = [np.array([[0.0], [10.0], [20.0]], np.float32), np.array([[0.0], [1.0], [3.0], [-8.0]], np.float32)]
    latents, codes = np.array([[1.2], [12.0]], np.float32), np.array([[0, 2], [2, 0]], np.int32)
    near = near_codes(latents, codes, books, 3, known=np.ones(2, bool))
    np.testing.assert_array_equal(near[0], [[0, 1, 2], [2, 1, 0]])
    np.testing.assert_array_equal(near[1], [[2, 1, 0], [0, 3, 1]])  # 12 − 20 leaves −8


def test_all_codes_of_a_level_and_only_the_own() -> None:
    tokenizer = fitted()
    everything = np.sort(tokenizer.near_codes(8)[tokenizer.known_], axis=2)
    assert (everything == np.arange(8)).all()
    np.testing.assert_array_equal(tokenizer.near_codes(1)[:, :, 0], tokenizer.semantic_ids_.codes)
    np.testing.assert_array_equal(tokenizer.near_codes(8)[:, :, :3], tokenizer.near_codes(3))


def test_a_level_that_tells_items_apart_repeats_the_own_code() -> None:
    tokenizer = fitted(collisions="extra")
    codes = tokenizer.semantic_ids_.codes
    near = tokenizer.near_codes(4)
    assert codes.shape == (NUM_ITEMS, 4)
    np.testing.assert_array_equal(near[:, 3], np.repeat(codes[:, 3:], 4, axis=1))
    assert (near[tokenizer.known_, :3, 0] != near[tokenizer.known_, :3, 1]).all()


def test_appended_items_have_near_codes_too() -> None:
    tokenizer = fitted(codes=16)
    before = tokenizer.near_codes(4)
    tokenizer.append([Embedding("a", clusters(40, seed=1), np.ones(40, bool))])
    after = tokenizer.near_codes(4)
    np.testing.assert_array_equal(after[:NUM_ITEMS], before)
    np.testing.assert_array_equal(after[:, :, 0], tokenizer.semantic_ids_.codes)


def test_blocks_tiles_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = fitted()
    whole, threads = tokenizer.near_codes(5), torch.get_num_threads()
    vectors = np.asarray(tokenizer.vectors_).copy()
    monkeypatch.setattr("semid.tokenizers.near_codes._TOGETHER", 48)
    monkeypatch.setattr(
        "semid.tokenizers.near_codes.row_blocks", lambda rows: (slice(a, a + 99) for a in range(0, rows, 99))
    )
    try:
        torch.set_num_threads(3)
        parts = tokenizer.near_codes(5)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(tokenizer.vectors_, vectors)  # left as they were


def test_no_items() -> None:
    books, none = [np.eye(4, dtype=np.float32)] * 2, np.empty((0, 2), np.int32)
    assert near_codes(np.empty((0, 4), np.float32), none, books, 3, known=np.empty(0, bool)).shape == (0, 2, 3)


def test_mistakes_are_named() -> None:
    tokenizer = fitted(codes=(16, 8, 9))
    with pytest.raises(InputError, match="9 near codes were asked for but level 2 has only 8: ask for at most 8"):
        tokenizer.near_codes(9)
    with pytest.raises(InputError, match="0 near codes were asked for: ask for at least 1"):
        tokenizer.near_codes(0)
