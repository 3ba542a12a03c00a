"""Effects that can be planted: what comes next also hangs on something that one part of a model can see.

* ``time``: items are quick or slow, and nine in ten are quick after a pause (between the last event and the one
  before) of less than 30 seconds, slow after a longer one. Pauses are drawn anew at every event, so that the order
  of ids does not show them; only a session's first event always comes after a long one. The hour (UTC) of the last
  event decides among leaves: they go in threes, one for the night (0 to 7), one for the day (8 to 15), one for the
  evening. Whoever changes the leaf within a session takes the one of the three that is for the hour. The hour stays
  for a session, so that earlier changes in it show it too, though its first leaf does not.
* ``action``: items have a low or a high price. Of those clicked or converted nine in ten have the low one, of those
  merely exposed one in ten. Who knows the action that is asked for knows the price.
* ``popularity``: inventory turns over. A leaf holds three times the items, and each place of it is on show for a
  week out of ten, mostly in its first days; one draw in ten keeps to no week. Counts of the last days tell what can
  come next, counts of all time do not.
* ``modality``: items have one of three styles, and users keep to the style of their last item in nine events out of
  ten, whatever the leaf. Embedding 85 shows styles, 86 half as strongly, no other embedding or column does.

Pace and price show in every embedding. A leaf has items of every kind at each of its places, so that leaves grow and
the tree is narrower where kinds are planted.
"""

import numpy as np

from semid.data.synthetic.places import Kinds
from semid.errors import InputError

EFFECTS = ("time", "action", "popularity", "modality")
# How strongly an embedding shows the style; the top level of the tree shows with strength one.
STYLE_SCALES = {"85": 1.0, "86": 0.5}
START = 1_700_000_000
DAY = 86_400
_STYLES = 3
_KEEPS_STYLE = 0.85
_PAUSE = 30
_SHORT = 4 / 7  # of the pauses in sessions; with those between sessions half of all are short
_CLEAR = 0.9
_TURNOVER = 3
_PERIOD, _WEEK = 70 * DAY, 7 * DAY
_OUT_OF_SEASON = 0.1


def check_effects(effects: tuple[str, ...], embeddings: tuple[str, ...]) -> None:
    """Refuse effects that do not exist, come twice, or could not be seen in the embeddings there are.

    Raises:
        InputError: for the first of them.
    """
    for name in effects:
        if name not in EFFECTS:
            raise InputError(f"Unknown effect {name!r}: use some of {', '.join(EFFECTS)}.")
        if effects.count(name) > 1:
            raise InputError(f"Effect {name} is given twice: name each once.")
    if "modality" in effects and not set(embeddings) & set(STYLE_SCALES):
        raise InputError(f"Effect modality shows in embeddings {' and '.join(STYLE_SCALES)} alone: make one of them.")


def planted_kinds(effects: tuple[str, ...]) -> Kinds:
    """The kinds of items that effects tell apart."""
    return Kinds(
        prices=2 if "action" in effects else 1,
        paces=2 if "time" in effects else 1,
        styles=_STYLES if "modality" in effects else 1,
    )


def growth(effects: tuple[str, ...]) -> int:
    """How many times the items of a leaf must be for effects to leave enough at any moment."""
    return planted_kinds(effects).count * (_TURNOVER if "popularity" in effects else 1)


class Clock:
    """What the time of the last event says about the next one."""

    def __init__(self, effects: tuple[str, ...], num_leaves: int) -> None:
        self._planted = "time" in effects
        self._num_leaves = num_leaves
        self.leaves_beside = 3 if self._planted else 1  # leaves of one three are no neighbours

    def pauses(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Seconds between events of a session, with the effect short or long, with nothing in between."""
        if not self._planted:
            return np.minimum(rng.exponential(60, shape), 220)
        drawn = rng.random(shape)
        return np.where(rng.random(shape) < _SHORT, 5 + 15 * drawn, 64 + 150 * drawn)

    def leaf(self, leaf: np.ndarray, time: np.ndarray) -> np.ndarray:
        """The leaf that is taken instead after an event at ``time``. (n,)"""
        if not self._planted:
            return leaf
        three = np.minimum(leaf // 3, max(self._num_leaves // 3 - 1, 0))  # those left over have the last three
        timely: np.ndarray = (3 * three + time // 3600 % 24 // 8) % self._num_leaves
        return timely


def next_pace(rng: np.random.Generator, pause: np.ndarray) -> np.ndarray:
    """Mostly 1, slow, after an event that came long after the one before (seconds), else mostly 0, quick. (n,)"""
    return _clearly(rng, pause >= _PAUSE)


def price_for(rng: np.random.Generator, actions: np.ndarray) -> np.ndarray:
    """Mostly 1, low, for clicks and conversions, mostly 0, high, for exposures. (n,)"""
    return _clearly(rng, actions > 0)


def next_style(rng: np.random.Generator, last: np.ndarray) -> np.ndarray:
    """The style of the last item, mostly. (n,)"""
    kept = rng.random(len(last)) < _KEEPS_STYLE
    return np.where(kept, last, rng.integers(_STYLES, size=len(last)))


def _clearly(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """Whether, as 0 or 1, told wrongly one time in ten. (n,)"""
    told: np.ndarray = (truth == (rng.random(len(truth)) < _CLEAR)).astype(np.int64)
    return told


class Turnover:
    """Which places of a leaf are on show at a time: a window that goes once around the circle in ten weeks."""

    def __init__(self, effects: tuple[str, ...], lengths: np.ndarray, phases: np.ndarray) -> None:
        """Circles of ``lengths`` (leaves,) places; at ``phases`` (leaves,) the windows start."""
        self._planted = "popularity" in effects
        self._lengths = lengths
        self._phases = phases

    def window(self, leaf: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The newest place on show, and how many are on show from it on, the newer first. (n,) each"""
        lengths = self._lengths[leaf]
        if not self._planted:
            return np.zeros_like(leaf), lengths
        gone = lengths * (time - START) // _PERIOD
        return (self._phases[leaf] - gone) % lengths, np.maximum(lengths * _WEEK // _PERIOD, 1)

    def draw(self, rng: np.random.Generator, leaf: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, but now and then all places are on show."""
        newest, width = self.window(leaf, time)
        if self._planted:
            width = np.where(rng.random(len(leaf)) < _OUT_OF_SEASON, self._lengths[leaf], width)
        return newest, width
