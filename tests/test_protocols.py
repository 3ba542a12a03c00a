"""docs/protocols.md is true: its examples are cut again and compared line by line."""

import re
from pathlib import Path

import numpy as np
import pytest

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder
from semid.data.dataset import Dataset
from semid.data.splits import SplitConfig

PAGE = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
# Of each example: its split codes, where it has some, and its settings.
EXAMPLES = {
    "leave-last-out": (None, {}),
    "time": (None, {"time_cuts": (4, 7)}),
    "user": (None, {"test_users": 0.25, "valid_users": 0.25, "seed": 4}),
    "given": ([0, 0, 2, 2, 0, 1, 2, 0, 2, 0], {}),
    "leave-last-out --hold-out-items 0.25": (None, {"hold_out_items": 0.25, "seed": 0}),
}


def example(title: str) -> list[str]:
    [block] = re.findall(rf"```\n{re.escape(title)}\n(.*?)```", PAGE, re.DOTALL)
    return [re.sub(r"\s+", " ", line).strip() for line in block.strip().splitlines()]


def the_log() -> tuple[list[str], list[str], list[int], list[int]]:
    """Users, their items and times, and how many each has, as the page says."""
    lines = [line.split() for line in example("the log")]
    events = [event.split("@") for _, *events in lines for event in events]
    return [user for user, *_ in lines], [item for item, _ in events], [int(t) for _, t in events], [
        len(line) - 1 for line in lines
    ]  # fmt: skip


def prepared(path: Path, protocol: str, codes: list[int] | None, **options: object) -> Dataset:
    _, items, times, lengths = the_log()
    with create_artifact(path, "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items = 5
        rows = np.array(["abcde".index(item) for item in items])
        none = np.zeros(len(items), np.int8)
        builder.append_events(
            np.array(lengths), rows, none, np.array(times), None if codes is None else np.array(codes)
        )
        builder.finish(SplitConfig(protocol=protocol, **options))
    return Dataset.open(path)


def as_written(dataset: Dataset) -> list[str]:
    """One line a user: what is trained on, and what each split asks."""
    users, log, lines = the_log()[0], dataset.events, []
    for row, user in enumerate(users):
        line = [user, "trains", *named(log.items[log.offsets[row] : dataset.train_end[row]])]
        for split, queries in dataset.queries.items():
            for query in np.flatnonzero(queries.users == row):
                target = queries.target_items[queries.target_offsets[query]]
                cold = ["(cold)"] if dataset.train_counts[target] == 0 else []
                line += [f"{split}:", *named(queries.log.items[queries.start[query] : queries.end[query]])]
                line += ["→", *named([target]), *cold]
        lines.append(" ".join(line))
    return lines


def named(rows: np.ndarray | list[int]) -> list[str]:
    return ["abcde"[row] for row in rows] or ["–"]


@pytest.mark.parametrize("title", EXAMPLES)
def test_examples(tmp_path: Path, title: str) -> None:
    codes, options = EXAMPLES[title]
    assert as_written(prepared(tmp_path / "d", title.split()[0], codes, **options)) == example(title)
