"""What the item tower is exported as, and what a tokenizer makes of it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from semid.artifacts import open_artifact
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline.embedding import export_items, item_tower_embedding
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.pipeline.training import content_features
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig


@pytest.fixture
def dataset(road, tmp_path) -> Dataset:
    """A copy that a test may add to."""
    return Dataset.open(shutil.copytree(road.folder / "data", tmp_path / "data"))


@pytest.fixture
def recommender(road) -> GenerativeRecommender:
    return GenerativeRecommender.load(road.folder / "runs/model")


def test_the_item_tower_becomes_an_embedding_and_the_dataset_stays_what_it_was(dataset, recommender):
    report = export_items(recommender, dataset, "collab", settings={"name": "collab"})
    again = Dataset.open(dataset.artifact.path)
    assert again.artifact.checksum == dataset.artifact.checksum
    assert list(again.embeddings) == list(dataset.embeddings)
    exported = again.embedding("collab")
    assert (exported.name, exported.dim) == ("collab", recommender.model.config.width)
    known = (dataset.train_counts > 0) | recommender.catalogue.known.numpy()
    np.testing.assert_array_equal(exported.valid, known)
    np.testing.assert_array_equal(exported.vectors[known], recommender.item_vectors[known])
    assert report.items == known.sum()
    assert report.cold == (known & (dataset.train_counts == 0)).sum() > 0
    with pytest.raises(InputError, match="it has: 81, 82, 85, collab"):
        again.embedding("other")


def test_cold_items_have_vectors_from_content_and_none_without(recommender):
    """An item that no event names has the vector that its content, codes and columns alone give."""
    catalogue = recommender.catalogue
    cold = np.flatnonzero(~catalogue.trained.numpy() & catalogue.known.numpy())
    before = item_tower_embedding(recommender).vectors[cold]
    recommender.catalogue = replace(catalogue, content=catalogue.content.flip(0))
    recommender.weights_changed()
    assert not np.allclose(item_tower_embedding(recommender).vectors[cold], before)
    recommender.catalogue = replace(catalogue, known=catalogue.known & catalogue.trained)
    recommender.weights_changed()
    bare = item_tower_embedding(recommender)
    assert not bare.valid[cold].any()
    assert not bare.vectors[cold].any()


def test_codes_of_content_and_collaborative_vectors(dataset, recommender, tmp_path):
    export_items(recommender, dataset, "collab")
    dataset = Dataset.open(dataset.artifact.path)
    chosen = chosen_embeddings(dataset, ("81", "collab"))
    assert chosen == {"embeddings": ("81", "collab"), "behaviour": ("collab",), "weights": (1.0, 0.25)}
    tokenizer = fit_tokenizer(dataset, TokenizerConfig(**chosen, codes=16, svd=16), tmp_path / "t")
    loaded = SemanticIdTokenizer.load(tmp_path / "t")
    content_alone = fit_tokenizer(dataset, TokenizerConfig(embeddings=("81",), codes=16, svd=16), None)
    assert (loaded.semantic_ids_.codes != content_alone.semantic_ids_.codes).any()
    told, known = content_features(dataset, loaded)
    np.testing.assert_array_equal(known, dataset.embeddings["81"].valid)
    assert told.shape == (dataset.num_items, tokenizer.vectors_.shape[1])


def test_weights_go_with_the_names_as_given(dataset):
    added = {"collab": Embedding("collab", np.ones((dataset.num_items, 2), np.float32), dataset.train_counts > 0)}
    dataset = replace(dataset, added=added)
    chosen = chosen_embeddings(dataset, ("collab", "85", "81"), None, (0.5, 2.0, 3.0))
    assert chosen == {"embeddings": ("85", "81", "collab"), "behaviour": ("collab",), "weights": (2.0, 3.0, 0.5)}
    both = chosen_embeddings(dataset, ("81", "collab"), ("82",), (2.0,))
    assert both == {"embeddings": ("81", "collab", "82"), "behaviour": ("collab", "82"), "weights": (2.0, 0.25, 0.25)}
    assert chosen_embeddings(dataset, ("collab",)) == {"embeddings": ("collab",), "weights": None}
    assert "collab" not in chosen_embeddings(dataset)["embeddings"]


def test_what_cannot_be_exported(road, dataset, recommender):
    for name, message in (
        ("81", "has an embedding '81' of its own: choose another --name"),
        ("cooccurrence", "has an embedding 'cooccurrence' of its own"),
        ("a/b", "'a/b' cannot name an embedding: use letters, digits"),
        ("..", "cannot name an embedding"),
    ):
        with pytest.raises(InputError, match=message):
            export_items(recommender, dataset, name)
    assert not (dataset.artifact.path / "added").exists()
    with pytest.raises(InputError, match="lives in memory only"):
        export_items(recommender, replace(dataset, artifact=None), "collab")
    other = open_artifact(road.folder / "runs/tokenizer", "tokenizer")
    recommender.artifact = replace(recommender.artifact, parents={"dataset": other.checksum})
    with pytest.raises(InputError, match="was made from another dataset"):
        export_items(recommender, dataset, "collab")
    recommender.model.config = replace(recommender.model.config, contrastive_weight=0.0)
    with pytest.raises(InputError, match="trained without item vectors"):
        item_tower_embedding(recommender)


def test_an_added_embedding_that_is_damaged_or_of_another_dataset_is_left_out(dataset, recommender, caplog):
    """And may be made again."""
    export_items(recommender, dataset, "collab")
    folder = dataset.artifact.path / "added/collab"
    whole = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(whole[:-1])
    assert Dataset.open(dataset.artifact.path).added == {}
    assert "vectors.npy is missing or truncated: make the embedding again. Until then" in caplog.text
    (folder / "vectors.npy").write_bytes(whole)
    config = (folder / "config.json").read_text().replace(dataset.artifact.checksum, "0" * 64)
    (folder / "config.json").write_text(config)
    assert Dataset.open(dataset.artifact.path).added == {}
    assert "was made from another dataset" in caplog.text
    export_items(recommender, Dataset.open(dataset.artifact.path), "collab")
    shutil.copytree(folder, folder.parent / ".collab.77.partial")
    assert set(Dataset.open(dataset.artifact.path).added) == {"collab"}


def test_the_command(road, tmp_path, succeeded, monkeypatch):
    shutil.copytree(road.folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    printed = succeeded("embed", "--model", road.folder / "runs/model")
    assert "collab, 16 wide" in printed
    assert "of them cold" in printed
    succeeded("fit", "--emb", "81,collab", "--codes", "16", "--out", "t")
    assert open_artifact(tmp_path / "t", "tokenizer").settings["behaviour"] == ["collab"]
