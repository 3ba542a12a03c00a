"""Residual codes of synthetic vectors, from the vectors to the codes of all: seconds, error, items that collide."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from measuring import (
    Goal,
    Row,
    Settings,
    System,
    Timing,
    colliding,
    fastest_at_no_more_error,
    interleave,
    relative_error,
    row,
    tell,
)
from ours import SYSTEM, fit_residual, fit_residual_with
from peers.residual_quantisers import GREEDY_FAISS, PEERS, Fitted, ResidualFit
from synthetic_vectors import MixtureConfig, hierarchical_mixture

VECTORS, WIDTH, LEVELS, CODES = 200_000, 256, 3, 1024
OURS: dict[str, ResidualFit] = {
    SYSTEM: fit_residual,
    **{f"{SYSTEM}, {passes} passes": partial(fit_residual_with, iterations=passes) for passes in (10, 3)},
}
GOALS = {
    GREEDY_FAISS: Goal(faster=6, error=1),
    "faiss RQ plain, beam 1": Goal(faster=2.5, error=1),
    "faiss RQ progressive, beam 1": Goal(faster=2.5, error=1),
}
# Beams of five, and least squares over all codes of all levels: ten minutes and more.
SLOW = ("faiss RQ progressive, beam 5", "faiss RQ refined, beam 1", "faiss RQ refined, beam 5")
_WARM_ROWS, _WARM_CODES = 4096, 64


def run(settings: Settings) -> list[Row]:
    vectors = hierarchical_mixture(MixtureConfig(vectors=settings.scaled(VECTORS), width=WIDTH))
    num_codes = min(CODES, 1 << int(math.log2(len(vectors) / 8)))
    setting = f"{LEVELS} x {num_codes}, {len(vectors)} x {WIDTH}"
    tell(f"residual {setting}")
    slow = () if settings.slow else SLOW
    fits = OURS | {name: fit for name, fit in PEERS.items() if name not in slow}
    systems = [_system(name, fit, vectors, num_codes, settings.threads) for name, fit in fits.items()]
    timings = interleave(systems, lambda fitted: _score(vectors, fitted), settings)
    return [_row(setting, name, timings) for name in fits]


def _row(setting: str, name: str, timings: Mapping[str, Timing]) -> Row:
    """A peer is set beside the fastest of ours whose error is not above its own."""
    if name in OURS:
        return replace(row("residual", setting, name, timings, ours=name), ratio=None)
    ours = fastest_at_no_more_error(tuple(OURS), timings[name], timings)
    line = row("residual", setting, name, timings, GOALS.get(name), ours=ours)
    return line if line.seconds is None else replace(line, note=f"beside {ours}")


def _score(vectors: np.ndarray, fitted: Fitted) -> dict[str, float]:
    error = relative_error(vectors, lambda rows: fitted.decode(fitted.codes[rows]))
    return {"error": error, "colliding": colliding(fitted.codes)}


def _system(name: str, fit: ResidualFit, vectors: np.ndarray, num_codes: int, threads: int) -> System:
    return System(
        name=name,
        run=lambda seed: fit(vectors, LEVELS, num_codes, seed, threads),
        warm=lambda: fit(vectors[:_WARM_ROWS], LEVELS, min(_WARM_CODES, num_codes), 0, threads),
    )
