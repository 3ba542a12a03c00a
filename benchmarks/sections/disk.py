"""From a file of float16 vectors to the codes of all items: seconds beside plain reading, and peak memory."""

from measuring import Row, Settings, tell
from ours import SYSTEM
from out_of_core import run_task
from sections.files import mixture_file

SHAPES = ((1_000_000, 1024), (10_000_000, 128))
LEVELS, CODES, COMPONENTS = 3, 1024, 64
PEAK_MB = 2000


def run(settings: Settings) -> list[Row]:
    rows = []
    for full, width in SHAPES:
        vectors = settings.scaled(full)
        codes = min(CODES, max(16, vectors // 64))
        setting = f"{vectors} x {width} float16, {LEVELS} x {codes}"
        tell(f"disk {setting}")
        path = mixture_file(vectors, width, settings.scratch)
        found = run_task(
            settings.threads,
            task="tokenize",
            path=str(path),
            components=COMPONENTS,
            levels=LEVELS,
            codes=codes,
            scratch=str(settings.scratch),
        )
        plain = run_task(settings.threads, task="read", path=str(path))
        rows.append(_row(setting, found, plain["seconds"], settings))
        rows.append(Row(section="disk", system="plain read", setting=setting, seconds=plain["seconds"]))
    return rows


def _row(setting: str, found: dict[str, float], reading: float, settings: Settings) -> Row:
    seconds = found["cpu_seconds" if settings.clock == "cpu" else "seconds"]
    names = ("peak_mib", "idle_mib", "colliding before", "colliding after")
    figures = {name.replace("_mib", " MiB"): found[name] for name in names}
    tell(f"  {seconds:.1f} s, peak {found['peak_mib']:.0f} MiB, reading {reading:.1f} s")
    return Row(
        section="disk",
        system=SYSTEM,
        setting=setting,
        seconds=seconds,
        error=found["error"],
        goal=f"peak <{PEAK_MB} MB",
        met=found["peak_mib"] * 1.048576 < PEAK_MB,
        figures={**figures, "times reading": found["seconds"] / reading},
    )
