"""k-means of synthetic vectors: seconds to the error that others reach in ten passes.

Peers run ten iterations. Ours runs with several numbers of passes after its start, and a peer is compared with the
fastest of them whose error is not above the peer's.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from measuring import (
    Goal,
    Row,
    Settings,
    System,
    Timing,
    fastest_at_no_more_error,
    interleave,
    nearest_error,
    row,
    tell,
)
from ours import SYSTEM, cluster, cluster_float32
from peers.clusterers import PEERS, Clusterer
from synthetic_vectors import MixtureConfig, hierarchical_mixture

VECTORS, WIDTH, ITERATIONS = 200_000, 256, 10
SIZES = (256, 1024, 4096)
OURS = {f"{SYSTEM}, {passes} passes": (cluster, passes) for passes in (10, 3, 2, 1)}
OURS_FLOAT32 = {f"{SYSTEM} float32, {passes} passes": (cluster_float32, passes) for passes in (3, 2)}
FULL_FAISS = "faiss.Kmeans, all points"
FASTER_FLOAT32 = 3
GOALS = {
    (FULL_FAISS, 256): Goal(faster=2.5, error=1),
    (FULL_FAISS, 1024): Goal(faster=8, error=1),
    (FULL_FAISS, 4096): Goal(faster=12, error=1),
    ("superkmeans flat", 4096): Goal(faster=4, error=1),
}
_WARM_ROWS, _WARM_CODES = 4096, 256


def run(settings: Settings) -> list[Row]:
    vectors = hierarchical_mixture(MixtureConfig(vectors=settings.scaled(VECTORS), width=WIDTH))
    rows = []
    for num_codes in SIZES:
        if 2 * num_codes <= len(vectors):
            rows += _compare(vectors, num_codes, settings)
    return rows


def _compare(vectors: np.ndarray, num_codes: int, settings: Settings) -> list[Row]:
    setting = f"K={num_codes}, {len(vectors)} x {WIDTH}"
    tell(f"kmeans {setting}")
    peers = {name: (fit, ITERATIONS) for name, fit in PEERS.items() if _applies(name, num_codes, vectors, settings)}
    systems = [
        _system(name, fit, vectors, num_codes, passes, settings.threads)
        for name, (fit, passes) in (OURS | OURS_FLOAT32 | peers).items()
    ]
    timings = interleave(systems, lambda centroids: {"error": nearest_error(vectors, centroids)}, settings)
    return [_row(setting, name, num_codes, timings) for name in timings]


def _row(setting: str, name: str, num_codes: int, timings: Mapping[str, Timing]) -> Row:
    if name in OURS or name in OURS_FLOAT32:
        return replace(row("kmeans", setting, name, timings, ours=name), ratio=None)
    ours = fastest_at_no_more_error(tuple(OURS), timings[name], timings)
    line = row("kmeans", setting, name, timings, GOALS.get((name, num_codes)), ours=ours)
    if line.seconds is None:
        return line
    line = replace(line, note=f"beside {ours}")
    if (name, num_codes) != (FULL_FAISS, SIZES[-1]):
        return line
    single = timings[fastest_at_no_more_error(tuple(OURS_FLOAT32), timings[name], timings)]
    assert single.median is not None
    return line.requiring(f">={FASTER_FLOAT32}x float32", line.seconds / single.median >= FASTER_FLOAT32)


def _applies(name: str, num_codes: int, vectors: np.ndarray, settings: Settings) -> bool:
    if name == "faiss.Kmeans, default sample":  # takes all of fewer vectors, and is the same then
        return len(vectors) > 256 * num_codes
    return settings.slow or name != "sklearn KMeans elkan"


def _system(name: str, fit: Clusterer, vectors: np.ndarray, num_codes: int, passes: int, threads: int) -> System:
    return System(
        name=name,
        run=lambda seed: fit(vectors, num_codes, passes, seed, threads),
        warm=partial(fit, vectors[:_WARM_ROWS], min(_WARM_CODES, num_codes), 2, 0, threads),
    )
