"""What each effect plants is found by who may look at the right thing, and by nobody else."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from semid.data.prepare import prepare
from semid.data.synthetic.behaviour import Behaviour
from semid.data.synthetic.catalogue import ITEM_FIELDS, Catalogue, Projection
from semid.data.synthetic.effects import DAY, EFFECTS, START
from semid.data.synthetic.generator import SyntheticConfig, synthesise
from semid.errors import InputError

SEED = 5


class Seen:
    """All events of some users, one after the other, and what the generator knows of their items."""

    def __init__(self, effects: tuple[str, ...], num_users: int, num_items: int) -> None:
        self.catalogue = Catalogue(num_items, num_items // 4, SEED, effects)
        behaviour = Behaviour(self.catalogue, num_users, 30.0)
        logs = [behaviour.logs(number) for number in range(behaviour.num_batches)]
        users = np.repeat(np.arange(num_users), np.concatenate([log.lengths for log in logs]))
        self.items, self.actions, self.times = (
            np.concatenate([getattr(log, name) for log in logs]) for name in ("items", "actions", "times")
        )
        self.leaves = np.searchsorted(self.catalogue.starts, self.items, side="right") - 1
        self.index = self.items - self.catalogue.starts[self.leaves]
        self.length = self.catalogue.places.lengths[self.leaves]
        self.place = self.catalogue.places.place(self.leaves, self.index)
        self.kind = self.catalogue.places.kind(self.index)
        # Of every event but the first: whether the one before is of the same user, or even of the same session.
        self.follows = users[1:] == users[:-1]
        gaps = np.diff(self.times)
        self.in_session = self.follows & (gaps < 1800)
        self.sessions = np.cumsum(np.concatenate([[True], ~self.in_session]))
        # Seconds before each event; users' first events come after a long pause.
        self.pause = np.concatenate([[DAY], np.where(self.follows, gaps, DAY)])


@cache
def seen(*effects: str, num_items: int = 4000) -> Seen:
    return Seen(effects, 2000, num_items)


def guessed(answers: np.ndarray, hints: np.ndarray) -> float:
    """Share of answers that are the most frequent one for their hint."""
    right = [np.bincount(answers[hints == hint]).max() for hint in np.unique(hints)]
    return float(np.sum(right) / len(answers))


def before(values: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """The value before each in its session, -1 where there is none."""
    known = np.concatenate([[False], sessions[1:] == sessions[:-1]])
    return np.where(known, np.roll(values, 1), -1)


def test_the_pause_says_which_pace_and_order_does_not() -> None:
    events = seen("time")
    pace = events.catalogue.kinds.pace(events.kind)[1:][events.follows]
    pauses = events.pause[:-1][events.follows]
    assert 0.4 < (pauses < 30).mean() < 0.6
    assert guessed(pace, pauses < 30) > 0.85
    assert guessed(pace, before(pace, events.sessions[1:][events.follows])) < 0.6
    other = seen("modality")
    pauses = other.pause[:-1][other.follows]
    nothing = (other.kind % 2)[1:][other.follows]
    assert guessed(nothing, pauses < 30) < guessed(nothing, np.zeros(len(nothing))) + 0.01


def changes(events: Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the changes of leaf in sessions: the new leaf's place among its three, the hour before, the session."""
    changed = events.in_session & (np.diff(events.leaves) != 0)
    return (events.leaves % 3)[1:][changed], events.times[:-1][changed] // 3600 % 24, events.sessions[1:][changed]


def test_the_hour_says_which_leaf_and_order_only_after_an_earlier_change() -> None:
    third, hour, sessions = changes(seen("time", num_items=12_000))  # so that parents have more than three leaves
    assert len(np.unique(hour)) == 24
    assert guessed(third, hour) > 0.95
    assert guessed(third, np.zeros(len(third))) < 0.4
    assert guessed(third, before(third, sessions)) < 0.8
    third, hour, _ = changes(seen())
    assert guessed(third, hour) < 0.42


def top(items: np.ndarray, count: int = 10) -> np.ndarray:
    """The most frequent items."""
    values, counts = np.unique(items, return_counts=True)
    return values[np.argsort(-counts, kind="stable")[:count]]


def hits_by_action(events: Seen, *, asked: bool) -> float:
    """Share of conversions of the last users among the ten items of their leaf that others took most often.

    Counted are clicks and conversions if the action that is asked for may be looked at, else all events.
    """
    late = np.arange(len(events.items)) > 0.7 * len(events.items)
    known = ~late & (events.actions > 0) if asked else ~late
    wanted = np.flatnonzero(late & (events.actions == 2))
    best = {leaf: top(events.items[known & (events.leaves == leaf)]) for leaf in range(events.catalogue.num_leaves)}
    return float(np.mean([events.items[event] in best[events.leaves[event]] for event in wanted]))


def test_the_action_says_which_price() -> None:
    events = seen("action")
    price = events.catalogue.kinds.price(events.kind)
    shares = [price[events.actions == action].mean() for action in (0, 1, 2)]
    assert shares[0] < 0.12
    assert min(shares[1:]) > 0.85
    assert hits_by_action(events, asked=True) > 3 * hits_by_action(events, asked=False)
    assert hits_by_action(seen(), asked=True) < 1.1 * hits_by_action(seen(), asked=False)


@pytest.mark.parametrize("effects", [("action",), EFFECTS])
def test_actions_keep_their_shares(effects: tuple[str, ...]) -> None:
    shares = np.bincount(seen(*effects).actions) / len(seen(*effects).actions)
    assert 0.8 < shares[0] < 0.9
    assert 0.07 < shares[1] < 0.13
    assert 0.02 < shares[2] < 0.05


def hits_by_counts(events: Seen, days: int) -> float:
    """Share of events after a change of leaf among the ten items of the leaf that were seen most often before."""
    order = np.argsort(events.times, kind="stable")
    times, items = events.times[order], events.items[order]
    changed = events.follows & (np.diff(events.leaves) != 0)
    middle = (events.times[1:] > START + 20 * DAY) & (events.times[1:] < START + 55 * DAY)
    asked = np.random.default_rng(0).choice(1 + np.flatnonzero(changed & middle), 800, replace=False)
    hits = 0
    for event in asked:
        first, last = np.searchsorted(times, events.times[event] + np.array([-days * DAY, 0]))
        low, high = events.catalogue.starts[events.leaves[event] : events.leaves[event] + 2]
        recent = items[first:last]
        hits += events.items[event] in top(recent[(recent >= low) & (recent < high)])
    return hits / len(asked)


def test_counts_of_the_last_days_say_what_is_on_show() -> None:
    events = seen("popularity")
    newest, width = events.catalogue.turnover.window(events.leaves, events.times)
    age = (events.place - newest) % events.length
    assert ((age < width).mean(), width.mean() / events.length.mean() < 0.11) > (0.9, True)
    assert hits_by_counts(events, 1) > 3 * hits_by_counts(events, 1000)
    assert hits_by_counts(seen(), 1) < hits_by_counts(seen(), 1000)
    days = [np.unique(events.items[events.times // DAY == START // DAY + day]) for day in (30, 32, 37)]
    overlaps = [len(np.intersect1d(days[0], day)) / len(np.union1d(days[0], day)) for day in days[1:]]
    assert overlaps[0] < 0.4
    assert overlaps[1] < 0.1


def neighbours_of_one_style(events: Seen, name: str) -> float:
    """Share of items whose nearest neighbour by cosine in an embedding has their style."""
    projection = Projection(events.catalogue, name, 32)
    vectors, styles = [], []
    for number in range(events.catalogue.num_blocks):
        block = events.catalogue.block(number)
        drawn, there = projection.vectors(block, number)
        vectors.append(drawn[there])
        styles.append(events.catalogue.kinds.style(events.catalogue.kinds_of(block))[there])
    centred = np.concatenate(vectors) - np.concatenate(vectors).mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    style = np.concatenate(styles)
    return float((style == style[cosine.argmax(axis=1)]).mean())


def test_users_keep_a_style_that_two_embeddings_show() -> None:
    events = seen("modality")
    changed = events.follows & (np.diff(events.leaves) != 0)
    style = events.catalogue.kinds.style(events.kind)
    assert (style[1:] == style[:-1])[changed].mean() > 0.85
    assert np.bincount(style).min() > 0.3 * len(style), "no style is rare"
    shares = {name: neighbours_of_one_style(events, name) for name in ("81", "82", "83", "84", "85", "86")}
    assert shares["85"] > 0.9
    assert 0.5 < shares["86"] < shares["85"]
    assert max(shares[name] for name in ("81", "82", "83", "84")) < 0.4
    style = seen().index % 3
    changed = seen().follows & (np.diff(seen().leaves) != 0)
    assert (style[1:] == style[:-1])[changed].mean() < 0.4


def test_no_item_column_shows_the_style() -> None:
    catalogue = seen("modality").catalogue
    block = catalogue.block(1)
    style, columns = catalogue.kinds.style(catalogue.kinds_of(block)), catalogue.features(block, 1)
    for name in ITEM_FIELDS:
        values, there = columns[name]
        if values.max() < 60:
            assert guessed(style[there], values[there]) < 0.45, name


def test_the_published_coverages_stay() -> None:
    for name, coverage in (("85", 0.39), ("86", 0.375)):
        _, there = Projection(seen("modality").catalogue, name, 2).vectors(seen("modality").catalogue.block(0), 0)
        assert abs(there.mean() - coverage) < 0.06


def test_a_batch_depends_on_its_number_alone() -> None:
    catalogue = Catalogue(3000, 0, SEED, EFFECTS)
    first, second = Behaviour(catalogue, 2100, 10.0), Behaviour(catalogue, 2100, 10.0)
    first.logs(0)
    for name in ("lengths", "items", "actions", "times"):
        np.testing.assert_array_equal(getattr(first.logs(1), name), getattr(second.logs(1), name))


@pytest.mark.parametrize("items", [20, 2000])
def test_all_together_make_a_dataset_of_any_size(tmp_path: Path, items: int) -> None:
    embeddings = (("81", 4), ("82", 6), ("83", 6), ("84", 4), ("85", 6), ("86", 6))
    config = SyntheticConfig(users=200, items=items, embeddings=embeddings, null_actions=0.1, effects=EFFECTS)
    synthesise(tmp_path / "h", config)
    dataset = prepare(tmp_path / "h", tmp_path / "dataset")
    assert dataset.events.items.max() < items <= dataset.num_items
    assert (dataset.events.actions < 0).mean() == pytest.approx(0.1, abs=0.02)
    assert sorted(dataset.embeddings) == ["81", "82", "83", "84", "85", "86"]


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        (("time", "clock"), "Unknown effect 'clock': use some of time, action, popularity, modality."),
        (("time", "time"), "Effect time is given twice: name each once."),
        (("modality",), "Effect modality shows in embeddings 85 and 86 alone: make one of them."),
    ],
)
def test_bad_effects(effects: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SyntheticConfig(embeddings=(("82", 4),), effects=effects)
    assert str(caught.value) == message
