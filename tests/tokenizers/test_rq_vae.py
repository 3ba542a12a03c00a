import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid.errors import InputError
from semid.tokenizers.clustering.balanced import fit_balanced
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import assign
from semid.tokenizers.rq_vae import RQVAE, RQVAEConfig

SMALL: dict[str, Any] = {
    "levels": 2,
    "codes": 16,
    "hidden": (32,),
    "dim": 8,
    "batch": 128,
    "learning_rate": 5e-3,
    "device": "cpu",
}


def vectors_of(seed: int, num_rows: int = 800) -> np.ndarray:
    """On a curved surface of three dimensions."""
    rng = np.random.default_rng(seed)
    place = rng.standard_normal((num_rows, 3))
    return np.tanh(place @ rng.standard_normal((3, 12))).astype(np.float32)


def error(quantiser: RQVAE, vectors: np.ndarray) -> float:
    decoded = quantiser.decode(quantiser.encode(vectors))
    return float(((vectors - decoded) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def entropy(codes: np.ndarray) -> float:
    share = np.bincount(codes) / len(codes)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def information(codes: np.ndarray, labels: np.ndarray) -> float:
    """Mutual information, in nats."""
    joint = codes.astype(np.int64) * (labels.max() + 1) + labels
    return entropy(codes) + entropy(labels) - entropy(joint)


@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
def test_training_lowers_the_error(gradient: str) -> None:
    vectors = vectors_of(0)
    errors = [
        error(RQVAE(RQVAEConfig(**SMALL, steps=steps, gradient=gradient)).fit(vectors), vectors)
        for steps in (20, 250)
    ]
    assert errors[1] < 0.35
    assert errors[1] < 0.5 * errors[0]


def test_the_loss_is_the_formula() -> None:
    vectors = torch.from_numpy(vectors_of(1, 64))
    quantiser = RQVAE(RQVAEConfig(**SMALL, steps=30, commitment=0.4)).fit(vectors.numpy())
    network = quantiser.network_
    loss, quantised = network(vectors)
    residuals = network.encode(vectors)
    expected = F.mse_loss(network.decode(quantised.total) / network.scale, vectors / network.scale)
    for level, book in enumerate(network.codebooks.books):
        centroids = book[quantised.codes[:, level]]
        expected = expected + 1.4 * F.mse_loss(residuals, centroids)
        residuals = residuals - centroids
    torch.testing.assert_close(loss, expected)
    np.testing.assert_array_equal(quantised.codes.numpy(), quantiser.encode(vectors.numpy()))


def test_codes_do_not_collapse() -> None:
    """More centroids than the start could tell apart: those left over come to life during the training."""
    vectors = vectors_of(2)
    codes = RQVAE(RQVAEConfig(**{**SMALL, "codes": 64}, steps=300)).fit(vectors).encode(vectors)
    for level in range(2):
        assert np.exp(entropy(codes[:, level])) > 32
        assert len(set(codes[:, level])) > 48


def test_collaborative_loss_makes_codes_tell_of_behaviour() -> None:
    """The side clusters are a direction in which the vectors hardly vary: only the side vectors call for it."""
    rng = np.random.default_rng(3)
    labels = rng.integers(8, size=800)
    hint = 0.3 * rng.standard_normal((8, 12))[labels]
    vectors = (vectors_of(3) + hint).astype(np.float32)
    side = (rng.standard_normal((8, 5))[labels] + 0.1 * rng.standard_normal((800, 5))).astype(np.float32)
    side[rng.random(800) < 0.2] = 0
    found = []
    for weight in (0.0, 1.0):
        quantiser = RQVAE(RQVAEConfig(**SMALL, steps=250, collaborative=weight)).fit(vectors, side=side)
        found.append(information(quantiser.encode(vectors)[:, 0], labels))
    assert found[1] > found[0] + 0.3


def test_side_vectors_as_wide_as_the_latents_need_no_map() -> None:
    vectors = vectors_of(4)
    side = vectors_of(5)[:, :8]
    plain = RQVAE(RQVAEConfig(**SMALL, steps=40)).fit(vectors, side=side)
    agreeing = RQVAE(RQVAEConfig(**SMALL, steps=40, collaborative=0.5)).fit(vectors, side=side)
    assert not np.array_equal(plain.codebooks_[0], agreeing.codebooks_[0])
    assert plain.to_arrays().keys() == agreeing.to_arrays().keys()


def test_diversity_loss_gathers_centroids_into_clusters_of_like_size() -> None:
    vectors = vectors_of(6)
    found = []
    for weight in (0.0, 0.5):
        quantiser = RQVAE(RQVAEConfig(**SMALL, steps=200, diversity=weight, clusters=4)).fit(vectors)
        book = quantiser.codebooks_[0]
        labels = fit_balanced(book, KMeansConfig(num_codes=4))[1]
        assert np.bincount(labels).tolist() == [4, 4, 4, 4]
        unit = book / np.linalg.norm(book, axis=1, keepdims=True)
        cosines, same = unit @ unit.T, labels[:, None] == labels
        found.append(cosines[same & ~np.eye(16, dtype=bool)].mean() - cosines[~same].mean())
    assert found[1] > found[0] + 0.1


def test_mistakes_are_named() -> None:
    vectors = vectors_of(7, 100)
    agreeing = RQVAE(RQVAEConfig(**SMALL, steps=10, collaborative=0.1))
    with pytest.raises(InputError, match="collaborative loss needs side vectors"):
        agreeing.fit(vectors)
    with pytest.raises(InputError, match=r"side vectors have the shape \(99, 4\).*100 items"):
        agreeing.fit(vectors, side=np.ones((99, 4), np.float32))
    broken = np.ones((100, 4), np.float32)
    broken[8] = np.inf
    with pytest.raises(InputError, match="Row 8 of the side vectors"):
        agreeing.fit(vectors, side=broken)
    with pytest.raises(InputError, match="temperature is 0"):
        RQVAEConfig(temperature=0)
    with pytest.raises(InputError, match="width of the latents is 0"):
        RQVAEConfig(dim=0)


def test_real_titles_are_told_apart_better_than_by_k_means_of_the_same_size() -> None:
    """On a slice of Beauty: fewer items share all their codes than by plain residual k-means."""
    if "SEMID_DATA" not in os.environ:
        pytest.skip("SEMID_DATA is not set")
    path = Path(os.environ["SEMID_DATA"]) / "amazon14_beauty/emb_minilm_384.f16.npy"
    raw = np.load(path)[:1500].astype(np.float32)
    raw -= raw.mean(0)
    vectors = np.ascontiguousarray(raw @ np.linalg.svd(raw, full_matrices=False)[2][:64].T)
    config = RQVAEConfig(codes=64, hidden=(128, 64), steps=400, batch=256, learning_rate=4e-3, device="cpu")
    quantiser = RQVAE(config).fit(vectors)
    assert error(quantiser, vectors) < 0.75
    residuals, plain = vectors.copy(), []
    for level in range(3):
        book = fit_kmeans(residuals, KMeansConfig(num_codes=64, seed=level))
        plain.append(assign(residuals, book)[0])
        residuals = residuals - book[plain[-1]]
    distinct = len(np.unique(np.column_stack(plain), axis=0))
    assert len(np.unique(quantiser.encode(vectors), axis=0)) > distinct
