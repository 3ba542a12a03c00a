"""An embedding from behaviour alone: which items are taken near each other in training histories.

For catalogues without embeddings of their own. Pairs of items at distance d ≤ window in one history count 1/d; the
counts become positive pointwise mutual information with smoothed context frequencies, and a truncated SVD of that
matrix gives the vectors U √Σ (Levy, Goldberg and Dagan 2015, "Improving Distributional Similarity with Lessons
Learned from Word Embeddings"), scaled to unit length: the angle says what is taken together, the length little more
than how often.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from semid.data.dataset import Dataset, ranges
from semid.data.features import Embedding
from semid.errors import InputError

COOCCURRENCE = "cooccurrence"
_PAIRED_USERS = 1 << 12
_CONTEXT_SMOOTHING = 0.75
_SHORTEST = 1e-6  # relative; below is rounding


def cooccurrence_embedding(dataset: Dataset, *, dim: int = 64, window: int = 5, seed: int = 0) -> Embedding:
    """Embed items by the company they keep in *training* events; valid and test events are never read.

    Args:
        dataset: its events up to ``train_end`` are counted, whatever their action.
        dim: width of the vectors; narrower if fewer items have neighbours.
        window: how many positions apart two events of one user may be.
        seed: of the randomised SVD.

    Returns:
        Embedding ``"cooccurrence"``, (N, dim) float32 of unit length. Items that no other one accompanies in
        training more often than chance, or that the SVD leaves nothing of, are not valid.

    Raises:
        InputError: dim or window below 1, or no two items beside each other in training.
    """
    if dim < 1 or window < 1:
        raise InputError(f"Width {dim} and window {window} of the co-occurrence embedding must be at least 1.")
    information = positive_pointwise_information(cooccurrence_counts(dataset, window=window))
    valid = information.getnnz(axis=1) > 0
    rows = np.flatnonzero(valid)
    if not len(rows):
        raise InputError(f"No two items keep company in the training events of {dataset.location}.")
    width = min(dim, len(rows))
    left, strength, _ = randomized_svd(information[rows], width, n_iter=5, random_state=seed)
    scaled = left * np.sqrt(strength)
    lengths = np.linalg.norm(scaled, axis=1)
    left_over = lengths > _SHORTEST * lengths.max()
    valid[rows] = left_over
    vectors = np.zeros((dataset.num_items, width), np.float32)
    vectors[rows[left_over]] = scaled[left_over] / lengths[left_over, None]
    return Embedding(COOCCURRENCE, vectors, valid)


def cooccurrence_counts(dataset: Dataset, *, window: int) -> sp.csr_matrix:
    """Symmetric (N, N) float64 counts of pairs of different items in training histories, weighted 1 / distance."""
    counts = transition_counts(dataset, window=window)
    return (counts + counts.T).tocsr()


def transition_counts(dataset: Dataset, *, window: int) -> sp.csr_matrix:
    """(N, N) float64 counts of pairs of different items, the earlier one first, otherwise the same."""
    counts = sp.csr_matrix((dataset.num_items, dataset.num_items))
    for items, users in _training_blocks(dataset):
        for distance, pair in enumerate(_pairs_within(items, users, window), start=1):
            counts += sp.csr_matrix((np.full(len(pair[0]), 1 / distance), pair), shape=counts.shape)
    return counts


def keeps_company(dataset: Dataset) -> bool:
    """Whether any two different items follow each other in a training history."""
    blocks = (_pairs_within(items, users, 1) for items, users in _training_blocks(dataset))
    return any(len(one) for block in blocks for one, _ in block)


def sample_pairs(dataset: Dataset, *, count: int = 1 << 17, window: int = 5, seed: int = 0) -> np.ndarray:
    """Different pairs of different items that are near each other in *training* histories.

    Args:
        dataset: its events up to ``train_end``, whatever their action.
        count: most pairs to return.
        window: how many positions apart two events of one user may be.
        seed: of the choice of users and pairs.

    Returns:
        (P, 2) int64 item rows, either item first, in the order of their numbers.

    Raises:
        InputError: count or window below 1, or no two items beside each other in training.
    """
    if count < 1 or window < 1:
        raise InputError(f"Count {count} and window {window} of the pairs of items must be at least 1.")
    rng = np.random.default_rng(seed)
    starts, lengths = dataset.events.offsets[:-1], dataset.train_end - dataset.events.offsets[:-1]
    # Each event of a user has a pair or more, unless there is one event only: these users are enough.
    users = rng.permutation(np.flatnonzero(lengths > 1))[: 4 * count]
    found = np.empty((0, 2), np.int64)
    for first in range(0, len(users), _PAIRED_USERS):
        block = np.sort(users[first : first + _PAIRED_USERS])
        items = np.asarray(dataset.events.items[ranges(starts[block], lengths[block])]).astype(np.int64)
        owners = np.repeat(block, lengths[block])
        pairs = [np.stack([one, other], axis=1) for one, other in _pairs_within(items, owners, window)]
        found = np.unique(np.concatenate([found, *pairs, *(pair[:, ::-1] for pair in pairs)]), axis=0)
        if len(found) >= 4 * count:
            break
    if not len(found):
        raise InputError(f"No two items keep company in the training events of {dataset.location}.")
    if len(found) > count:
        found = found[np.sort(rng.choice(len(found), count, replace=False))]
    return found


def split_users(dataset: Dataset, *, share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The dataset with the training events of most users alone, and with those of a random ``share`` of them.

    What is made from the one can be judged by the other.
    """
    held_out = np.random.default_rng([seed, 1]).random(dataset.num_users) < share
    starts = dataset.events.offsets[:-1]
    most, some = (np.where(kept, dataset.train_end, starts) for kept in (~held_out, held_out))
    return replace(dataset, train_end=most), replace(dataset, train_end=some)


def _training_blocks(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Items and users of the training events, by blocks of users: flat memory at any number of them."""
    events = dataset.events
    for rows in dataset.training_rows():
        yield np.asarray(events.items[rows]), np.searchsorted(events.offsets, rows, side="right")


def _pairs_within(items: np.ndarray, owners: np.ndarray, window: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The different items of one owner that are d positions apart, for every d ≤ window."""
    for distance in range(1, window + 1):
        one, other = items[:-distance], items[distance:]
        pair = (owners[:-distance] == owners[distance:]) & (one != other)
        yield one[pair], other[pair]


def positive_pointwise_information(counts: sp.csr_matrix) -> sp.csr_matrix:
    """max(0, log(#(i, j) · Σ_k f_k / (#(i) f_j))), with f_j = #(j)^0.75, of each pair; zeros are not stored."""
    totals = np.asarray(counts.sum(axis=1)).reshape(-1)
    contexts = totals**_CONTEXT_SMOOTHING
    pairs = counts.tocoo()
    ratio = pairs.data * contexts.sum() / (totals[pairs.row] * contexts[pairs.col])
    information = np.log(ratio)
    kept = information > 0
    return sp.csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), shape=counts.shape)
