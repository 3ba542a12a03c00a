"""Residual quantisation: k-means on the vectors, then on what is left of them, and then of all levels at once.

RQ-KMeans as in QARM (arXiv 2411.11739): x ≈ Σ_l e^l_{c_l}, where e^l are the centroids of the residuals of level l.
Each level by itself is the best that k-means finds; ``residual/refinement.py`` then fits all of them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from semid.errors import InputError
from semid.progress import Progress
from semid.tokenizers.checks import check_at_least, check_trainable, check_width, codes_per_level
from semid.tokenizers.clustering.kmeans import KMeansConfig, fit_kmeans
from semid.tokenizers.clustering.nearest import nearest_codes
from semid.tokenizers.clustering.starts import sample_rows
from semid.tokenizers.residual.beam import beam_encode
from semid.tokenizers.residual.levels import (
    STARTS,
    Level,
    encode_level,
    encode_levels,
    encode_levels_balanced,
    fit_level,
)
from semid.tokenizers.residual.refinement import Refinement, refine

HARTIGAN = ("judged", "always", "never")
# Share of the vectors that judges what is fitted to the others, and the most of them.
_HELD_OUT, _MOST_HELD_OUT = 0.1, 8192
# Most vectors a centroid for which its own vectors pull it enough to matter, and that a refinement looks at.
_HARTIGAN_ROWS, _REFINED_ROWS = 96, 256
# Paths kept by default, up to this many codes a level, and beyond, where each costs more and gains less.
_BEAM, _BEAM_CODES, _FEW_PATHS = 16, 512, 4
# Most vectors that codebooks are fitted to: a code, and at least. More lower the error of all by about 1 %.
_FITTED_ROWS, _FITTED_AT_LEAST = 128, 1 << 17
# With so many pairs of a vector and a centroid a level stops at passes that gain less than this share: sampling, and
# what later levels make up for, weigh more.
_MANY_PAIRS, _MANY_TOLERANCE = 1 << 26, 3e-3
# Fewest vectors a code with which fitting all levels together helps vectors that it has not seen.
_REFINABLE_ROWS = 6
# Most rounds of refinement by default, the fewest that pay, and most comparisons of a vector and a centroid in all of
# them together.
_ROUNDS, _FEWEST_ROUNDS, _COMPARISONS = 32, 4, 1 << 32
# Fewest vectors a code that are left when some are held out.
_FEWEST_ROWS = 2
# Rounds on all vectors, those held out included, after the others; passes where there were none.
_LAST_ROUNDS, _SETTLING = 2, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class RQKMeansConfig:
    """How to fit residual codebooks. What is left at its default goes by what wins on items held out.

    Attributes:
        levels: L.
        codes: K, one for all levels or one a level.
        iterations: most passes of Lloyd's algorithm a level.
        seed: of every random choice.
        beam: partial paths kept while encoding; 1 takes the nearest centroid of every level in turn. None: 16 up
            to 512 codes a level, 4 for more.
        rounds: of fitting all levels together, after each was fitted by itself; 0 for none. None: 32 with a beam, and
            fewer or none where vectors and codes are so many that they would take far longer than the levels did, or
            vectors so few that others would not gain; 0 without.
        noise: shakes the centroids in these rounds, so that they leave poor solutions; 0 does not.
        start: of k-means at each level: "spherical", from clusters of directions; "shrunk", a k-means++ draw moved
            towards the mean; or one of ``KMeansConfig``, of which "auto" keeps the better of two draws.
        hartigan: whether vectors count as no part of their own centroids: "always", "never", or "judged" on vectors
            held out. Pays with few vectors a code.
        balanced: at a level no code has more than ⌈N/K⌉ times this many vectors; None for as many as are nearest.
        normalise: go by the direction of what is left, not its length. Fewer collisions, more error.
    """

    levels: int = 3
    codes: int | tuple[int, ...] = 256
    iterations: int = 25
    seed: int = 0
    beam: int | None = None
    rounds: int | None = None
    noise: float = 1.0
    start: str = "auto"
    hartigan: str = "judged"
    balanced: float | None = None
    normalise: bool = False

    def __post_init__(self) -> None:
        codes_per_level(self.levels, self.codes)
        check_at_least("number of iterations", self.iterations, 1)
        check_at_least("noise", self.noise, 0)
        if self.start not in STARTS:
            raise InputError(f"The start of k-means is {self.start!r} but must be one of {', '.join(STARTS)}.")
        if self.hartigan not in HARTIGAN:
            raise InputError(f"The setting hartigan is {self.hartigan!r} but must be one of {', '.join(HARTIGAN)}.")
        if self.beam is not None:
            check_at_least("beam", self.beam, 1)
        if self.rounds is not None:
            check_at_least("number of rounds", self.rounds, 0)
        if self.balanced is not None:
            check_at_least("slack of balanced codes", self.balanced, 1)
        self._check_alone()

    def _check_alone(self) -> None:
        special = [name for name in ("balanced", "normalise") if getattr(self, name) not in (None, False)]
        if len(special) == 2:
            raise InputError("Codes can be balanced or normalised, but not both: choose one.")
        if special and (self.beam or 1) > 1:
            raise InputError(f"A beam of {self.beam} cannot be searched with {special[0]}: leave beam at 1.")
        if special and self.rounds:
            raise InputError(f"All levels cannot be fitted together with {special[0]}: leave rounds at 0.")

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return codes_per_level(self.levels, self.codes)

    @property
    def by_level(self) -> bool:
        """Whether levels are fitted and encoded one after the other only."""
        return self.normalise or self.balanced is not None

    @property
    def paths(self) -> int:
        """Partial paths kept while encoding."""
        if self.by_level or self.levels == 1:
            return 1
        if self.beam is not None:
            return self.beam
        return _BEAM if max(self.num_codes) <= _BEAM_CODES else _FEW_PATHS


class RQKMeans:
    """Residual k-means quantiser.

    Args:
        config: how to fit.

    Attributes:
        codebooks_: L arrays (K_l, D) float32.
    """

    codebooks_: list[np.ndarray]

    def __init__(self, config: RQKMeansConfig) -> None:
        self.config = config

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.config.num_codes

    def fit(
        self, vectors: np.ndarray, *, side: np.ndarray | None = None, progress: Progress | None = None
    ) -> "RQKMeans":
        """Fit the codebooks to (N, D) float32 vectors.

        Args:
            vectors: what to quantise.
            side: not used.
            progress: called after each level, and after each round of fitting all of them.

        Raises:
            InputError: fewer vectors than codes at a level, NaN or infinity.
        """
        return self._fit(vectors, None, progress)

    def fit_from(
        self, codebooks: Sequence[np.ndarray], vectors: np.ndarray, *, progress: Progress | None = None
    ) -> "RQKMeans":
        """Fit to (N, D) float32 vectors from codebooks at hand, such as those of an earlier catalogue.

        Args:
            codebooks: L arrays (K_l, D) float32; those fitted are most like the ones in the same place here.
            vectors: what to quantise.
            progress: called after each round of fitting all levels.

        Raises:
            InputError: fewer vectors than codes at a level, NaN or infinity.
        """
        return self._fit(vectors, codebooks, progress)

    def _fit(self, vectors: np.ndarray, start: Sequence[np.ndarray] | None, progress: Progress | None) -> "RQKMeans":
        rng = np.random.default_rng(self.config.seed)
        vectors = np.ascontiguousarray(vectors, np.float32)
        check_trainable(vectors, self.num_codes)
        vectors = sample_rows(vectors, max(_FITTED_ROWS * max(self.num_codes), _FITTED_AT_LEAST), rng)
        fitted, held_out = self._split(vectors, rng)
        rounds = self._num_rounds(len(fitted)) if len(held_out) else 0
        tell = _Steps(progress, self.config.levels, rounds)
        if start is None:
            codes = self._fit_levels(fitted, held_out, rng, tell)
        else:
            fitted, held_out = vectors, vectors[:0]  # the start knows all of them, so none can judge
            self.codebooks_ = [np.array(codebook, np.float32) for codebook in start]
            codes = self.encode(fitted)
        if rounds:
            self._refine(vectors, fitted, codes, held_out, rounds, rng, tell)
        elif len(held_out) or start is not None:
            self._settle(vectors)
        return self

    def latents(self, vectors: np.ndarray) -> np.ndarray:
        """The vectors themselves."""
        return vectors

    def encode(self, vectors: np.ndarray, *, beam: int | None = None) -> np.ndarray:
        """Codes of (N, D) float32 vectors: (N, L) int32, of each vector by itself whatever the others.

        Args:
            vectors: what to quantise.
            beam: paths kept, if other than configured. More of them usually end at a better one.

        Raises:
            InputError: vectors of another width than fitted, NaN or infinity.
        """
        paths = self.config.paths if beam is None else beam
        vectors = np.ascontiguousarray(vectors, np.float32)
        check_width(vectors, self.codebooks_[0].shape[1])
        if paths > 1:
            return beam_encode(vectors, self.codebooks_, paths)
        return encode_levels(vectors, self.codebooks_, normalise=self.config.normalise)

    def encode_together(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of the vectors of a whole catalogue: (N, L) int32.

        Those of :meth:`encode`, unless codes are balanced: then no code of a level gets more than its share of them.
        """
        if self.config.balanced is None:
            return self.encode(vectors)
        return encode_levels_balanced(np.asarray(vectors, np.float32), self.codebooks_, self.config.balanced)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (N, D) float32 reconstruction of (N, L) codes."""
        return decode(codes, self.codebooks_)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The codebooks."""
        return {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "RQKMeans":
        """Take over the codebooks of :meth:`to_arrays`."""
        self.codebooks_ = [arrays[f"codebook.{level}"] for level in range(self.config.levels)]
        return self

    def _split(self, vectors: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The vectors to fit to, and those held out: none where nothing is judged or too few would be left."""
        config, num_rows = self.config, len(vectors)
        count = min(int(_HELD_OUT * num_rows), _MOST_HELD_OUT)
        moves = config.hartigan == "judged" and any(self._hartigan(num_rows - count, size) for size in self.num_codes)
        judges = self._num_rounds(num_rows - count) > 0 or (moves and not config.by_level)
        if not judges or count < 1 or num_rows - count < _FEWEST_ROWS * max(self.num_codes):
            return vectors, vectors[:0]
        held_out = np.zeros(num_rows, bool)
        held_out[rng.choice(num_rows, count, replace=False)] = True
        return vectors[~held_out], vectors[held_out]

    def _num_rounds(self, num_rows: int) -> int:
        config = self.config
        if config.by_level or config.levels == 1:
            return 0
        if config.rounds is not None or config.paths == 1 or num_rows < _REFINABLE_ROWS * max(self.num_codes):
            return config.rounds or 0
        rows = min(num_rows, _REFINED_ROWS * max(self.num_codes))
        rounds = min(_ROUNDS, _COMPARISONS // (rows * sum(self.num_codes) * config.paths))
        return rounds if rounds >= _FEWEST_ROUNDS else 0

    def _fit_levels(
        self, fitted: np.ndarray, held_out: np.ndarray, rng: np.random.Generator, tell: "_Steps"
    ) -> np.ndarray:
        """Fit each level to what those before it leave; the codes of the vectors fitted to."""
        config = self.config
        left, left_out = fitted.copy(), held_out.copy()
        codes = np.empty((len(fitted), config.levels), np.int32)
        self.codebooks_ = []
        for level in range(config.levels):
            how = self._level(level, len(fitted), int(rng.integers(2**31)))
            codebook, codes[:, level] = fit_level(left, left_out, how)
            self.codebooks_.append(codebook)
            if level + 1 < config.levels:
                left -= codebook[codes[:, level]]
                left_out -= codebook[encode_level(left_out, codebook, normalise=config.normalise)]
            tell.level()
        return codes

    def _level(self, level: int, num_rows: int, seed: int) -> Level:
        config, num_codes = self.config, self.num_codes[level]
        kmeans = KMeansConfig(num_codes=num_codes, iterations=config.iterations, seed=seed)
        if num_rows * num_codes >= _MANY_PAIRS:
            kmeans = replace(kmeans, tolerance=_MANY_TOLERANCE)
        return Level(
            kmeans=kmeans,
            start=config.start,
            hartigan=self._hartigan(num_rows, num_codes),
            judged=config.hartigan == "judged",
            balanced=config.balanced,
            normalise=config.normalise,
        )

    def _hartigan(self, num_rows: int, num_codes: int) -> bool:
        """Whether vectors are worth counting as no part of their own centroids."""
        if self.config.hartigan == "judged":
            return num_rows <= _HARTIGAN_ROWS * num_codes
        return self.config.hartigan == "always"

    def _refine(
        self,
        vectors: np.ndarray,
        fitted: np.ndarray,
        codes: np.ndarray,
        held_out: np.ndarray,
        rounds: int,
        rng: np.random.Generator,
        tell: "_Steps",
    ) -> None:
        """Fit all levels together; keep that if those held out are better off, and the others; then take all in.

        A sample is taken of very many; then those held out would add as little as the others not in it.
        """
        config, limit = self.config, _REFINED_ROWS * max(self.num_codes)
        sampled = limit < len(fitted)
        if sampled:
            rows = np.sort(rng.choice(len(fitted), limit, replace=False))
            fitted, codes = fitted[rows], codes[rows]
        how = Refinement(
            rounds=rounds,
            beam=config.paths,
            noise=config.noise,
            leave_one_out=self._hartigan(len(fitted), max(self.num_codes)),
        )
        judges = (held_out, fitted[:_MOST_HELD_OUT])
        by_level, before = self.codebooks_, [self._error(judge) for judge in judges]
        self.codebooks_, _ = refine(fitted, codes, self.codebooks_, how, rng, progress=tell.round)
        if any(self._error(judge) > error for judge, error in zip(judges, before, strict=True)):
            self.codebooks_ = by_level
            self._settle(vectors)
        elif not sampled:
            last = replace(how, rounds=_LAST_ROUNDS, noise=0)
            self.codebooks_, _ = refine(vectors, self.encode(vectors), self.codebooks_, last, rng)

    def _settle(self, vectors: np.ndarray) -> None:
        """A few passes of Lloyd's algorithm on all vectors, those held out included."""
        left = vectors.copy()
        for level, codebook in enumerate(self.codebooks_):
            config = KMeansConfig(num_codes=len(codebook), iterations=_SETTLING)
            self.codebooks_[level] = fit_kmeans(left, config, start=codebook)
            left -= self.codebooks_[level][nearest_codes(left, self.codebooks_[level])]

    def _error(self, vectors: np.ndarray) -> float:
        difference = vectors - self.decode(self.encode(vectors))
        return float(np.einsum("nd,nd->", difference, difference, dtype=np.float64))


class _Steps:
    """Counts what is done, and tells."""

    def __init__(self, progress: Progress | None, levels: int, rounds: int) -> None:
        self.progress, self.total, self.done = progress, levels + rounds, 0

    def level(self) -> None:
        self._step("fit levels")

    def round(self) -> None:
        self._step("refine levels")

    def _step(self, stage: str) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(stage, self.done, self.total)


def decode(codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of the centroids of each row of codes. Columns beyond the codebooks, which tell apart items, add nothing.

    Args:
        codes: (N, L) or wider, int.
        codebooks: L arrays (K_l, D) float32.

    Returns:
        (N, D) float32.
    """
    total: np.ndarray = codebooks[0][codes[:, 0]]
    for level, codebook in enumerate(codebooks[1:], start=1):
        total += codebook[codes[:, level]]
    return total
