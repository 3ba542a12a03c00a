"""Residual codes of real embeddings after the same projection: error on the items of the fit and on held-out ones.

Each seed draws its own tenth of the items to hold out, the same for all systems. Means, and 95 % intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from measuring import (
    EQUAL,
    Row,
    Settings,
    System,
    Timing,
    colliding,
    interleave,
    perplexities,
    relative_error,
    row,
    tell,
)
from ours import SYSTEM, fit_preprocessor, fit_residual
from peers.residual_quantisers import GREEDY_FAISS, PEERS, Fitted, ResidualFit

from semid.evaluation.over_seeds import mean_over_seeds

LEVELS, CODES, HELD_OUT = 3, 256, 0.1
# Ours over theirs, on both kinds of items: against k-means per level, and against the best of Faiss.
GOALS = {GREEDY_FAISS: 0.85} | {name: 0.92 for name in PEERS if name.startswith("faiss RQ")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Projected vectors to fit on and to hold out."""

    fit: np.ndarray
    held_out: np.ndarray


def run(settings: Settings) -> list[Row]:
    if settings.data is None:
        return [Row(section="real", system=SYSTEM, setting="real embeddings", note="SEMID_DATA is not set")]
    rows = []
    for name in settings.sets:
        rows += _compare(name, real_vectors(name, settings), settings)
    return rows


def real_vectors(name: str, settings: Settings) -> np.ndarray:
    """The embeddings of one set, as :func:`read_embeddings` gives them."""
    assert settings.data is not None
    return read_embeddings(settings.data / name / f"emb_{settings.embedding}.f16.npy", settings)


def read_embeddings(path: Path, settings: Settings) -> np.ndarray:
    """One file as float32, at scale a random share of its rows."""
    stored = np.load(path, mmap_mode="r")
    order = np.random.default_rng(0).permutation(len(stored))[: settings.scaled(len(stored))]
    vectors: np.ndarray = stored[np.sort(order)].astype(np.float32)
    return vectors


def codes_for(num_vectors: int) -> int:
    """K: fewer at a small scale, always a power of two."""
    return min(CODES, 1 << (num_vectors // 8).bit_length() - 1)


def _compare(name: str, vectors: np.ndarray, settings: Settings) -> list[Row]:
    splits = [split_items(vectors, seed, settings.svd) for seed in range(settings.repeats)]
    num_codes = codes_for(len(splits[0].fit))
    setting = f"{name}, {LEVELS} x {num_codes}"
    tell(f"real {setting}")
    fits = {SYSTEM: fit_residual} | PEERS
    systems = [_system(system, fit, splits, num_codes, settings.threads) for system, fit in fits.items()]
    timings = interleave(systems, _score, settings)
    return [
        _judged(_averaged(row("real", setting, system, timings, ours=SYSTEM), timings), timings) for system in fits
    ]


def split_items(vectors: np.ndarray, seed: int, components: int) -> Split:
    """A tenth of the items held out, all projected by what the others give."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    held_out = np.zeros(len(vectors), bool)
    held_out[order[: round(HELD_OUT * len(vectors))]] = True
    basis = fit_preprocessor(vectors[~held_out], components).basis_
    centred = vectors - vectors[~held_out].mean(0)
    return Split(fit=centred[~held_out] @ basis, held_out=centred[held_out] @ basis)


def _system(name: str, fit: ResidualFit, splits: Sequence[Split], num_codes: int, threads: int) -> System:
    def work(seed: int) -> tuple[Split, Fitted]:
        return splits[seed], fit(splits[seed].fit, LEVELS, num_codes, seed, threads)

    some = splits[0].fit[: 16 * num_codes]
    return System(name=name, run=work, warm=lambda: fit(some, LEVELS, min(16, num_codes), 0, threads))


def _score(result: tuple[Split, Fitted]) -> dict[str, float]:
    split, fitted = result
    held_out = fitted.decode(fitted.encode(split.held_out))
    levels = enumerate(perplexities(fitted.codes), start=1)
    return {
        "error": relative_error(split.fit, lambda rows: fitted.decode(fitted.codes[rows])),
        "held-out": relative_error(split.held_out, lambda rows: held_out[rows], split.fit.mean(0, dtype=np.float64)),
        "colliding": colliding(fitted.codes),
        **{f"perplexity {level}": value for level, value in levels},
    }


def _averaged(line: Row, timings: Mapping[str, Timing]) -> Row:
    if line.note:
        return line
    error, half = _mean(timings[line.system], "error")
    held_out, held_out_half = _mean(timings[line.system], "held-out")
    figures = {"error +-": half, "held-out": held_out, "held-out +-": held_out_half}
    return replace(line, error=error, figures=figures | {**line.figures, **figures})


def _mean(timing: Timing, figure: str) -> tuple[float, float]:
    """Mean of the seeds and half the width of its 95 % interval, by Student's t."""
    mean, half = mean_over_seeds([found[figure] for found in timing.figures])
    return mean, half or 0.0


def _judged(line: Row, timings: Mapping[str, Timing]) -> Row:
    wanted = GOALS.get(line.system)
    if wanted is None or line.note:
        return line
    found = [
        _mean(timings[SYSTEM], figure)[0] / _mean(timings[line.system], figure)[0] for figure in ("error", "held-out")
    ]
    return line.requiring(f"error <={wanted:g}x, held-out too", max(found) <= EQUAL * wanted)
