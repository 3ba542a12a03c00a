import itertools

import numpy as np

from semid.tokenizers.lifecycle.labels import match_labels, relabel
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig


def test_labels_are_matched_as_well_as_by_trying_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        size = int(rng.integers(2, 6))
        old, new = rng.integers(size, size=(2, int(rng.integers(1, 30))))
        labels = match_labels(old, new, size)
        assert sorted(labels) == list(range(size))
        best = max(
            sum(order[n] == o for n, o in zip(new, old, strict=True)) for order in itertools.permutations(range(size))
        )
        assert (labels[new] == old).sum() == best


def test_relabelling_a_shuffled_codebook_brings_it_back() -> None:
    vectors = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    quantiser = RQKMeans(RQKMeansConfig(levels=3, codes=16)).fit(vectors)
    codes = quantiser.encode(vectors)
    codes[::7] = -1  # items that had no codes say nothing
    original = [book.copy() for book in quantiser.codebooks_]
    rng = np.random.default_rng(0)
    quantiser.codebooks_ = [book[rng.permutation(16)] for book in quantiser.codebooks_]
    relabel(quantiser, vectors, codes)
    for level, (book, wanted) in enumerate(zip(quantiser.codebooks_, original, strict=True)):
        used = np.setdiff1d(codes[:, level], [-1])
        np.testing.assert_array_equal(book[used], wanted[used])


def test_labels_that_nobody_shares_keep_their_number() -> None:
    np.testing.assert_array_equal(match_labels(np.array([2, 2]), np.array([2, 2]), 5), np.arange(5))
    np.testing.assert_array_equal(match_labels(np.array([1]), np.array([0]), 3), [1, 0, 2])
    np.testing.assert_array_equal(match_labels(np.empty(0, int), np.empty(0, int), 3), np.arange(3))
