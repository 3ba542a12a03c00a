"""Cuts the events of a dataset being written and writes ``train_end`` and the queries."""

import logging
import shutil
from typing import Any

import numpy as np

from semid.data.building.arrays import ArrayWriter, write_array
from semid.data.building.cold_items import Place, ThinnedLog, choose_cold_items, count_queries, thin_given
from semid.data.building.event_files import QueriesWriter
from semid.data.building.protocols import CUTS, Cut, Cutter
from semid.data.dataset import SPLITS
from semid.data.splits import Block, Picks, SplitConfig, SplitInput, user_blocks
from semid.errors import InputError

logger = logging.getLogger(__name__)
_NO_PICKS = Picks(*(np.zeros(0, np.int64) for _ in range(4)))


def write_splits(source: SplitInput, config: SplitConfig) -> tuple[dict[str, int], dict[str, Any]]:
    """Write ``train_end``, ``queries/`` and ``held_out``; the events lie on disk already, and lose those held out.

    Returns:
        the number of events, of training events and of queries of each split, and facts for the report.

    Raises:
        InputError: the protocol needs something these events lack, an unknown action is named, or nothing is left
            to train on.
    """
    protocol = _resolve(source, config)
    actions = _target_codes(source, config, protocol)
    cold = None
    if config.hold_out_items:
        cold = choose_cold_items(source, config, CUTS[protocol](Cutter(config, source, actions)))
    cutter = Cutter(config, source, actions, {"protocol": protocol})
    given = dict(source.given) if protocol == "given" else {}
    for split in set(source.given) - set(given):
        shutil.rmtree(source.path / "queries" / split)
    counts = _cut(cutter, CUTS[protocol](cutter), tuple(split for split in SPLITS if split not in given), cold)
    if cold is not None:
        given = {split: thin_given(cutter, split, cold) for split in given}
        _note_held_out(cutter, cold, counts["train_events"])
    return {**counts, **given}, cutter.facts


def _cut(cutter: Cutter, cut: Cut, splits: tuple[str, ...], cold: np.ndarray | None) -> dict[str, int]:
    """Write training ends and the queries of some splits, and take the events of cold items out of the log."""
    source = cutter.source
    writers = {split: QueriesWriter(source.path / "queries" / split) for split in splits}
    thinned = None if cold is None else ThinnedLog(source.path / "events", cold)
    drop = cutter.config.candidates_only
    drop = cutter.facts["protocol"] == "user" if drop is None else drop
    is_candidate = np.zeros(source.num_items, np.bool_)
    is_candidate[source.candidates] = True
    trained = 0
    with ArrayWriter(source.path / "train_end.npy", np.int64) as train_end:
        for block in user_blocks(source):
            ends, picks = cut(block)
            place = thinned.append(block) if thinned else _unmoved
            train_end.append(place(ends))
            trained += int((place(ends) - place(block.offsets[:-1])).sum())
            for split, writer in writers.items():
                chosen = picks.get(split, _NO_PICKS)
                if drop:
                    chosen = _keep_candidates(cutter, split, block, chosen, is_candidate)
                if cold is not None:
                    chosen = _keep_asked(cutter, split, block, chosen, place, cold)
                _append(writer, block, chosen, place)
    for writer in writers.values():
        writer.close()
    counts = {"train_events": trained, **{split: writer.num_queries for split, writer in writers.items()}}
    return counts if thinned is None else {"events": thinned.close(), **counts}


def _unmoved(positions: np.ndarray) -> np.ndarray:
    return positions


def _resolve(source: SplitInput, config: SplitConfig) -> str:
    has_given = source.splits_path is not None or bool(source.given)
    protocol = config.protocol
    if protocol == "auto":
        protocol = "given" if has_given else "leave-last-out"
    if protocol == "given" and not has_given:
        raise InputError("The input names no splits: add a split column, or use another protocol than 'given'.")
    if protocol != "given" and not source.ordered:
        raise InputError(
            f"Protocol {protocol!r} needs events in order: add a timestamp or position column, or a split column."
        )
    return protocol


def _target_codes(source: SplitInput, config: SplitConfig, protocol: str) -> np.ndarray:
    """Action codes a target may have; empty means any."""
    names = source.action_names
    unknown = [name for name in config.target_actions if name not in names]
    if unknown:
        raise InputError(f"Unknown target action {unknown[0]!r}; the actions are: {', '.join(names) or 'none'}.")
    if config.target_actions:
        return np.array([names.index(name) for name in config.target_actions])
    if "click" in names and protocol != "given":
        clicked = np.arange(names.index("click"), len(names))
        if protocol == "user" or any(np.isin(block.actions, clicked).any() for block in user_blocks(source)):
            return clicked
    return np.zeros(0, np.int64)


def _keep_candidates(cutter: Cutter, split: str, block: Block, picks: Picks, candidates: np.ndarray) -> Picks:
    keep = candidates[block.items[picks.targets - block.offsets[0]]]
    query = np.repeat(np.arange(len(picks.users)), picks.target_counts)
    counts = np.bincount(query[keep], minlength=len(picks.users))
    cutter.count(f"{split}_queries_without_candidate", (counts == 0).sum())
    return Picks(picks.users[counts > 0], picks.ends[counts > 0], counts[counts > 0], picks.targets[keep])


def _keep_asked(cutter: Cutter, split: str, block: Block, picks: Picks, place: Place, cold: np.ndarray) -> Picks:
    """Those whose histories are not empty now that the events of cold items are gone."""
    there = place(picks.ends) > place(block.offsets[picks.users])
    targets = picks.targets[np.repeat(there, picks.target_counts)]
    kept = Picks(picks.users[there], picks.ends[there], picks.target_counts[there], targets)
    count_queries(cutter, split, there, cold[block.items[targets - block.offsets[0]]], kept.target_counts)
    return kept


def _append(writer: QueriesWriter, block: Block, picks: Picks, place: Place) -> None:
    within = picks.targets - block.offsets[0]
    writer.append(
        block.first_user + picks.users,
        place(block.offsets[picks.users]),
        place(picks.ends),
        picks.target_counts,
        block.items[within],
        block.actions[within],
    )


def _note_held_out(cutter: Cutter, cold: np.ndarray, train_events: int) -> None:
    rows = np.flatnonzero(cold).astype(np.int32)
    if not train_events:
        raise InputError(f"Without the {len(rows)} items held out there is nothing to train on: hold out fewer.")
    write_array(cutter.source.path / "held_out.npy", rows)
    cutter.facts["held_out_items"] = len(rows)
    if not any(f"{split}_queries_for_held_out_items" in cutter.facts for split in SPLITS):
        logger.warning(
            "No query asks for any of the %d items held out: hold out more to judge cold start.", len(rows)
        )
