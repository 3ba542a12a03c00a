"""How fast are residual k-means codes fitted on a GPU?

By default 10⁷ vectors of 128 dimensions, 3 levels of 8192 codes, 10 passes each, beside the same passes in plain
torch and faiss-gpu where it is installed. Vectors are made and kept on the GPU; for all systems alike a level starts
from vectors drawn at random and ends with one assignment of ours. Peers run fewer passes: compare errors only with
--peer-passes set to --passes. Codes are compared with a float64 search on a sample.

    python benchmarks/kmeans_gpu.py --vectors 10000000
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from semid.tokenizers.clustering.kmeans import KMeansConfig
from semid.tokenizers.clustering.kmeans_gpu import fit_kmeans_tensors
from semid.tokenizers.clustering.nearest_gpu import PreparedTensors, assign_tensors

GOAL_SECONDS = 3.0
Fit = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]  # vectors, start, passes: centroids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--codes", type=int, default=8192)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-passes", type=int, default=2, help="passes of the peers; their seconds are scaled up")
    parser.add_argument("--cpu", action="store_true", help="run on the processor, to try the script at a small size")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.cpu:
        sys.exit(
            "This benchmark needs a CUDA GPU, and torch sees none here; --cpu tries the script on the processor."
        )
    device = torch.device("cpu" if arguments.cpu else "cuda")
    vectors = mixture(arguments.vectors, arguments.width, device)
    starts = [draw(len(vectors), arguments.codes, level) for level in range(arguments.levels)]
    systems: dict[str, tuple[Fit, int]] = {
        "semid": (fit_semid, arguments.passes),
        "torch float32": (fit_torch, arguments.peer_passes),
    }
    if hasattr(faiss := _faiss(), "StandardGpuResources") and device.type == "cuda":
        systems["faiss-gpu"] = (lambda *given: fit_faiss(faiss, *given), arguments.peer_passes)
    rows = [measure(name, fit, passes, vectors, starts, arguments) for name, (fit, passes) in systems.items()]
    exact = check(vectors, starts[0])
    timing = part_times(vectors, starts[0])
    report(rows, exact, timing, arguments, device)


def measure(
    name: str,
    fit: Fit,
    passes: int,
    vectors: torch.Tensor,
    starts: list[np.ndarray],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Median seconds of a whole fit, scaled to the passes asked for, and the error left after all levels."""
    residual_fit(vectors[: 4 * arguments.codes], [rows % (4 * arguments.codes) for rows in starts], fit, 1)  # warm-up
    seconds, error = [], 0.0
    for _ in range(arguments.repeats):
        synchronise(vectors)
        began = time.perf_counter()
        error = residual_fit(vectors, starts, fit, passes)
        synchronise(vectors)
        seconds.append(time.perf_counter() - began)
    return {
        "system": name,
        "passes": passes,
        "seconds": median(seconds),
        "seconds_scaled": median(seconds) * arguments.passes / passes,
        "error": error,
    }


def residual_fit(vectors: torch.Tensor, starts: list[np.ndarray], fit: Fit, passes: int) -> float:
    """Fit level after level on what the level before left; the mean squared length of what the last one leaves."""
    residual = vectors.clone()
    for rows in starts:
        start = residual[torch.from_numpy(rows).to(vectors.device)]
        centroids = fit(residual, start, passes)
        codes, _ = assign_tensors(residual, centroids)
        for block in torch.arange(len(residual), device=vectors.device).split(1 << 20):
            residual[block] -= centroids[codes[block].long()]
    return float(residual.square().mean(1, dtype=torch.float64).mean()) * vectors.shape[1]


def fit_semid(vectors: torch.Tensor, start: torch.Tensor, passes: int) -> torch.Tensor:
    config = KMeansConfig(num_codes=len(start), iterations=passes, tolerance=0)
    return fit_kmeans_tensors(vectors, config, start=start)


def fit_torch(vectors: torch.Tensor, start: torch.Tensor, passes: int) -> torch.Tensor:
    """Tiles of distances, stored, their argmin, and means by atomic additions."""
    centroids = start
    for _ in range(passes):
        lengths, sums = centroids.square().sum(1), torch.zeros_like(centroids)
        counts = torch.zeros(len(centroids), device=vectors.device)
        for block in vectors.split(1 << 17):
            codes = torch.addmm(lengths, block, centroids.T, alpha=-2).argmin(1)
            sums.index_add_(0, codes, block)
            counts += torch.bincount(codes, minlength=len(centroids))
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids)
    return centroids


def fit_faiss(faiss: Any, vectors: torch.Tensor, start: torch.Tensor, passes: int) -> torch.Tensor:
    kmeans = faiss.Kmeans(
        vectors.shape[1], len(start), niter=passes, gpu=True, max_points_per_centroid=len(vectors), seed=0
    )
    kmeans.train(vectors.cpu().numpy(), init_centroids=start.cpu().numpy())
    return torch.from_numpy(kmeans.centroids).to(vectors.device)


def check(vectors: torch.Tensor, rows: np.ndarray, sample: int = 2000) -> float:
    """Share of a sample whose code is that of a float64 search."""
    centroids = vectors[torch.from_numpy(rows).to(vectors.device)]
    probes = vectors[:: max(1, len(vectors) // sample)]
    codes, _ = assign_tensors(probes, centroids)
    expected = [(probe.double() - centroids.double()).square().sum(1).argmin() for probe in probes]
    return float((codes == torch.stack(expected)).double().mean())


def part_times(vectors: torch.Tensor, rows: np.ndarray) -> dict[str, float]:
    """Seconds of one assignment of prepared vectors, and its product's rate."""
    centroids = vectors[torch.from_numpy(rows).to(vectors.device)]
    prepared = PreparedTensors(vectors, centroids)
    seconds = []
    for _ in range(3):
        synchronise(vectors)
        began = time.perf_counter()
        prepared.assign(centroids)
        synchronise(vectors)
        seconds.append(time.perf_counter() - began)
    operations = 2 * len(vectors) * len(centroids) * vectors.shape[1]
    return {"assign_seconds": median(seconds), "assign_tflops": operations / median(seconds) / 1e12}


def mixture(num_vectors: int, width: int, device: torch.device) -> torch.Tensor:
    """A mixture of mixtures, float32."""
    generator = torch.Generator(device).manual_seed(0)
    coarse = 2 * torch.randn(64, width, generator=generator, device=device)
    fine = torch.randn(4096, width, generator=generator, device=device)
    vectors = torch.randn(num_vectors, width, generator=generator, device=device)
    for block in vectors.split(1 << 20):
        number = torch.randint(4096, (len(block),), generator=generator, device=device)
        block.mul_(0.5).add_(fine[number]).add_(coarse[number % 64])
    return vectors


def draw(num_vectors: int, count: int, level: int) -> np.ndarray:
    return np.random.default_rng(level).choice(num_vectors, count, replace=False)


def synchronise(vectors: torch.Tensor) -> None:
    if vectors.is_cuda:
        torch.cuda.synchronize()


def report(
    rows: list[dict[str, Any]],
    exact: float,
    timing: dict[str, float],
    arguments: argparse.Namespace,
    device: torch.device,
) -> None:
    ours = rows[0]
    print(f"{'system':<16}{'passes':>8}{'seconds':>10}{'scaled':>10}{'ratio':>8}{'error':>10}")
    for row in rows:
        ratio = row["seconds_scaled"] / ours["seconds_scaled"]
        print(
            f"{row['system']:<16}{row['passes']:>8}{row['seconds']:>10.3f}{row['seconds_scaled']:>10.3f}"
            f"{ratio:>8.2f}{row['error']:>10.4f}"
        )
    print(
        f"one assignment {timing['assign_seconds']:.4f} s, {timing['assign_tflops']:.1f} TFLOP/s; "
        f"{exact:.2%} of a sample equal to a float64 search; goal: under {GOAL_SECONDS:g} s"
    )
    print(
        json.dumps(
            {
                "rows": rows,
                "exact": exact,
                **timing,
                "goal_seconds": GOAL_SECONDS,
                "settings": vars(arguments),
                "hardware": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
                "versions": {name: _version(name) for name in ("torch", "triton", "numpy")},
                "cuda": torch.version.cuda,
            }
        )
    )


def _faiss() -> Any:
    return __import__("faiss") if importlib.util.find_spec("faiss") else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
