"""What does each part of the residual quantiser do for the codes, and which should be on by default?

Each line changes one thing: the first lines add to plain k-means level by level what the default has, the others take
something away from the default or set an option. A tenth of the items is held out, anew for each seed; all variants
see the same. Errors are over the variance; "neighbours" is the share of an item's true 10 nearest neighbours among
the 10 items whose reconstructions are nearest to its own.

    SEMID_DATA=../shared/data python benchmarks/levers.py --sets amazon14_beauty amazon14_sports mixture
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from measuring import Settings, colliding, equal_threads, perplexities, relative_error, tell
from peers.residual_quantisers import PEERS
from sections.real import real_vectors, split_items
from synthetic_vectors import MixtureConfig, hierarchical_mixture

from semid.evaluation.over_seeds import mean_over_seeds
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig, decode

PLAIN: dict[str, Any] = {"beam": 1, "rounds": 0, "hartigan": "never"}
VARIANTS: dict[str, dict[str, Any]] = {
    "Lloyd, random start": {**PLAIN, "start": "random"},
    "Lloyd, k-means++": {**PLAIN, "start": "plus-plus"},
    "Lloyd, shrunk start": {**PLAIN, "start": "shrunk"},
    "Lloyd, spherical start": {**PLAIN, "start": "spherical"},
    "Lloyd, hierarchical start": {**PLAIN, "start": "hierarchical"},
    "Lloyd, better of two starts": PLAIN,
    "+ Hartigan": {"beam": 1, "rounds": 0, "hartigan": "always"},
    "+ Hartigan, better of two": {"beam": 1, "rounds": 0},
    "+ beam": {"rounds": 0},
    "+ rounds, no noise": {"noise": 0.0},
    "+ noise = default": {},
    "default, no Hartigan": {"hartigan": "never"},
    "default, beam 1": {"beam": 1, "rounds": 32},
    "default, beam 4": {"beam": 4},
    "default, 8 rounds": {"rounds": 8},
    "balanced 1.1": {"balanced": 1.1},
    "normalised": {"normalise": True},
}
NEIGHBOURS, QUERIES = 10, 2000
COLUMNS = ("fit", "held out", "collisions", "neighbours", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["mixture"], help="folders of $SEMID_DATA, or mixture")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--svd", type=int, default=128)
    parser.add_argument("--mixture", type=int, default=50_000, help="vectors of the synthetic set")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the vectors of each set")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    with equal_threads(arguments.threads):
        for name in arguments.sets:
            rows += measure_set(name, arguments)
    print_table(rows)
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "levers", **hardware, **vars(arguments), "rows": rows}))


def measure_set(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a variant: mean of every figure over the seeds, and half the width of its 95 % interval."""
    vectors = vectors_of(name, arguments)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in (*arguments.peers, *arguments.variants)}
    for seed in range(arguments.seeds):
        split = split_items(vectors, seed, min(arguments.svd, vectors.shape[1]))
        for variant, figures in found.items():
            figures.append(measure(variant, split.fit, split.held_out, seed, arguments))
            tell(f"{name} {variant} {seed}: {figures[-1]['held out']:.4f} held out")
    return [{"set": name, "variant": variant, **summary(figures)} for variant, figures in found.items()]


def vectors_of(name: str, arguments: argparse.Namespace) -> np.ndarray:
    if name == "mixture":
        return hierarchical_mixture(MixtureConfig(vectors=round(arguments.scale * arguments.mixture), width=256))
    data = os.environ.get("SEMID_DATA")
    if data is None:
        raise SystemExit(f"Set SEMID_DATA to the folder that has {name}.")
    return real_vectors(name, Settings(data=Path(data), scale=arguments.scale))


def measure(
    variant: str, fit: np.ndarray, held_out: np.ndarray, seed: int, arguments: argparse.Namespace
) -> dict[str, float]:
    began = time.process_time()
    if variant in PEERS:
        fitted = PEERS[variant](fit, arguments.levels, arguments.codes, seed, arguments.threads)
        seconds, codebooks = time.process_time() - began, fitted.codebooks
        codes, codes_out = fitted.codes, fitted.encode(held_out)
    else:
        config = RQKMeansConfig(levels=arguments.levels, codes=arguments.codes, seed=seed, **VARIANTS[variant])
        quantiser = RQKMeans(config).fit(fit)
        codes = quantiser.encode_together(fit)
        seconds, codebooks = time.process_time() - began, quantiser.codebooks_
        codes_out = quantiser.encode(held_out)
    decoded, decoded_out = decode(codes, codebooks), decode(codes_out, codebooks)
    figures = {
        "fit": relative_error(fit, lambda rows: decoded[rows]),
        "held out": relative_error(held_out, lambda rows: decoded_out[rows], fit.mean(0, dtype=np.float64)),
        "collisions": colliding(codes),
        "neighbours": neighbours_kept(fit, decoded, seed),
        "seconds": seconds,
    }
    return figures | {f"perplexity {level}": value for level, value in enumerate(perplexities(codes), start=1)}


def neighbours_kept(vectors: np.ndarray, decoded: np.ndarray, seed: int) -> float:
    """Share of the true nearest neighbours of some items found among as many nearest reconstructions."""
    queries = np.random.default_rng(seed).choice(len(vectors), min(QUERIES, len(vectors)), replace=False)
    true, found = (_nearest_others(points, queries) for points in (vectors, decoded))
    return float(np.mean([len(np.intersect1d(a, b)) / NEIGHBOURS for a, b in zip(true, found, strict=True)]))


def _nearest_others(points: np.ndarray, queries: np.ndarray) -> list[np.ndarray]:
    points = np.ascontiguousarray(points, np.float32)
    found = faiss.knn(points[queries], points, NEIGHBOURS + 1)[1]
    return [near[near != query][:NEIGHBOURS] for near, query in zip(found, queries, strict=True)]


def summary(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure, and half the width of its 95 % interval by Student's t."""
    result = {}
    for name in figures[0]:
        mean, half = mean_over_seeds([found[name] for found in figures])
        result |= {name: round(mean, 5), f"{name} +-": round(half or 0.0, 5)}
    return result


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'set':<20}{'variant':<30}" + "".join(f"{column:>18}" for column in COLUMNS) + "  perplexity")
    for row in rows:
        cells = [f"{row[column]:.4f} ± {row[column + ' +-']:.4f}" for column in COLUMNS[:-1]] + [
            f"{row['seconds']:.1f}"
        ]
        levels = [name for name in row if name.startswith("perplexity") and not name.endswith("+-")]
        shown = " / ".join(f"{row[name]:.0f}" for name in levels)
        print(f"{row['set']:<20}{row['variant']:<30}" + "".join(f"{cell:>18}" for cell in cells) + f"  {shown}")


if __name__ == "__main__":
    main()
