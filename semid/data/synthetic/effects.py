"""Effects that can be planted: what comes next also hangs on something that one part of a model can see.

* ``time``: the pause before the last event says which way the circle is walked, forwards after less than 45 seconds,
  else backwards. Pauses are drawn anew at every event, so that the order of ids hardly shows the way: only a
  session's first event always comes after a long pause. The hour (UTC) of the last event says how far beside the
  next leaf lies, one leaf by night (0 to 7), two by day (8 to 15), three in the evening, and users change to a leaf
  beside twice as often. The hour stays for a session, so that order shows it to who remembers an earlier change.
  Homes do not hang on the hour: the leaves of a session would give them away.
* ``action``: a leaf has two sides, a circle of places each. Of the clicked and converted items nine in ten lie on
  one side, of those merely exposed nine in ten on the other. Who knows the action that is asked for knows the side.
* ``popularity``: inventory turns over. A leaf holds four times the items, and each is shown for a week out of ten,
  mostly in its first days; one draw in ten keeps to no week. Counts of the last days tell what can come next,
  counts of all time do not.
* ``modality``: items have one of four styles, and users keep to the style of their last item in about nine events
  out of ten, whatever the leaf. Embedding 85 shows styles, 86 half as strongly, no other embedding or column does.

Leaves grow where effects divide them, so that as many items as ever compete at any one moment; the tree is narrower
for it. With fewer than four leaves under a parent, some of the steps beside are the same.
"""

import numpy as np

from semid.errors import InputError

EFFECTS = ("time", "action", "popularity", "modality")
STYLES = 4
# How strongly an embedding shows the style; the top level of the tree shows with strength one.
STYLE_SCALES = {"85": 1.0, "86": 0.5}
START = 1_700_000_000
DAY = 86_400
_KEEPS_STYLE = 0.85
_PAUSE = 45
_SHORT = 4 / 7  # of the pauses in sessions; with those between sessions half of all are short
_CLEAR_SIDE = 0.9
_TURNOVER = 4
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


def growth(effects: tuple[str, ...]) -> int:
    """How many times the items of a leaf must be for effects to leave enough of every kind."""
    return Sides(effects).count * Styles(effects).count * (_TURNOVER if "popularity" in effects else 1)


class Clock:
    """What the time of the last event says about the next one."""

    def __init__(self, effects: tuple[str, ...]) -> None:
        self._planted = "time" in effects
        # Shares of events in a session: next on the circle, in the same leaf, in a leaf beside, in another home.
        self.shares = np.array([0.4, 0.1, 0.3, 0.12] if self._planted else [0.4, 0.25, 0.15, 0.12])

    def pauses(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Seconds between events of a session, with the effect short or long, with nothing in between."""
        if not self._planted:
            return np.minimum(rng.exponential(60, shape), 220)
        drawn = rng.random(shape)
        return np.where(rng.random(shape) < _SHORT, 5 + 20 * drawn, 64 + 150 * drawn)

    def leaf_steps(self, time: np.ndarray) -> np.ndarray:
        """How far beside the next leaf lies, if it lies beside, after an event at ``time``. (n,)"""
        steps: np.ndarray = 1 + time // 3600 % 24 // 8 if self._planted else np.ones_like(time)
        return steps

    def direction(self, pause: np.ndarray) -> np.ndarray:
        """1 forwards or -1 backwards on the circle, after an event so many seconds after the one before. (n,)"""
        return np.where(pause < _PAUSE, 1, -1) if self._planted else np.ones_like(pause)


class Sides:
    """Which of the two sides of a leaf an item lies on that somebody clicks or is merely shown."""

    def __init__(self, effects: tuple[str, ...]) -> None:
        self.count = 2 if "action" in effects else 1

    def draw(self, rng: np.random.Generator, actions: np.ndarray) -> np.ndarray:
        """Side for each action: mostly 1 for clicks and conversions, mostly 0 for exposures. (n,)"""
        clear = rng.random(len(actions)) < _CLEAR_SIDE
        sides: np.ndarray = ((actions > 0) == clear).astype(np.int64)
        return sides


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


class Styles:
    """Which style the next item has."""

    def __init__(self, effects: tuple[str, ...]) -> None:
        self.count = STYLES if "modality" in effects else 1

    def draw(self, rng: np.random.Generator, last: np.ndarray) -> np.ndarray:
        """The style of the last item, mostly. (n,)"""
        if self.count == 1:
            return last
        kept = rng.random(len(last)) < _KEEPS_STYLE
        return np.where(kept, last, rng.integers(self.count, size=len(last)))
