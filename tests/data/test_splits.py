"""Every protocol against a plain loop over users, and by hand."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder
from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.data.splits import SplitConfig
from semid.errors import InputError

ACTIONS = ("exposure", "click", "conversion")
CLICK_AND_STRONGER = [1, 2]  # what a target needs where nothing is said and the log has clicks
Query = tuple[int, tuple[int, ...], tuple[int, ...]]  # user, history items, target items


@dataclass
class Users:
    """Event lists by user."""

    items: list[list[int]]
    actions: list[list[int]] = field(default_factory=list)
    times: list[list[int]] = field(default_factory=list)
    codes: list[list[int]] | None = None
    candidates: list[int] | None = None
    ordered: bool = True

    def __post_init__(self) -> None:
        self.actions = self.actions or [[0] * len(user) for user in self.items]
        self.times = self.times or [list(range(len(user))) for user in self.items]


def flat(users: list[list[int]]) -> np.ndarray:
    return np.array([value for user in users for value in user], np.int64)


def cut(path: Path, users: Users, **options: object) -> Dataset:
    with create_artifact(path / "d", "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items = 100
        builder.action_names = ACTIONS
        builder.ordered = users.ordered
        lengths = np.array([len(user) for user in users.items])
        codes = None if users.codes is None else flat(users.codes)
        builder.append_events(lengths, flat(users.items), flat(users.actions), flat(users.times), codes)
        if users.candidates is not None:
            builder.set_candidates(np.array(users.candidates))
        builder.finish(SplitConfig(**options))
    return Dataset.open(path / "d")


def queries(data: Dataset, split: str) -> list[Query]:
    found = data.queries[split]
    result = []
    for row in range(len(found)):
        targets = slice(*found.target_offsets[row : row + 2])
        history = tuple(found.log.items[found.start[row] : found.end[row]].tolist())
        result.append((int(found.users[row]), history, tuple(found.target_items[targets].tolist())))
    return result


def trained(data: Dataset) -> list[int]:
    return (data.train_end - data.events.offsets[:-1]).tolist()


def facts(data: Dataset) -> dict[str, object]:
    return data.artifact_or_raise.details["report"]["split"]


def random_users(seed: int, num_users: int = 60) -> Users:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 9, num_users)
    times = [np.sort(rng.integers(0, 50, size)) for size in sizes]
    return Users(
        items=[rng.integers(0, 100, size).tolist() for size in sizes],
        actions=[rng.integers(-1, 3, size).tolist() for size in sizes],
        times=[np.where(rng.random(len(t)) < 0.2, TIME_MISSING, t).tolist() for t in times],
        codes=[np.sort(rng.choice(3, size, p=[0.7, 0.15, 0.15])).tolist() for size in sizes],
    )


@pytest.fixture(params=[(1 << 13, 1 << 21), (7, 1 << 21), (7, 12), (1, 1)], autouse=True)
def block_sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may depend on where blocks of users end."""
    monkeypatch.setattr("semid.data.splits._BLOCK_USERS", request.param[0])
    monkeypatch.setattr("semid.data.splits._BLOCK_EVENTS", request.param[1])


def single(users: Users, user: int, target: int) -> Query:
    return user, tuple(users.items[user][:target]), (users.items[user][target],)


def test_leave_last_out_by_hand(tmp_path: Path) -> None:
    data = cut(tmp_path, Users([[1, 2, 3, 4], [5, 6], [7], [], [8, 9, 10]]))
    assert queries(data, "test") == [(0, (1, 2, 3), (4,)), (1, (5,), (6,)), (4, (8, 9), (10,))]
    # User 1's event before the last has no history: it makes no validation query and is trained on.
    assert queries(data, "valid") == [(0, (1, 2), (3,)), (4, (8,), (9,))]
    assert trained(data) == [2, 1, 1, 0, 1]
    assert facts(data) == {"protocol": "leave-last-out", "users_without_test_query": 2}


@pytest.mark.parametrize("wanted", [(), ("click",), ("click", "conversion")])
@pytest.mark.parametrize("seed", [0, 1])
def test_leave_last_out_agrees_with_a_loop(tmp_path: Path, seed: int, wanted: tuple[str, ...]) -> None:
    users = random_users(seed)
    users.codes = None
    codes = [ACTIONS.index(name) for name in wanted] or CLICK_AND_STRONGER
    test, valid, ends = [], [], []
    for user, actions in enumerate(users.actions):
        targets = [p for p, action in enumerate(actions) if action in codes]
        last = [p for p in targets[-1:] if p > 0]
        before = [p for p in targets[-2:-1] if p > 0]
        test += [single(users, user, p) for p in last]
        valid += [single(users, user, p) for p in before]
        ends.append((before or last or [len(actions)])[0])
    data = cut(tmp_path, users, target_actions=wanted)
    assert (queries(data, "test"), queries(data, "valid"), trained(data)) == (test, valid, ends)
    assert test
    assert valid


def test_without_clicks_any_event_is_a_target(tmp_path: Path) -> None:
    users = random_users(0)
    users.codes = None
    users.actions = [[min(action, 0) for action in actions] for actions in users.actions]
    data = cut(tmp_path, users)
    longer = [user for user, actions in enumerate(users.actions) if len(actions) > 1]
    assert queries(data, "test") == [single(users, user, len(users.actions[user]) - 1) for user in longer]


def filled(times: list[int]) -> list[int]:
    known, result = TIME_MISSING, []
    for time in times:
        known = time if time != TIME_MISSING else known
        result.append(known)
    return result


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("wanted", [(), ("click",)])
def test_time_cuts_agree_with_a_loop(tmp_path: Path, seed: int, wanted: tuple[str, ...]) -> None:
    users = random_users(seed)
    users.codes = None
    expected: dict[str, list[Query]] = {"valid": [], "test": []}
    ends = []
    codes = [ACTIONS.index(name) for name in wanted] or CLICK_AND_STRONGER
    for user, times in enumerate(users.times):
        times = filled(times)
        ends.append(sum(time < 20 for time in times))
        for split, low, high in (("valid", 20, 35), ("test", 35, 10**9)):
            hits = [p for p, time in enumerate(times) if low <= time < high and users.actions[user][p] in codes]
            expected[split] += [single(users, user, p) for p in hits[:1] if p > 0]
    data = cut(tmp_path, users, protocol="time", time_cuts=(20, 35), target_actions=wanted)
    assert {split: queries(data, split) for split in expected} == expected
    assert trained(data) == ends
    assert expected["valid"]
    assert expected["test"]


@pytest.mark.parametrize("spread", [50, 10**9])
def test_time_shares_are_order_statistics(tmp_path: Path, spread: int) -> None:
    rng = np.random.default_rng(3)
    times = [np.sort(rng.integers(0, spread, 7)).tolist() for _ in range(40)]
    times[3] = [TIME_MISSING] * 7
    data = cut(tmp_path, Users([[1] * 7] * 40, times=times), protocol="time", time_shares=(0.5, 0.75))
    known = sorted(t for user in times for t in user if t != TIME_MISSING)
    assert facts(data)["time_cuts"] == [known[len(known) // 2], known[int(len(known) * 0.75)]]


def test_time_needs_times_that_differ(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs timestamps"):
        cut(tmp_path, Users([[1, 2]], times=[[TIME_MISSING] * 2]), protocol="time")
    with pytest.raises(InputError, match="Both time cuts fall on 4"):
        cut(tmp_path, Users([[1, 2]], times=[[4, 4]]), protocol="time")


def test_user_split_holds_users_out_entirely(tmp_path: Path) -> None:
    users = random_users(5, num_users=200)
    users.codes = None
    users.candidates = list(range(0, 100, 2))
    data = cut(tmp_path, users, protocol="user", test_users=0.2, valid_users=0.1)
    held = [user for user, end in enumerate(trained(data)) if end == 0 and users.items[user]]
    targets = {}
    for user in held:
        hits = [p for p, action in enumerate(users.actions[user]) if action >= 1 and p > 0]
        hits = hits[-1:] if hits and hits[-1] == max(p for p, a in enumerate(users.actions[user]) if a >= 1) else []
        targets[user] = hits
    inside = {u: single(users, u, p[0]) for u, p in targets.items() if p and users.items[u][p[0]] % 2 == 0}
    asked = {query[0]: query for split in ("valid", "test") for query in queries(data, split)}
    assert asked == inside
    report = facts(data)
    empty = sum(not items for items in users.items)
    dropped = sum(
        report[f"{split}_{what}"]
        for split in ("valid", "test")
        for what in ("users_without_target", "queries_without_candidate")
    )
    assert len(asked) + dropped == 60
    assert len(held) + empty >= 60
    assert all(end == len(users.items[user]) for user, end in enumerate(trained(data)) if user not in held)


def test_user_split_takes_exact_shares_and_follows_the_seed(tmp_path: Path) -> None:
    users = Users([[1, 2]] * 103, actions=[[0, 1]] * 103)
    first = cut(tmp_path / "a", users, protocol="user")
    assert (len(first.queries["test"]), len(first.queries["valid"])) == (10, 5)
    assert set(first.queries["test"].users.tolist()).isdisjoint(first.queries["valid"].users.tolist())
    again = cut(tmp_path / "b", users, protocol="user")
    other = cut(tmp_path / "c", users, protocol="user", seed=1)
    assert queries(first, "test") == queries(again, "test") != queries(other, "test")
    assert trained(first).count(0) == 15


def test_user_split_is_uniform(tmp_path: Path) -> None:
    counts = np.zeros(20)
    for seed in range(20):
        users = Users([[1, 2]] * 20, actions=[[0, 1]] * 20)
        counts[cut(tmp_path, users, protocol="user", seed=seed, test_users=0.5).queries["test"].users] += 1
    assert counts.sum() == 200
    assert counts.min() >= 2  # 10 expected, standard deviation 2.2
    assert counts.max() <= 18


@pytest.mark.parametrize("seed", [0, 1])
def test_given_codes_agree_with_a_loop(tmp_path: Path, seed: int) -> None:
    users = random_users(seed)
    assert users.codes is not None
    data = cut(tmp_path, users)
    for split, code in (("valid", 1), ("test", 2)):
        expected = [
            single(users, user, p)
            for user, codes in enumerate(users.codes)
            for p, found in enumerate(codes)
            if found == code and p > 0
        ]
        assert queries(data, split) == expected
    assert trained(data) == [codes.count(0) for codes in users.codes]
    assert facts(data)["protocol"] == "given"


def test_training_events_after_a_held_out_one_are_counted(tmp_path: Path) -> None:
    data = cut(tmp_path, Users([[1, 2, 3, 4]], codes=[[0, 1, 0, 2]]))
    assert trained(data) == [1]
    assert facts(data)["train_events_after_a_held_out_event"] == 1
    assert queries(data, "test") == [(0, (1, 2, 3), (4,))]


def test_given_without_validation_holds_out_the_last_training_event(tmp_path: Path) -> None:
    data = cut(tmp_path, Users([[1, 2, 3], [4, 5], [6, 7]], codes=[[0, 0, 2], [0, 2], [0, 0]]))
    assert queries(data, "valid") == [(0, (1,), (2,)), (2, (6,), (7,))]
    assert queries(data, "test") == [(0, (1, 2), (3,)), (1, (4,), (5,))]
    assert trained(data) == [1, 1, 1]


def test_given_without_order_asks_once_a_user(tmp_path: Path) -> None:
    users = Users([[1, 2, 3, 4, 5], [6, 7], [8]], codes=[[0, 0, 1, 2, 2], [1, 2], [0]], ordered=False)
    data = cut(tmp_path, users)
    assert queries(data, "valid") == [(0, (1, 2), (3,))]
    assert queries(data, "test") == [(0, (1, 2), (4, 5))]
    assert facts(data) == {"protocol": "given", "valid_events_without_history": 1, "test_events_without_history": 1}
    assert trained(data) == [2, 0, 1]


def test_candidates_only_filters_targets(tmp_path: Path) -> None:
    users = Users([[1, 2, 3], [6, 7]], codes=[[0, 2, 2], [0, 2]], ordered=False, candidates=[3])
    data = cut(tmp_path, users, candidates_only=True)
    assert queries(data, "test") == [(0, (1,), (3,))]
    assert facts(data)["test_queries_without_candidate"] == 1
    assert len(queries(cut(tmp_path, users), "test")) == 2


def test_order_is_required_where_it_matters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'leave-last-out' needs events in order"):
        cut(tmp_path, Users([[1, 2]], ordered=False))
    with pytest.raises(InputError, match="names no splits"):
        cut(tmp_path, Users([[1, 2]]), protocol="given")
    with pytest.raises(InputError, match="Unknown target action 'buy'; the actions are: exposure, click, conversion"):
        cut(tmp_path, Users([[1, 2]]), target_actions=("buy",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "random"}, "Unknown split protocol 'random': use one of auto, leave-last-out"),
        ({"test_users": 0.7, "valid_users": 0.3}, "leave some users"),
        ({"test_users": -0.1}, "leave some users"),
        ({"time_cuts": (5, 5)}, "two increasing instants"),
        ({"time_shares": (0.9, 0.8)}, "two increasing shares"),
        ({"time_shares": (0.0, 0.8)}, "two increasing shares"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SplitConfig(**options)
