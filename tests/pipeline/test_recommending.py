import io
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import recommending as module
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.histories import QueryBatch, queries_of_split
from semid.pipeline.recommending import recommend, write_recommendations
from semid.pipeline.resultfiles import write_rows


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def answerer(road) -> Answerer:
    return Answerer(GenerativeRecommender.load(road.folder / "runs/model"), AnswerConfig(k=4, beam=8))


def test_rows_do_not_depend_on_the_size_of_the_batches(dataset, answerer):
    whole, parts = (
        [
            row
            for batch in recommend(answerer, dataset, queries_of_split(dataset, "test", size))
            for row in batch.to_pylist()
        ]
        for size in (1000, 60)
    )
    assert len(whole) == len(dataset.queries["test"])
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.pop("scores"), other.pop("scores"), atol=1e-4)
        assert one == other


def test_items_are_the_raw_ids_of_the_ranking(dataset, answerer):
    [batch] = recommend(answerer, dataset, queries_of_split(dataset, "test"), ["ann"])
    ranking = answerer.answer(dataset.queries["test"], "ann").ranking
    assert batch["items"].to_pylist() == dataset.item_ids[ranking.items].tolist()
    np.testing.assert_array_equal(np.array(batch["scores"].to_pylist(), np.float32), ranking.scores)


def test_progress_counts_queries(dataset, answerer):
    seen = []
    batches = queries_of_split(dataset, "test", 100)
    list(recommend(answerer, dataset, batches, progress=lambda what, done, total: seen.append(done)))
    assert seen[-1] == len(dataset.queries["test"])
    assert seen[0] == 100


@pytest.mark.parametrize("modes", [["generative", "best"], []])
def test_modes_that_are_none(dataset, answerer, modes):
    with pytest.raises(InputError, match="generative, ann, hybrid"):
        next(recommend(answerer, dataset, [], modes))


def user_column(dataset: Dataset, answerer: Answerer, *user_ids: list[object]) -> list[pa.DataType]:
    queries = dataset.queries["test"].select(np.arange(2))
    batches = [QueryBatch(2 * number, ids, queries) for number, ids in enumerate(user_ids)]
    return [batch["user_id"].type for batch in recommend(answerer, dataset, batches)]


def test_user_ids_have_one_type(dataset, answerer):
    assert user_column(dataset, answerer, [1, 2], [3, None]) == [pa.int64(), pa.int64()]
    assert user_column(dataset, answerer, ["a", 2], [3, 4]) == [pa.string(), pa.string()]
    assert user_column(dataset, answerer, [None, None], ["b", 4]) == [pa.string(), pa.string()]
    with pytest.raises(InputError, match="User id 'b' comes after integer ids"):
        user_column(dataset, answerer, [1, 2], ["b", 4])


class TestResultFiles:
    whole = pa.table({"a": [1, 2], "b": [[1.5], []]})
    batches = tuple(whole.to_batches(max_chunksize=1))

    def test_parquet_lines_and_streams_hold_the_same(self, tmp_path):
        stream = io.StringIO()
        for out in (tmp_path / "x.parquet", tmp_path / "x.jsonl", stream):
            assert write_rows(iter(self.batches), out) == 2
        rows = [{"a": 1, "b": [1.5]}, {"a": 2, "b": []}]
        assert pq.read_table(tmp_path / "x.parquet").to_pylist() == rows
        assert [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()] == rows
        assert stream.getvalue() == (tmp_path / "x.jsonl").read_text()

    def test_an_error_leaves_the_old_file(self, tmp_path):
        def broken():
            yield self.batches[0]
            raise RuntimeError

        for name in ("x.parquet", "x.jsonl"):
            (tmp_path / name).write_text("old")
            with pytest.raises(RuntimeError):
                write_rows(broken(), tmp_path / name)
            assert (tmp_path / name).read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl", "x.parquet"]

    def test_other_suffixes_and_no_rows(self, tmp_path):
        with pytest.raises(InputError, match=r"end its name in one of \.parquet, \.jsonl"):
            write_rows(iter(self.batches), tmp_path / "x.csv")
        with pytest.raises(InputError, match="no rows"):
            write_rows(iter(()), tmp_path / "x.parquet")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_killed_run_goes_on_where_it_stood(dataset, answerer, tmp_path, monkeypatch, suffix):
    def run(name: str, **options) -> int:
        batches = partial(queries_of_split, dataset, "test", 50)
        return write_recommendations(
            answerer, dataset, batches, ["ann", "generative"], out=tmp_path / name, **options
        )

    count = run(f"whole.{suffix}")
    assert count == 2 * len(dataset.queries["test"])
    answers, asked = Answerer.answers, []

    def killed(self, queries, modes):
        asked.append(len(queries))
        if len(asked) == 3:
            raise MemoryError
        return answers(self, queries, modes)

    monkeypatch.setattr(Answerer, "answers", killed)
    with pytest.raises(MemoryError):
        run(f"rows.{suffix}")
    assert not (tmp_path / f"rows.{suffix}").exists()
    assert run(f"rows.{suffix}", resume=True) == count
    assert sum(asked) == len(dataset.queries["test"]) + 50
    assert (tmp_path / f"rows.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()


def test_parts_of_another_beam_are_not_gone_on_with(dataset, answerer, tmp_path, monkeypatch):
    batches, out = partial(queries_of_split, dataset, "test", 50), tmp_path / "rows.jsonl"
    monkeypatch.setattr(module, "recommend", lambda *_, **__: stopped(dataset, answerer))
    with pytest.raises(MemoryError):
        write_recommendations(answerer, dataset, batches, ["ann"], out=out)
    wider = Answerer(answerer.recommender, AnswerConfig(k=4, beam=9))
    with pytest.raises(InputError, match="other settings or inputs"):
        write_recommendations(wider, dataset, batches, ["ann"], out=out, resume=True)


def stopped(dataset, answerer):
    yield next(recommend(answerer, dataset, queries_of_split(dataset, "test", 50), ["ann"]))
    raise MemoryError
