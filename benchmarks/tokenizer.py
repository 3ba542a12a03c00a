"""Is the tokenizer faster than others at no more error, and are its codes better?

Sections, one table: k-means, SVD, residual codes of synthetic and of real embeddings, unique codes, encoding, and
catalogues on disk; always the same data, the same threads and the same evaluation for every system, ours and the
peers in turn, medians. *Ratio* is the seconds of a system over ours. Finished sections are kept in ``--out`` and not
run again while settings and code are the same.

    pip install -e '.[cpu,bench]'
    SEMID_DATA=data python benchmarks/tokenizer.py --out runs/tokenizer.json
    python benchmarks/tokenizer.py --only kmeans,encode --scale 0.05
"""

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from measuring import Row, Settings, equal_threads, tell
from sections import collisions, disk, encode, kmeans, real, residual, shapes, svd

import semid

SECTIONS: dict[str, Callable[[Settings], list[Row]]] = {
    "kmeans": kmeans.run,
    "svd": svd.run,
    "residual": residual.run,
    "real": real.run,
    "shapes": shapes.run,
    "collisions": collisions.run,
    "encode": encode.run,
    "disk": disk.run,
}
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "faiss-cpu",
    "scikit-learn",
    "fastkmeans",
    "superkmeans",
    "semantic-id",
    "vector-quantize-pytorch",
)
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_COLUMNS = (
    ("section", 11),
    ("system", 30),
    ("setting", 52),
    ("seconds", 9),
    ("error", 9),
    ("ratio", 8),
    ("goal", 50),
    ("figures", 0),
)


def main() -> None:
    arguments = parse()
    settings = Settings(**{name: getattr(arguments, name) for name in (field.name for field in fields(Settings))})
    settings.scratch.mkdir(parents=True, exist_ok=True)
    machine = {**hardware(), "threads": settings.threads, "versions": versions(), **ceilings(settings.threads)}
    show_header(machine)
    if settings.scale != 1:
        print(f"scale {settings.scale:g}: the goals are set for 1")
    kept = read_kept(arguments.out)
    for name in arguments.only:
        stamp = {"settings": plain(settings), "code": digest(), "machine": fixed(machine)}
        if kept.get(name, {}).get("stamp") == stamp:
            tell(f"{name}: kept from {arguments.out}")
            continue
        began = time.perf_counter()
        rows = [asdict(row) for row in SECTIONS[name](settings)]
        kept[name] = {"stamp": stamp, "took": round(time.perf_counter() - began, 1), "rows": rows}
        write_kept(arguments.out, kept)
    rows = [Row(**row) for name in arguments.only for row in kept[name]["rows"]]
    show_table(rows)
    took = {name: kept[name]["took"] for name in arguments.only}
    result = {"benchmark": "tokenizer", **machine, "settings": plain(settings), "took": took}
    print(json.dumps({**result, "rows": [asdict(row) for row in rows]}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Settings(threads=len(os.sched_getaffinity(0)))
    folder = os.environ.get("SEMID_DATA")
    parser.add_argument("--only", type=section_names, default=tuple(SECTIONS), help="sections, such as kmeans,svd")
    parser.add_argument("--scale", type=float, default=default.scale, help="share of the full numbers of vectors")
    parser.add_argument("--threads", type=int, default=default.threads, help="for every system")
    parser.add_argument("--repeats", type=int, default=default.repeats, help="runs of a system, and seeds")
    parser.add_argument("--limit", type=float, default=default.limit, help="seconds beyond which no run is repeated")
    parser.add_argument("--clock", choices=("wall", "cpu"), default=default.clock, help="cpu if others compute too")
    parser.add_argument("--data", type=Path, default=Path(folder) if folder else None, help="the real sets")
    parser.add_argument("--sets", type=lambda text: tuple(text.split(",")), default=default.sets)
    parser.add_argument("--embedding", default=default.embedding, help="which one of a set's embeddings")
    parser.add_argument("--svd", type=int, default=default.svd, help="components of the real embeddings")
    parser.add_argument("--slow", action="store_true", help="also the peers that take many minutes")
    parser.add_argument("--scratch", type=Path, default=default.scratch, help="folder for files of vectors")
    parser.add_argument("--out", type=Path, help="file in which finished sections are kept")
    return parser.parse_args()


def section_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}: use some of {', '.join(SECTIONS)}")
    return names


def hardware() -> dict[str, Any]:
    cpu = {"model name": platform.machine(), "flags": ""}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in cpu:
            cpu[name.strip()] = value.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu["model name"],
        "units": [flag for flag in _FLAGS if flag in cpu["flags"].split()],
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "dtypes": "float32 vectors in memory, float16 on disk, float64 evaluation",
    }


def versions() -> dict[str, str]:
    """Of the packages compared; ``none`` for those not installed."""
    found = {"python": platform.python_version(), "semid": metadata.version("semid")}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def ceilings(threads: int) -> dict[str, float]:
    """GFLOP/s of a large matrix product: what bounds every exact assignment."""
    found = {}
    with equal_threads(threads):
        for dtype in (torch.float32, torch.bfloat16):
            left, right = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                left @ right
                seconds.append(time.perf_counter() - began)
            found[f"{dtype}_gflops".removeprefix("torch.")] = round(2 * 1024 * 1024 * 256 / min(seconds) / 1e9)
    return found


def digest() -> str:
    """Of the code that is measured and of the code that measures."""
    folders = (Path(semid.__file__).parent / "tokenizers", Path(__file__).resolve().parent)
    content = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            content.update(path.read_bytes())
    return content.hexdigest()[:16]


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON would give them back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(settings), default=str))
    return values


def fixed(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for measurements to belong together."""
    return {name: machine[name] for name in ("cpu", "units", "cores", "gpu", "versions")}


def read_kept(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def write_kept(path: Path | None, kept: Mapping[str, Any]) -> None:
    if path is None:
        return
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    partial.replace(path)


def show_header(machine: Mapping[str, Any]) -> None:
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, GPU {machine['gpu']}")
    print(f"units {', '.join(machine['units'])}; {machine['threads']} threads; {machine['dtypes']}")
    print(f"matrix products: float32 {machine['float32_gflops']}, bfloat16 {machine['bfloat16_gflops']} GFLOP/s")
    print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()), flush=True)


def show_table(rows: Sequence[Row]) -> None:
    right = ("seconds", "error", "ratio")
    lines = [("section", "system", "setting", "seconds", "error", "ratio", "  goal", "figures")]
    for row in rows:
        cells = (
            row.section,
            row.system,
            row.setting,
            number(row.seconds, ".2f"),
            number(row.error, ".5f"),
            number(row.ratio, ".2f"),
            f"  {row.goal}: {'met' if row.met else 'MISSED'}" if row.met is not None else "",
            ", ".join(filter(None, (row.note, figures(row.figures)))),
        )
        lines.append(cells)
    for cells in lines:
        padded = [
            f"{cell:>{width}}" if name in right else f"{cell:<{width}}"
            for cell, (name, width) in zip(cells, _COLUMNS, strict=True)
        ]
        print("".join(padded).rstrip())


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def figures(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


if __name__ == "__main__":
    main()
