"""Is a fit ever worse than random-start Lloyd, on any set of real embeddings and any shape of the codes?

*Error* is the worst ratio of our error to that of ``faiss.Kmeans`` per level, over shapes, on the items of the fit
and on held-out ones; means over the seeds.
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
    splits = [split_items(vectors, seed, settings.svd) for seed in range(settings.repeats)]
    began = time.perf_counter()
    ratios: dict[str, float] = {}
    for levels, num_codes in SHAPES:
        if _LEAST_ITEMS_A_CODE * num_codes <= len(splits[0].fit):
            ratios |= _ratios(splits, levels, num_codes, settings.threads)
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


def _ratios(splits: list[Split], levels: int, num_codes: int, threads: int) -> Mapping[str, float]:
    ours, theirs = (
        np.mean([_errors(fit, split, levels, num_codes, seed, threads) for seed, split in enumerate(splits)], axis=0)
        for fit in (fit_residual, PEERS[GREEDY_FAISS])
    )
    shape = f"{levels}x{num_codes}"
    return {f"{shape} fit": float(ours[0] / theirs[0]), f"{shape} held-out": float(ours[1] / theirs[1])}


def _errors(
    fit: ResidualFit, split: Split, levels: int, num_codes: int, seed: int, threads: int
) -> tuple[float, float]:
    fitted = fit(split.fit, levels, num_codes, seed, threads)
    held_out = fitted.decode(fitted.encode(split.held_out))
    return (
        relative_error(split.fit, lambda rows: fitted.decode(fitted.codes[rows])),
        relative_error(split.held_out, lambda rows: held_out[rows], split.fit.mean(0, dtype=np.float64)),
    )
