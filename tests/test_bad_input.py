"""Every mistake a user can make: exit 1, one clear sentence, nothing half-written."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.artifacts import open_artifact
from semid.data.dataset import Dataset

TINY_TRAINING = ("--preset", "tiny", "--width", "16", "--heads", "2", "--kv-heads", "1", "--layers", "1")


@pytest.fixture
def fails(semid):
    """Run a command that must fail with one sentence; returns the sentence."""

    def run(*arguments: str | Path) -> str:
        before = snapshot(Path.cwd())
        result = semid(*arguments)
        sentence = one_sentence(result.exit_code, result.stdout, result.stderr)
        assert snapshot(Path.cwd()) == before
        return sentence

    return run


def one_sentence(status: int, stdout: str, stderr: str) -> str:
    assert status == 1, stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    assert "Unexpected" not in stderr
    assert stdout == ""
    return lines[0]


def snapshot(folder: Path) -> dict[str, int]:
    """Everything below a folder but what hangs on links, with the time of its last change."""
    return {str(path): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()} | {
        str(path): 0 for path in sorted(folder.rglob("*")) if path.is_dir()
    }


def write_table(folder: Path, **columns: list[object]) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    return folder


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small good table, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    folder = write_table(
        tmp_path / "table",
        user_id=[1, 1, 1, 2, 2, 2],
        item_id=[10, 11, 12, 10, 12, 11],
        timestamp=[1, 2, 3, 1, 2, 3],
    )
    pq.write_table(pa.table({"item_id": [10, 11, 12]}), folder / "items.parquet")
    np.save(folder / "emb_a.npy", np.eye(3, 4, dtype=np.float32))
    return folder


@pytest.fixture
def layout_c(inside: Path, succeeded) -> Path:
    succeeded("data", "convert", "raw", "c")
    return inside / "c"


@pytest.fixture
def layout_h(inside: Path, road) -> Path:
    shutil.copytree(road.folder / "raw", inside / "h")
    return inside / "h"


class TestFiles:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("data", "prepare", "nowhere"), "nowhere"),
            (("data", "convert", "nowhere", "c"), "nowhere"),
            (("data", "info", "nowhere"), "nowhere"),
            (("fit", "--data", "nowhere"), "nowhere"),
            (("fit", "--config", "nowhere.toml"), "nowhere.toml"),
            (("encode", "nowhere.npy", "--emb", "82"), "nowhere.npy"),
            (("encode", "nowhere.parquet", "--emb", "82"), "nowhere.parquet"),
            (("encode", "--tokenizer", "nowhere", "--data", "data"), "nowhere"),
            (("inspect", "nowhere"), "nowhere"),
            (("train", "--data", "nowhere"), "nowhere"),
            (("train", "--tokenizer", "nowhere"), "nowhere"),
            (("generate", "--model", "nowhere"), "nowhere"),
            (("generate", "--histories", "nowhere.jsonl"), "nowhere.jsonl"),
            (("generate", "--histories", "nowhere.parquet"), "nowhere.parquet"),
            (("compare", "--model", "nowhere"), "nowhere"),
        ],
    )
    def test_missing(self, inside, fails, arguments, named):
        assert named in fails(*arguments)

    def test_wrong_layout(self, inside, fails):
        Path("photos").mkdir()
        Path("photos/cat.jpg").write_bytes(b"\xff\xd8")
        assert "photos has no layout semid knows" in fails("data", "prepare", "photos", "out")
        assert "seq.jsonl" in fails("data", "prepare", "raw", "out", "--layout", "tencentgr-c")
        assert "interactions" in fails("data", "prepare", "raw", "out", "--layout", "table")
        assert "Unknown layout 'parquet'" in fails("data", "prepare", "raw", "out", "--layout", "parquet")

    def test_a_target_that_is_no_artifact_is_not_replaced(self, inside, fails):
        Path("precious").mkdir()
        Path("precious/thesis.tex").write_text("all my work")
        assert "precious" in fails("data", "prepare", "raw", "precious")
        assert "precious" in fails("data", "synth", "precious", "--users", "10", "--items", "10")
        assert "precious" in fails("fit", "--out", "precious", "--codes", "8")
        assert "precious" in fails("demo", "--out", "precious")
        assert Path("precious/thesis.tex").read_text() == "all my work"

    def test_a_target_of_another_kind_is_not_replaced_and_found_before_the_work(self, inside, fails):
        assert "data holds a dataset" in fails("train", *TINY_TRAINING, "--out", "data")
        assert "runs/model holds a model" in fails("fit", "--codes", "8", "--out", "runs/model")
        assert "runs/tokenizer holds a tokenizer" in fails("data", "prepare", "raw", "runs/tokenizer")
        assert "runs/model holds a model" in fails("append", "--out", "runs/model")
        assert "runs/model holds a model" in fails("refit", "--out", "runs/model")
        Path("file").write_text("")
        assert "file is a file" in fails("train", "--epochs", "100000", "--out", "file")
        assert "has no name" in fails("train", *TINY_TRAINING, "--out", ".")

    def test_a_folder_where_a_file_must_be(self, inside, fails, semid):
        Path("folder.jsonl").mkdir()
        assert "folder.jsonl is a directory" in fails("generate", "--out", "folder.jsonl")
        assert "folder.jsonl is a directory" in fails("encode", "--data", "data", "--out", "folder.jsonl")
        result = semid("compare", "--json", "folder.jsonl")
        assert result.exit_code == 2
        assert "is a directory" in result.stderr

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_no_permission(self, inside, fails):
        Path("locked").mkdir(mode=0o500)
        assert "locked" in fails("data", "prepare", "raw", "locked/data")

    def test_a_file_where_a_folder_must_be(self, inside, fails):
        Path("file").write_text("")
        assert "file" in fails("data", "prepare", "raw", "file/data")
        assert "file" in fails("generate", "--out", "file/rows.jsonl")

    def test_unknown_suffixes(self, inside, fails):
        Path("rows.csv").write_text("1\n")
        assert ".jsonl" in fails("generate", "--histories", "rows.csv")
        assert ".parquet" in fails("generate", "--out", "rows.xlsx")
        assert ".parquet" in fails("encode", "--data", "data", "--out", "codes.txt")


class TestDamage:
    def test_truncated_parquet(self, layout_h, fails):
        path = next((layout_h / "seq").glob("*.parquet"))
        path.write_bytes(path.read_bytes()[:-100])
        assert str(path.relative_to(Path.cwd())) in fails("data", "prepare", "h", "out")

    def test_truncated_parquet_table(self, table, fails):
        path = table / "interactions.parquet"
        path.write_bytes(path.read_bytes()[:200])
        assert "table/interactions.parquet" in fails("data", "prepare", "table", "out")

    def test_truncated_json_line(self, layout_c, fails):
        path = layout_c / "seq.jsonl"
        lines = path.read_text().splitlines()
        lines[6] = lines[6][: len(lines[6]) // 2]
        path.write_text("\n".join(lines) + "\n")
        sentence = fails("data", "prepare", "c", "out")
        assert "c/seq.jsonl" in sentence
        assert "line 7" in sentence

    def test_truncated_json_line_of_histories(self, inside, fails):
        item = int(Dataset.open("data").item_ids[0])
        Path("mine.jsonl").write_text(f'{{"history": [{item}]}}\n{{"history": [{item}')
        sentence = fails("generate", "--histories", "mine.jsonl", "--out", "rows.jsonl")
        assert "mine.jsonl line 2" in sentence

    def test_truncated_parquet_of_histories(self, inside, fails):
        Path("mine.parquet").write_bytes(b"PAR1 and then nothing")
        assert "mine.parquet" in fails("generate", "--histories", "mine.parquet")

    def test_truncated_npy(self, table, fails):
        path = table / "emb_a.npy"
        path.write_bytes(path.read_bytes()[:-8])
        assert "table/emb_a.npy" in fails("data", "prepare", "table", "out")

    def test_settings_file_that_is_not_toml(self, inside, fails):
        Path("fit.toml").write_text("emb = ")
        assert "fit.toml" in fails("fit", "--config", "fit.toml")

    def test_settings_file_with_an_unknown_key(self, inside, fails):
        Path("fit.toml").write_text("embeddings = '82'")
        sentence = fails("fit", "--config", "fit.toml")
        assert "'embeddings'" in sentence
        assert "collision-level" in sentence
        assert "emb" in sentence


class TestEmbeddings:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite_in_a_matrix(self, table, fails, value):
        vectors = np.eye(3, 4, dtype=np.float32)
        vectors[2, 1] = value
        np.save(table / "emb_a.npy", vectors)
        sentence = fails("data", "prepare", "table", "out")
        assert "table/emb_a.npy row 2 has NaN or infinity" in sentence

    def test_not_finite_in_the_release(self, layout_h, fails):
        path = next((layout_h / "mm_emb").glob("emb_82_*/*.parquet"))
        rows = pq.read_table(path).to_pylist()
        place = next(number for number, row in enumerate(rows) if row["emb"])
        rows[place]["emb"][0] = float("nan")
        pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
        sentence = fails("data", "prepare", "h", "out")
        assert "82" in sentence
        assert "NaN" in sentence

    def test_not_finite_to_encode(self, inside, fails):
        vectors = np.zeros((3, 8), np.float32)
        vectors[1, 0] = np.inf
        np.save("new.npy", vectors)
        assert "item 1 of new.npy" in fails("encode", "new.npy", "--emb", "82")

    def test_mixed_dimensions(self, table, fails):
        (table / "emb_a.npy").unlink()
        pq.write_table(pa.table({"item_id": [10, 11], "emb": [[1.0, 2.0], [1.0]]}), table / "emb_a.parquet")
        sentence = fails("data", "prepare", "table", "out")
        assert "table/emb_a.parquet row 1" in sentence
        assert "1 values after 2" in sentence

    def test_mixed_dimensions_in_the_release(self, layout_h, fails):
        path = next((layout_h / "mm_emb").glob("emb_82_*/*.parquet"))
        rows = pq.read_table(path).to_pylist()
        places = [number for number, row in enumerate(rows) if row["emb"]]
        rows[places[5]]["emb"].append(0.5)
        pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
        assert "82" in fails("data", "prepare", "h", "out")

    def test_other_width_than_fitted(self, inside, fails):
        np.save("new.npy", np.ones((3, 9), np.float32))
        sentence = fails("encode", "new.npy", "--emb", "82")
        assert "9 dimensions" in sentence
        assert "fitted with 8" in sentence

    def test_unknown_id(self, inside, fails):
        assert "'99'" in (sentence := fails("fit", "--emb", "82,99"))
        assert "81, 82, 85" in sentence
        np.save("new.npy", np.ones((3, 8), np.float32))
        assert "82, 85" in fails("encode", "new.npy", "--emb", "81")
        assert "'99'" in fails("data", "prepare", "raw", "out", "--emb", "99")

    def test_files_and_ids_that_do_not_match(self, inside, fails):
        np.save("new.npy", np.ones((3, 8), np.float32))
        assert "1 files were given for the embeddings 82, 85" in fails("encode", "new.npy")

    def test_nothing_to_encode(self, inside, fails):
        assert "--data" in fails("encode")


class TestCatalogue:
    def test_duplicate_item_ids(self, table, fails):
        pq.write_table(pa.table({"item_id": [10, 11, 10]}), table / "items.parquet")
        sentence = fails("data", "prepare", "table", "out")
        assert "Item id 10 occurs twice" in sentence
        assert "table/items.parquet row 0" in sentence

    def test_duplicate_item_ids_to_encode(self, inside, fails):
        pq.write_table(pa.table({"item_id": [5, 5], "emb": [[1.0] * 8, [2.0] * 8]}), "new.parquet")
        assert "Item id 5 occurs twice" in fails("encode", "new.parquet", "--emb", "82")

    def test_larger_than_the_code_space(self, inside, fails):
        sentence = fails("fit", "--emb", "82", "--levels", "2", "--codes", "4", "--out", "small")
        assert "do not fit into the 16 different codes" in sentence

    def test_more_codes_than_vectors(self, inside, fails):
        assert "5000 codes a level are more than" in fails("fit", "--emb", "82", "--codes", "5000", "--out", "large")

    def test_unknown_split(self, inside, fails):
        assert "splits with queries: valid, test" in fails("generate", "--split", "trial")


class TestHistories:
    def test_empty(self, inside, fails):
        item = int(Dataset.open("data").item_ids[0])
        lines = [{"history": [item]}, {"user_id": "user_7", "history": []}]
        Path("mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert "mine.jsonl line 2 has an empty history" in fails("generate", "--histories", "mine.jsonl")
        pq.write_table(pa.table({"history": pa.array([[item], []], pa.list_(pa.int64()))}), "mine.parquet")
        assert "mine.parquet row 1 has an empty history" in fails("generate", "--histories", "mine.parquet")

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            (b'{"history": [99999999999999999999999]}', "names no item that the dataset holds"),
            (b'{"history": ["\xff"]}', "is not UTF-8"),
            (b'{"history": [ITEM], "timestamps": [99999999999999999999999]}', "timestamps that are no integers"),
            (b'{"history": [ITEM], "actions": [["click"]]}', "unknown action ['click']"),
        ],
    )
    def test_values_that_are_none(self, inside, fails, line, told):
        item = str(int(Dataset.open("data").item_ids[0])).encode()
        Path("mine.jsonl").write_bytes(b'{"history": [ITEM]}\n'.replace(b"ITEM", item) + line.replace(b"ITEM", item))
        sentence = fails("generate", "--histories", "mine.jsonl")
        assert sentence.startswith("mine.jsonl line 2")
        assert told in sentence

    def test_sizes_that_do_not_fit(self, inside, fails):
        assert "not enough memory" in fails("train", "--width", "1000000000", "--heads", "2", "--kv-heads", "1")
        assert "number is too large" in fails("train", *TINY_TRAINING, "--context-events", str(10**30))

    def test_only_unknown_items(self, inside, fails):
        Path("mine.jsonl").write_text('{"history": [1, 2, 3]}\n')
        assert "mine.jsonl line 1" in fails("generate", "--histories", "mine.jsonl")

    def test_time_going_backwards(self, inside, fails):
        first, second = Dataset.open("data").item_ids[:2].tolist()
        line = {"history": [first, second], "timestamps": [9, 8]}
        Path("mine.jsonl").write_text(json.dumps(line))
        assert "mine.jsonl line 1 has timestamps that go backwards" in fails("generate", "--histories", "mine.jsonl")

    def test_times_in_milliseconds(self, inside, fails):
        first = Dataset.open("data").item_ids[0].item()
        Path("mine.jsonl").write_text(json.dumps({"history": [first], "timestamps": [1_700_000_000_000]}))
        assert "line 1 has timestamps after the year 5000" in fails("generate", "--histories", "mine.jsonl")

    def test_time_going_backwards_in_the_log(self, layout_h, fails):
        path = next((layout_h / "seq").glob("*.parquet"))
        rows = pq.read_table(path).to_pylist()
        rows[3]["seq"][1]["timestamp"] = 5
        pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
        sentence = fails("data", "prepare", "h", "out")
        assert "time" in sentence
        assert "user" in sentence

    def test_unknown_action(self, inside, fails):
        item = int(Dataset.open("data").item_ids[0])
        Path("mine.jsonl").write_text(json.dumps({"history": [item], "actions": ["purchase"]}))
        sentence = fails("generate", "--histories", "mine.jsonl")
        assert "'purchase'" in sentence
        assert "exposure, click, conversion" in sentence
        assert "'purchase'" in fails("generate", "--action", "purchase")

    def test_unknown_mode(self, inside, fails):
        assert "'best'" in fails("generate", "--mode", "ann,best")

    @pytest.mark.parametrize("command", ["train", "generate", "compare"])
    def test_unknown_device(self, inside, fails, command):
        assert "no device 'abacus'" in fails(command, "--device", "abacus")
        assert "no device 'meta'" in fails(command, "--device", "meta")

    def test_no_histories(self, inside, fails):
        Path("mine.jsonl").write_text("\n")
        assert "mine.jsonl has no histories" in fails(
            "generate", "--histories", "mine.jsonl", "--out", "rows.parquet"
        )

    def test_beam_narrower_than_the_list(self, inside, fails):
        assert "beam=5" in fails("generate", "--beam", "5", "--top-k", "10")


class TestArtifacts:
    def test_tokenizer_of_another_dataset(self, inside, succeeded, fails):
        succeeded("data", "prepare", "raw", "other", "--split-protocol", "user")
        assert "another dataset" in fails("train", "--data", "other", *TINY_TRAINING, "--out", "m")
        assert "another dataset" in fails("generate", "--data", "other")
        assert "another dataset" in fails("compare", "--data", "other")
        assert "another dataset" in fails("encode", "--data", "other")

    @pytest.mark.parametrize("name", ["data", "runs/tokenizer", "runs/model"])
    def test_of_another_version(self, inside, road, fails, name):
        copy = own_copy(inside, road, name)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "format_version": 99}))
        command = ("fit", "--out", "t") if name == "data" else ("train",) if "tokenizer" in name else ("generate",)
        assert "format version 99" in fails(*command)

    @pytest.mark.parametrize("name", ["runs/tokenizer/tokenizer.safetensors", "runs/model/model.safetensors"])
    def test_damaged_or_truncated(self, inside, road, fails, name):
        path = own_copy(inside, road, str(Path(name).parent)) / Path(name).name
        command = "train" if "tokenizer" in name else "generate"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "does not match its checksum" in fails(command)
        path.write_bytes(whole[:-1])
        assert "missing or truncated" in fails(command)

    def test_of_another_kind(self, inside, fails):
        assert "is a dataset, not a model" in fails("generate", "--model", "data")
        assert "is a tokenizer, not a dataset" in fails("fit", "--data", "runs/tokenizer")

    def test_resume_without_a_checkpoint(self, inside, fails):
        assert "No checkpoint" in fails("train", "--resume", "--out", "fresh")

    def test_a_damaged_checkpoint(self, inside, road, fails):
        shutil.copytree(road.folder / "runs/model", "runs/m.checkpoint")
        config = json.loads(Path("runs/m.checkpoint/config.json").read_text())
        Path("runs/m.checkpoint/config.json").write_text(json.dumps({**config, "kind": "checkpoint"}))
        Path("runs/m.checkpoint/model.safetensors").write_bytes(b"")
        sentence = fails("train", "--resume", *TINY_TRAINING, "--out", "runs/m")
        assert sentence.endswith("missing or truncated: start without --resume.")


def own_copy(inside: Path, road, name: str) -> Path:
    (inside / name).unlink()
    shutil.copytree(road.folder / name, inside / name)
    return inside / name


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch side_effect",)


class TestMaliciousPickle:
    def test_indexer(self, layout_h, fails):
        (layout_h / "indexer.pkl").write_bytes(pickle.dumps({"u": {}, "i": {1: Evil()}, "f": {}}))
        assert "h/indexer.pkl" in fails("data", "prepare", "h", "out")
        assert not Path("side_effect").exists()

    def test_embedding_of_the_competition(self, layout_c, fails):
        path = next((layout_c / "creative_emb").glob("emb_81_*.pkl"))
        path.write_bytes(pickle.dumps({1: Evil()}))
        assert str(path.relative_to(Path.cwd())) in fails("data", "prepare", "c", "out")
        assert not Path("side_effect").exists()

    def test_npy_of_objects(self, table, fails):
        np.save(table / "emb_a.npy", np.array([Evil(), Evil(), Evil()], object), allow_pickle=True)
        assert "table/emb_a.npy" in fails("data", "prepare", "table", "out")
        assert not Path("side_effect").exists()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A real limit of the system: writing beyond it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


LONG = {
    "synth": ("data", "synth", "s", "--users", "200", "--items", "100", "--emb", "82:16"),
    "prepare": ("data", "prepare", "raw", "d"),
    "convert": ("data", "convert", "raw", "c"),
    "fit": ("fit", "--emb", "82", "--codes", "12", "--out", "t"),
    "encode": ("encode", "--data", "data", "new.npy", "--emb", "82", "--out", "codes.parquet"),
    "train": ("train", *TINY_TRAINING, "--epochs", "1", "--out", "m"),
    "generate": ("generate", "--out", "rows.parquet"),
    "compare": ("compare", "--queries", "50", "--no-latencies", "--json", "compare.json"),
    "demo": ("demo", "--out", "demo", "--users", "150", "--items", "300", "--epochs", "1"),
}


class TestFullDisk:
    @pytest.mark.parametrize("command", LONG)
    @pytest.mark.parametrize("size", [64, 5000])
    def test_names_the_target_and_leaves_nothing(self, inside, semid, command, size):
        np.save("new.npy", np.ones((3000, 8), np.float32))
        before = snapshot(inside)
        with files_up_to(size):
            result = semid(*LONG[command])
        sentence = one_sentence(result.exit_code, "", result.stderr)
        assert "while writing" in sentence
        assert "free some room" in sentence
        kept = (f"{inside}/demo", f"{inside}/rows.parquet.parts")  # to go on from
        left = {path: changed for path, changed in snapshot(inside).items() if not path.startswith(kept)}
        assert left == before
        assert not list(inside.rglob("*.partial"))

    def test_in_a_process_of_its_own(self, inside):
        code = (
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
            "from semid.cli import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *LONG["prepare"]], capture_output=True, text=True, cwd=inside, check=False
        )
        assert "while writing d" in one_sentence(done.returncode, done.stdout, done.stderr)
        assert not (inside / "d").exists()

    def test_keeps_the_old_artifact(self, inside, succeeded, semid):
        succeeded("fit", "--emb", "82", "--codes", "12", "--out", "t")
        old = open_artifact(inside / "t", "tokenizer").checksum
        with files_up_to(5000):
            assert semid("fit", "--emb", "85", "--codes", "12", "--out", "t").exit_code == 1
        assert open_artifact(inside / "t", "tokenizer").checksum == old


class TestInterrupt:
    @pytest.mark.parametrize("command", ["synth", "prepare", "convert", "fit", "train", "generate", "demo"])
    def test_while_the_bar_moves(self, inside, semid, monkeypatch, command):
        before = snapshot(inside)
        interrupt_progress(monkeypatch, calls=1 if command == "generate" else 3)
        result = semid(*LONG[command])
        assert "Interrupted" in one_sentence(result.exit_code, result.stdout, result.stderr)
        kept = (f"{inside}/demo", f"{inside}/rows.parquet.parts")  # to go on from
        left = {path: changed for path, changed in snapshot(inside).items() if not path.startswith(kept)}
        assert left == before
        assert not list(inside.rglob("*.partial"))

    def test_while_comparing(self, inside, semid, monkeypatch):
        self.check(inside, semid, monkeypatch, "semid.pipeline.answering.Answerer.answer", "compare")

    def test_while_encoding(self, inside, semid, monkeypatch):
        np.save("new.npy", np.ones((3000, 8), np.float32))
        self.check(inside, semid, monkeypatch, "semid.tokenizers.rq_kmeans.RQKMeans.encode", "encode")

    @staticmethod
    def check(inside, semid, monkeypatch, function, command):
        monkeypatch.setattr(function, lambda *_, **__: signal.raise_signal(signal.SIGINT))
        before = snapshot(inside)
        result = semid(*LONG[command])
        assert "Interrupted" in one_sentence(result.exit_code, result.stdout, result.stderr)
        assert snapshot(inside) == before

    def test_an_old_result_stays(self, inside, succeeded, semid, monkeypatch):
        succeeded("generate", "--out", "rows.jsonl")
        old = Path("rows.jsonl").read_text()
        interrupt_progress(monkeypatch, calls=1)
        assert semid("generate", "--top-k", "3", "--out", "rows.jsonl").exit_code == 1
        assert Path("rows.jsonl").read_text() == old

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_training_in_a_process_of_its_own_goes_on_with_resume(self, inside, succeeded, number):
        options = (*TINY_TRAINING, "--epochs", "6", "--patience", "6", "--out", "m")
        code = "from semid.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "train", *options],
            cwd=inside,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        checkpoint = inside / "m.checkpoint/config.json"
        until(checkpoint.exists)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        assert "--resume" in one_sentence(process.returncode, stdout, stderr)
        assert not (inside / "m").exists()
        assert not list(inside.glob(".*partial"))
        done = json.loads(checkpoint.read_text())["details"]["progress"]["epoch"]
        assert 1 <= done < 6
        succeeded("train", *options, "--resume")
        log = [json.loads(line) for line in (inside / "m/log.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in log] == list(range(1, 7))
        assert not checkpoint.exists()


def interrupt_progress(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """A real SIGINT when a long command reports progress for so many times."""

    @contextmanager
    def bar():
        left = iter(range(calls - 1))

        def show(what: str, done: int, total: int | None) -> None:
            if next(left, None) is None:
                signal.raise_signal(signal.SIGINT)

        yield show

    for module in ("data", "tokenizer", "model", "demo"):
        monkeypatch.setattr(f"semid.commands.{module}.progress_bar", bar)


def until(happened) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_unexpected_errors_are_one_sentence_and_a_traceback_on_demand(inside, semid, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("semid.tokenizers.tokenizer.SemanticIdTokenizer.load", broken)
    quiet, loud = semid("inspect"), semid("inspect", "-v")
    assert quiet.exit_code == loud.exit_code == 1
    assert quiet.stderr.strip() == "Unexpected RuntimeError: a bug (run again with -v for the traceback)."
    assert "Traceback" in loud.stderr
