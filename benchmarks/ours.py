"""The library under test in the form of its peers."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from peers.residual_quantisers import Fitted

from semid.data.features import Embedding
from semid.tokenizers.clustering import prepared
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.fusion.preprocessing import Preprocessor, PreprocessorConfig
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

SYSTEM = "semid"


def cluster(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    return fit_kmeans(vectors, KMeansConfig(num_codes=num_codes, iterations=iterations, seed=seed))


def cluster_float32(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, threads: int) -> np.ndarray:
    """As on a processor that has no units for bfloat16."""
    with mock.patch.object(prepared, "has_half_precision", return_value=False):
        return cluster(vectors, num_codes, iterations, seed, threads)


def fit_residual(vectors: np.ndarray, levels: int, num_codes: int, seed: int, threads: int) -> Fitted:
    """With the defaults."""
    return fit_residual_with(vectors, levels, num_codes, seed, threads)


def fit_residual_with(
    vectors: np.ndarray, levels: int, num_codes: int, seed: int, threads: int, **options: Any
) -> Fitted:
    quantiser = RQKMeans(RQKMeansConfig(levels=levels, codes=num_codes, seed=seed, **options)).fit(vectors)
    return Fitted(codes=quantiser.encode(vectors), codebooks=quantiser.codebooks_, encode=quantiser.encode)


def project(vectors: np.ndarray, components: int, sample: int | None = None) -> np.ndarray:
    """Orthonormal rows (components, D)."""
    return np.ascontiguousarray(fit_preprocessor(vectors, components, sample).basis_.T)


def fit_preprocessor(vectors: np.ndarray, components: int, sample: int | None = None) -> Preprocessor:
    return Preprocessor(PreprocessorConfig(svd=components, sample=sample)).fit([embedding(vectors)])


def embedding(vectors: np.ndarray) -> Embedding:
    return Embedding("vectors", vectors, np.ones(len(vectors), bool))


def mapped(path: Path) -> np.ndarray:
    """The vectors of a file larger than memory."""
    vectors: np.ndarray = np.load(path, mmap_mode="r")
    return vectors
