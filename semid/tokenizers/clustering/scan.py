"""One tile of screen values: the least of each row, and every centroid that may be nearer.

Shapes: n rows, m columns of a tile. bfloat16 values are read as int16: non-negative ones order like their bits, and
negative ones, possible within the errors of zero only, come before them, so that they stay candidates.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from semid.tokenizers.clustering.screening import Columns, Frame, Rows, thresholds, upper_bounds

# Narrower tiles are laid out with a row for each centroid: minima along short rows are slow.
_WIDE = 256
# In a narrow tile candidates are sought before the chosen centroid is known, with error terms so far above the mean.
_TYPICAL = np.float32(1.5)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a tile leaves to decide.

    Attributes:
        codes: (n,) column with the least value.
        bounds: (n,) upper bound on the half squared distance to it.
        rows, candidates: (P,) all columns that may be nearest, of the rows that have several.
    """

    codes: np.ndarray
    bounds: np.ndarray
    rows: np.ndarray
    candidates: np.ndarray


def scan(frame: Frame, rows: Rows, columns: Columns) -> Scan:
    """Screen all pairs of a tile."""
    with _unusable_rows_pass():
        if len(columns.gap) >= _WIDE:
            return _scan_wide(frame, rows, columns)
        return _scan_narrow(frame, rows, columns)


def least(frame: Frame, rows: Rows, columns: Columns) -> np.ndarray:
    """(n,) upper bounds on the half squared distance to the nearest of the columns."""
    keys = _keys(torch.mm(rows.matrix, columns.matrix.T))
    codes = keys.argmin(1)
    with _unusable_rows_pass():
        return upper_bounds(rows, frame, columns, _values(keys[np.arange(len(keys)), codes]), codes)


def _unusable_rows_pass() -> AbstractContextManager[object]:
    """For rows too large for products, or not finite, what comes out is not used."""
    return np.errstate(over="ignore", invalid="ignore")


def _scan_wide(frame: Frame, rows: Rows, columns: Columns) -> Scan:
    keys = _keys(torch.mm(rows.matrix, columns.matrix.T))
    every = np.arange(len(keys))
    codes = keys.argmin(1)
    chosen = keys[every, codes]
    bounds = upper_bounds(rows, frame, columns, _values(chosen), codes)
    limit = _as_keys(thresholds(rows, frame, columns, bounds), keys.dtype)
    keys[every, codes] = _greatest(keys.dtype)
    open_rows = np.flatnonzero(keys.min(1) <= limit)
    found = np.flatnonzero(keys.take(open_rows, 0) <= limit[open_rows, None])
    position, others = _split(found, keys.shape[1])
    pairs = np.concatenate([open_rows, open_rows[position]])
    return Scan(codes, bounds, pairs, np.concatenate([codes[open_rows], others]))


def _scan_narrow(frame: Frame, rows: Rows, columns: Columns) -> Scan:
    keys = _keys(torch.mm(columns.matrix, rows.matrix.T))
    minima = np.minimum.reduce(keys, axis=0)
    tau = None if columns.tau is None else _typical(columns.tau)
    typical = Columns(columns.matrix, columns.theta, _typical(columns.gap), tau)
    guess = thresholds(rows, frame, typical, upper_bounds(rows, frame, typical, _values(minima), np.zeros(1, int)))
    limit = _as_keys(guess, keys.dtype)
    np.maximum(limit, minima, out=limit)
    found = np.flatnonzero(keys <= limit)
    others, pairs = _split(found, keys.shape[1])
    codes = np.zeros(keys.shape[1], np.int64)
    codes[pairs] = others
    is_open = (np.bincount(pairs, minlength=keys.shape[1]) > 1)[pairs]
    others, pairs, values = others[is_open], pairs[is_open], keys.ravel()[found[is_open]]
    is_least = np.flatnonzero(values == minima[pairs])
    codes[pairs[is_least]] = others[is_least]
    bounds = upper_bounds(rows, frame, columns, _values(minima), codes)
    needed = _as_keys(thresholds(rows, frame, columns, bounds), keys.dtype)
    kept = (values <= needed[pairs]) | (values == minima[pairs])
    others, pairs = others[kept], pairs[kept]
    short = np.flatnonzero(needed > limit)
    if len(short):
        again, position = _split(np.flatnonzero(keys[:, short] <= needed[short]), len(short))
        rest = (needed <= limit)[pairs]
        others, pairs = np.concatenate([others[rest], again]), np.concatenate([pairs[rest], short[position]])
    return Scan(codes, bounds, pairs, others)


def _split(found: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of places in a tile: division is slow unless by a power of two."""
    if width & (width - 1):
        return found // width, found % width
    return found >> (width.bit_length() - 1), found & (width - 1)


def _typical(values: np.ndarray) -> np.ndarray:
    typical: np.ndarray = _TYPICAL * values.mean(keepdims=True)
    return typical


def _keys(values: torch.Tensor) -> np.ndarray:
    """Screen values as numbers that NumPy compares fast."""
    keys: np.ndarray = (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()
    return keys


def _greatest(dtype: np.dtype) -> int | float:
    return np.inf if dtype == np.float32 else np.iinfo(np.int16).max


def _values(keys: np.ndarray) -> np.ndarray:
    """Back to float32, (n,)."""
    return keys if keys.dtype == np.float32 else (keys.astype(np.int32) << 16).view(np.float32)


def _as_keys(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Non-negative float32 limits as keys: a key is at most this one if its value is at most the limit."""
    return values if dtype == np.float32 else (values.view(np.int32) >> 16).astype(np.int16)
