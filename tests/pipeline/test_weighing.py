"""What validation teaches: weights of new items where they came next, and the better rule of fusion."""

from dataclasses import replace

import numpy as np
import pytest

from semid.data.plain_queries import queries_from_histories
from semid.pipeline import evidence, weighing
from semid.retrieval.combining import Candidates


def asked(targets: np.ndarray):
    return replace(
        queries_from_histories([[0]] * len(targets), 12),
        target_items=targets.astype(np.int32),
        target_actions=np.full(len(targets), -1, np.int8),
        target_offsets=np.arange(len(targets) + 1),
    )


def drawn(seed: int, *, new: np.ndarray, biased: float) -> tuple[Candidates, np.ndarray]:
    """Candidates 0..11 of 3,000 queries, and what came next by codes and cosine, both too low for new items."""
    rng = np.random.default_rng(seed)
    shape = (3000, 12)
    codes, dense = rng.normal(size=shape), rng.normal(size=shape)
    chance = np.exp(1.5 * codes + 0.5 * dense)
    targets = (chance / chance.sum(1, keepdims=True)).cumsum(1).__gt__(rng.random((3000, 1))).argmax(1)
    is_new = np.broadcast_to(new, shape).astype(float)
    codes, dense = codes - biased * is_new, dense - biased * is_new
    zeros = dict.fromkeys(evidence.PRIOR["hybrid"], np.zeros(shape))
    heads = {"generative": codes, "dense": dense, "new": is_new}
    of_new = {"new_generative": codes * is_new, "new_dense": dense * is_new}
    items = np.tile(np.arange(12), (3000, 1))
    return Candidates(items=items, evidence={**zeros, **heads, **of_new}), targets


def test_new_items_get_weights_of_their_own_where_they_came_next() -> None:
    candidates, targets = drawn(0, new=np.arange(12) < 6, biased=2.0)
    weights = evidence.fit(candidates, asked(targets), evidence.PRIOR["hybrid"])
    assert weights["generative"] == pytest.approx(1.5, abs=0.12)
    assert weights["dense"] == pytest.approx(0.5, abs=0.12)
    assert weights["new_generative"] == pytest.approx(0, abs=0.15)  # as steep as for others
    assert weights["new"] == pytest.approx(2 * 1.5 + 2 * 0.5, abs=0.4)  # what the heads lack


def test_where_no_new_item_came_next_nothing_is_said_of_them() -> None:
    candidates, targets = drawn(1, new=np.arange(12) < 6, biased=0.0)
    known = np.flatnonzero(targets >= 6)
    weights = evidence.fit(candidates.select(known), asked(targets[known]), evidence.PRIOR["hybrid"])
    assert not {"new", "new_generative", "new_dense"} & set(weights)


def test_rules_are_judged_by_queries_their_weights_have_not_seen() -> None:
    """Where cosine says nothing, ranks by it harm and learned weights ignore it; the best rule comes first."""
    candidates, targets = drawn(2, new=np.zeros(12, bool), biased=0.0)
    noise = np.random.default_rng(3).normal(size=candidates.items.shape)
    blurred = Candidates(items=candidates.items, evidence={**candidates.evidence, "dense": noise})
    gained = weighing._tried(blurred, asked(targets))
    assert gained["rrf"] == min(gained.values())
    assert list(gained.values()) == sorted(gained.values(), reverse=True)
    place = (
        blurred.evidence["generative"] > np.take_along_axis(blurred.evidence["generative"], targets[:, None], 1)
    ).sum(1)
    alone = np.where(place < 10, 1 / np.log2(2 + place), 0).mean()
    assert gained["learned"] == pytest.approx(alone, abs=0.01)


def test_of_one_query_the_prior_is_tried() -> None:
    candidates, targets = drawn(4, new=np.zeros(12, bool), biased=0.0)
    gained = weighing._tried(candidates.select(np.arange(1)), asked(targets[:1]))
    assert set(gained) == {"learned", "linear", "rrf"}
    assert gained["learned"] == gained["linear"]
