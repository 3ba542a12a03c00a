"""How much memory, and how long, does one piece of work on a file of vectors take, in a process of its own?

One task a process, so that its peak is its own; ``run_task`` starts it and reads the one JSON line it prints.

    python benchmarks/out_of_core.py '{"task": "read", "path": "vectors.npy"}'
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK_BYTES = 8 << 20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run_task(threads: int, **request: Any) -> dict[str, float]:
    """``seconds``, ``cpu_seconds``, ``idle_mib``, ``peak_mib`` and more of one task in a fresh process."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(variables, str(threads))
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps({**request, "threads": threads})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{request['task']} failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    request = json.loads(sys.argv[1])
    figures = TASKS[request["task"]](request)
    print(json.dumps(figures))


def read(request: dict[str, Any]) -> dict[str, float]:
    """Plain reads of the whole file, and nothing else."""
    drop_from_cache(request["path"])

    def work() -> dict[str, float]:
        buffer = bytearray(_BLOCK_BYTES)
        with open(request["path"], "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        return {}

    return measured(work)


def project(request: dict[str, Any]) -> dict[str, float]:
    """Fit a projection to vectors in memory, and save its (components, D) rows."""
    import ours
    from measuring import equal_threads
    from peers.projections import PEERS

    vectors, components = np.load(request["path"]), request["components"]
    fit: Callable[[np.ndarray, int], np.ndarray] = PEERS.get(
        request["system"], lambda rows, size: ours.project(rows, size, request.get("sample"))
    )

    def work() -> dict[str, float]:
        np.save(request["basis"], fit(vectors, components))
        return {}

    with equal_threads(request["threads"]):
        fit(vectors[: 4 * components], components)
        return measured(work)


def project_file(request: dict[str, Any]) -> dict[str, float]:
    """Fit our projection to a file that is not read into memory."""
    import ours
    from measuring import equal_threads

    drop_from_cache(request["path"])

    def work() -> dict[str, float]:
        vectors = ours.mapped(Path(request["path"]))
        return {"captured": ours.fit_preprocessor(vectors, request["components"]).captured_}

    with equal_threads(request["threads"]):
        return measured(work)


def tokenize(request: dict[str, Any]) -> dict[str, float]:
    """Fit a tokenizer to a file and number all its items."""
    import ours
    from measuring import equal_threads

    from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

    drop_from_cache(request["path"])
    config = TokenizerConfig(
        embeddings=("vectors",), svd=request["components"], levels=request["levels"], codes=request["codes"]
    )

    def work() -> dict[str, float]:
        vectors = ours.mapped(Path(request["path"]))
        tokenizer = SemanticIdTokenizer(config).fit([ours.embedding(vectors)], scratch=Path(request["scratch"]))
        report = tokenizer.report_
        collisions = report.collisions
        return {
            "error": report.relative_error,
            "colliding before": collisions.colliding_before,
            "colliding after": collisions.colliding_after,
        }

    with equal_threads(request["threads"]):
        return measured(work)


def measured(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Seconds and peak resident memory of some work, beside what was resident before it."""
    with suppress(OSError):  # where the kernel lets a process forget its peak so far
        _CLEAR.write_text("5")
    idle = _resident("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    figures = work()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    peak = _resident("VmHWM")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "idle_mib": idle, "peak_mib": peak, **figures}


def drop_from_cache(path: str) -> None:
    """So that the file is read from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "read": read,
    "project": project,
    "project_file": project_file,
    "tokenize": tokenize,
}

if __name__ == "__main__":
    main()
