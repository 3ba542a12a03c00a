import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.ranking import Ranking
from semid.retrieval.diversity import first_of_each


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6))
def test_equals_a_walk_down_the_list(seed: int, places: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(-1, kinds, 20)
    items = np.stack([rng.choice(20, places, replace=False) for _ in range(5)])
    items[0, places // 2 :] = -1
    scores = np.where(items < 0, -np.inf, -np.sort(rng.random(items.shape), axis=1)).astype(np.float32)
    found = first_of_each(Ranking(items, scores, np.full(5, 0.5, np.float32)), groups)
    for row in range(5):
        seen: set[int] = set()
        kept = []
        for item, score in zip(items[row].tolist(), scores[row].tolist(), strict=True):
            group = int(groups[item])
            if item >= 0 and (group < 0 or group not in seen):
                seen.add(group)
                kept.append((item, score))
        missing = places - len(kept)
        assert found.items[row].tolist() == [item for item, _ in kept] + [-1] * missing
        assert found.scores[row].tolist() == [score for _, score in kept] + [-np.inf] * missing
    assert (found.bound == 0.5).all()
