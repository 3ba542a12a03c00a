"""Residual quantisers of other libraries: ``(vectors, levels, K, seed, threads) -> Fitted``, codes included."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import faiss
import numpy as np
import torch
from peers.clusterers import Clusterer, faiss_full

ITERATIONS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """What a fit gave: the codes of its vectors, L codebooks whose rows add up, and the codes of any vectors."""

    codes: np.ndarray
    codebooks: Sequence[np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (N, D) vectors that (N, L) codes stand for."""
        return np.sum([book[codes[:, level]] for level, book in enumerate(self.codebooks)], axis=0)


ResidualFit = Callable[[np.ndarray, int, int, int, int], Fitted]


def greedy(cluster: Clusterer, vectors: np.ndarray, levels: int, num_codes: int, seed: int, threads: int) -> Fitted:
    """A k-means a level, each on what the levels before left."""
    residuals, codebooks, columns = vectors.copy(), [], []
    for level in range(levels):
        codebooks.append(np.ascontiguousarray(cluster(residuals, num_codes, ITERATIONS, seed + 100 * level, threads)))
        columns.append(faiss.knn(residuals, codebooks[-1], 1)[1][:, 0].astype(np.int32))
        residuals -= codebooks[-1][columns[-1]]
    return Fitted(codes=np.stack(columns, 1), codebooks=codebooks, encode=partial(encode_greedily, codebooks))


def encode_greedily(codebooks: Sequence[np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """The nearest centroid of every level in turn. (N, L) int32"""
    residuals, columns = vectors.copy(), []
    for codebook in codebooks:
        columns.append(faiss.knn(residuals, codebook, 1)[1][:, 0].astype(np.int32))
        residuals -= codebook[columns[-1]]
    return np.stack(columns, 1)


def faiss_residual(
    training: int, beam: int, vectors: np.ndarray, levels: int, num_codes: int, seed: int, threads: int
) -> Fitted:
    """``faiss.ResidualQuantizer``; K a power of two."""
    bits = num_codes.bit_length() - 1
    quantiser = faiss.ResidualQuantizer(vectors.shape[1], levels, bits)
    quantiser.train_type = training
    quantiser.max_beam_size = beam
    quantiser.cp.seed = seed + 1
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(vectors)
    sizes = (levels, num_codes, vectors.shape[1])
    codebooks = list(faiss.vector_to_array(quantiser.codebooks).reshape(sizes))

    def encode(rows: np.ndarray) -> np.ndarray:
        return np.asarray(faiss.unpack_bitstrings(quantiser.compute_codes(rows), levels, bits))

    return Fitted(codes=encode(vectors), codebooks=codebooks, encode=encode)


def semantic_id(vectors: np.ndarray, levels: int, num_codes: int, seed: int, threads: int) -> Fitted:
    """``semantic_id.RQKMeans`` with one start of ten iterations, a hundredth of its default work."""
    from semantic_id import RQKMeans

    model = RQKMeans(levels, num_codes, max_iter=ITERATIONS, n_init=1, random_state=seed)
    model.fit(vectors)

    def encode(rows: np.ndarray) -> np.ndarray:
        return np.asarray(model.encode(rows, batch_size=1 << 14))

    return Fitted(codes=encode(vectors), codebooks=model.codebooks_, encode=encode)


def residual_vq(vectors: np.ndarray, levels: int, num_codes: int, seed: int, threads: int) -> Fitted:
    """``vector_quantize_pytorch.ResidualVQ`` from a k-means start, five epochs of its moving averages."""
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(seed)
    model = ResidualVQ(
        dim=vectors.shape[1],
        num_quantizers=levels,
        codebook_size=num_codes,
        kmeans_init=True,
        kmeans_iters=ITERATIONS,
        threshold_ema_dead_code=2,
    )
    rows = torch.from_numpy(vectors)
    batch = min(8 * num_codes, len(rows))
    with torch.no_grad():
        model.train()
        for _ in range(5):
            for block in torch.randperm(len(rows)).split(batch):
                model(rows[block][None])
        model.eval()
    codebooks = [book.numpy() for book in model.codebooks]

    def encode(some: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            blocks = [model(block[None])[1][0] for block in torch.from_numpy(some).split(batch)]
        return torch.cat(blocks).numpy().astype(np.int32)

    return Fitted(codes=encode(vectors), codebooks=codebooks, encode=encode)


def minibatch_residual(vectors: np.ndarray, levels: int, num_codes: int, seed: int, threads: int) -> Fitted:
    """As the recommenders that learn codes while reading batches: a mini-batch k-means a level, k-means++ start."""

    def cluster(rows: np.ndarray, size: int, iterations: int, level_seed: int, _: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(level_seed)
        data = torch.from_numpy(rows)
        batch = min(max(2048, 4 * size), len(data))
        centroids = _plus_plus(data[torch.randperm(len(data), generator=generator)[:batch]], size, generator)
        counts = torch.zeros(size)
        for _ in range(iterations // 2):
            for block in torch.randperm(len(data), generator=generator).split(batch):
                _minibatch_step(data[block], centroids, counts)
        return centroids.numpy()

    return greedy(cluster, vectors, levels, num_codes, seed, threads)


def _minibatch_step(block: torch.Tensor, centroids: torch.Tensor, counts: torch.Tensor) -> None:
    """Each centroid moves to the mean of all vectors it was ever nearest to (Sculley 2010)."""
    nearest = ((centroids**2).sum(1) - 2 * block @ centroids.T).argmin(1)
    found = torch.bincount(nearest, minlength=len(centroids)).float()
    sums = torch.zeros_like(centroids).index_add_(0, nearest, block)
    counts += found
    centroids += (sums - found[:, None] * centroids) / counts.clamp(min=1)[:, None]


def _plus_plus(data: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Rows drawn with a chance that grows with the squared distance to those before, one at a time."""
    chosen = torch.empty(size, data.shape[1])
    chosen[0] = data[0]
    distance = ((data - chosen[0]) ** 2).sum(1)
    for number in range(1, size):
        weights = distance if distance.sum() > 0 else torch.ones_like(distance)
        chosen[number] = data[torch.multinomial(weights, 1, generator=generator)[0]]
        distance = torch.minimum(distance, ((data - chosen[number]) ** 2).sum(1))
    return chosen


_REFINED = faiss.ResidualQuantizer.Train_progressive_dim | faiss.ResidualQuantizer.Train_refine_codebook

GREEDY_FAISS = "faiss.Kmeans per level"
PEERS: dict[str, ResidualFit] = {
    GREEDY_FAISS: partial(greedy, faiss_full),
    "faiss RQ plain, beam 1": partial(faiss_residual, faiss.ResidualQuantizer.Train_default, 1),
    "faiss RQ progressive, beam 1": partial(faiss_residual, faiss.ResidualQuantizer.Train_progressive_dim, 1),
    "faiss RQ progressive, beam 5": partial(faiss_residual, faiss.ResidualQuantizer.Train_progressive_dim, 5),
    "faiss RQ refined, beam 1": partial(faiss_residual, _REFINED, 1),
    "faiss RQ refined, beam 5": partial(faiss_residual, _REFINED, 5),
    "mini-batch residual k-means": minibatch_residual,
    "ResidualVQ": residual_vq,
    "semantic-id RQKMeans": semantic_id,
}
