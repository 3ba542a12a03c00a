"""k-means of synthetic vectors, ten iterations: seconds and the error of the centroids."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from measuring import Goal, Row, Settings, System, Timing, interleave, nearest_error, row, tell
from ours import FLOAT32, SYSTEM, cluster, cluster_float32
from peers.clusterers import PEERS, Clusterer
from synthetic_vectors import MixtureConfig, hierarchical_mixture

VECTORS, WIDTH, ITERATIONS = 200_000, 256, 10
SIZES = (256, 1024, 4096)
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
        setting = f"K={num_codes}, {len(vectors)} x {WIDTH}"
        if 2 * num_codes > len(vectors):
            continue
        tell(f"kmeans {setting}")
        fits = {FLOAT32: cluster_float32} | PEERS
        names = [name for name in fits if _applies(name, num_codes, len(vectors), settings)]
        systems = [_system(SYSTEM, cluster, vectors, num_codes, settings.threads)]
        systems += [_system(name, fits[name], vectors, num_codes, settings.threads) for name in names]
        timings = interleave(systems, lambda centroids: {"error": nearest_error(vectors, centroids)}, settings)
        rows += [
            _beside_float32(
                row("kmeans", setting, name, timings, GOALS.get((name, num_codes)), ours=SYSTEM), num_codes, timings
            )
            for name in (SYSTEM, *names)
        ]
    return rows


def _beside_float32(line: Row, num_codes: int, timings: Mapping[str, Timing]) -> Row:
    """Against Faiss at the largest K there is a goal without bfloat16 units too."""
    seconds = timings[FLOAT32].median
    if line.system != FULL_FAISS or num_codes != SIZES[-1] or line.seconds is None or seconds is None:
        return line
    return line.requiring(f">={FASTER_FLOAT32}x float32", line.seconds / seconds >= FASTER_FLOAT32)


def _applies(name: str, num_codes: int, num_vectors: int, settings: Settings) -> bool:
    if name == "faiss.Kmeans, default sample":  # takes all of fewer vectors, and is the same then
        return num_vectors > 256 * num_codes
    return settings.slow or name != "sklearn KMeans elkan"


def _system(name: str, fit: Clusterer, vectors: np.ndarray, num_codes: int, threads: int) -> System:
    return System(
        name=name,
        run=lambda seed: fit(vectors, num_codes, ITERATIONS, seed, threads),
        warm=partial(fit, vectors[:_WARM_ROWS], min(_WARM_CODES, num_codes), 2, 0, threads),
    )
