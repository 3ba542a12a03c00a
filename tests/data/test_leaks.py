"""No prepared dataset leaks; a dataset that is broken on purpose does, by the very rule that it breaks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.artifacts import create_artifact
from semid.data.added import add_embedding
from semid.data.building.builder import DatasetBuilder
from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING, EventLog, Queries
from semid.data.features import Embedding
from semid.data.leaks import check_leaks
from semid.data.prepare import prepare
from semid.data.splits import SplitConfig
from semid.errors import InputError

PROTOCOLS = {
    "leave-last-out": {"target_actions": ("exposure", "click")},
    "time": {"protocol": "time", "time_cuts": (20, 35)},
    "user": {"protocol": "user", "test_users": 0.3, "valid_users": 0.2},
    "given": {"protocol": "given"},
    "given without order": {"protocol": "given"},
    "given queries": {"protocol": "given"},
}


@pytest.fixture(params=[(1 << 21, 1 << 16, 1 << 14), (5, 3, 4), (1, 1, 1)])
def block_sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may depend on where blocks end."""
    for name, size in zip(("EVENTS", "USERS", "QUERIES"), request.param, strict=True):
        monkeypatch.setattr(f"semid.data.leaks._BLOCK_{name}", size)


def build(
    path: Path, name: str, seed: int = 0, num_items: int = 40, num_users: int = 50, **options: object
) -> Dataset:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, num_users)
    total = int(lengths.sum())
    times = np.concatenate([np.sort(rng.integers(0, 50, length)) for length in lengths])
    codes = np.concatenate([np.sort(rng.choice(3, length, p=[0.6, 0.2, 0.2])) for length in lengths])
    with create_artifact(path, "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items, builder.action_names = num_items, ("exposure", "click", "conversion")
        builder.ordered = name != "given without order"
        builder.append_events(
            lengths,
            rng.integers(0, num_items, total),
            rng.integers(-1, 3, total),
            np.where(rng.random(total) < 0.1, TIME_MISSING, times),
            codes if name.startswith("given") and name != "given queries" else None,
        )
        builder.raw_ids("users", pa.string()).append([f"u{row}" for row in range(num_users)])
        builder.raw_ids("items", pa.string()).append([f"i{row}" for row in range(num_items)])
        if name == "given queries":
            add_given(builder, rng, num_users)
        builder.finish(SplitConfig(**PROTOCOLS[name], **options))
    return Dataset.open(path)


def add_given(builder: DatasetBuilder, rng: np.random.Generator, num_users: int, count: int = 40) -> None:
    lengths, targets, num_items = rng.integers(1, 5, count), rng.integers(1, 3, count), builder.num_items
    total, asked = int(lengths.sum()), int(targets.sum())
    history = rng.integers(0, num_items, total), np.full(total, -1), np.arange(total)
    asks = rng.integers(0, num_items, asked), np.full(asked, -1)
    builder.append_given("test", rng.integers(0, num_users, count), lengths, *history, targets, *asks)


@pytest.mark.usefixtures("block_sizes")
@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_protocol_leaks(tmp_path: Path, name: str, share: float) -> None:
    for seed in range(2):
        dataset = build(tmp_path / "d", name, seed, hold_out_items=share)
        report = check_leaks(dataset)
        assert report.train_events == dataset.train_counts.sum()
        assert report.queries == {split: len(queries) for split, queries in dataset.queries.items()}
        assert (report.held_out_items, report.added) == (len(dataset.held_out), 0)


def with_queries(dataset: Dataset, **changes: np.ndarray) -> Dataset:
    return replace(dataset, queries={**dataset.queries, "test": replace(dataset.queries["test"], **changes)})


def changed(array: np.ndarray, place: int, value: int) -> np.ndarray:
    copy = np.array(array)
    copy[place] = value
    return copy


def targets_reached(dataset: Dataset, query: int, end: int) -> bool:
    """Whether a target's event is in the history up to ``end`` and not after it."""
    log, queries = dataset.events, dataset.queries["test"]
    events = list(zip(log.items.tolist(), log.actions.tolist(), strict=True))
    past = events[queries.start[query] : end]
    future = events[end : log.offsets[queries.users[query] + 1]]
    asked = range(*queries.target_offsets[query : query + 2])
    targets = [(int(queries.target_items[t]), int(queries.target_actions[t])) for t in asked]
    return any(target in past and target not in future for target in targets)


@pytest.mark.usefixtures("block_sizes")
@pytest.mark.parametrize("name", ["leave-last-out", "user", "given", "given without order"])
def test_a_history_that_reaches_its_target(tmp_path: Path, name: str) -> None:
    """Every longer end of every query, against a loop; few items, so that many come again."""
    dataset = build(tmp_path / "d", name, num_items=4, num_users=24)
    queries, found = dataset.queries["test"], []
    for query in range(len(queries)):
        user = queries.users[query]
        for end in range(queries.end[query] + 1, dataset.events.offsets[user + 1] + 1):
            broken = with_queries(dataset, end=changed(queries.end, query, end))
            expected = targets_reached(dataset, query, end)
            found.append(expected)
            if not expected:
                check_leaks(broken)
                continue
            with pytest.raises(InputError) as caught:
                check_leaks(broken)
            assert str(caught.value) == (
                f"The history of test query {query} of user 'u{user}' ends at position {end} and already holds the "
                "event of its target: prepare the dataset again."
            )
    assert any(found)


def test_a_history_of_somebody_else(tmp_path: Path) -> None:
    dataset = build(tmp_path / "d", "leave-last-out")
    queries, offsets = dataset.queries["test"], dataset.events.offsets
    user = int(queries.users[7])
    first, last = offsets[user], offsets[user + 1] - 1
    for changes, span in (
        ({"start": changed(queries.start, 7, first - 1)}, f"{first - 1}..{queries.end[7] - 1}"),
        ({"end": changed(queries.end, 7, last + 2)}, f"{first}..{last + 1}"),
        ({"end": changed(queries.end, 7, first)}, f"{first}..{first - 1}"),
    ):
        with pytest.raises(InputError) as caught:
            check_leaks(with_queries(dataset, **changes))
        assert f"The history of test query 7 of user 'u{user}' is at {span}, which is not within" in str(caught.value)


def test_training_on_what_is_asked(tmp_path: Path) -> None:
    dataset = build(tmp_path / "d", "leave-last-out")
    valid, test = dataset.queries["valid"], dataset.queries["test"]
    user = int(valid.users[3])
    broken = replace(dataset, train_end=changed(dataset.train_end, user, valid.end[3] + 1))
    with pytest.raises(
        InputError,
        match=f"Training on user 'u{user}' goes up to position {valid.end[3] + 1}, but valid query 3 asks at "
        f"{valid.end[3]}: prepare",
    ):
        check_leaks(broken)
    without_valid = replace(broken, queries={"test": test})
    assert check_leaks(without_valid).train_events == dataset.train_counts.sum() + 1  # no test query is reached


def test_training_on_somebody_else(tmp_path: Path) -> None:
    dataset = replace(build(tmp_path / "d", "leave-last-out"), queries={})
    first, last = dataset.events.offsets[4:6]
    for end in (first - 1, last + 1):
        with pytest.raises(InputError, match=f"Training on user 'u4' ends at position {end}, but its events are at"):
            check_leaks(replace(dataset, train_end=changed(dataset.train_end, 4, end)))


def test_training_on_a_user_who_is_held_out(tmp_path: Path) -> None:
    dataset = build(tmp_path / "d", "user")
    user = int(dataset.queries["test"].users[2])
    broken = replace(dataset, train_end=changed(dataset.train_end, user, dataset.events.offsets[user] + 1))
    with pytest.raises(InputError, match=f"Training has events of user 'u{user}', whom test query 2 asks: prepare"):
        check_leaks(broken)


@pytest.mark.usefixtures("block_sizes")
def test_training_after_the_cut_in_time(tmp_path: Path) -> None:
    """Of each user whose first event after the cut has a time: also where no query asks it."""
    dataset = build(tmp_path / "d", "time")
    log, asked = dataset.events, {int(user) for queries in dataset.queries.values() for user in queries.users}
    late = [
        user
        for user in range(dataset.num_users)
        if dataset.train_end[user] < log.offsets[user + 1] and log.times[dataset.train_end[user]] != TIME_MISSING
    ]
    assert set(late) - asked
    for user in late:
        end = dataset.train_end[user]
        broken = replace(dataset, train_end=changed(dataset.train_end, user, end + 1))
        where = f"user 'u{user}' reaches time {log.times[end]} at position {end}"
        with pytest.raises(InputError, match=f"Training on {where}, but the cut is at 20: prepare"):
            check_leaks(broken)


@pytest.mark.usefixtures("block_sizes")
@pytest.mark.parametrize("own", [False, True])
def test_times_that_fall(tmp_path: Path, own: bool) -> None:
    dataset = build(tmp_path / "d", "given queries")
    log = dataset.queries["test"].log if own else dataset.events
    known = np.flatnonzero(log.times != TIME_MISSING)
    rows = np.searchsorted(log.offsets, known, side="right") - 1
    place = np.flatnonzero(rows[1:] == rows[:-1])[5]
    earlier, later = known[place], known[place + 1]
    broken = EventLog(log.items, log.actions, changed(log.times, later, log.times[earlier] - 1), log.offsets)
    owner = f"the history of test query {rows[place]}" if own else f"user 'u{rows[place]}'"
    dataset = with_queries(dataset, log=broken) if own else replace(dataset, events=broken)
    with pytest.raises(InputError, match=f"The events of {owner} go back in time at position {later}, to "):
        check_leaks(dataset)


@pytest.mark.usefixtures("block_sizes")
@pytest.mark.parametrize("own", [False, True])
def test_an_event_of_a_held_out_item(tmp_path: Path, own: bool) -> None:
    dataset = build(tmp_path / "d", "given queries", hold_out_items=0.2)
    log, item = dataset.queries["test"].log if own else dataset.events, int(dataset.held_out[1])
    row = int(np.searchsorted(log.offsets, 11, side="right")) - 1
    broken = EventLog(changed(log.items, 11, item), log.actions, log.times, log.offsets)
    dataset = with_queries(dataset, log=broken) if own else replace(dataset, events=broken)
    owner = f"the history of test query {row}" if own else f"user 'u{row}'"
    with pytest.raises(
        InputError, match=f"Item 'i{item}' is held out, but an event of it is at position 11, of {owner}:"
    ):
        check_leaks(dataset)


def given_runs(dataset: Dataset) -> tuple[list[int], int]:
    """Queries whose history stands in training with a target behind it: those that are sure, and how many others."""
    log, queries, sure, others = dataset.events, dataset.queries["test"], [], 0
    for query in range(len(queries)):
        history = queries.log.items[queries.start[query] : queries.end[query]].tolist()
        user = queries.users[query]
        trained = log.items[log.offsets[user] : dataset.train_end[user]].tolist()
        for target in queries.target_items[slice(*queries.target_offsets[query : query + 2])].tolist():
            run = [*history, target]
            count = sum(trained[at : at + len(run)] == run for at in range(len(trained)))
            if len(history) >= 3 and target not in history:
                sure += [query] * count
            else:
                others += count
    return sure, others


@pytest.mark.usefixtures("block_sizes")
def test_a_given_query_whose_target_is_trained_on(tmp_path: Path) -> None:
    """Against a loop, on logs of so few items that it happens by chance."""
    outcomes = []
    for seed in range(12):
        dataset = build(tmp_path / "d", "given queries", seed, num_items=4, num_users=12)
        sure, others = given_runs(dataset)
        outcomes.append(bool(sure))
        if sure:
            with pytest.raises(InputError, match=rf"holds the history of test query {sure[0]} and its target right"):
                check_leaks(dataset)
            continue
        notes = check_leaks(dataset).notes
        assert len(notes) == (others > 0)
        assert all(note.startswith(f"{others} given test queries have their history") for note in notes)
    assert 0 < sum(outcomes) < 12


def write_given(folder: Path, extra: bool) -> Path:
    """Users take three of ten items; each is asked for a fourth, which the interactions hold too if ``extra``."""
    rng, folder = np.random.default_rng(0), folder / f"raw{extra}"
    folder.mkdir()
    taken = [rng.permutation(10)[:4].tolist() for _ in range(20)]
    rows = [(user, item, place) for user, items in enumerate(taken) for place, item in enumerate(items[: 3 + extra])]
    pq.write_table(
        pa.table(dict(zip(("user_id", "item_id", "position"), map(list, zip(*rows, strict=True)), strict=True))),
        folder / "interactions.parquet",
    )
    # One validation query, so that the last event of each user is not held out for that.
    queries = {"split": ["test"] * 20 + ["valid"], "user_id": [*range(20), 0]}
    queries |= {"history": [*(items[:3] for items in taken), taken[0][1:2]]}
    queries |= {"target": [*(items[3] for items in taken), taken[0][0]]}
    pq.write_table(pa.table(queries), folder / "official_eval.parquet")
    pq.write_table(pa.table({"item_id": list(range(10))}), folder / "items.parquet")
    return folder


def test_an_input_that_leaks_is_not_prepared(tmp_path: Path) -> None:
    prepare(write_given(tmp_path, extra=False), tmp_path / "good")
    with pytest.raises(
        InputError, match=r"of test query 0 and its target .* position 3: take the rows of split test out"
    ):
        prepare(write_given(tmp_path, extra=True), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_column_that_tells_is_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(1)
    items = rng.integers(0, 30, (700, 4))
    rows = [f"{user},{item},{place}" for user, row in enumerate(items.tolist()) for place, item in enumerate(row)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "interactions.csv").write_text("\n".join(["user_id,item_id,position", *rows]))
    users = [f"{user},{row[3]},{user % 7}" for user, row in enumerate(items.tolist())]
    (tmp_path / "raw" / "users.csv").write_text("\n".join(["user_id,favourite,city", *users]))
    note = (
        "The user column 'favourite' tells the targets of split test: if it was made from what users did later, "
        "leave it out."
    )
    dataset = prepare(tmp_path / "raw", tmp_path / "d")
    assert [record.message for record in caplog.records] == [note]
    assert check_leaks(dataset).notes == (note,)


def test_an_added_embedding_of_another_dataset(tmp_path: Path) -> None:
    one, other = (build(tmp_path / name, "leave-last-out", seed) for seed, name in enumerate(("one", "other")))
    for dataset in (one, other):
        add_embedding(dataset.artifact_or_raise, Embedding("collab", np.ones((40, 2), np.float32), np.ones(40, bool)))
    assert check_leaks(Dataset.open(tmp_path / "one")).added == 1
    (tmp_path / "other" / "added").rename(tmp_path / "other" / "kept")
    (tmp_path / "one" / "added").rename(tmp_path / "other" / "added")
    with pytest.raises(InputError, match="collab was made from another dataset than"):
        check_leaks(Dataset.open(tmp_path / "other"))


def test_the_command(tmp_path: Path, semid: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = build(tmp_path / "data", "leave-last-out", hold_out_items=0.1)
    train, test = dataset.train_counts.sum(), len(dataset.queries["test"])
    printed = semid("data", "check").stdout
    assert printed.startswith("Nothing leaks in dataset data\n")
    assert f"training events  {train}, none of a user from after its queries" in printed
    assert f"test queries     {test}, no history reaches its target" in printed
    assert "held-out items   4, none of which has an event" in printed
    report = json.loads(semid("data", "check", "--json", "-").stdout)
    assert report == check_leaks(dataset).to_dict() | {"notes": []}

    ends = np.load("data/train_end.npy", mmap_mode="r+")
    query: Queries = dataset.queries["test"]
    ends[query.users[0]] = dataset.events.offsets[query.users[0] + 1]
    ends.flush()
    result = semid("data", "check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "prepare the dataset again." in result.stderr
    assert len(result.stderr.splitlines()) == 1
