"""The users of synthetic data: what they like, when they come, what they see, click and buy."""

from dataclasses import dataclass

import numpy as np

from semid.data.synthetic.catalogue import Catalogue, mixed
from semid.data.synthetic.effects import DAY, START, Clock, next_pace, next_style, price_for

BATCH = 2048
MOST_EVENTS = 100
_FEWEST_EVENTS = 3
_HOMES = 3
_WEEKS = 8
_SESSION_EVENTS = 8
_POPULARITY_POWER = 2.5  # place = size · u^2.5: some places of a leaf are seen far more often
_TRIES = 4

# How the next item of a session follows from the last one: shares add up to one.
_NEXT_ON_CIRCLE, _SAME_LEAF, _NEXT_LEAF, _OTHER_HOME = 0.4, 0.25, 0.15, 0.12
_STEPS = np.array([1, 1, 1, 2, 2, 3])

# User fields: number of values, whether a list, coverage.
USER_FIELDS: dict[str, tuple[int, bool, float]] = {
    "103": (86, False, 0.9991),
    "104": (2, False, 0.9962),
    "105": (7, False, 0.8580),
    "106": (14, True, 0.8791),
    "107": (19, True, 0.3870),
    "108": (4, True, 0.1704),
    "109": (3, False, 0.9996),
    "110": (2, True, 0.4298),
}
_USER_NOISE = 0.15


@dataclass(frozen=True, eq=False)
class Logs:
    """Events of u users: ``lengths`` (u,), the rest one after the other; ``items`` are catalogue numbers."""

    lengths: np.ndarray
    items: np.ndarray
    actions: np.ndarray
    times: np.ndarray


@dataclass(frozen=True, eq=False)
class _Moment:
    """Where u users stand before an event: ``homes`` (u, 3), ``moods`` (2, u), the rest (u,).

    ``leaf`` and ``index`` say what their last item is; ``time`` is when it came, ``pause`` the seconds before it;
    ``now`` is when the next one comes, ``starting`` whether it begins a session.
    """

    homes: np.ndarray
    moods: np.ndarray
    leaf: np.ndarray
    index: np.ndarray
    time: np.ndarray
    pause: np.ndarray
    now: np.ndarray
    starting: np.ndarray

    def of(self, users: np.ndarray) -> "_Moment":
        parts = {name: value[users] for name, value in vars(self).items() if name != "moods"}
        return _Moment(moods=self.moods[:, users], **parts)


class Behaviour:
    """Users come in batches that depend on the seed and the number of the batch alone.

    A user has some home leaves. A session starts in one of them; within it the next item mostly follows the last
    one: the next place on the circle of its leaf, another item of the leaf, or the leaf beside. Homes are
    exchanged over time. Items already seen are avoided. The better an item fits the homes, the likelier a click,
    and after it a conversion. The effects of the catalogue bend the choice, each in its own way.
    """

    def __init__(self, catalogue: Catalogue, num_users: int, mean_events: float) -> None:
        self._catalogue = catalogue
        self._num_users = num_users
        self._mean_events = mean_events
        self._cumulative = np.cumsum(catalogue.leaf_weights)
        self._places = catalogue.places
        self._kinds = catalogue.kinds
        self._clock = Clock(catalogue.effects, catalogue.num_leaves)

    @property
    def num_batches(self) -> int:
        return -(-self._num_users // BATCH)

    def users(self, number: int) -> np.ndarray:
        """Rows of the users of a batch."""
        return np.arange(number * BATCH, min((number + 1) * BATCH, self._num_users))

    def homes(self, number: int) -> np.ndarray:
        """Leaves the users of a batch like at first, in the same part of the tree more often than not. (u, 3)"""
        rng = self._catalogue.generator(4, number)
        count = len(self.users(number))
        homes = self._draw_leaves(rng, count * _HOMES).reshape(count, _HOMES)
        near = self._siblings(homes[:, :1], rng.integers(self._catalogue.branching, size=(count, _HOMES)))
        near[:, 0] = homes[:, 0]
        return np.where(rng.random((count, _HOMES)) < 0.5, near, homes)

    def logs(self, number: int) -> Logs:
        """What the users of a batch did."""
        rng = self._catalogue.generator(5, number)
        homes = self.homes(number)
        count = len(homes)
        spread = rng.lognormal(-0.125, 0.5, count)
        lengths = np.clip(np.rint(spread * self._mean_events), _FEWEST_EVENTS, MOST_EVENTS).astype(np.int64)
        horizon = int(lengths.max())
        starts = self._session_starts(rng, count, horizon)
        times = self._times(rng, starts)
        pauses = np.diff(times, axis=1, prepend=START - DAY)
        # Moods make actions. They are drawn first where prices, and so items, hang on them.
        early = self._kinds.prices > 1
        moods = rng.random((2, count, horizon)) if early else np.zeros((2, count, horizon))
        items = np.full((count, horizon), -1, np.int64)
        fits = np.zeros((count, horizon))
        leaf, index = homes[:, 0], self.users(number) % self._kinds.count
        for step in range(horizon):
            homes = self._drifted(rng, homes, starts[:, step])
            last = times[:, max(step - 1, 0)], pauses[:, max(step - 1, 0)]
            moment = _Moment(homes, moods[:, :, step], leaf, index, *last, times[:, step], starts[:, step])
            leaf, index = self._next(rng, moment, items[:, :step])
            items[:, step] = self._catalogue.starts[leaf] + index
            fits[:, step] = self._fit(homes, leaf)
        actions = self._actions(moods if early else rng.random(moods.shape), fits)
        real = np.arange(horizon) < lengths[:, None]
        return Logs(lengths, items[real], actions[real], times[real])

    def _draw_leaves(self, rng: np.random.Generator, count: int) -> np.ndarray:
        drawn = np.searchsorted(self._cumulative, rng.random(count) * self._cumulative[-1], side="right")
        leaves: np.ndarray = np.minimum(drawn, self._catalogue.num_leaves - 1)
        return leaves

    def _siblings(self, leaves: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The leaf so many steps further under the same parent."""
        branching = self._catalogue.branching
        beside: np.ndarray = leaves // branching * branching + (leaves + steps) % branching
        return beside

    def _session_starts(self, rng: np.random.Generator, count: int, horizon: int) -> np.ndarray:
        starts = rng.random((count, horizon)) < 1 / _SESSION_EVENTS
        starts[:, 0] = True
        return starts

    def _times(self, rng: np.random.Generator, starts: np.ndarray) -> np.ndarray:
        """Seconds: less than two minutes or so within a session, hours to days between sessions. (u, T) int64"""
        within = self._clock.pauses(rng, starts.shape)
        between = 2_400 + rng.exponential(1.5 * DAY, starts.shape)
        gaps = np.where(starts, between, within)
        gaps[:, 0] = rng.random(len(starts)) * _WEEKS * 7 * DAY
        return START + np.cumsum(gaps.astype(np.int64), axis=1)

    def _drifted(self, rng: np.random.Generator, homes: np.ndarray, starting: np.ndarray) -> np.ndarray:
        """At the start of a session a user sometimes exchanges one home for another leaf."""
        changes = starting & (rng.random(len(homes)) < 0.1)
        drifted = homes.copy()
        which = rng.integers(_HOMES, size=len(homes))
        fresh = self._draw_leaves(rng, len(homes))
        drifted[changes, which[changes]] = fresh[changes]
        return drifted

    def _next(self, rng: np.random.Generator, moment: _Moment, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leaf of every user's next item and index in it, drawn again a few times where it was seen before."""
        leaf, index = moment.leaf.copy(), moment.index.copy()
        open_users = np.arange(len(leaf))
        for _ in range(_TRIES):
            drawn = self._draw_next(rng, moment.of(open_users))
            leaf[open_users], index[open_users] = drawn
            items = self._catalogue.starts[drawn[0]] + drawn[1]
            open_users = open_users[(seen[open_users] == items[:, None]).any(axis=1)]
            if not len(open_users):
                break
        return leaf, index

    def _draw_next(self, rng: np.random.Generator, moment: _Moment) -> tuple[np.ndarray, np.ndarray]:
        count = len(moment.leaf)
        move = np.searchsorted(np.cumsum([_NEXT_ON_CIRCLE, _SAME_LEAF, _NEXT_LEAF, _OTHER_HOME]), rng.random(count))
        move = np.where(moment.starting, np.where(rng.random(count) < 0.9, 3, 4), move)
        home = moment.homes[np.arange(count), rng.integers(_HOMES, size=count)]
        anywhere = self._draw_leaves(rng, count)
        beside = self._siblings(moment.leaf, np.full(count, self._clock.leaves_beside))
        leaf = np.choose(move, [moment.leaf, moment.leaf, beside, home, anywhere])
        timely = self._clock.leaf(leaf, moment.time)
        leaf = np.where(moment.starting | (move < 2), leaf, timely)
        place = self._draw_places(rng, moment, leaf, move == 0)
        return leaf, self._places.index(leaf, place, self._draw_kinds(rng, moment, leaf))

    def _draw_places(
        self, rng: np.random.Generator, moment: _Moment, leaf: np.ndarray, on_circle: np.ndarray
    ) -> np.ndarray:
        """A place of each leaf among those on show: where users walk on the circle a near one, else a popular one."""
        lengths = self._places.lengths[leaf]
        newest, width = self._catalogue.turnover.draw(rng, leaf, moment.now)
        popular = np.minimum((width * rng.random(len(leaf)) ** _POPULARITY_POWER).astype(np.int64), width - 1)
        here = (self._places.place(leaf, moment.index) - newest) % lengths
        following = (here + rng.choice(_STEPS, len(leaf))) % width
        places: np.ndarray = (newest + np.where(on_circle, following, popular)) % lengths
        return places

    def _draw_kinds(self, rng: np.random.Generator, moment: _Moment, leaf: np.ndarray) -> np.ndarray:
        price = pace = style = np.zeros_like(leaf)
        if self._kinds.prices > 1:
            price = price_for(rng, self._actions(moment.moods, self._fit(moment.homes, leaf)))
        if self._kinds.paces > 1:
            pace = next_pace(rng, moment.pause)
        if self._kinds.styles > 1:
            style = next_style(rng, self._kinds.style(self._places.kind(moment.index)))
        return self._kinds.join(price, pace, style)

    def _fit(self, homes: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        """How well a leaf fits: 1 for a home, 0.6 beside one, 0.3 in the same large cluster, else 0."""
        fits = np.zeros(len(leaf))
        for level, value in enumerate((0.3, 0.6, 1.0)):
            same = self._catalogue.ancestors(homes, level) == self._catalogue.ancestors(leaf, level)[:, None]
            fits = np.where(same.any(axis=1), value, fits)
        return fits

    def _actions(self, moods: np.ndarray, fits: np.ndarray) -> np.ndarray:
        """Action for each fit, given two uniform draws a fit: one for the click, one for the conversion."""
        clicked = moods[0] < 0.02 + 0.16 * fits
        converted = clicked & (moods[1] < 0.1 + 0.2 * fits)
        actions: np.ndarray = clicked.astype(np.int32) + converted
        return actions

    def profiles(self, number: int) -> dict[str, list[int | list[int] | None]]:
        """Feature re-ids of the users of a batch by field, None where missing; they follow the first homes."""
        homes = self.homes(number)
        parts = self._catalogue.ancestors(homes, 0)
        columns: dict[str, list[int | list[int] | None]] = {}
        for name, (size, is_list, coverage) in USER_FIELDS.items():
            rng = self._catalogue.generator(6, number, int(name))
            values = (mixed(self._catalogue.seed, int(name), parts) % np.uint64(size)).astype(np.int64) + 1
            noisy = rng.random(values.shape) < _USER_NOISE
            values = np.where(noisy, 1 + rng.integers(size, size=values.shape), values)
            there = rng.random(len(values)) < coverage
            rows = [sorted(set(row)) for row in values.tolist()] if is_list else values[:, 0].tolist()
            columns[name] = [row if kept else None for row, kept in zip(rows, there.tolist(), strict=True)]
        return columns
