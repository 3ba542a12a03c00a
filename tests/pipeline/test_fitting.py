from dataclasses import replace

import numpy as np
import pytest

from semid.data.cooccurrence import COOCCURRENCE, cooccurrence_embedding
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.errors import InputError
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


def test_all_content_and_cooccurrence_by_default(dataset):
    assert chosen_embeddings(dataset) == {
        "embeddings": ("81", "82", "85", COOCCURRENCE),
        "behaviour": (COOCCURRENCE,),
        "weights": (1, 1, 1, 0.75),
    }
    assert chosen_embeddings(replace(dataset, embeddings={})) == {"embeddings": (COOCCURRENCE,), "weights": None}


def test_content_and_behaviour_as_named(dataset):
    assert chosen_embeddings(dataset, ("85",), ()) == {"embeddings": ("85",), "behaviour": (), "weights": None}
    assert chosen_embeddings(dataset, (), ("82",), (2, 1)) == {
        "embeddings": ("81", "85", "82"),
        "behaviour": ("82",),
        "weights": (2, 1, 0.75),
    }
    assert chosen_embeddings(dataset, ("81",), ("82",), (2, 1))["weights"] == (2, 1)


def test_no_cooccurrence_where_nothing_follows_anything(dataset):
    alone = replace(dataset, train_end=dataset.events.offsets[:-1] + 1)
    assert chosen_embeddings(alone)["behaviour"] == ()
    with pytest.raises(InputError, match="has no embeddings, and nothing comes from its histories"):
        chosen_embeddings(replace(alone, embeddings={}))


def test_cooccurrence_is_an_embedding_of_every_dataset(dataset):
    config = TokenizerConfig(embeddings=(COOCCURRENCE,), codes=8, svd=6, seed=5)
    tokenizer = fit_tokenizer(dataset, config, None)
    embedding = cooccurrence_embedding(dataset, seed=5)
    by_hand = SemanticIdTokenizer(config).fit([embedding], fields=dataset.item_fields)
    np.testing.assert_array_equal(tokenizer.semantic_ids_.codes, by_hand.semantic_ids_.codes)
    assert tokenizer.artifact_ is None


def test_saved_with_its_dataset_and_settings(dataset, tmp_path):
    config = TokenizerConfig(embeddings=("81",), codes=8, svd=6)
    tokenizer = fit_tokenizer(dataset, config, tmp_path / "t", settings={"emb": ("81",)})
    loaded = SemanticIdTokenizer.load(tmp_path / "t")
    assert loaded.artifact_.parents == {"dataset": dataset.artifact.checksum}
    assert loaded.artifact_.settings == {"emb": ["81"]}
    np.testing.assert_array_equal(loaded.semantic_ids_.codes, tokenizer.semantic_ids_.codes)


def test_unknown_embedding(dataset):
    with pytest.raises(InputError, match=r"Unknown embedding '99' in .*; it has: 81, 82, 85"):
        fit_tokenizer(dataset, TokenizerConfig(embeddings=("99",)), None)


def test_weights_chosen_by_behaviour(dataset, tmp_path):
    """One embedding is noise: it must weigh less than the one that tells what is taken together."""
    rng = np.random.default_rng(0)
    told = cooccurrence_embedding(dataset, seed=0)
    noise = Embedding("noise", rng.normal(size=(dataset.num_items, 16)).astype(np.float32), told.valid)
    mixed = replace(dataset, embeddings={"told": replace(told, name="told"), "noise": noise})
    config = TokenizerConfig(embeddings=("noise", "told"), codes=8, svd=16)
    tokenizer = fit_tokenizer(mixed, config, tmp_path / "t", auto_weights=True)
    weighting = SemanticIdTokenizer.load(tmp_path / "t").report_.weighting
    assert weighting.weights["told"] > 2 * weighting.weights["noise"]
    assert weighting.agreement > weighting.equal
    assert weighting.alone["told"] > weighting.alone["noise"]
    assert tokenizer.config.weights == tuple(weighting.weights.values())
    assert any(name == "weights" for name, _ in tokenizer.report_.summary_rows())


def test_one_embedding_has_no_weights_to_choose(dataset):
    with pytest.raises(InputError, match="no weights to choose"):
        fit_tokenizer(dataset, TokenizerConfig(embeddings=("81",), codes=8), None, auto_weights=True)
