import numpy as np
import pytest

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.tokenizers.lifecycle.append import CollisionPolicy, add_items, encode_rows
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

BOOKS = [np.array([[0.0], [10.0]], np.float32), np.array([[0.0], [1.0], [3.0]], np.float32)]


def rows(*codes: tuple[int, ...]) -> np.ndarray:
    return np.array(codes, np.int32)


def test_new_items_take_what_is_free_and_move_nobody() -> None:
    taken = SemanticIds(rows((0, 0), (1, 2)), (2, 3))
    vectors = np.array([[0.2], [0.1], [13.0]], np.float32)
    grown = add_items(taken, rows((0, 0), (0, 0), (1, 2)), vectors, BOOKS, CollisionPolicy())
    np.testing.assert_array_equal(grown.codes[:2], taken.codes)
    # 0.1 is nearer to (0, 0) than 0.2 and so chooses first; 13 finds (1, 2) taken and goes to 11
    np.testing.assert_array_equal(grown.codes[2:], rows((0, 2), (0, 1), (1, 1)))
    assert grown.num_codes == (2, 3)


def test_identical_newcomers_get_codes_of_their_own() -> None:
    taken = SemanticIds(rows((0, 0)), (2, 3))
    vectors = np.zeros((5, 1), np.float32)
    grown = add_items(taken, np.zeros((5, 2), np.int32), vectors, BOOKS, CollisionPolicy())
    assert grown.is_unique
    np.testing.assert_array_equal(grown.codes[0], (0, 0))


def test_one_more_item_than_codes() -> None:
    taken = SemanticIds(rows((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)), (2, 3))
    vectors = np.zeros((2, 1), np.float32)
    grown = add_items(taken, np.zeros((1, 2), np.int32), vectors[:1], BOOKS, CollisionPolicy())
    np.testing.assert_array_equal(grown.codes[-1], (1, 2))
    with pytest.raises(
        InputError, match=r"7 items do not fit into the 6 different codes .* use at least 3 levels or 3"
    ):
        add_items(taken, np.zeros((2, 2), np.int32), vectors, BOOKS, CollisionPolicy())


def test_an_additional_level_counts_on() -> None:
    taken = SemanticIds(rows((0, 0, 0), (0, 0, 1)), (2, 3, 2))
    vectors = np.zeros((2, 1), np.float32)
    grown = add_items(taken, np.zeros((2, 2), np.int32), vectors, BOOKS, CollisionPolicy(policy="extra"))
    np.testing.assert_array_equal(grown.codes, rows((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)))
    assert grown.num_codes == (2, 3, 4)
    # the level stays as wide as it was, though the items that made it so are gone
    few = add_items(
        SemanticIds(rows((0, 1, 0)), (2, 3, 9)), rows((0, 0)), vectors[:1], BOOKS, CollisionPolicy(policy="extra")
    )
    assert few.num_codes == (2, 3, 9)


def test_an_additional_level_that_appears_only_now() -> None:
    taken = SemanticIds(rows((0, 0), (0, 1), (0, 2)), (2, 3))
    how = CollisionPolicy(policy="nearest", overflow="extra")
    grown = add_items(taken, rows((0, 0)), np.zeros((1, 1), np.float32), BOOKS, how)
    np.testing.assert_array_equal(grown.codes[:3], rows((0, 0, 0), (0, 1, 0), (0, 2, 0)))
    assert grown.is_unique


def test_codes_may_be_shared_by_policy() -> None:
    taken = SemanticIds(rows((0, 0)), (2, 3))
    how = CollisionPolicy(policy="none")
    grown = add_items(taken, rows((0, 0)), np.zeros((1, 1), np.float32), BOOKS, how)
    np.testing.assert_array_equal(grown.codes, rows((0, 0), (0, 0)))


def test_encoding_block_by_block() -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=4)).fit(vectors)
    np.testing.assert_array_equal(encode_rows(vectors, quantiser), quantiser.encode(vectors))
