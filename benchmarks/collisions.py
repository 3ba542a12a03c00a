"""What does it cost to give every item its own code, policy by policy, beside what others do?

The same codes of greedy residual k-means (Faiss) for all: added distortion (the rise of the squared error relative to
the error before), items that still share their codes, items moved, items whose codes before the last level changed,
and seconds. *of greedy* is the added distortion over that of ``nearest`` without its overflow.

    SEMID_DATA=data python benchmarks/collisions.py
    python benchmarks/collisions.py --scale 0.05 --slow
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measuring import colliding, equal_threads
from peers.clusterers import faiss_full
from peers.matching import hungarian_within_prefix
from peers.residual_quantisers import Fitted, greedy
from peers.unique_codes import candidate_matching, sinkhorn_last_level
from synthetic_vectors import MixtureConfig, hierarchical_mixture

from semid.tokenizers.collisions.placement import squared_errors
from semid.tokenizers.collisions.resolution import resolve

Resolver = Callable[[np.ndarray, np.ndarray, list[np.ndarray]], np.ndarray]
LEVELS, GREEDY, OPTIMAL = 3, "semid nearest, overflow shared", "semid optimal"
SETS, EMBEDDING, COMPONENTS = ("amazon14_beauty", "amazon14_sports"), "emb_minilm_384.f16.npy", 64
# Peers that loop over items in Python are left out beyond so many colliding ones.
SLOW_ITEMS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 200 000 synthetic vectors")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slow", action="store_true", help="also the slow peers on large sets")
    arguments = parser.parse_args()
    rows = []
    with equal_threads(arguments.threads):
        for setting, vectors, num_codes in problems(arguments.scale):
            fitted = greedy(faiss_full, vectors, LEVELS, num_codes, 0, arguments.threads)
            rows += compare(setting, vectors, fitted, arguments.slow)
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": arguments.threads}
    print(json.dumps({"benchmark": "collisions", **hardware, "scale": arguments.scale, "rows": rows}))


def problems(scale: float) -> Iterator[tuple[str, np.ndarray, int]]:
    """Name, vectors and K."""
    folder = os.environ.get("SEMID_DATA")
    for name in SETS if folder else ():
        raw = np.load(Path(str(folder)) / name / EMBEDDING).astype(np.float32)
        raw -= raw.mean(0)
        directions = np.linalg.eigh(raw.T @ raw)[1][:, : -COMPONENTS - 1 : -1]
        yield f"{name} {LEVELS} x 256", np.ascontiguousarray(raw @ directions), 256
    vectors = hierarchical_mixture(MixtureConfig(vectors=round(200_000 * scale), width=256))
    for full in (256, 1024):
        num_codes = max(4, round(full * scale ** (1 / LEVELS)))
        yield f"synthetic {len(vectors)} {LEVELS} x {num_codes}", vectors, num_codes


def compare(setting: str, vectors: np.ndarray, fitted: Fitted, slow: bool) -> list[dict[str, object]]:
    """One line a system, printed and returned."""
    codes, books = fitted.codes, list(fitted.codebooks)
    before = squared_errors(codes, vectors, books).sum(dtype=np.float64)
    print(f"\n{setting}: {colliding(codes):.1%} of {len(codes)} items collide")
    print(f"{'':<34}{'added':>9}{'of greedy':>11}{'shared':>9}{'moved':>9}{'prefix':>9}{'seconds':>9}{'cpu':>8}")
    rows, reference = [], None
    for name, resolver in systems(slow or colliding(codes) * len(codes) < SLOW_ITEMS).items():
        began, began_cpu = time.perf_counter(), time.process_time()
        resolved = resolver(codes, vectors, books)
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        added = squared_errors(resolved, vectors, books).sum(dtype=np.float64) / before - 1
        reference = added if name == GREEDY else reference
        changed = codes != resolved[:, :LEVELS]
        row = {
            "setting": setting,
            "system": name,
            "added": float(added),
            "of_greedy": float(added / reference) if reference else None,
            "shared": colliding(resolved[:, :LEVELS]),
            "moved": float(changed.any(1).mean()),
            "prefix_changed": float(changed[:, :-1].any(1).mean()),
            "seconds": seconds,
            "cpu_seconds": cpu,
        }
        rows.append(row)
        ratio = "" if row["of_greedy"] is None else f"{row['of_greedy']:.3f}"
        shares = "".join(f"{row[key]:>9.2%}" for key in ("shared", "moved", "prefix_changed"))
        print(f"{name:<34}{added:>9.3%}{ratio:>11}{shares}{seconds:>9.2f}{cpu:>8.2f}", flush=True)
    return rows


def systems(slow: bool) -> dict[str, Resolver]:
    """Ours and the peers, the reference first."""

    def ours(
        policy: str, overflow: str, codes: np.ndarray, vectors: np.ndarray, books: list[np.ndarray]
    ) -> np.ndarray:
        return resolve(codes, vectors, books, policy=policy, overflow=overflow).codes

    fast: dict[str, Resolver] = {
        GREEDY: partial(ours, "nearest", "extra"),
        "semid nearest": partial(ours, "nearest", "spill"),
        "semid random-k": partial(ours, "random-k", "spill"),
        OPTIMAL: partial(ours, "optimal", "spill"),
        "Hungarian within a prefix": hungarian_within_prefix,
    }
    others: dict[str, Resolver] = {
        "Purely Semantic Indexing, ECM": candidate_matching,
        "Sinkhorn, as in LC-Rec": sinkhorn_last_level,
    }
    return {**fast, **others} if slow else fast


if __name__ == "__main__":
    main()
