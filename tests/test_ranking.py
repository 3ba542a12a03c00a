import numpy as np

from semid.ranking import Ranking


def ranking(seed: int, exact: bool | None) -> Ranking:
    rng = np.random.default_rng(seed)
    known = None if exact is None else np.full(3, exact)
    return Ranking(rng.integers(0, 9, (3, 4)), -np.sort(-rng.random((3, 4)), axis=1), known)


def test_top_keeps_the_first_columns_and_exactness() -> None:
    full = ranking(0, True)
    top = full.top(2)
    np.testing.assert_array_equal(top.items, full.items[:, :2])
    np.testing.assert_array_equal(top.scores, full.scores[:, :2])
    assert top.exact is full.exact
    assert len(top) == 3


def test_concatenate_stacks_queries() -> None:
    a, b = ranking(0, True), ranking(1, False)
    both = Ranking.concatenate([a, b])
    np.testing.assert_array_equal(both.items, np.vstack([a.items, b.items]))
    np.testing.assert_array_equal(both.scores, np.vstack([a.scores, b.scores]))
    np.testing.assert_array_equal(both.exact, [True] * 3 + [False] * 3)


def test_exactness_is_unknown_if_it_is_for_any_part() -> None:
    assert Ranking.concatenate([ranking(0, True), ranking(1, None)]).exact is None
