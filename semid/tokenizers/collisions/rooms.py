"""Prefixes with room for the items that want to be under them, level by level from the root."""

from collections.abc import Sequence
from math import prod

import numpy as np

from semid.tokenizers.clustering.nearest import nearest_codes
from semid.tokenizers.collisions.packing import pack
from semid.tokenizers.collisions.rows import Rows
from semid.tokenizers.rq_kmeans import decode


def make_room(
    taken: np.ndarray,
    wanted: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    errors: np.ndarray,
    depth: int,
) -> np.ndarray:
    """Change the first ``depth`` codes of as few items as needed, so that every such prefix has a leaf for each.

    Where more items want to be under a node than it has free leaves, the closest ones stay; the others go to the
    nearest sibling that has room, those nearest to theirs first, and are encoded anew below it.

    Args:
        taken: (M, L) codes nobody may have, unique.
        wanted: (n, L) codes; the tree has a leaf for each item.
        vectors: (n, D) float32.
        codebooks: L arrays (K_l, D).
        errors: (n,) squared error of each item at ``wanted``.
        depth: levels whose nodes must have room.

    Returns:
        (n, L) codes, ``wanted`` itself if nothing had to change.
    """
    for level in range(depth):
        leaves = min(prod(len(book) for book in codebooks[level + 1 :]), len(taken) + len(wanted))
        nodes = pack(np.concatenate([wanted, taken])[:, : level + 1])
        inside, count = np.unique(nodes[: len(wanted)], return_counts=True)
        room = leaves - _count_in(inside, nodes[len(wanted) :])
        if (count <= room).all():
            continue
        wanted = wanted.copy()
        parents = pack(wanted[:, :level])
        overfull = np.isin(nodes[: len(wanted)], inside[count > room])
        for parent in np.unique(parents[overfull]):
            members = np.flatnonzero(parents == parent)
            prefix = wanted[members[0], :level]
            beside = taken[(taken[:, :level] == prefix).all(1), level]
            spare = leaves - np.bincount(beside, minlength=len(codebooks[level]))
            _send_to_siblings(wanted, members, vectors, codebooks, errors, level, spare)
    return wanted


def _send_to_siblings(
    wanted: np.ndarray,
    members: np.ndarray,
    vectors: Rows,
    codebooks: Sequence[np.ndarray],
    errors: np.ndarray,
    level: int,
    spare: np.ndarray,
) -> None:
    """Move the members of one parent that are too many for its children; writes into ``wanted``."""
    members = members[np.lexsort((errors[members], wanted[members, level]))]
    child = wanted[members, level]
    turn = np.arange(len(members)) - np.searchsorted(child, child)
    stays = turn < spare[child]
    spare = spare - np.bincount(child[stays], minlength=len(spare))
    leaving = members[~stays]
    if not len(leaving):
        return
    rest = np.asarray(vectors[leaving], np.float32)
    if level:
        rest = rest - decode(wanted[leaving], codebooks[:level])
    lengths = np.einsum("kd,kd->k", codebooks[level], codebooks[level])
    chosen = _nearest_with_room(lengths - 2 * rest @ codebooks[level].T, spare)
    wanted[leaving, level] = chosen
    rest = rest - codebooks[level][chosen]
    for below in range(level + 1, len(codebooks)):
        wanted[leaving, below] = nearest_codes(rest, codebooks[below])
        rest -= codebooks[below][wanted[leaving, below]]


def _nearest_with_room(distances: np.ndarray, room: np.ndarray) -> np.ndarray:
    """A column for each row of (n, K) distances, no column more often than it has room; all apply at once."""
    chosen = np.full(len(distances), -1)
    room = room.copy()
    waiting = np.arange(len(distances))
    while len(waiting):
        distances[:, room == 0] = np.inf
        wish = distances[waiting].argmin(1)
        order = np.lexsort((distances[waiting, wish], wish))
        ranked = wish[order]
        accepted = np.arange(len(order)) - np.searchsorted(ranked, ranked) < room[ranked]
        chosen[waiting[order[accepted]]] = ranked[accepted]
        room -= np.bincount(ranked[accepted], minlength=len(room))
        waiting = np.sort(waiting[order[~accepted]])
    return chosen


def _count_in(inside: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """How many of the nodes are each of ``inside``, which rise."""
    at = np.minimum(np.searchsorted(inside, nodes), len(inside) - 1)
    counts: np.ndarray = np.bincount(at[inside[at] == nodes], minlength=len(inside))
    return counts
