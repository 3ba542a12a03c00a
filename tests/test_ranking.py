import numpy as np

from semid.ranking import Ranking


def ranking(seed: int, exact: bool | None) -> Ranking:
    rng = np.random.default_rng(seed)
    items, scores = rng.integers(0, 9, (3, 4)), -np.sort(-rng.random((3, 4)), axis=1)
    return Ranking(items, scores, None if exact is None else scores[:, -1] + (0.0 if exact else 0.01))


def test_top_keeps_the_first_columns() -> None:
    full = ranking(0, True)
    top = full.top(2)
    np.testing.assert_array_equal(top.items, full.items[:, :2])
    np.testing.assert_array_equal(top.scores, full.scores[:, :2])
    assert len(top) == 3
    assert ranking(0, None).top(2).exact is None


def test_the_first_columns_may_be_exact_where_the_whole_is_not() -> None:
    scores = np.array([[4.0, 3, 2], [4, 3, 2], [4, 3, 3]])
    whole = Ranking(np.tile([1, 2, 3], (3, 1)), scores, np.array([2.5, 3.5, 0]))
    for k, exact in ((3, [False, False, True]), (2, [True, False, True]), (1, [True, True, True])):
        assert whole.exact is not None
        top = whole.top(k)
        assert top.exact is not None
        assert top.exact.tolist() == exact
    np.testing.assert_array_equal(whole.top(2).bound, [2.5, 3.5, 3])


def test_concatenate_stacks_queries() -> None:
    a, b = ranking(0, True), ranking(1, False)
    both = Ranking.concatenate([a, b])
    np.testing.assert_array_equal(both.items, np.vstack([a.items, b.items]))
    np.testing.assert_array_equal(both.scores, np.vstack([a.scores, b.scores]))
    np.testing.assert_array_equal(both.exact, [True] * 3 + [False] * 3)


def test_select_takes_queries_in_any_order() -> None:
    whole = ranking(0, True)
    some = whole.select(np.array([2, 0]))
    np.testing.assert_array_equal(some.items, whole.items[[2, 0]])
    np.testing.assert_array_equal(some.scores, whole.scores[[2, 0]])
    np.testing.assert_array_equal(some.bound, whole.bound[[2, 0]])
    assert ranking(0, None).select(np.array([1])).exact is None


def test_exactness_is_unknown_if_it_is_for_any_part() -> None:
    assert Ranking.concatenate([ranking(0, True), ranking(1, None)]).exact is None


def test_scores_of_given_items() -> None:
    ranking = Ranking(np.array([[7, 2, -1], [4, 9, 1]]), np.array([[3.0, 1, -np.inf], [2, 1, 0]], np.float32))
    found = ranking.scores_of(np.array([[2, 7, -1, 4], [1, 2, 9, 9]]))
    np.testing.assert_array_equal(found, [[1, 3, np.nan, np.nan], [0, np.nan, 1, 1]])
    assert ranking.select(np.empty(0, int)).scores_of(np.empty((0, 4), int)).shape == (0, 4)
