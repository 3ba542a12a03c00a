"""Items made new: their events vanish from every log, so that nothing is learned of them; queries ask for them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from semid.data.building.event_files import EventsWriter, GivenWriter
from semid.data.building.protocols import Cut, Cutter
from semid.data.building.row_file import BlockReader
from semid.data.dataset import ranges
from semid.data.splits import Block, SplitConfig, SplitInput, user_blocks
from semid.errors import InputError

# From positions in a log to those of the same events in a copy of it.
Place = Callable[[np.ndarray], np.ndarray]


def choose_cold_items(source: SplitInput, config: SplitConfig, cut: Cut) -> np.ndarray:
    """A random share of the items that occur in training. (N,) bool

    Args:
        cut: of these events; it is used up.

    Raises:
        InputError: no item to choose from.
    """
    trained = np.zeros(source.num_items, bool)
    for block in user_blocks(source):
        ends, _ = cut(block)
        starts = block.offsets[:-1]
        trained[block.items[ranges(starts - block.offsets[0], ends - starts)]] = True
    if config.hold_out_among == "candidates":
        rows = source.candidates[trained[source.candidates]]
    else:
        rows = np.flatnonzero(trained)
    if not len(rows):
        what = "candidate" if trained.any() else "item"
        raise InputError(f"No {what} occurs in training, so none can be held out: train on more, or hold out none.")
    count = max(1, round(config.hold_out_items * len(rows)))
    chosen = np.random.default_rng([config.seed, 1]).choice(rows, count, replace=False)
    cold = np.zeros(source.num_items, bool)
    cold[chosen] = True
    return cold


class ThinnedLog:
    """A log that is replaced, block by block, by one without the events of some items.

    Args:
        folder: of the log.
        cold: (N,) bool, the items that vanish from it.
    """

    def __init__(self, folder: Path, cold: np.ndarray) -> None:
        self._folder, self._cold = folder, cold
        self._writer = EventsWriter(folder.with_name("thinned"), str)

    def append(self, block: Block) -> Place:
        """Copy the next users; returns where their positions are in the copy.

        An event that vanished is where the first one left after it is.
        """
        kept = ~self._cold[block.items]
        first, place = block.offsets[0], self._writer.num_events + np.append(0, np.cumsum(kept))
        columns = (block.items[kept], block.actions[kept], block.times[kept])
        self._writer.append(len(self._cold), np.diff(place[block.offsets - first]), *columns)
        return lambda positions: place[positions - first]

    def close(self) -> int:
        """Put the copy in place of the log; its number of events."""
        self._writer.close()
        _replace(self._folder, self._folder.with_name("thinned"))
        return self._writer.num_events


def thin_given(cutter: Cutter, split: str, cold: np.ndarray) -> int:
    """Take the events of some items out of the histories of given queries; how many queries are left."""
    folder = cutter.source.path / "queries" / split
    names = ("users", "target_items", "target_actions", "target_offsets")
    users, items, actions, offsets = (BlockReader(folder / f"{name}.npy") for name in names)
    thinned = folder.with_name("thinned")
    writer = GivenWriter(thinned, split)
    for block in user_blocks(replace(cutter.source, path=folder, splits_path=None)):
        first, last = block.first_user, block.first_user + len(block.offsets) - 1
        kept = ~cold[block.items]
        lengths = np.diff(np.append(0, np.cumsum(kept))[block.offsets - block.offsets[0]])
        there = lengths > 0
        ends = offsets.read(first, last + 1)
        asked = np.repeat(there, np.diff(ends))
        targets = items.read(ends[0], ends[-1])[asked]
        counts = np.diff(ends)[there]
        count_queries(cutter, split, there, cold[targets], counts)
        writer.append(
            len(cold),
            users.read(first, last)[there],
            lengths[there],
            block.items[kept],
            block.actions[kept],
            block.times[kept],
            counts,
            targets,
            actions.read(ends[0], ends[-1])[asked],
        )
    writer.close()
    _replace(folder, thinned)
    return writer.num_queries


def count_queries(cutter: Cutter, split: str, there: np.ndarray, cold: np.ndarray, counts: np.ndarray) -> None:
    """Note how many queries lost their whole history, and how many of those left ask for a held-out item.

    Args:
        there: (q,) bool, which queries still have a history.
        cold: (g,) bool, which targets of these are held out.
        counts: number of targets of each of these.
    """
    cutter.count(f"{split}_queries_without_history", (~there).sum())
    asking = np.unique(np.repeat(np.arange(len(counts)), counts)[cold])
    cutter.count(f"{split}_queries_for_held_out_items", len(asking))


def _replace(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    other.rename(folder)
