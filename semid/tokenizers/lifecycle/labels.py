"""Which new label is which old one: labels matched one to one, so that as many items as possible keep theirs."""

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment

from semid.tokenizers.rq_kmeans import RQKMeans


def relabel(quantiser: RQKMeans, vectors: np.ndarray, codes: np.ndarray) -> RQKMeans:
    """Number the centroids of each level so that as many items as possible have their old code at it.

    Args:
        quantiser: fitted; its codebooks are put in another order.
        vectors: (n, D) float32.
        codes: (n, L) or wider, what the items had; -1 throughout where they had none.
    """
    has = np.flatnonzero(codes[:, 0] >= 0)
    found, codes = quantiser.encode(vectors[has]), codes[has]
    for level, codebook in enumerate(quantiser.codebooks_):
        labels = match_labels(codes[:, level], found[:, level], len(codebook))
        ordered = np.empty_like(codebook)
        ordered[labels] = codebook
        quantiser.codebooks_[level] = ordered
    return quantiser


def match_labels(old: np.ndarray, new: np.ndarray, size: int) -> np.ndarray:
    """The old label of each new one, one to one, with the most items whose label stays.

    Args:
        old, new: (n,) labels below ``size`` of the same items.

    Returns:
        (size,) int64: new label k becomes ``labels[k]``. A label that no item of the other side shares keeps its
        number where that is free.
    """
    shared = sp.coo_matrix((np.ones(len(old)), (new, old)), shape=(size, size)).tocsr()
    labels = np.full(size, -1)
    sure = _sure_pairs(shared)
    labels[sure[0]] = sure[1]
    open_new, open_old = np.flatnonzero(labels < 0), np.setdiff1d(np.arange(size), sure[1])
    rest = shared[open_new][:, open_old].toarray()
    # among equals, a label that stays; a fraction that no count can outweigh
    rest += np.where(open_new[:, None] == open_old, 0.5 / max(size, 1), 0)
    rows, columns = linear_sum_assignment(rest, maximize=True)
    labels[open_new[rows]] = open_old[columns]
    return labels


def _sure_pairs(shared: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that some best matching has: each shares as much as the best others of its row and column together."""
    pairs = shared.tocoo()
    (best_row, others_row), (best_column, others_column) = (_best_two(x, pairs.data) for x in (pairs.row, pairs.col))
    both = np.intersect1d(best_row, best_column)
    row, column = pairs.row[both], pairs.col[both]
    sure = pairs.data[both] >= others_row[row] + others_column[column]
    return row[sure], column[sure]


def _best_two(labels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of the largest value of each label that occurs, and by label the second largest value, else 0."""
    order = np.lexsort((-values, labels))
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    second = np.zeros(int(labels.max(initial=-1)) + 1)
    after = starts + 1
    several = (after < len(order)) & ~np.isin(after, starts)
    second[labels[order[after[several]]]] = values[order[after[several]]]
    return order[starts], second
