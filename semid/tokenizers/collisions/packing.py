"""Rows of codes as single integers, however many levels there are; how many items and codes there are of each."""

from collections.abc import Sequence
from math import prod

import numpy as np

from semid.errors import InputError


def pack(codes: np.ndarray) -> np.ndarray:
    """One int64 a row, equal where the rows are, rising in their order. (N,)"""
    keys = np.zeros(len(codes), np.int64)
    for column in codes.T:
        width = int(column.max(initial=0)) + 1
        if int(keys.max(initial=0)) >= 2**62 // width:
            _, keys = np.unique(keys, return_inverse=True)
        keys = keys * width + column
    return keys


def bucket_sizes(codes: np.ndarray) -> np.ndarray:
    """How many items share all codes of each item, itself included. (N,) int32"""
    if not len(codes):
        return np.empty(0, np.int32)
    keys = pack(codes)
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    counts = np.diff(starts, append=len(codes)).astype(np.int32)
    sizes = np.empty(len(codes), np.int32)
    sizes[order] = np.repeat(counts, counts)
    return sizes


def check_capacity(num_items: int, num_codes: Sequence[int]) -> None:
    """Raise InputError if there are fewer rows of codes than items; the message says how many would do."""
    capacity = prod(num_codes)
    if num_items <= capacity:
        return
    width = max(num_codes)
    levels = len(num_codes)
    while width > 1 and prod(num_codes) * width ** (levels - len(num_codes)) < num_items:
        levels += 1
    wider = 1
    while wider ** len(num_codes) < num_items:
        wider += 1
    more_levels = f"{levels} levels or " if width > 1 else ""
    raise InputError(
        f"{num_items} items do not fit into the {capacity} different codes of {len(num_codes)} levels of "
        f"{_sizes(num_codes)} codes: use at least {more_levels}{wider} codes a level."
    )


def _sizes(num_codes: Sequence[int]) -> str:
    return str(num_codes[0]) if len(set(num_codes)) == 1 else ", ".join(map(str, num_codes))
