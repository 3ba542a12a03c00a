"""The index beside a model: saved, used again, narrowed, and built anew where it no longer fits."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import indexing
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.indexing import item_index
from semid.retrieval.ann import AnnIndex
from semid.retrieval.exact import exact_search
from semid.retrieval.exact_index import ExactIndex

FACTORY = "IVF4,Flat"


@pytest.fixture
def model(road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a model that counts as large."""
    shutil.copytree(road.folder / "runs/model", tmp_path / "model")
    monkeypatch.setattr(indexing, "EXACT_UNTIL", 10)
    return tmp_path / "model"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The factories of the indexes that were built."""
    factories: list[str] = []
    build = indexing.build_index

    def counted(vectors: np.ndarray, rows: np.ndarray, factory: str, device: str) -> object:
        factories.append(factory)
        return build(vectors, rows, factory, device)

    monkeypatch.setattr(indexing, "build_index", counted)
    return factories


def searched(recommender: GenerativeRecommender, factory: str = FACTORY) -> tuple[np.ndarray, AnnIndex]:
    index = item_index(recommender, factory)
    assert isinstance(index, AnnIndex)
    return index.search(recommender.item_vectors[:20], 5).items, index


def test_it_is_saved_once_and_then_read(model: Path, builds: list[str]) -> None:
    before = GenerativeRecommender.load(model).artifact
    first, _ = searched(GenerativeRecommender.load(model))
    assert (model / "index/index.faiss").is_file()
    again, index = searched(GenerativeRecommender.load(model))
    np.testing.assert_array_equal(first, again)
    assert builds == [FACTORY]
    assert index.factory == FACTORY
    after = GenerativeRecommender.load(model).artifact
    assert before is not None
    assert after is not None
    assert before.checksum == after.checksum  # the model stays the same


def test_small_catalogues_and_exact_search_leave_nothing_behind(road, model: Path) -> None:
    recommender = GenerativeRecommender.load(model)
    assert isinstance(item_index(recommender), ExactIndex)  # auto, by the true limit
    assert isinstance(item_index(recommender, "exact"), ExactIndex)
    indexing.EXACT_UNTIL = len(recommender.candidates)  # put back by the fixture
    searched(recommender)
    assert not (model / "index").exists()


def test_fewer_candidates_narrow_the_saved_one(model: Path, builds: list[str]) -> None:
    whole = GenerativeRecommender.load(model)
    searched(whole)
    saved = (model / "index/config.json").read_bytes()
    some = np.delete(whole.candidates, np.arange(0, len(whole.candidates), 8))
    items, index = searched(whole.among(some))
    np.testing.assert_array_equal(np.sort(index.rows), np.sort(some))
    assert np.isin(items, np.append(some, -1)).all()
    assert builds == [FACTORY]
    few = whole.candidates[:20]  # so many are gone that it is built anew, for this time
    _, index = searched(whole.among(few))
    np.testing.assert_array_equal(np.sort(index.rows), np.sort(few))
    assert builds == [FACTORY] * 2
    assert (model / "index/config.json").read_bytes() == saved


def test_more_candidates_than_it_has_build_it_anew(model: Path, builds: list[str]) -> None:
    whole = GenerativeRecommender.load(model)
    candidates = whole.candidates
    whole.candidates = candidates[5:]
    searched(whole)
    whole.candidates = candidates
    _, index = searched(whole)
    assert len(index) == len(candidates)
    assert builds == [FACTORY] * 2


def test_another_factory_and_another_model_build_it_anew(
    model: Path, builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    searched(GenerativeRecommender.load(model))
    _, index = searched(GenerativeRecommender.load(model), "HNSW4")
    assert index.factory == "HNSW4"
    searched(GenerativeRecommender.load(model), "HNSW4")
    assert builds == [FACTORY, "HNSW4"]
    assert not caplog.records
    other = GenerativeRecommender.load(model)
    assert other.artifact is not None
    object.__setattr__(other.artifact, "checksum", "0" * 64)
    searched(other, "HNSW4")
    assert builds == [FACTORY, "HNSW4", "HNSW4"]
    assert "made from another model" in caplog.text


@pytest.mark.parametrize("name", ["index.faiss", "index_rows.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_one_is_built_anew_with_a_warning(
    model: Path, builds: list[str], name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected, _ = searched(GenerativeRecommender.load(model))
    content = bytearray((model / "index" / name).read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2 - 20 : len(content) // 2 + 20] = b"\xff" * 40
    (model / "index" / name).write_bytes(content)
    items, _ = searched(GenerativeRecommender.load(model))
    np.testing.assert_array_equal(items, expected)
    assert "It is built anew." in caplog.text
    caplog.clear()
    searched(GenerativeRecommender.load(model))
    assert builds == [FACTORY] * 2  # the new one is saved in its place
    assert not caplog.records


@pytest.mark.parametrize("what", ["a file", "a folder of someone else's", "a broken description"])
def test_what_is_not_an_index_stays_in_its_place(model: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    if what == "a file":
        (model / "index").write_text("mine")
    else:
        (model / "index").mkdir()
        (model / "index" / ("notes" if "folder" in what else "config.json")).write_text("mine")
    items, _ = searched(GenerativeRecommender.load(model))
    assert (items[:, 0] >= 0).all()
    assert "The index was not saved" in caplog.text
    kept = [path for path in [model / "index", *(model / "index").glob("*")] if path.is_file()]
    assert [path.read_text() for path in kept] == ["mine"]


def test_where_it_cannot_be_saved_it_works_all_the_same(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*arguments: object, **settings: object) -> None:
        raise PermissionError(13, "Permission denied", str(model / "index"))

    monkeypatch.setattr(indexing, "create_artifact", refused)
    items, _ = searched(GenerativeRecommender.load(model))
    assert (items[:, 0] >= 0).all()
    assert "The index was not saved" in caplog.text


def test_a_model_that_was_trained_on_does_not_read_it(model: Path, builds: list[str]) -> None:
    recommender = GenerativeRecommender.load(model)
    searched(recommender)
    recommender.weights_changed()
    searched(recommender)
    assert builds == [FACTORY] * 2


def test_answers_come_from_the_index_that_was_asked_for(model: Path) -> None:
    recommender = GenerativeRecommender.load(model)
    rows, vectors = recommender.candidates, recommender.item_vectors
    answerer = Answerer(recommender, AnswerConfig(factory="IVF4,Flat"))
    index = answerer.index
    assert isinstance(index, AnnIndex)
    truth = exact_search(vectors[:10], vectors[rows], 5, item_rows=rows).items
    np.testing.assert_array_equal(index.search(vectors[:10], 5).items, truth)  # four lists are all looked into


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("nan", "use a Faiss factory string"),
        ("IVF-3,Flat", "use a Faiss factory string"),
        ("IVF4096,Flat", "choose a smaller index, or Flat"),
    ],
)
def test_bad_factory(inside: Path, semid, factory: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        item_index(GenerativeRecommender.load(inside / "runs/model"), factory)
    result = semid("generate", "--mode", "ann", "--index", factory, "--out", "next.jsonl")
    assert result.exit_code == 1
    assert words in " ".join(result.stderr.split())
    assert len(result.stderr.strip().split(": ")) < 6  # one sentence, no trace
