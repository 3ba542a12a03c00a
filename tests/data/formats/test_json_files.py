"""JSON as a stream equals JSON as a whole; damage is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semid.data.formats import json_files as jsonfiles
from semid.data.formats.json_files import json_lines, json_object_entries
from semid.errors import InputError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    value=st.dictionaries(st.text(), values, max_size=6),
    step=st.integers(1, 40),
    indent=st.none() | st.integers(0, 3),
    ascii_only=st.booleans(),
)
def test_an_object_by_entries(
    value: Any, step: int, indent: int | None, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("j") / "x.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonfiles, "_READ_CHARACTERS", step)
        assert list(json_object_entries(path)) == list(value.items())


def test_every_truncation_of_an_object(tmp_path: Path) -> None:
    text = '{"1": {"100": 5, "106": [1, 2]}, "2": {}}'
    path = tmp_path / "x.json"
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(InputError, match=r"x\.json is not a valid JSON object"):
            list(json_object_entries(path))


@pytest.mark.parametrize("text", ["[1]", '{"a": 1} 2', '{"a" 1}', '{"a": 1 "b": 2}', "{1: 2}", '{"a": x}', "", "7"])
def test_other_things_than_an_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.json is not a valid JSON object"):
        list(json_object_entries(path))


def test_a_broken_entry_does_not_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonfiles, "_MOST_FOR_ONE_ENTRY", 1000)
    monkeypatch.setattr(jsonfiles, "_READ_CHARACTERS", 100)
    path = tmp_path / "x.json"
    path.write_text('{"a": 1, "b": "' + "x" * 100_000)
    with pytest.raises(InputError, match="character 14"):
        list(json_object_entries(path))


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('[1]\n\n{"a": 2}\n7')
    assert list(json_lines(path)) == [(1, [1]), (3, {"a": 2}), (4, 7)]


@pytest.mark.parametrize(
    ("text", "line"), [("[1]\n[2\n[3]\n", 2), ("[1]\n[2]\n[3", 3), ("\xff\n", 1), ("[" * 99999, 1)]
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=rf"x\.jsonl line {line} is not valid JSON"):
        list(json_lines(path))


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        list(json_object_entries(path))
