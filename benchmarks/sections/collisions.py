"""Making every code unique: items that share theirs, the distortion it adds, and seconds.

*Error* is the added distortion: the rise of the squared error relative to the error before. *Greedy* moves items at
the last level alone, and leaves sharing those that find no free code there.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from measuring import EQUAL, Row, Settings, System, colliding, interleave, relative_error, row, tell
from ours import SYSTEM, fit_preprocessor, fit_residual, fit_residual_with
from peers.matching import hungarian_within_prefix
from peers.residual_quantisers import GREEDY_FAISS, PEERS, Fitted
from sections.real import LEVELS, codes_for, real_vectors
from synthetic_vectors import MixtureConfig, hierarchical_mixture

from semid.tokenizers.collisions.resolution import POLICIES, resolve

VECTORS, WIDTH = 200_000, 256
OPTIMAL, GREEDY, HUNGARIAN = f"{SYSTEM} optimal", f"{SYSTEM} greedy, last level", "Hungarian within a prefix"
SHARE_OF_GREEDY, SECONDS = 0.6, 1.0
_SMALLEST_PREFIX_CODES = 4

Resolver = Callable[[np.ndarray, np.ndarray, list[np.ndarray]], np.ndarray]


def run(settings: Settings) -> list[Row]:
    rows = []
    for setting, vectors, fitted in _problems(settings):
        rows += _compare(setting, vectors, fitted, settings)
    return rows


def _problems(settings: Settings):
    """Vectors and codes of them that collide."""
    for name in settings.sets if settings.data is not None else ():
        raw = real_vectors(name, settings)
        vectors = (raw - raw.mean(0)) @ fit_preprocessor(raw, settings.svd).basis_
        num_codes = codes_for(len(vectors))
        for label, fit in (("faiss", PEERS[GREEDY_FAISS]), (SYSTEM, fit_residual)):
            yield (
                f"{name}, {label} {LEVELS} x {num_codes}",
                vectors,
                fit(vectors, LEVELS, num_codes, 0, settings.threads),
            )
    vectors = hierarchical_mixture(MixtureConfig(vectors=settings.scaled(VECTORS), width=WIDTH))
    for full in (1024, 256):
        num_codes = max(_SMALLEST_PREFIX_CODES, round(full * settings.scale ** (1 / LEVELS)))
        setting = f"synthetic {len(vectors)}, {SYSTEM} {LEVELS} x {num_codes}"
        # Level by level: the codes only have to collide as those of so many items do.
        yield setting, vectors, fit_residual_with(vectors, LEVELS, num_codes, 0, settings.threads, rounds=0, beam=1)


def _resolvers() -> dict[str, Resolver]:
    def ours(
        policy: str, overflow: str, codes: np.ndarray, vectors: np.ndarray, books: list[np.ndarray]
    ) -> np.ndarray:
        found = resolve(codes, vectors, books, policy=policy, overflow=overflow).codes
        return found[:, : codes.shape[1]]

    others = [policy for policy in POLICIES if policy not in ("none", "extra", "optimal")]
    first = {OPTIMAL: partial(ours, "optimal", "spill")} if "optimal" in POLICIES else {}
    return {
        **first,
        GREEDY: partial(ours, "nearest", "extra"),
        **{f"{SYSTEM} {policy}": partial(ours, policy, "spill") for policy in others},
        HUNGARIAN: hungarian_within_prefix,
    }


def _compare(setting: str, vectors: np.ndarray, fitted: Fitted, settings: Settings) -> list[Row]:
    tell(f"collisions {setting}")
    codes, books = fitted.codes, list(fitted.codebooks)
    before = relative_error(vectors, lambda rows: fitted.decode(codes[rows]))

    def score(resolved: np.ndarray) -> dict[str, float]:
        after = relative_error(vectors, lambda rows: fitted.decode(resolved[rows]))
        return {
            "error": after / before - 1,
            "colliding before": colliding(codes),
            "colliding after": colliding(resolved),
            "prefix changed": float((codes != resolved)[:, :-1].any(1).mean()),
        }

    resolvers = _resolvers()
    systems = [System(name=name, run=_task(resolver, codes, vectors, books)) for name, resolver in resolvers.items()]
    timings = interleave(systems, score, settings)
    rows = [row("collisions", setting, name, timings, ours=systems[0].name) for name in timings]
    by_name = {line.system: line for line in rows}
    return [_judged(line, by_name, len(codes)) for line in rows]


def _task(resolver: Resolver, codes: np.ndarray, vectors: np.ndarray, books: list[np.ndarray]):
    return lambda _: resolver(codes, vectors, books)


def _judged(line: Row, rows: Mapping[str, Row], items: int) -> Row:
    if line.system != OPTIMAL or line.error is None or line.seconds is None:
        return line
    greedy = rows[GREEDY].error
    assert greedy is not None
    within = line.error <= EQUAL * SHARE_OF_GREEDY * greedy
    fast = line.seconds <= SECONDS * max(0.1, items / 200_000)
    share = {"of greedy's": line.error / greedy} if greedy else {}
    judged = line.requiring("none share", line.figures["colliding after"] == 0)
    judged = judged.requiring(f"<={SHARE_OF_GREEDY:g}x greedy's", within).requiring(f"<{SECONDS:g} s/200k", fast)
    return replace(judged, figures={**judged.figures, **share})
