"""Banks: what is drawn how often, against counting; the expected counts against the mean of many draws."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from semid.data.dataset import Dataset
from semid.generative.negatives import PROPOSALS, NegativeSampler, latest_items

CELLS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 4, 4])  # no item has first code 3
ITEMS = len(CELLS)
HISTORIES = [[0, 1, 2, 3], [3, 4, 3], [5], [6, 7, 8, 9, 0, 1, 2], []]


@pytest.fixture
def dataset(build: Any) -> Dataset:
    made: Dataset = build.dataset(build.log(HISTORIES), ITEMS)
    return made


@pytest.mark.parametrize("kind", PROPOSALS)
def test_expected_counts_are_the_mean_of_many_banks(dataset: Dataset, kind: str) -> None:
    """The positives are fixed here, so theirs is what the batch holds in the mean: the share of each item."""
    torch.manual_seed(0)
    sampler = NegativeSampler.of(dataset, CELLS, {kind: 40_000})
    targets, histories = torch.tensor([0, 0, 4, 8]), torch.arange(4)
    bank = sampler.draw(targets, histories)
    assert len(bank.rows) == 40_004
    assert bank.rows[:4].tolist() == targets.tolist()
    drawn = bank.rows[4:].bincount(minlength=ITEMS).double()
    expected = torch.zeros(ITEMS, dtype=torch.float64)
    expected[bank.rows] = bank.log_expected.double().exp()
    expected -= 4 * sampler.share * (expected > 0)
    assert ((expected - drawn).abs() <= 5 * expected.sqrt() + 1e-3).all()
    reached = {"uniform": range(10), "popular": range(10), "recent": set(latest_items(dataset)), "hard": None}[kind]
    assert set(bank.rows[4:].tolist()) == set(reached or {0, 1, 2, 3, 4, 8, 9})


def test_proportions_by_hand(dataset: Dataset) -> None:
    """Items 0–3 have 2, 2, 2 and 3 of 15 events; two of four positives lie in the first cell of three items."""
    sampler = NegativeSampler.of(dataset, CELLS, {})
    assert sampler.share[:4].tolist() == pytest.approx([2 / 15, 2 / 15, 2 / 15, 3 / 15])
    tempered = sampler._popular(1, torch.zeros(1))[1]
    assert float(tempered[3] / tempered[0]) == pytest.approx(1.5**0.75)
    hard = sampler._hard(1, torch.tensor([0, 0, 4, 8]))[1]
    assert hard.tolist() == pytest.approx([1 / 6] * 3 + [1 / 8] * 2 + [0.0] * 3 + [1 / 8] * 2)


def test_several_proposals_add_up_and_none_leaves_the_positives(dataset: Dataset) -> None:
    torch.manual_seed(0)
    targets, histories = torch.tensor([0, 3]), torch.tensor([0, 0])
    alone = NegativeSampler.of(dataset, CELLS, {}).draw(targets, histories)
    assert alone.rows.tolist() == [0, 3]
    assert alone.log_expected.exp().tolist() == pytest.approx([2 * 2 / 15, 2 * 3 / 15])
    both = NegativeSampler.of(dataset, CELLS, {"uniform": 30, "hard": 12}).draw(targets, histories)
    assert both.log_expected[:2].exp().tolist() == pytest.approx([4 / 15 + 3 + 12 / 6, 6 / 15 + 3 + 12 / 4])


def test_same_items_and_histories_are_excluded(dataset: Dataset) -> None:
    torch.manual_seed(0)
    targets, histories = torch.tensor([0, 3, 0, 5]), torch.tensor([7, 7, 2, 7])
    bank = NegativeSampler.of(dataset, CELLS, {"uniform": 40}).draw(targets, histories)
    taken = {7: {0, 3, 5}, 2: {0}}
    assert {0, 3, 5} <= set(bank.rows[4:].tolist())  # also as drawn negatives
    found = set(zip(*(part.tolist() for part in bank.excluded), strict=True))
    rows = bank.rows.tolist()
    assert found == {(p, m) for p in range(4) for m in range(44) if rows[m] in taken[int(histories[p])]}
    assert bank.excluded[0].tolist() == sorted(bank.excluded[0].tolist())


def test_latest_items_go_by_time(build: Any) -> None:
    times = [[1, 2, 90, 91], [3, 4, 92], [5], [6, 7, 8, 9, 10, 11, 12], []]
    dataset = build.dataset(build.log(HISTORIES, times), ITEMS)
    assert sorted(latest_items(dataset)) == [2, 3, 3]  # at 90, 91 and 92: from the ninth decile of 15 events on
    assert sorted(latest_items(replace(dataset, train_end=dataset.train_end - [2, 1, 0, 0, 0]))) == [0, 1, 2]


def test_latest_items_without_times_are_the_last_of_their_users(dataset: Dataset) -> None:
    assert sorted(latest_items(dataset)) == [2, 3, 3, 5]


def test_all_times_alike_make_every_event_the_latest(build: Any) -> None:
    dataset = build.dataset(build.log(HISTORIES, [[5] * len(history) for history in HISTORIES]), ITEMS)
    assert sorted(latest_items(dataset)) == sorted(item for history in HISTORIES for item in history)


def test_nothing_to_learn_from_has_no_latest_items(dataset: Dataset) -> None:
    empty = replace(dataset, train_end=dataset.events.offsets[:-1])
    assert latest_items(empty).shape == (0,)


def test_of_very_many_events_the_latest_of_a_sample_are_found(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Item i at time i: the latest tenth of 100 of 1,000 events lies within the last fifth, and is ten events."""
    dataset = build.dataset(build.log([list(range(1000))], [list(range(1000))]), 1000)
    monkeypatch.setattr("semid.generative.negatives._MOST_LOOKED_AT", 100)
    found = latest_items(dataset)
    assert len(found) in (10, 11)
    assert min(found) >= 800


def test_own_negatives_are_uniform_over_what_the_history_lacks(dataset: Dataset) -> None:
    """History 0 has items 0 to 3 and is to predict 4: the other five come equally often."""
    torch.manual_seed(0)
    sampler = NegativeSampler.of(dataset, CELLS, {})
    targets, histories = torch.tensor([4, 9]), torch.tensor([0, 7])
    seen = torch.tensor([0, 0, 0, 0, 7]), torch.tensor([0, 1, 2, 3, 5])
    drawn = sampler.draw_own(20_000, targets, histories, seen)
    assert drawn.shape == (2, 20_000)
    shares = [row.bincount(minlength=ITEMS) / 20_000 for row in drawn]
    # Half of all items are known: drawn four times, one in sixteen still is; of the other history two in ten.
    assert float(shares[0][[0, 1, 2, 3, 4]].sum()) == pytest.approx(0.5**4, abs=0.01)
    assert shares[0][5:].tolist() == pytest.approx([(1 - 0.5**4) / 5] * 5, abs=0.01)
    assert float(shares[1][[5, 9]].sum()) == pytest.approx(0.2**4, abs=0.005)
