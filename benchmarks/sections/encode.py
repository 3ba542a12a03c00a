"""The nearest centroid of new vectors: vectors a second, and whether the codes are Faiss's."""

from dataclasses import replace

import faiss
import numpy as np
from measuring import Goal, Row, Settings, System, equal_threads, interleave, row, tell
from ours import SYSTEM, cluster
from synthetic_vectors import MixtureConfig, hierarchical_mixture

from semid.tokenizers.clustering.nearest import nearest_codes

VECTORS, WIDTH = 200_000, 60
FIT_ITERATIONS = 3
SIZES = (256, 1024, 4096, 8192)
PEER = "faiss.IndexFlatL2"
EQUAL_SHARE = 0.999


def run(settings: Settings) -> list[Row]:
    vectors = hierarchical_mixture(MixtureConfig(vectors=settings.scaled(VECTORS), width=WIDTH))
    rows = []
    for num_codes in SIZES:
        if 2 * num_codes > len(vectors):
            continue
        with equal_threads(settings.threads):
            centroids = cluster(vectors, num_codes, FIT_ITERATIONS, 0, settings.threads)
        rows += _compare(vectors, centroids, settings)
    return rows


def _compare(vectors: np.ndarray, centroids: np.ndarray, settings: Settings) -> list[Row]:
    setting = f"K={len(centroids)}, {len(vectors)} x {WIDTH}"
    tell(f"encode {setting}")
    index = faiss.IndexFlatL2(WIDTH)
    index.add(centroids)
    theirs = index.search(vectors, 1)[1][:, 0]
    some = vectors[:2048]

    def score(codes: np.ndarray) -> dict[str, float]:
        return {"equal": equal_share(vectors, centroids, codes, theirs)}

    systems = [
        System(
            name=SYSTEM, run=lambda _: nearest_codes(vectors, centroids), warm=lambda: nearest_codes(some, centroids)
        ),
        System(name=PEER, run=lambda _: index.search(vectors, 1)[1][:, 0], warm=lambda: index.search(some, 1)),
    ]
    # Short runs need more of them for a steady median.
    timings = interleave(systems, score, replace(settings, repeats=2 * settings.repeats + 1))
    for timing in timings.values():
        for number, seconds in enumerate(timing.seconds):
            timing.figures[number] = {**timing.figures[number], "vectors/s": len(vectors) / seconds}
    ours = row("encode", setting, SYSTEM, timings, ours=SYSTEM)
    peer = row("encode", setting, PEER, timings, Goal(faster=4), ours=SYSTEM)
    equal = ours.figures["equal"]
    return [ours, peer.requiring(f"equal >={EQUAL_SHARE:.1%}", equal >= EQUAL_SHARE)]


def equal_share(vectors: np.ndarray, centroids: np.ndarray, codes: np.ndarray, others: np.ndarray) -> float:
    """Share of the vectors with the same code, or with two that are equally near in float64."""
    apart = np.flatnonzero(codes != others)
    rows = vectors[apart].astype(np.float64)
    one, other = (((rows - centroids[found[apart]]) ** 2).sum(1) for found in (codes, others))
    return float(1 - (one != other).sum() / len(vectors))
