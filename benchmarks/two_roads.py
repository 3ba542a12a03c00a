"""Does a table set become the same dataset when it arrives as TencentGR layout H?

Prepares a table set, writes what was prepared as layout H, prepares that, and compares every array. With
``--keep DIR`` the layout H folder stays, so that ``quality.py DIR`` can train on it.

    python benchmarks/two_roads.py $SEMID_DATA/amazon14_beauty --keep runs/beauty_h
"""

import argparse
import json
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.data.splits import SplitConfig

FIRST_RAW_ID = 20_000_000_000
SPLIT = SplitConfig(protocol="leave-last-out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--keep", type=Path, help="where layout H goes and stays")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "layout_h"
        names = tuple(str(81 + index) for index in range(6))
        began = time.monotonic()
        table = prepare(arguments.source, Path(scratch) / "table", PrepareConfig(split=SPLIT))
        read = time.monotonic()
        write_layout_h(table, folder, names)
        written = time.monotonic()
        other = prepare(folder, Path(scratch) / "from_h", PrepareConfig(split=SPLIT))
        seconds = {"table": read - began, "layout H": time.monotonic() - written}
        checks = compare(table, other, names)
    show(arguments.source.name, checks, seconds)
    summary = {"dataset": arguments.source.name, "equal": checks, "seconds": seconds}
    print(json.dumps({"benchmark": "two_roads", **summary}))
    if not all(checks.values()):
        raise SystemExit("The two roads do not meet.")


def write_layout_h(dataset: Dataset, folder: Path, names: tuple[str, ...]) -> None:
    """Write users, items, columns and embeddings of a prepared dataset; embedding i becomes ``names[i]``."""
    for part in ("seq", "item_feat"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    log, raw = dataset.events, FIRST_RAW_ID + np.arange(dataset.num_items)
    events = pa.StructArray.from_arrays(
        [
            pa.array(log.items[:] + 1, pa.int64()),
            pa.array(log.actions[:], pa.int32(), mask=log.actions[:] < 0),
            pa.array(log.times[:], pa.int64(), mask=log.times[:] == TIME_MISSING),
        ],
        ["item_id", "action_type", "timestamp"],
    )
    users = pa.array(np.arange(1, dataset.num_users + 1))
    sequences = pa.LargeListArray.from_arrays(pa.array(log.offsets[:]), events)
    pq.write_table(pa.table({"user_id": users, "seq": sequences}), folder / "seq" / "part-0.parquet")
    columns = {"item_id": pa.array(np.arange(1, dataset.num_items + 1))}
    for index, name in enumerate(dataset.item_fields.names):
        values = dataset.item_fields.values[:, index]
        columns[name] = pa.array(values - 1, pa.int64(), mask=values == 0)
    for name, column in dataset.item_fields.lists.items():
        missing = pa.array(column.offsets[:-1] == column.offsets[1:])
        offsets = pa.array(column.offsets[:].astype(np.int32))
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(column.values[:] - 1), mask=missing)
    sizes = dict(zip(dataset.item_fields.names, dataset.item_fields.sizes, strict=True))
    sizes |= {name: column.size for name, column in dataset.item_fields.lists.items()}
    pq.write_table(pa.table(columns), folder / "item_feat" / "part-0.parquet")
    maps = {
        "u": {f"user_{row}": row + 1 for row in range(dataset.num_users)},
        "i": {int(item): row + 1 for row, item in enumerate(raw)},
        "f": {name: {value: value for value in range(1, size - 1)} for name, size in sizes.items()},
    }
    (folder / "indexer.pkl").write_bytes(pickle.dumps(maps))
    for name, embedding in zip(names, dataset.embeddings.values(), strict=False):
        target = folder / "mm_emb" / f"emb_{name}_{embedding.dim}_parquet"
        target.mkdir(parents=True, exist_ok=True)
        rows = np.flatnonzero(embedding.valid)
        vectors = pa.array(list(embedding.vectors[rows].astype(np.float32)), pa.list_(pa.float32()))
        ids = pa.array([str(item) for item in raw[rows]])
        pq.write_table(pa.table({"anonymous_cid": ids, "emb": vectors}), target / "part-0.parquet")


def compare(left: Dataset, right: Dataset, names: tuple[str, ...]) -> dict[str, bool]:
    """Which parts are the same, array for array."""
    checks = {
        name: np.array_equal(getattr(left.events, name), getattr(right.events, name))
        for name in ("items", "actions", "times", "offsets")
    }
    checks["candidates"] = np.array_equal(left.candidates, right.candidates)
    checks["train_end"] = np.array_equal(left.train_end, right.train_end)
    for split in ("valid", "test"):
        ours, theirs = left.queries[split], right.queries[split]
        checks[f"{split} queries"] = all(
            np.array_equal(getattr(ours, name), getattr(theirs, name))
            for name in ("users", "start", "end", "target_items", "target_actions", "target_offsets")
        )
    checks["item columns"] = np.array_equal(left.item_fields.values, right.item_fields.values)
    for name, column in left.item_fields.lists.items():
        twin = right.item_fields.lists[name]
        same = np.array_equal(column.offsets, twin.offsets) and np.array_equal(column.values, twin.values)
        checks[f"item column {name}"] = same and column.size == twin.size
    for name, embedding in zip(names, left.embeddings.values(), strict=False):
        twin = right.embeddings[name]
        same = np.array_equal(embedding.vectors, twin.vectors) and np.array_equal(embedding.valid, twin.valid)
        checks[f"embedding {embedding.name}"] = same
    return checks


def show(name: str, checks: dict[str, bool], seconds: dict[str, float]) -> None:
    """One table."""
    took = ", ".join(f"{road} {value:.1f} s" for road, value in seconds.items())
    table = Table("part", "equal", title=f"{name}: prepared as table and as layout H ({took})")
    for part, equal in checks.items():
        table.add_row(part, "yes" if equal else "NO")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
