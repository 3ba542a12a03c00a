"""k-means of tensors against Lloyd's algorithm written down in float64."""

import numpy as np
import pytest
import torch

from semid.errors import InputError
from semid.tokenizers.clustering import kmeans_gpu
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.kmeans_gpu import Clusters, fit_kmeans_tensors
from semid.tokenizers.clustering.nearest import assign
from semid.tokenizers.clustering.starts import plus_plus

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _mixture(num_vectors, num_clusters=9, width=6, seed=0):
    rng = np.random.default_rng(seed)
    middles = 8 * rng.normal(size=(num_clusters, width))
    vectors = middles[rng.integers(num_clusters, size=num_vectors)] + rng.normal(size=(num_vectors, width))
    return torch.from_numpy(vectors.astype(np.float32)).to(_DEVICE)


def _lloyd(vectors, centroids, passes):
    for _ in range(passes):
        codes = ((vectors[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        centroids = np.stack([vectors[codes == code].mean(0) for code in range(len(centroids))])
    return centroids


@pytest.mark.parametrize("elements", [1 << 26, 700])
def test_passes_are_lloyds(elements, monkeypatch):
    monkeypatch.setattr(kmeans_gpu, "_BLOCK_ELEMENTS", elements)
    vectors = _mixture(800)
    seen = []
    config = KMeansConfig(num_codes=20, iterations=7, tolerance=0, relaxation=1.0)
    centroids = fit_kmeans_tensors(
        vectors, config, start=vectors[:20], progress=lambda number, error: seen.append((number, error))
    )
    exact = vectors.cpu().double().numpy()
    assert np.allclose(centroids.cpu().numpy(), _lloyd(exact, exact[:20], 7), atol=1e-4)
    assert [number for number, _ in seen] == list(range(1, 8))
    before = ((exact[:, None] - _lloyd(exact, exact[:20], 6)[None]) ** 2).sum(-1).min(1).mean()
    assert seen[-1][1] == pytest.approx(before, rel=1e-5)


def test_clusters():
    vectors = torch.tensor([[0.0, 0], [2, 0], [10, 0], [0, 4]])
    clusters = Clusters(vectors, torch.tensor([1, 1, 3, 1]), torch.tensor([[9.0, 9], [0, 0], [7, 7], [0, 0]]))
    assert clusters.counts.tolist() == [0, 3, 0, 1]
    assert torch.allclose(clusters.means, torch.tensor([[9, 9], [2 / 3, 4 / 3], [7, 7], [10, 0]]))
    assert clusters.cost.tolist() == [0, 20, 0, 100]
    filled = clusters.fill_empty(clusters.means, np.random.default_rng(0))
    assert filled[0].tolist() == [10, 0]  # half-way between the costliest centroid and its only member
    halves = [((clusters.means[1] + vectors[row]) / 2).tolist() for row in (0, 1, 3)]
    assert filled[2].tolist() in halves
    assert torch.equal(filled[[1, 3]], clusters.means[[1, 3]])


def test_start_and_fit_are_those_on_the_host():
    vectors = _mixture(600, num_clusters=12)
    config = KMeansConfig(num_codes=12, seed=3)
    start = kmeans_gpu._start(vectors, config, np.random.default_rng(3))
    assert np.array_equal(start.cpu().numpy(), plus_plus(vectors.cpu().numpy(), 12, np.random.default_rng(3)))
    centroids = fit_kmeans_tensors(vectors, config)
    expected = fit_kmeans(vectors.cpu().numpy(), config, start=start.cpu().numpy())
    assert np.allclose(centroids.cpu().numpy(), expected, atol=1e-4)


def test_sample_and_random_start_repeat():
    vectors = _mixture(500)
    config = KMeansConfig(num_codes=15, sample=200, start="random", iterations=5)
    assert torch.equal(fit_kmeans_tensors(vectors, config), fit_kmeans_tensors(vectors, config))


def test_no_centroid_stays_empty():
    vectors = _mixture(300)
    start = vectors[:1].repeat(10, 1)
    centroids = fit_kmeans_tensors(vectors, KMeansConfig(num_codes=10, iterations=30), start=start)
    assert len(torch.cdist(vectors, centroids).argmin(1).unique()) == 10


def test_constant_vectors_and_too_few():
    vectors = torch.ones(8, 3, device=_DEVICE)
    assert torch.equal(fit_kmeans_tensors(vectors, KMeansConfig(num_codes=4)), vectors[:4])
    with pytest.raises(InputError, match="Cannot make 9 codes from 8 vectors"):
        fit_kmeans_tensors(vectors, KMeansConfig(num_codes=9))


def test_the_same_doors_as_for_arrays():
    vectors = _mixture(300)
    config = KMeansConfig(num_codes=5, iterations=3)
    centroids = fit_kmeans(vectors, config, start=vectors[:5])
    assert torch.equal(centroids, fit_kmeans_tensors(vectors, config, start=vectors[:5]))
    found, expected = assign(vectors, centroids), assign(vectors.cpu().numpy(), centroids.cpu().numpy())
    assert np.array_equal(found[0].cpu().numpy(), expected[0])
    assert np.allclose(found[1].cpu().numpy(), expected[1], rtol=1e-5)
