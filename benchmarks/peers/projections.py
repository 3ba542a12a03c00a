"""Linear projections of other libraries: ``(vectors, components) -> (components, D)`` orthonormal rows.

Fitted on vectors that are centred already, because ``TruncatedSVD`` does not centre them.
"""

from collections.abc import Callable

import faiss
import numpy as np

Projection = Callable[[np.ndarray, int], np.ndarray]


def truncated_svd(vectors: np.ndarray, components: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    return np.asarray(TruncatedSVD(components, random_state=0).fit(vectors).components_)


def pca_covariance(vectors: np.ndarray, components: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(components, svd_solver="covariance_eigh").fit(vectors).components_)


def pca_randomized(vectors: np.ndarray, components: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(components, svd_solver="randomized", random_state=0).fit(vectors).components_)


def incremental_pca(vectors: np.ndarray, components: int) -> np.ndarray:
    from sklearn.decomposition import IncrementalPCA

    return np.asarray(IncrementalPCA(components).fit(vectors).components_)


def faiss_pca(vectors: np.ndarray, components: int) -> np.ndarray:
    matrix = faiss.PCAMatrix(vectors.shape[1], components)
    matrix.max_points_per_d = len(vectors)
    matrix.train(vectors)
    return np.asarray(faiss.vector_to_array(matrix.A).reshape(components, -1))


PEERS: dict[str, Projection] = {
    "TruncatedSVD": truncated_svd,
    "PCA covariance": pca_covariance,
    "PCA randomized": pca_randomized,
    "IncrementalPCA": incremental_pca,
    "faiss.PCAMatrix": faiss_pca,
}
