import logging
from dataclasses import replace

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.generative.config import FEATURES, ModelConfig
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import MODES, Answerer
from semid.pipeline.fitting import COOCCURRENCE, chosen_embeddings, fit_tokenizer
from semid.pipeline.training import content_features, train_recommender
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

SMALL = ModelConfig(width=16, heads=2, kv_heads=1, layers=1, dropout=0.0)
ONCE = TrainConfig(epochs=1, batch_tokens=1024, precision="float32")


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def tokenizer(road) -> SemanticIdTokenizer:
    return SemanticIdTokenizer.load(road.folder / "runs/tokenizer")


def ndcg(recommender: GenerativeRecommender, dataset: Dataset, mode: str) -> float:
    queries = dataset.queries["valid"]
    ranking = Answerer(recommender, AnswerConfig(k=10, beam=50)).answer(queries, mode).ranking
    return float(query_metrics(ranking, Targets.of(queries), 10).ndcg.mean())


def test_the_weights_are_fitted_on_validation(dataset, tokenizer):
    """Fitted weights make what came next more probable, and rank it higher, than the heads alone."""
    recommender = train_recommender(dataset, tokenizer, SMALL, ONCE, None)
    assert set(recommender.weights) == {"generative", "ann", "hybrid", "linear"}
    fitted = {mode: ndcg(recommender, dataset, mode) for mode in MODES}
    recommender.weights = {}
    for mode, value in fitted.items():
        assert value > 0.98 * ndcg(recommender, dataset, mode)
    assert fitted["hybrid"] > 1.02 * ndcg(recommender, dataset, "hybrid")


def test_a_saved_model_answers_as_the_trained_one(dataset, tokenizer, tmp_path):
    trained = train_recommender(dataset, tokenizer, SMALL, ONCE, tmp_path / "m", settings={"epochs": 1})
    loaded = GenerativeRecommender.load(tmp_path / "m")
    assert loaded.artifact.parents == {
        "dataset": dataset.artifact.checksum,
        "tokenizer": tokenizer.artifact_.checksum,
    }
    assert loaded.artifact.settings == {"epochs": 1}
    assert (loaded.weights, loaded.usual_action) == (trained.weights, "click")
    assert list(loaded.fusions.items()) == list(trained.fusions.items())
    np.testing.assert_array_equal(loaded.train_counts, dataset.train_counts)
    queries = dataset.queries["test"]
    for mode in ("generative", "ann", "hybrid"):
        one, other = (Answerer(model, AnswerConfig()).answer(queries, mode).ranking for model in (trained, loaded))
        np.testing.assert_array_equal(one.items, other.items)


def test_without_validation_queries_nothing_is_fitted_and_the_action_is_any(dataset, tokenizer):
    nobody = dataset.queries["valid"].select(np.empty(0, np.int64))
    blind = replace(dataset, queries={**dataset.queries, "valid": nobody})
    recommender = train_recommender(blind, tokenizer, SMALL, ONCE, None)
    assert (recommender.weights, recommender.fusions, recommender.usual_action) == ({}, {}, "any")


@pytest.mark.parametrize(("off", "mode"), [("contrastive_weight", "generative"), ("code_weight", "ann")])
def test_with_one_head_there_is_one_mode(dataset, tokenizer, off, mode):
    recommender = train_recommender(dataset, tokenizer, replace(SMALL, **{off: 0.0}), ONCE, None)
    assert set(recommender.weights) == {mode}


def test_features_the_data_lacks_are_left_out_and_named(dataset, tokenizer, caplog):
    plain = replace(
        dataset,
        user_fields=replace(dataset.user_fields, names=(), sizes=(), lists={}, values=np.empty((260, 0), np.int32)),
    )
    with caplog.at_level(logging.WARNING, logger="semid"):
        recommender = train_recommender(plain, tokenizer, SMALL, ONCE, None)
    assert "profile" not in recommender.model.config.features
    assert "they are off: profile" in caplog.text


def test_a_tokenizer_of_another_dataset(dataset, tokenizer):
    other = replace(dataset, artifact=replace(dataset.artifact, checksum="0" * 64))
    with pytest.raises(InputError, match="another dataset"):
        train_recommender(other, tokenizer, SMALL, ONCE, None)


def test_the_model_is_not_told_what_histories_say_of_items(dataset):
    """Two items with the same content and other company: their features are the same, their codes' vectors not."""
    content = dataset.embeddings["82"]
    vectors, valid = np.array(content.vectors), np.array(content.valid)
    vectors[1], valid[:2] = vectors[0], True
    twins = replace(dataset, embeddings={"82": replace(content, vectors=vectors, valid=valid)})
    config = TokenizerConfig(**chosen_embeddings(twins), codes=8, svd=16, options={"rounds": 0})
    tokenizer = fit_tokenizer(twins, config, None)
    assert tokenizer.config.behaviour == (COOCCURRENCE,)
    assert np.abs(tokenizer.vectors_[0] - tokenizer.vectors_[1]).max() > 0.1
    features, known = content_features(twins, tokenizer)
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(known, valid)
    recommender = train_recommender(twins, tokenizer, SMALL, ONCE, None)
    told = recommender.catalogue.content.numpy()[known]
    scale = np.sqrt(np.square(features[known]).mean())
    np.testing.assert_allclose(told, features[known] / scale, rtol=1e-5)


def test_without_behaviour_the_model_is_told_the_vectors(dataset):
    content_only = SemanticIdTokenizer(TokenizerConfig(embeddings=("81",), codes=8, svd=6)).fit(
        [dataset.embedding("81")]
    )
    np.testing.assert_array_equal(content_features(dataset, content_only)[0], content_only.vectors_)


def test_columns_that_tell_nothing_and_users_without_a_profile_do_no_harm(tmp_path, succeeded):
    """A constant column, one that is all missing, users without a row, events without an action."""
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [
        f"{user},{(user + 2 * place) % 9},{1_600_000_000 + 1000 * place},{('view', 'buy', '')[place % 3]}"
        for user in range(40)
        for place in range(6)
    ]
    (raw / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp,action", *lines]) + "\n")
    (raw / "items.csv").write_text("item_id,constant,missing\n" + "".join(f"{item},7,\n" for item in range(9)))
    (raw / "users.csv").write_text("user_id,constant,missing\n" + "".join(f"{user},1,\n" for user in range(1, 40, 2)))
    succeeded("data", "prepare", raw, tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    succeeded("fit", "--data", tmp_path / "data", "--codes", "3", "--out", tmp_path / "tokenizer")
    everything = ",".join(FEATURES)
    sizes = ("--preset", "tiny", "--width", "16", "--heads", "2", "--layers", "1", "--epochs", "2")
    places = ("--data", tmp_path / "data", "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "model")
    succeeded("train", *sizes, "--features", everything, "--set", "inputs.user_film=true", *places)
    recommender = GenerativeRecommender.load(tmp_path / "model")
    assert {"fields", "profile", "action", "popularity", "graph"} <= set(recommender.model.config.features)
    states = recommender.encode(data.split("test"))
    assert states.states.isfinite().all()
    assert np.isfinite(recommender.item_vectors).all()
