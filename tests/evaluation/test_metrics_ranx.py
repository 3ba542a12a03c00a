"""The usual metrics against ranx, an independent evaluator (compiled when it is first called: half a minute)."""

from collections.abc import Iterator

import numpy as np
import pytest

from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.ranking import Ranking

numba_typed = pytest.importorskip("numba.typed")
ranx = pytest.importorskip("ranx.metrics")
WIDEST, ITEMS = 12, 30


class Case:
    """Queries with one to eight targets of few weights, so that many are the same, and lists of no to 12 items."""

    def __init__(self, seed: int, num_queries: int = 200) -> None:
        rng = np.random.default_rng(seed)
        self.items = np.argsort(rng.random((num_queries, ITEMS)), axis=1)[:, :WIDEST]
        self.items[np.arange(WIDEST) >= rng.integers(0, WIDEST + 1, num_queries)[:, None]] = -1
        self.wanted = [rng.choice(ITEMS, rng.integers(1, 9), replace=False) for _ in range(num_queries)]
        self.weights = [np.sort(rng.integers(1, 4, len(items)))[::-1] for items in self.wanted]

    def ours(self, k: int) -> dict[str, np.ndarray]:
        ranking = Ranking(self.items, np.where(self.items < 0, -np.inf, 0).astype(np.float32))
        targets = Targets(
            items=np.concatenate(self.wanted),
            weights=np.concatenate(self.weights).astype(np.float64),
            offsets=np.append(0, np.cumsum([len(items) for items in self.wanted])),
        )
        found = query_metrics(ranking, targets, k)
        return {
            "hit_rate": found.hit_rate,
            "reciprocal_rank": found.mrr,
            "recall": found.recall,
            "ndcg": found.ndcg,
            "graded ndcg": found.weighted_ndcg,
        }

    def theirs(self, k: int) -> Iterator[tuple[str, np.ndarray]]:
        """Their ``ndcg`` takes the gain to be the grade itself (Järvelin and Kekäläinen), as ours takes the weight;
        Burges' 2^grade - 1 is another function of theirs. Grades all 1 make it the binary one."""
        run, graded, binary = numba_typed.List(), numba_typed.List(), numba_typed.List()
        for listed, items, weights in zip(self.items, self.wanted, self.weights, strict=True):
            listed = listed[listed >= 0]
            run.append(np.stack([listed, -np.arange(len(listed))], axis=1).astype(np.float64))
            graded.append(np.stack([items, weights], axis=1).astype(np.float64))
            binary.append(np.stack([items, np.ones(len(items))], axis=1))
        for name in ("hit_rate", "reciprocal_rank", "recall", "ndcg"):
            yield name, getattr(ranx, name)(binary, run, k, 1)
        yield "graded ndcg", ranx.ndcg(graded, run, k, 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 10, WIDEST])
def test_every_query_is_judged_as_ranx_does(seed: int, k: int) -> None:
    case = Case(seed)
    ours = case.ours(k)
    for name, expected in case.theirs(k):
        np.testing.assert_allclose(ours[name], expected, rtol=1e-12, atol=1e-15, err_msg=name)
    assert 0 < ours["hit_rate"].mean() < 1
    assert (ours["ndcg"] != ours["graded ndcg"]).any()
