"""k-means of other libraries: ``(vectors, K, iterations, seed, threads) -> (K, D) centroids``."""

import warnings
from collections.abc import Callable

import faiss
import numpy as np

Clusterer = Callable[[np.ndarray, int, int, int, int], np.ndarray]

_ALL = 10**9


def faiss_full(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    return _faiss(vectors, num_codes, iterations, seed, _ALL)


def faiss_default(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    """With Faiss's own subsampling of 256 vectors a centroid."""
    return _faiss(vectors, num_codes, iterations, seed, 256)


def _faiss(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, most: int) -> np.ndarray:
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        num_codes,
        niter=iterations,
        seed=seed + 1,
        max_points_per_centroid=most,
        min_points_per_centroid=1,
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids)


def sklearn_lloyd(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    return _sklearn(vectors, num_codes, iterations, seed, "lloyd")


def sklearn_elkan(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    return _sklearn(vectors, num_codes, iterations, seed, "elkan")


def _sklearn(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, algorithm: str) -> np.ndarray:
    """From random rows, as Faiss: the k-means++ of scikit-learn alone would take longer than the iterations."""
    from sklearn.cluster import KMeans

    kmeans = KMeans(
        num_codes, init="random", n_init=1, max_iter=iterations, tol=0, random_state=seed, algorithm=algorithm
    )
    with warnings.catch_warnings():  # that ten iterations did not converge is what was asked for
        warnings.simplefilter("ignore")
        return np.asarray(kmeans.fit(vectors).cluster_centers_)


def sklearn_minibatch(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(
        num_codes,
        init="random",
        n_init=1,
        max_iter=iterations,
        batch_size=max(4096, num_codes),
        max_no_improvement=None,
        random_state=seed,
    )
    return np.asarray(kmeans.fit(vectors).cluster_centers_)


def fastkmeans(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    from fastkmeans import FastKMeans

    kmeans = FastKMeans(vectors.shape[1], num_codes, niter=iterations, seed=seed, gpu=False)
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids)


def superkmeans_flat(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    """On all vectors, all iterations: its default would take 30 % of them."""
    return _superkmeans(
        vectors,
        num_codes,
        seed,
        threads,
        hierarchical=False,
        iters=iterations,
        sampling_fraction=1.0,
        max_points_per_cluster=len(vectors),
        early_termination=False,
    )


def superkmeans_hierarchical(
    vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int
) -> np.ndarray:
    return _superkmeans(vectors, num_codes, seed, threads, hierarchical=True)


def _superkmeans(vectors: np.ndarray, num_codes: int, seed: int, threads: int, **options: float | bool) -> np.ndarray:
    from superkmeans import SuperKMeans

    kmeans = SuperKMeans(num_codes, vectors.shape[1], n_threads=threads, seed=seed, **options)
    return np.asarray(kmeans.train(vectors))


PEERS: dict[str, Clusterer] = {
    "faiss.Kmeans, all points": faiss_full,
    "faiss.Kmeans, default sample": faiss_default,
    "sklearn KMeans lloyd": sklearn_lloyd,
    "sklearn KMeans elkan": sklearn_elkan,
    "sklearn MiniBatchKMeans": sklearn_minibatch,
    "fastkmeans": fastkmeans,
    "superkmeans flat": superkmeans_flat,
    "superkmeans hierarchical": superkmeans_hierarchical,
}
