"""What every quantiser asks of its settings and of the vectors it is given."""

import numpy as np

from semid.errors import InputError


def codes_per_level(levels: int, codes: int | tuple[int, ...]) -> tuple[int, ...]:
    """K of each level, from one number for all or one a level.

    Raises:
        InputError: no level, no code at a level, or other than one size a level.
    """
    if levels < 1:
        raise InputError(f"The number of levels is {levels} but must be at least 1.")
    if isinstance(codes, tuple) and len(codes) != levels:
        raise InputError(f"{len(codes)} codebook sizes were given for {levels} levels: give one each.")
    sizes = codes if isinstance(codes, tuple) else (codes,) * levels
    if min(sizes) < 1:
        raise InputError(f"The number of codes is {min(sizes)} but must be at least 1.")
    return sizes


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise InputError for a setting below its least value, or NaN."""
    if not value >= least:
        raise InputError(f"The {name} is {value} but must be at least {least}.")


def check_trainable(vectors: np.ndarray, num_codes: tuple[int, ...]) -> None:
    """Raise InputError unless (N, D) vectors are finite, at least as many as the codes of a level, and D is not 0."""
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise InputError(f"The vectors have the shape {vectors.shape}: give one row of at least one number an item.")
    if len(vectors) < max(num_codes):
        raise InputError(
            f"Cannot make {max(num_codes)} codes from {len(vectors)} vectors: use at most {len(vectors)} codes."
        )
    check_finite(vectors)


def check_width(vectors: np.ndarray, width: int) -> None:
    """Raise InputError unless vectors are finite rows of the width that was fitted."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise InputError(f"The vectors have the shape {vectors.shape} but the codes were fitted to rows of {width}.")
    check_finite(vectors)


def check_finite(vectors: np.ndarray, name: str = "vectors") -> None:
    """Raise InputError naming the first row with NaN or infinity."""
    block = 1 << 16
    for first in range(0, len(vectors), block):
        bad = ~np.isfinite(vectors[first : first + block]).all(1)
        if bad.any():
            raise InputError(f"Row {first + int(bad.argmax())} of the {name} has NaN or infinity: mend or drop it.")
