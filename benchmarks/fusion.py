"""What is fusing several embeddings worth, and what becomes of items that lack some?

Half of the embeddings' vectors are hidden, item by item, and the fused vectors are compared with those that nothing
was hidden from: *error* is the squared difference over the squared length (of the items that lack something, under
the projection fitted to the hidden set), *neighbours* the share of each item's 20 nearest that stay among the 20
nearest. Fillings: by regression on what an item has, by the mean, by zeros taken for vectors, and generalised CCA's
mean of what its embeddings say. *next* says what the vectors are good for: how often the item that a user takes
after training is among the 20 nearest of the last one taken in it, which weights are chosen without having seen.

    python benchmarks/fusion.py $SEMID_DATA/amazon14_beauty --emb minilm_384,wordllama_128,cooccurrence
"""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
from quality import prepared

from semid.data.cooccurrence import sample_pairs, split_users
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.data.splits import SplitConfig
from semid.pipeline.fitting import item_embedding
from semid.tokenizers.fusion.preprocessing import Preprocessor, PreprocessorConfig
from semid.tokenizers.fusion.weighting import search_weights

NEAREST = 20
QUERIES = 2000
FILLINGS = {
    "regression": PreprocessorConfig(),
    "mean": PreprocessorConfig(missing="mean"),
    "zeros": PreprocessorConfig(),
    "gcca": PreprocessorConfig(fuse="gcca"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--emb", default="minilm_384,wordllama_128,cooccurrence")
    parser.add_argument("--svd", type=int, default=64)
    parser.add_argument("--hidden", type=float, default=0.5, help="share of the vectors of each embedding")
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dataset = prepared(arguments.dataset, arguments.work / arguments.dataset.name, SplitConfig.protocol)
    embeddings = [item_embedding(dataset, name, arguments.seed) for name in arguments.emb.split(",")]
    steps = next_items(dataset)
    print(f"{'embeddings':<38}{'filling':<12}{'weights':<22}{'error':>8}{'neighbours':>12}{'next':>8}{'seconds':>9}")
    results = [
        *weightings(dataset, embeddings, steps, arguments.svd, arguments.seed),
        *fillings(embeddings, steps, arguments.svd, arguments.hidden, arguments.seed),
    ]
    about = {
        "dataset": arguments.dataset.name,
        "svd": arguments.svd,
        "hidden": arguments.hidden,
        "items": dataset.num_items,
    }
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "fusion", **about, **hardware, "results": results}))


def weightings(
    dataset: Dataset, embeddings: Sequence[Embedding], steps: np.ndarray, svd: int, seed: int
) -> list[dict[str, object]]:
    """Every embedding by itself, all of them at equal weights, and at chosen ones."""
    config = PreprocessorConfig(svd=svd, seed=seed)
    rows = [row(embedding.name, "-", "-", hits(fused([embedding], config)[0], steps)) for embedding in embeddings]
    names = "+".join(embedding.name for embedding in embeddings)
    rows.append(row(names, "regression", "equal", hits(fused(embeddings, config)[0], steps)))
    began = process_time()
    others, some = split_users(dataset, seed=seed)
    apart = [item_embedding(others, embedding.name, seed) for embedding in embeddings]
    chosen = search_weights(apart, sample_pairs(some, seed=seed)).weights
    seconds = process_time() - began
    weights = " ".join(f"{weight:.2f}" for weight in chosen)
    found = hits(fused(embeddings, replace(config, weights=chosen))[0], steps)
    return [*rows, row(names, "regression", f"auto {weights}", found, seconds=seconds)]


def fillings(
    embeddings: Sequence[Embedding], steps: np.ndarray, svd: int, hidden: float, seed: int
) -> list[dict[str, object]]:
    """What each way to fill in keeps when vectors are hidden."""
    rng = np.random.default_rng(seed)
    masks = [embedding.valid & (rng.random(len(embedding.valid)) >= hidden) for embedding in embeddings]
    lacking = np.any([e.valid & ~mask for e, mask in zip(embeddings, masks, strict=True)], axis=0)
    lacking &= np.any(masks, axis=0)
    whole, _ = fused(embeddings, PreprocessorConfig(svd=svd, seed=seed))
    queries = rng.permutation(np.flatnonzero(lacking))[:QUERIES]
    rows = []
    for name, config in FILLINGS.items():
        given = [
            Embedding(e.name, np.where(mask[:, None], e.vectors, 0), e.valid if name == "zeros" else mask)
            for e, mask in zip(embeddings, masks, strict=True)
        ]
        vectors, fitted = fused(given, replace(config, svd=svd, seed=seed))
        truth, _ = fitted.transform(embeddings)
        error = float(((vectors - truth)[lacking] ** 2).sum() / (truth[lacking] ** 2).sum())
        kept = [
            len(np.intersect1d(one, other)) / NEAREST
            for one, other in zip(nearest(vectors, queries), nearest(whole, queries), strict=True)
        ]
        rows.append(row(f"{hidden:.0%} hidden", name, "equal", hits(vectors, steps), error, float(np.mean(kept))))
    return rows


def fused(embeddings: Sequence[Embedding], config: PreprocessorConfig) -> tuple[np.ndarray, Preprocessor]:
    fitted = Preprocessor(config).fit(embeddings)
    return fitted.transform(embeddings)[0], fitted


def next_items(dataset: Dataset) -> np.ndarray:
    """(P, 2): the last item of every user's training history, and the one taken after it."""
    last = dataset.train_end - 1
    some = (last >= dataset.events.offsets[:-1]) & (dataset.train_end < dataset.events.offsets[1:])
    items = np.asarray(dataset.events.items)
    return np.stack([items[last[some]], items[last[some] + 1]], axis=1)


def hits(vectors: np.ndarray, steps: np.ndarray) -> float:
    """How often the second of a pair is among the nearest of the first."""
    queries, number = np.unique(steps[:, 0], return_inverse=True)
    found = nearest(vectors, queries)[number.reshape(-1)]
    return float((found == steps[:, 1:]).any(axis=1).mean())


def nearest(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(Q, NEAREST) rows, the query itself left out."""
    points = torch.from_numpy(vectors)
    lengths = points.square().sum(1)
    found = []
    for some in torch.from_numpy(queries.astype(np.int64)).split(512):
        distances = lengths - 2 * points[some] @ points.T
        distances[torch.arange(len(some)), some] = torch.inf
        found.append(distances.topk(NEAREST, largest=False).indices)
    return torch.cat(found).numpy()


def row(
    embeddings: str,
    filling: str,
    weights: str,
    next_share: float,
    error: float | None = None,
    neighbours: float | None = None,
    seconds: float | None = None,
) -> dict[str, object]:
    """Print one line of the table and return it."""
    figures = [f"{'' if value is None else format(value, '.4f'):>{w}}" for value, w in ((error, 8), (neighbours, 12))]
    took = "" if seconds is None else f"{seconds:.1f}"
    print(f"{embeddings:<38}{filling:<12}{weights:<22}{''.join(figures)}{next_share:>8.4f}{took:>9}", flush=True)
    return {
        "embeddings": embeddings,
        "filling": filling,
        "weights": weights,
        "error": error,
        "neighbours": neighbours,
        "next": next_share,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
