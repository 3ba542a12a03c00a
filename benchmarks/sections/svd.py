"""64 components of synthetic 1024-d vectors: seconds, share of the energy that is lost, and peak memory.

Every fit is a process of its own. *Error* is the share of the energy not captured, over all vectors, whatever the
system was fitted on.
"""

from pathlib import Path

import numpy as np
from measuring import Goal, Row, Settings, Timing, row, short, tell
from ours import SYSTEM
from out_of_core import run_task
from peers.projections import PEERS
from sections.files import mixture_file
from synthetic_vectors import MixtureConfig, hierarchical_mixture

VECTORS, WIDTH, COMPONENTS, SAMPLE, FILE_VECTORS = 200_000, 1024, 64, 20_000, 1_000_000
SAMPLED = f"{SYSTEM}, sample"
FASTER_SAMPLED, PEAK_MB = 25, 200
GOALS = {"TruncatedSVD": Goal(faster=4, error=1), "IncrementalPCA": Goal(faster=15, error=1)}
_ROWS = 1 << 14


def run(settings: Settings) -> list[Row]:
    setting = f"{settings.scaled(VECTORS)} x {WIDTH} -> {COMPONENTS}"
    tell(f"svd {setting}")
    timings = _fits(settings)
    rows = [row("svd", setting, name, timings, GOALS.get(name), ours=SYSTEM) for name in timings]
    rows = [_beside_sample(line, timings) for line in rows]
    return [*rows, _from_disk(settings)]


def _fits(settings: Settings) -> dict[str, Timing]:
    path, basis = settings.scratch / "svd.npy", settings.scratch / "basis.npy"
    vectors = hierarchical_mixture(MixtureConfig(vectors=settings.scaled(VECTORS), width=WIDTH))
    vectors -= vectors.mean(0, dtype=np.float64).astype(np.float32)  # TruncatedSVD does not centre
    np.save(path, vectors)
    timings = {name: Timing() for name in (SYSTEM, SAMPLED, *PEERS)}
    for _ in range(settings.repeats):
        for name, timing in timings.items():
            if any(seconds > settings.limit for seconds in timing.seconds):
                continue
            sample = settings.scaled(SAMPLE) if name == SAMPLED else None
            found = run_task(
                settings.threads,
                task="project",
                system=name,
                path=str(path),
                basis=str(basis),
                components=COMPONENTS,
                sample=sample,
            )
            timing.seconds.append(found["cpu_seconds" if settings.clock == "cpu" else "seconds"])
            peak = found["peak_mib"] - found["idle_mib"]
            timing.figures.append({"error": _lost(vectors, np.load(basis)), "peak MiB": peak})
            tell(f"  {name}: {timing.seconds[-1]:.2f} s {short(timing.figures[-1])}")
    path.unlink()
    basis.unlink()
    return timings


def _lost(vectors: np.ndarray, basis: np.ndarray) -> float:
    """Share of the energy of centred vectors outside the span of orthonormal rows."""
    kept = total = 0.0
    orthonormal = np.linalg.qr(basis.T.astype(np.float64))[0].astype(np.float32)
    for first in range(0, len(vectors), _ROWS):
        block = vectors[first : first + _ROWS]
        kept += float(((block @ orthonormal).astype(np.float64) ** 2).sum())
        total += float((block.astype(np.float64) ** 2).sum())
    return 1 - kept / total


def _beside_sample(line: Row, timings: dict[str, Timing]) -> Row:
    """The goal of the fit on a sample is set against TruncatedSVD too."""
    fast = timings[SAMPLED].median
    if line.system != "TruncatedSVD" or line.seconds is None or not fast:
        return line
    return line.requiring(f">={FASTER_SAMPLED}x sampled", line.seconds / fast >= FASTER_SAMPLED)


def _from_disk(settings: Settings) -> Row:
    path: Path = mixture_file(settings.scaled(FILE_VECTORS), WIDTH, settings.scratch)
    found = run_task(settings.threads, task="project_file", path=str(path), components=COMPONENTS)
    plain = run_task(settings.threads, task="read", path=str(path))
    peak = found["peak_mib"] - found["idle_mib"]
    tell(f"  from disk: {found['seconds']:.1f} s, {peak:.0f} MiB over idle")
    return Row(
        section="svd",
        system=f"{SYSTEM}, from disk",
        setting=f"{settings.scaled(FILE_VECTORS)} x {WIDTH} float16, one pass",
        seconds=found["cpu_seconds" if settings.clock == "cpu" else "seconds"],
        error=1 - found["captured"],
        goal=f"<{PEAK_MB} MB over idle",
        met=peak * 1.048576 < PEAK_MB,
        figures={"peak MiB": peak, "idle MiB": found["idle_mib"], "plain read s": plain["seconds"]},
    )
