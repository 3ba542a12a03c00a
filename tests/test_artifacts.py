import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from semid import artifacts
from semid.artifacts import create_artifact, create_file, full_disk_named, open_artifact, plain_settings
from semid.errors import InputError


def make(path: Path, value: int = 1, **options: object) -> None:
    with create_artifact(path, "tokenizer", **options) as writer:
        writer.save_arrays("model.safetensors", {"codes": np.full((2, 3), value, np.int32)})
        writer.details["value"] = value


def value_at(path: Path) -> int:
    return int(open_artifact(path, "tokenizer").load_arrays("model.safetensors")["codes"][0, 0])


def leftovers(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p != path)


def test_round_trip_keeps_arrays_details_and_settings(tmp_path: Path) -> None:
    make(
        tmp_path / "t", 7, settings={"levels": 3, "none": None, "codes": (4, 5), "data": Path("x"), "svd": {"dim": 2}}
    )
    artifact = open_artifact(tmp_path / "t", "tokenizer")
    np.testing.assert_array_equal(artifact.load_arrays("model.safetensors")["codes"], np.full((2, 3), 7))
    assert artifact.details == {"value": 7}
    assert artifact.settings == {"levels": 3, "codes": [4, 5], "data": "x", "svd": {"dim": 2}}
    assert (tmp_path / "t" / "settings.toml").read_text().startswith("levels = 3")


def test_plain_settings_drops_none_at_every_depth() -> None:
    assert plain_settings({"a": None, "b": {"c": None, "d": (1,)}}) == {"b": {"d": [1]}}


def test_non_contiguous_arrays_are_saved_by_value(tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4)
    with create_artifact(tmp_path / "t", "tokenizer") as writer:
        writer.save_arrays("a.safetensors", {"t": array.T, "s": array[:, ::2]})
    loaded = open_artifact(tmp_path / "t", "tokenizer").load_arrays("a.safetensors")
    np.testing.assert_array_equal(loaded["t"], array.T)
    np.testing.assert_array_equal(loaded["s"], array[:, ::2])


def test_an_artifact_is_replaced_by_a_new_one(tmp_path: Path) -> None:
    make(tmp_path / "t", 1)
    make(tmp_path / "t", 2)
    assert value_at(tmp_path / "t") == 2
    assert leftovers(tmp_path / "t") == []


def test_replacing_works_where_directories_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoExchange:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr(artifacts.ctypes, "CDLL", NoExchange)
    make(tmp_path / "t", 1)
    make(tmp_path / "t", 2)
    assert value_at(tmp_path / "t") == 2
    assert leftovers(tmp_path / "t") == []


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_in_the_body_leaves_what_was_there(tmp_path: Path, failure: BaseException, existing: bool) -> None:
    target = tmp_path / "t"
    if existing:
        make(target, 1)

    def fail() -> None:
        with create_artifact(target, "tokenizer") as writer:
            writer.save_arrays("model.safetensors", {"codes": np.zeros((9, 9))})
            raise failure

    with pytest.raises((ValueError, KeyboardInterrupt, OSError)):
        fail()
    assert leftovers(target) == []
    if existing:
        assert value_at(target) == 1
    else:
        assert not target.exists()


def test_a_failure_while_describing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "t", 1)

    def full(_: Path) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "_sha256", full)
        with pytest.raises(OSError, match="No space"):
            make(tmp_path / "t", 2)
    assert value_at(tmp_path / "t") == 1
    assert leftovers(tmp_path / "t") == []


def test_a_result_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.json"
    with create_file(target) as partial:
        partial.write_text("old")
        assert not target.exists()
    assert target.read_text() == "old"

    def fail() -> None:
        with create_file(target) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert leftovers(target) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        OSError("10 requested and 3 written"),
    ],
)
def test_a_full_disk_names_the_target(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        with full_disk_named(tmp_path):
            raise error

    with pytest.raises(OSError, match="No space left") as caught:
        fail()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), SafetensorError("bad header"), ValueError("x")])
def test_other_errors_pass_through(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        with full_disk_named(tmp_path):
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error


def test_parents_are_made_and_a_stale_partial_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "t"
    stale = target.parent / f".t.{os.getpid()}.partial"
    stale.mkdir(parents=True)
    (stale / "junk").write_text("x")
    make(target)
    assert sorted(p.name for p in target.iterdir()) == ["config.json", "model.safetensors", "settings.toml"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for number in (gone.pid, os.getpid(), 1):
        (tmp_path / f".t.{number}.partial").mkdir()
    (tmp_path / f".t.txt.{gone.pid}.partial").write_text("half")
    (tmp_path / f".other.{gone.pid}.partial").mkdir()
    make(tmp_path / "t")
    assert (tmp_path / f".t.txt.{gone.pid}.partial").exists()
    with create_file(tmp_path / "t.txt") as partial:
        partial.write_text("whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"t", "t.txt", ".t.1.partial", f".other.{gone.pid}.partial"}


def test_foreign_targets_are_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with pytest.raises(InputError, match="not a semid artifact"):
        make(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"
    (tmp_path / "file").write_text("f")
    with pytest.raises(InputError, match="is a file"):
        make(tmp_path / "file")
    with pytest.raises(InputError, match="has no name of its own"):
        make(Path("."))
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert value_at(tmp_path / "empty") == 1


def test_opening_nothing_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="semid data prepare"):
        open_artifact(tmp_path / "no", "dataset")
    with pytest.raises(InputError, match="check the path"):
        open_artifact(tmp_path / "no", "widget")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "t")
    with pytest.raises(InputError, match="is a tokenizer, not a model"):
        open_artifact(tmp_path / "t", "model")


def edit_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def test_another_version_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "t")
    edit_config(tmp_path / "t", format_version=99)
    with pytest.raises(InputError, match="version 99 but this semid reads version 1"):
        open_artifact(tmp_path / "t", "tokenizer")


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"kind": "tokenizer"}', b"\xff\xfe"])
def test_a_broken_description_is_refused(tmp_path: Path, text: str | bytes) -> None:
    make(tmp_path / "t")
    (tmp_path / "t" / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match="not a semid artifact description"):
        open_artifact(tmp_path / "t", "tokenizer")


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    make(tmp_path / "t")
    file = tmp_path / "t" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"model\.safetensors is missing or truncated"):
        open_artifact(tmp_path / "t", "tokenizer")
    file.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing or truncated"):
        open_artifact(tmp_path / "t", "tokenizer")


def test_a_flipped_bit_is_found_on_loading(tmp_path: Path) -> None:
    make(tmp_path / "t")
    file = tmp_path / "t" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    artifact = open_artifact(tmp_path / "t", "tokenizer")
    with pytest.raises(InputError, match="does not match its checksum"):
        artifact.load_arrays("model.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    with create_artifact(tmp_path / "t", "tokenizer") as writer:
        (writer.path / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        open_artifact(tmp_path / "t", "tokenizer").load_arrays("model.safetensors")


def test_a_file_that_is_no_part_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "t")
    (tmp_path / "t" / "extra.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"no file extra\.safetensors"):
        open_artifact(tmp_path / "t", "tokenizer").load_arrays("extra.safetensors")


def test_the_checksum_depends_on_contents_only(tmp_path: Path) -> None:
    make(tmp_path / "a", 1, settings={"seed": 1})
    make(tmp_path / "b", 1, settings={"seed": 2})
    make(tmp_path / "c", 2, settings={"seed": 1})
    a, b, c = (open_artifact(tmp_path / name, "tokenizer") for name in "abc")
    assert a.checksum == b.checksum != c.checksum


def test_parents_must_match(tmp_path: Path) -> None:
    make(tmp_path / "a", 1)
    make(tmp_path / "b", 2)
    a, b = (open_artifact(tmp_path / name, "tokenizer") for name in "ab")
    with create_artifact(tmp_path / "model", "model", parents={"tokenizer": a}):
        pass
    model = open_artifact(tmp_path / "model", "model")
    model.require_parent("tokenizer", a)
    with pytest.raises(InputError, match="made from another tokenizer"):
        model.require_parent("tokenizer", b)
    with pytest.raises(InputError, match="made from another dataset"):
        model.require_parent("dataset", a)
