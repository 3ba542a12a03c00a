"""Held-out items against the same dataset with their events taken out by hand."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder
from semid.data.cooccurrence import cooccurrence_embedding, sample_pairs
from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING, Queries
from semid.data.splits import SplitConfig
from semid.data.timeline import Timeline
from semid.data.transitions import Transitions
from semid.errors import InputError
from semid.evaluation.metrics import Targets, evaluate
from semid.ranking import Ranking

NUM_ITEMS = 40
SHARE = 0.2


@dataclass
class Log:
    """Events of users one after the other, and perhaps queries that come with them."""

    lengths: np.ndarray
    items: np.ndarray
    actions: np.ndarray
    times: np.ndarray
    codes: np.ndarray | None = None
    ordered: bool = True
    candidates: np.ndarray | None = None
    given: tuple[str, ...] = ()


def random_log(seed: int, **more: object) -> Log:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, 100)
    total = int(lengths.sum())
    times = [np.sort(rng.integers(0, 50, length)) for length in lengths]
    codes = [np.sort(rng.choice(3, length, p=[0.6, 0.2, 0.2])) for length in lengths]
    return Log(
        lengths=lengths,
        items=rng.integers(0, NUM_ITEMS, total),
        actions=rng.integers(-1, 3, total),
        times=np.where(rng.random(total) < 0.1, TIME_MISSING, np.concatenate(times)),
        **{"codes": np.concatenate(codes), **more},
    )


def build(path: Path, log: Log, **options: object) -> Dataset:
    rng = np.random.default_rng(9)
    with create_artifact(path, "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items, builder.action_names = NUM_ITEMS, ("exposure", "click", "conversion")
        builder.ordered = log.ordered
        builder.append_events(log.lengths, log.items, log.actions, log.times, log.codes)
        for split in log.given:
            lengths, targets = rng.integers(1, 5, 30), rng.integers(1, 4, 30)
            total, asked = int(lengths.sum()), int(targets.sum())
            history = rng.integers(0, NUM_ITEMS, total), rng.integers(-1, 3, total), np.full(total, TIME_MISSING)
            asks = rng.integers(0, NUM_ITEMS, asked), rng.integers(-1, 3, asked)
            builder.append_given(split, rng.integers(0, 80, 30), lengths, *history, targets, *asks)
        if log.candidates is not None:
            builder.set_candidates(log.candidates)
        builder.finish(SplitConfig(**options))
    return Dataset.open(path)


@pytest.fixture(params=[(1 << 13, 1 << 21), (7, 12), (1, 1)])
def block_sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may depend on where blocks of users end."""
    monkeypatch.setattr("semid.data.splits._BLOCK_USERS", request.param[0])
    monkeypatch.setattr("semid.data.splits._BLOCK_EVENTS", request.param[1])


PROTOCOLS = {
    "leave-last-out": ({"codes": None}, {"target_actions": ("exposure", "click")}),
    "time": ({"codes": None}, {"protocol": "time", "time_cuts": (20, 35)}),
    "user": ({"codes": None}, {"protocol": "user", "test_users": 0.5, "valid_users": 0.2}),
    "user among candidates": (
        {"codes": None, "candidates": np.arange(0, NUM_ITEMS, 2)},
        {"protocol": "user", "test_users": 0.5, "valid_users": 0.2, "hold_out_among": "candidates"},
    ),
    "given": ({}, {}),
    "given without order": ({"ordered": False}, {}),
    "given queries": ({"codes": None, "given": ("test",)}, {}),
    "given queries of both": ({"codes": None, "given": ("valid", "test")}, {}),
    "given queries set aside": ({"codes": None, "given": ("test",)}, {"protocol": "leave-last-out"}),
}


def events_of(dataset: Dataset, row: int) -> list[tuple[int, int, int, bool]]:
    log, span = dataset.events, range(*dataset.events.offsets[row : row + 2])
    return [
        (int(log.items[p]), int(log.actions[p]), int(log.times[p]), bool(p < dataset.train_end[row])) for p in span
    ]


def histories_of(queries: Queries) -> list[tuple[int, list[tuple[int, ...]], list[tuple[int, ...]]]]:
    """User, events of the history, and targets of every query."""
    log, found = queries.log, []
    for row, user in enumerate(queries.users.tolist()):
        history = [(log.items[p], log.actions[p], log.times[p]) for p in range(queries.start[row], queries.end[row])]
        asked = range(*queries.target_offsets[row : row + 2])
        targets = [(queries.target_items[p], queries.target_actions[p]) for p in asked]
        found.append((user, [tuple(map(int, event)) for event in history], [tuple(map(int, t)) for t in targets]))
    return found


@pytest.mark.usefixtures("block_sizes")
@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_protocol_agrees_with_a_removal_by_hand(tmp_path: Path, name: str, seed: int) -> None:
    shape, options = PROTOCOLS[name]
    log = random_log(seed, **shape)
    whole = build(tmp_path / "whole", log, **{**options, "hold_out_among": "all"})
    data = build(tmp_path / "d", log, **options, hold_out_items=SHARE)

    cold = set(data.held_out.tolist())
    pool = whole.train_counts > 0
    if "hold_out_among" in options:
        pool &= np.isin(np.arange(NUM_ITEMS), log.candidates)
    assert cold <= set(np.flatnonzero(pool).tolist())
    assert len(cold) == round(SHARE * pool.sum()) > 0
    for row in range(whole.num_users):
        assert events_of(data, row) == [event for event in events_of(whole, row) if event[0] not in cold]
    facts = data.artifact_or_raise.details["report"]["split"]
    asking = {}
    for split, queries in whole.queries.items():
        left = [
            (user, [e for e in past if e[0] not in cold], targets) for user, past, targets in histories_of(queries)
        ]
        expected = [query for query in left if query[1]]
        assert histories_of(data.queries[split]) == expected
        assert (data.queries[split].log is data.events) == (queries.log is whole.events)
        assert facts.get(f"{split}_queries_without_history", 0) == len(left) - len(expected)
        asking[split] = sum(any(target[0] in cold for target in targets) for *_, targets in expected)
        assert facts.get(f"{split}_queries_for_held_out_items", 0) == asking[split]
    assert asking["test"] > 0
    assert facts["held_out_items"] == len(cold)

    log_of = data.events
    assert (log_of.offsets[0], log_of.offsets[-1]) == (0, log_of.num_events)
    for queries in data.queries.values():
        starts = log_of.offsets[queries.users] if queries.log is log_of else queries.log.offsets[:-1]
        np.testing.assert_array_equal(queries.start, starts)
    counts = data.artifact_or_raise.details["counts"]
    assert counts["events"] == log_of.num_events
    assert counts["train_events"] == data.train_counts.sum()
    assert [counts[split] for split in data.queries] == [len(queries) for queries in data.queries.values()]
    np.testing.assert_array_equal(data.candidates, whole.candidates)
    assert not (tmp_path / "d" / "thinned").exists()
    assert not (tmp_path / "d" / "queries" / "thinned").exists()


def test_by_hand(tmp_path: Path) -> None:
    """Item 2 alone is trained by more than one user; with it held out, one user has no history left."""
    lengths, items = np.array([4, 2, 3]), np.array([2, 1, 2, 5, 2, 3, 1, 2, 2])
    log = Log(lengths, items, np.zeros(9), np.arange(9))
    data = build(tmp_path / "d", log, hold_out_items=0.4, seed=seed_that_chooses(2, items_trained=[1, 2]))
    np.testing.assert_array_equal(data.held_out, [2])
    np.testing.assert_array_equal(data.events.items, [1, 5, 3, 1])
    np.testing.assert_array_equal(data.events.offsets, [0, 2, 3, 4])
    np.testing.assert_array_equal(data.train_end, [1, 2, 4])
    # User 0 trained on 2 and 1, was asked for 2 in validation and is asked for 5 in the test.
    assert histories_of(data.queries["valid"]) == [(0, [(1, 0, 1)], [(2, 0)]), (2, [(1, 0, 6)], [(2, 0)])]
    # User 1 had nothing but 2 before 3.
    assert histories_of(data.queries["test"]) == [(0, [(1, 0, 1)], [(5, 0)]), (2, [(1, 0, 6)], [(2, 0)])]
    assert data.artifact_or_raise.details["report"]["split"] == {
        "protocol": "leave-last-out",
        "test_queries_without_history": 1,
        "valid_queries_for_held_out_items": 2,
        "test_queries_for_held_out_items": 1,
        "held_out_items": 1,
    }


def seed_that_chooses(item: int, items_trained: list[int]) -> int:
    """The first seed whose choice of one item is this one."""
    choices = (np.random.default_rng([seed, 1]).choice(items_trained, 1, replace=False) for seed in range(100))
    return next(seed for seed, chosen in enumerate(choices) if chosen[0] == item)


def test_nothing_that_is_learned_from_behaviour_knows_them(tmp_path: Path) -> None:
    data = build(tmp_path / "d", random_log(3, codes=None), hold_out_items=SHARE)
    cold = data.held_out
    assert len(cold) > 3
    assert not data.train_counts[cold].any()
    strengths = Transitions.of(data).strengths
    assert not strengths[cold].nnz
    assert not strengths[:, cold].nnz
    assert not cooccurrence_embedding(data, dim=4).valid[cold].any()
    assert not np.isin(sample_pairs(data), cold).any()
    assert not Timeline.of(data).counts(cold, np.full(len(cold), 10**6)).any()


def test_cold_hits_count_them(tmp_path: Path) -> None:
    """Lists that name the first target of each query hit all cold ones, popular items none."""
    data = build(tmp_path / "d", random_log(4, codes=None), hold_out_items=SHARE)
    test = data.split("test")
    for ranked, expected in ((test.target_items, 1.0), (np.full(len(test), data.train_counts.argmax()), 0.0)):
        lists = Ranking(ranked.astype(np.int64)[:, None], np.zeros((len(test), 1), np.float32))
        found = evaluate(lists, Targets.of(test), ks=(1,), train_counts=data.train_counts)
        assert found["ColdHitRate@1"] == expected


def test_the_choice_follows_the_seed_and_is_uniform(tmp_path: Path) -> None:
    log = Log(np.full(20, 3), np.arange(60) % 20, np.zeros(60), np.zeros(60))
    chosen = np.zeros(20)
    for seed in range(30):
        first, again = (
            build(tmp_path / name, log, hold_out_items=0.5, seed=seed).held_out.tolist() for name in ("a", "b")
        )
        assert first == again
        chosen[first] += 1
    assert chosen.sum() == 300
    assert chosen.min() >= 5  # 15 expected, standard deviation 2.7
    assert chosen.max() <= 25


def test_without_a_share_nothing_changes(tmp_path: Path) -> None:
    data = build(tmp_path / "d", random_log(5))
    assert len(data.held_out) == 0
    assert "held_out_items" not in data.artifact_or_raise.details["report"]["split"]
    assert not (tmp_path / "d" / "held_out.npy").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_out_items": 1.0}, r"hold_out_items=1.0 must be a share from 0 to below 1"),
        ({"hold_out_items": -0.1}, "must be a share"),
        ({"hold_out_items": float("nan")}, "must be a share"),
        ({"hold_out_among": "cold"}, "Unknown hold_out_among 'cold': use one of all, candidates"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SplitConfig(**options)


def test_what_leaves_nothing_is_refused(tmp_path: Path) -> None:
    log = Log(np.array([3, 2]), np.array([7, 1, 2, 7, 3]), np.zeros(5), np.arange(5))
    with pytest.raises(InputError, match="Without the 1 items held out there is nothing to train on: hold out fewer"):
        build(tmp_path / "d", log, hold_out_items=0.5)
    log.candidates = np.array([1, 2])
    with pytest.raises(InputError, match="No candidate occurs in training, so none can be held out"):
        build(tmp_path / "d", log, hold_out_items=0.5, hold_out_among="candidates")
    log = Log(np.array([2, 2]), np.array([7, 1, 7, 3]), np.zeros(4), np.arange(4), codes=np.array([1, 1, 1, 2]))
    with pytest.raises(InputError, match="No item occurs in training, so none can be held out"):
        build(tmp_path / "d", log, hold_out_items=0.5)
    assert not (tmp_path / "d").exists()


def test_no_cold_target_is_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Log(np.array([3, 3]), np.array([4, 5, 1, 4, 5, 1]), np.zeros(6), np.arange(6), np.array([0, 0, 2] * 2))
    with caplog.at_level(logging.WARNING):
        data = build(tmp_path / "d", log, hold_out_items=0.1, target_actions=("click",))
    assert [record.message for record in caplog.records] == [
        "No query asks for any of the 1 items held out: hold out more to judge cold start."
    ]
    assert len(data.held_out) == 1


def test_the_command_says_what_was_held_out_and_can_be_repeated(tmp_path: Path, semid, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{user},{item},{place}" for user in range(40) for place, item in enumerate(rng.integers(0, 20, 6))]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "interactions.csv").write_text("\n".join(["user_id,item_id,position", *rows]))
    monkeypatch.chdir(tmp_path)
    printed = semid("data", "prepare", "raw", "d", "--hold-out-items", "0.25", "--seed", "3").stdout
    data = Dataset.open("d")
    cold = sum(item in data.held_out for item in data.queries["test"].target_items)
    assert "held-out items  5, none of which has an event" in printed
    assert f"test queries    40, {cold} of them with a cold target" in printed
    assert semid("data", "prepare", "raw", "again", "--config", "d/settings.toml").exit_code == 0
    assert Dataset.open("again").artifact_or_raise.checksum == data.artifact_or_raise.checksum
    refused = semid("data", "prepare", "raw", "no", "--hold-out-items", "1")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "hold_out_items=1.0 must be a share from 0 to below 1.\n"
