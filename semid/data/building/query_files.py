"""Cuts the events of a dataset being written and writes ``train_end`` and the queries."""

import shutil
from typing import Any

import numpy as np

from semid.data.building.arrays import ArrayWriter
from semid.data.building.event_files import QueriesWriter
from semid.data.building.protocols import CUTS, Cutter
from semid.data.dataset import SPLITS
from semid.data.splits import Block, Picks, SplitConfig, SplitInput, user_blocks
from semid.errors import InputError

_NO_PICKS = Picks(*(np.zeros(0, np.int64) for _ in range(4)))


def write_splits(source: SplitInput, config: SplitConfig) -> tuple[dict[str, int], dict[str, Any]]:
    """Write ``train_end`` and ``queries/``; the events lie on disk already.

    Returns:
        the number of training events and of queries of each split, and facts for the report.

    Raises:
        InputError: the protocol needs something these events lack, or an unknown action is named.
    """
    protocol = _resolve(source, config)
    cutter = Cutter(config, source, _target_codes(source, config, protocol), {"protocol": protocol})
    cut = CUTS[protocol](cutter)
    given = source.given if protocol == "given" else {}
    for split in set(source.given) - set(given):
        shutil.rmtree(source.path / "queries" / split)
    writers = {split: QueriesWriter(source.path / "queries" / split) for split in SPLITS if split not in given}
    drop = protocol == "user" if config.candidates_only is None else config.candidates_only
    is_candidate = np.zeros(source.num_items, np.bool_)
    is_candidate[source.candidates] = True
    trained = 0
    with ArrayWriter(source.path / "train_end.npy", np.int64) as train_end:
        for block in user_blocks(source):
            ends, picks = cut(block)
            train_end.append(ends)
            trained += int((ends - block.offsets[:-1]).sum())
            for split, writer in writers.items():
                chosen = picks.get(split, _NO_PICKS)
                if drop:
                    chosen = _keep_candidates(cutter, split, block, chosen, is_candidate)
                _append(writer, block, chosen)
    for writer in writers.values():
        writer.close()
    counts = {split: writer.num_queries for split, writer in writers.items()}
    return {"train_events": trained, **counts, **given}, cutter.facts


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


def _append(writer: QueriesWriter, block: Block, picks: Picks) -> None:
    within = picks.targets - block.offsets[0]
    writer.append(
        block.first_user + picks.users,
        block.offsets[picks.users],
        picks.ends,
        picks.target_counts,
        block.items[within],
        block.actions[within],
    )
