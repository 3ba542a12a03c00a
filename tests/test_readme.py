"""The README is true: its commands run, its Python runs, its list names every file."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from semid.data.dataset import Dataset

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# So small that a test has time for it; the shape of the commands stays.
SMALLER = {
    "train": "--width 16 --heads 2 --kv-heads 1 --layers 1 --epochs 1",
    "synth": "--users 300 --items 150",
    "fit": "--codes 12 --svd 8",
    "compare": "--no-latencies",
    "sweep": "--seeds 0 --epochs 1 --preset tiny --queries 50",
}


def shell_lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line[2:].split(" #")[0].strip() for block in blocks for line in block.splitlines() if line[:2] == "$ "]
    return [line for line in lines if line.startswith("semid") and " demo " not in line]


@pytest.mark.parametrize(
    "name",
    [
        *("prepare", "synth", "convert", "info", "check", "fit", "encode", "inspect", "append", "drift", "refit"),
        *("train", "generate", "explain", "compare", "embed", "sweep", "demo"),
    ],
)
def test_every_command_has_an_example(name):
    assert re.search(rf"^\$ semid (data )?{name}\b", README, re.MULTILINE)


def test_the_examples_run_in_a_folder_like_the_demos(inside, road, succeeded):
    for name in ("data", "runs/tokenizer", "runs/model"):
        (inside / name).unlink()  # links to what other tests read
    shutil.copytree(road.folder / "data", inside / "data")
    dataset = Dataset.open("data")
    np.save("new.npy", np.ones((3, dataset.embeddings["82"].dim), np.float32))
    Path("mine.jsonl").write_text(json.dumps({"history": dataset.item_ids[:2].tolist()}))
    items = [f"{item},{('shoes', 'hats')[row % 2]}" for row, item in enumerate(dataset.item_ids.tolist())]
    Path("items.csv").write_text("\n".join(["item_id,category", *items]))
    lists = [{"query": row, "items": dataset.item_ids[:10].tolist()} for row in range(len(dataset.split("test")))]
    Path("theirs.jsonl").write_text("\n".join(map(json.dumps, lists)))
    Path("sold_out.csv").write_text(f"item_id\n{dataset.item_ids[0]}")
    lines = shell_lines()
    assert len(lines) >= 13
    here = {
        "26626977930": str(dataset.item_ids[0]),
        "user_000027182818": dataset.user_ids[dataset.queries["test"].users[0]],
    }
    for line in lines:
        arguments = [here.get(argument, argument) for argument in shlex.split(line)[1:]]
        name = arguments[1] if arguments[0] == "data" else arguments[0]
        succeeded(*arguments, *SMALLER.get(name, "").split())
    for made in ("codes.parquet", "next.parquet", "compare.json", "quality.json", "runs/model/config.json"):
        assert (inside / made).is_file()


def test_the_python_runs(inside, capsys):
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    printed = re.findall(r"\d+", capsys.readouterr().out.split("]")[0])
    known = set(Dataset.open("data").item_ids.tolist())
    assert len(printed) == 10
    assert {int(item) for item in printed} <= known


def test_the_list_names_every_file():
    files = {
        str(path.relative_to(ROOT / "semid")) for path in (ROOT / "semid").rglob("*.py") if path.name != "__init__.py"
    }
    assert set(re.findall(r"^- `([\w/]+\.py)` – \S", README, re.MULTILINE)) == files
