"""Is a fit ever worse than random-start Lloyd, on any set of real embeddings and any shape of the codes?

*Error* is the worst ratio of our error to that of ``faiss.Kmeans`` per level, over shapes, on the items of the fit
and on held-out ones; one seed, because so many fits are compared.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from measuring import EQUAL, Row, Settings, equal_threads, relative_error, short, tell
from ours import SYSTEM, fit_residual
from peers.residual_quantisers import GREEDY_FAISS, PEERS, ResidualFit
from sections.real import Split, read_embeddings, split_items

SHAPES = ((4, 64), (3, 256), (2, 1024))
_LEAST_ITEMS_A_CODE = 3


def run(settings: Settings) -> list[Row]:
    if settings.data is None:
        return [Row(section="shapes", system=SYSTEM, setting="real embeddings", note="SEMID_DATA is not set")]
    with equal_threads(settings.threads):
        return [_worst(path, settings) for path in sorted(Path(settings.data).glob("*/emb_*.f16.npy"))]


def _worst(path: Path, settings: Settings) -> Row:
    setting = f"{path.parent.name} {path.name.removeprefix('emb_').removesuffix('.f16.npy')}"
    tell(f"shapes {setting}")
    vectors = read_embeddings(path, settings)
    split = split_items(vectors, 0, settings.svd)
    began = time.perf_counter()
    ratios: dict[str, float] = {}
    for levels, num_codes in SHAPES:
        if _LEAST_ITEMS_A_CODE * num_codes <= len(split.fit):
            ratios |= _ratios(split, levels, num_codes, settings.threads)
    tell(f"  {short(ratios)}")
    worst = max(ratios.values(), default=None)
    return Row(
        section="shapes",
        system=f"{SYSTEM} over greedy faiss",
        setting=setting,
        seconds=time.perf_counter() - began,
        error=worst,
        goal="never worse",
        met=None if worst is None else worst <= EQUAL,
        figures=ratios,
    )


def _ratios(split: Split, levels: int, num_codes: int, threads: int) -> Mapping[str, float]:
    ours, theirs = (_errors(fit, split, levels, num_codes, threads) for fit in (fit_residual, PEERS[GREEDY_FAISS]))
    shape = f"{levels}x{num_codes}"
    return {f"{shape} fit": ours[0] / theirs[0], f"{shape} held-out": ours[1] / theirs[1]}


def _errors(fit: ResidualFit, split: Split, levels: int, num_codes: int, threads: int) -> tuple[float, float]:
    fitted = fit(split.fit, levels, num_codes, 0, threads)
    held_out = fitted.decode(fitted.encode(split.held_out))
    return (
        relative_error(split.fit, lambda rows: fitted.decode(fitted.codes[rows])),
        relative_error(split.held_out, lambda rows: held_out[rows], split.fit.mean(0, dtype=np.float64)),
    )
