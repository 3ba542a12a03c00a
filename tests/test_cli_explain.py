"""``semid explain`` as a shell sees it."""

import json
from pathlib import Path

import numpy as np
import pytest

from semid.data.dataset import Dataset


@pytest.fixture
def dataset(inside: Path) -> Dataset:
    """That of the road, with titles in a table beside it."""
    found = Dataset.open("data")
    lines = [f"{item},Title of {row} that is much too long for a table" for row, item in enumerate(found.item_ids)]
    Path("items.csv").write_text("\n".join(["item_id,name", *lines]))
    return found


def widest(printed: str) -> int:
    return max(len(line.rstrip()) for line in printed.splitlines())


def test_an_item(dataset: Dataset, succeeded) -> None:
    item = dataset.item_ids[7]
    printed = succeeded("explain", "item", item, "--titles", "items.csv:name")
    assert printed.startswith(f"Item {item}\n  item        {item}, ")
    assert "title       Title of 7 that is much too long for a table" in printed
    assert "Title of" in printed.split("Nearest items")[1]
    assert widest(printed) <= 100
    told = json.loads(succeeded("explain", "item", item, "--json", "-", "--neighbours", "1"))
    assert told["item"] == {"id": int(item), "title": None}
    assert printed.split("codes       ")[1].split()[0] == "-".join(map(str, told["codes"]))
    assert len(told["neighbours"]) <= 1 + len(told["levels"])
    succeeded("explain", "item", item, "--json", "told.json", "--neighbours", "1")
    assert json.loads(Path("told.json").read_text()) == told


def test_a_user(dataset: Dataset, succeeded) -> None:
    user = dataset.user_ids[dataset.queries["test"].users[3]]
    printed = succeeded("explain", "user", user, "--titles", "items.csv:name", "--top-k", "5")
    for title in ("Last events", "Lists", "Items", "What hybrid ranks by", "Where they come from"):
        assert title in printed
    assert "Title of" in printed.split("Where they come from")[1]
    assert widest(printed) <= 100
    told = json.loads(succeeded("explain", "user", user, "--json", "-", "--top-k", "5"))
    rows = succeeded("generate", "--top-k", "5", "--mode", "generative,ann,hybrid")
    lists = {row["mode"]: row["items"] for row in map(json.loads, rows.splitlines()) if row["user_id"] == user}
    assert told["lists"] == lists
    target = int(dataset.item_ids[dataset.queries["test"].target_items[3]])
    assert [item["item"]["id"] for item in told["items"] if item["target"]] == [target]
    assert f"{target} *" in printed
    assert json.loads(succeeded("explain", "user", user, "--split", "next", "--json", "-"))["user"] == user


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("item", "nothing"), "There is no item 'nothing' in data; its items start"),
        (("user", "nobody"), "There is no user 'nobody' in data; its users start"),
        (("user", "USER", "--query", "2"), "has queries 1..1 in split 'test', so there is no query 2."),
        (("user", "USER", "--split", "dev"), "data has no queries in split 'dev'"),
        (("user", "USER", "--action", "like"), "Unknown action 'like'"),
        (("user", "USER", "--top-k", "60"), "beam=50 must be at least k=60"),
        (("user", "USER", "--titles", "items.csv"), "'items.csv' names no titles: give FILE:COLUMN"),
        (("item", "ITEM", "--titles", "none.csv:name"), "There is no file none.csv"),
        (("item", "ITEM", "--neighbours", "-1"), "-1 neighbours cannot be named"),
        (("item", "ITEM", "--tokenizer", "nowhere"), "nowhere"),
        (("user", "USER", "--model", "nowhere"), "nowhere"),
        (("user", "USER", "--device", "abacus"), "There is no device 'abacus'"),
    ],
)
def test_mistakes_are_one_sentence(dataset: Dataset, semid, arguments: tuple[str, ...], sentence: str) -> None:
    ids = {"USER": dataset.user_ids[dataset.queries["test"].users[0]], "ITEM": str(dataset.item_ids[0])}
    result = semid("explain", *(ids.get(argument, argument) for argument in arguments))
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_parts_of_other_datasets(dataset: Dataset, semid, succeeded) -> None:
    succeeded("data", "prepare", "raw", "other", "--seed", "1", "--split-protocol", "user")
    other = Dataset.open("other")
    user = other.user_ids[np.asarray(other.queries["test"].users)[0]]
    for arguments in (("item", str(other.item_ids[0])), ("user", user)):
        result = semid("explain", *arguments, "--data", "other")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "was made from another dataset than other" in result.stderr
