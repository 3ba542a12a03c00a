"""Is the peak memory of `prepare` flat in users and embedding rows?

Each kind of input is synthesised at two sizes, users, items and embedding rows all FACTOR times apart, and
prepared in a fresh process whose peak resident memory is read from the kernel. `idle` is the peak of a process
that only imports the library. What remains that grows are the ids of items and users where they must be looked up.

    python benchmarks/prepare_memory.py --users 50000 --factor 8
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semid.data.building.arrays import ArrayWriter
from semid.data.synthetic.generator import SyntheticConfig, synthesise

EVENTS_PER_USER = 40
USERS_PER_ITEM = 5
WIDTH = 256
CHUNK_USERS = 2000

PREPARE = """
import json, sys, time
from pathlib import Path
from semid.data.prepare import prepare
began = time.perf_counter()
counts = prepare(Path(sys.argv[1]), Path(sys.argv[2])).artifact.details["counts"] if len(sys.argv) > 1 else {}
seconds = time.perf_counter() - began
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak_mib": int(peak.split()[1]) / 1024, "counts": counts}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50_000, help="users of the smaller size")
    parser.add_argument("--factor", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    idle = measure()["peak_mib"]
    print(f"{'input':<16}{'users':>10}{'items':>10}{'events':>12}{'seconds':>9}{'peak MiB':>10}{'over idle':>11}")
    results = []
    for kind in arguments.kinds:
        for users in (arguments.users, arguments.users * arguments.factor):
            results.append({"input": kind, **one(kind, users)})
            show(results[-1], idle)
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "pyarrow": pa.__version__}
    print(json.dumps({"benchmark": "prepare_memory", **hardware, "idle_mib": idle, "results": results}))


def one(kind: str, users: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        KINDS[kind](raw, users, users // USERS_PER_ITEM)
        return measure(str(raw), str(Path(folder) / "prepared"))


def measure(*arguments: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PREPARE, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def show(result: dict[str, object], idle: float) -> None:
    counts = result["counts"]
    print(
        f"{result['input']:<16}{counts['users']:>10}{counts['items']:>10}{counts['events']:>12}"
        f"{result['seconds']:>9.1f}{result['peak_mib']:>10.0f}{result['peak_mib'] - idle:>11.0f}",
        flush=True,
    )


def write_layout_h(folder: Path, users: int, items: int) -> None:
    synthesise(folder, SyntheticConfig(users=users, items=items, embeddings=(("81", 32), ("82", WIDTH))))


def write_sorted_table(folder: Path, users: int, items: int) -> None:
    write_table(folder, np.arange(users), items)


def write_shuffled_table(folder: Path, users: int, items: int) -> None:
    write_table(folder, np.random.default_rng(1).permutation(users), items)


def write_table(folder: Path, users: np.ndarray, items: int) -> None:
    """Users' events one after the other, an embedding as matrix and one keyed by item id in any order."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("timestamp", pa.int64())])
    with pq.ParquetWriter(folder / "interactions.parquet", schema) as writer:
        for first in range(0, len(users), CHUNK_USERS):
            owners = np.repeat(users[first : first + CHUNK_USERS], EVENTS_PER_USER)
            picks, times = rng.integers(0, items, len(owners)), rng.integers(0, 1 << 30, len(owners))
            writer.write_table(pa.table([owners, picks, times], schema=schema))
    pq.write_table(pa.table({"item_id": np.arange(items), "shop": np.arange(items) % 100}), folder / "items.parquet")
    write_embeddings(folder, rng, items)


def write_embeddings(folder: Path, rng: np.random.Generator, items: int) -> None:
    schema = pa.schema([("item_id", pa.int64()), ("emb", pa.list_(pa.float32()))])
    order = rng.permutation(items)
    with (
        ArrayWriter(folder / "emb_matrix.npy", np.float32, (WIDTH,)) as matrix,
        pq.ParquetWriter(folder / "emb_keyed.parquet", schema) as keyed,
    ):
        for first in range(0, items, CHUNK_USERS):
            ids = order[first : first + CHUNK_USERS]
            vectors = rng.standard_normal((len(ids), WIDTH), np.float32)
            matrix.append(vectors)
            offsets = np.arange(0, vectors.size + 1, WIDTH, dtype=np.int32)
            keyed.write_table(pa.table([ids, pa.ListArray.from_arrays(offsets, vectors.ravel())], schema=schema))


KINDS: dict[str, Callable[[Path, int, int], None]] = {
    "layout H": write_layout_h,
    "table, sorted": write_sorted_table,
    "table, shuffled": write_shuffled_table,
}

if __name__ == "__main__":
    main()
