"""A model trained on one day's catalogue, on that of a later day: the same, told in another order, or another one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.dataset import Dataset
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.errors import InputError
from semid.generative.config import FEATURES, InputConfig, ModelConfig
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig
from semid.pipeline import indexing
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import MODES, Answerer
from semid.pipeline.carrying import append_and_carry, carry_model
from semid.pipeline.comparing import Rivals, compare_modes
from semid.pipeline.conditions import conditions
from semid.pipeline.fitting import fit_tokenizer
from semid.pipeline.indexing import item_index
from semid.pipeline.lifecycle import append_items
from semid.pipeline.training import train_recommender
from semid.retrieval.ann import AnnIndex
from semid.retrieval.exact import exact_search
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

NUM_USERS, PLACES = 40, 9
MANY = [*range(60)] * 5
VECTORS = np.random.default_rng(0).standard_normal((90, 8)).astype(np.float32)
VECTORS[85] = VECTORS[7]  # an item that comes later is like a popular one
OLD = np.arange(70)  # nobody took the last ten, so that they can go without changing any history
MODEL = ModelConfig(
    width=16, heads=2, kv_heads=1, layers=1, dropout=0.0, features=FEATURES, inputs=InputConfig(near_codes=2)
)
ONCE = TrainConfig(epochs=1, batch_tokens=256, precision="float32")
ALL = AnswerConfig(k=70, beam=70, filter_seen=False)


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How the same shop is told.

    Attributes:
        items: in this order.
        users: in this order.
        theirs: what somebody else bought after all others; many of them change the order of actions.
        prefix: of the ids of items.
    """

    items: np.ndarray
    users: Sequence[int] = range(NUM_USERS)
    theirs: Sequence[int] = ()
    columns: tuple[str, ...] = ("shelf", "tags")
    actions: tuple[str, str] = ("look", "buy")
    prefix: str = "i"


def shop(folder: Path, telling: Telling) -> Dataset:
    raw, items = folder / "raw", telling.items.tolist()
    raw.mkdir(parents=True)
    shelves = {
        "item_id": [f"{telling.prefix}{item}" for item in items],
        "shelf": [f"s{item % 5}" for item in items],
        "tags": [[f"t{item % 3}", f"t{item % 7}"] for item in items],
    }
    names = ("item_id", *telling.columns)
    pq.write_table(pa.table({name: shelves[name] for name in names}), raw / "items.parquet")
    towns = [f"town{user % 4}" for user in telling.users]
    pq.write_table(
        pa.table({"user_id": [f"u{user}" for user in telling.users], "town": towns}), raw / "users.parquet"
    )
    events = [
        (
            f"u{user}",
            f"{telling.prefix}{(7 * user + 11 * place * place) % 60}",
            telling.actions[place % 4 == 3],
            10_000 * place + user,
        )
        for user in telling.users
        for place in range(PLACES)
    ]
    events += [("else", f"i{item}", telling.actions[1], 95_000 + at) for at, item in enumerate(telling.theirs)]
    columns = zip(*events, strict=True)
    names = ("user_id", "item_id", "action", "timestamp")
    pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), raw / "interactions.parquet")
    np.save(raw / "emb_a.npy", VECTORS[telling.items])
    prepare(raw, folder / "data", PrepareConfig())
    return Dataset.open(folder / "data")


@dataclass(frozen=True)
class Trained:
    dataset: Dataset
    tokenizer: Path
    model: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("first")
    dataset = shop(folder, Telling(items=OLD))
    config = TokenizerConfig(embeddings=("a",), codes=10, levels=2, svd=6, options={"rounds": 2, "iterations": 5})
    fit_tokenizer(dataset, config, folder / "tokenizer")
    fitted = SemanticIdTokenizer.load(folder / "tokenizer")
    recommender = train_recommender(dataset, fitted, MODEL, ONCE, folder / "model")
    assert set(recommender.model.config.features) == set(FEATURES)
    return Trained(dataset, folder / "tokenizer", folder / "model")


def carried(trained: Trained, later: Dataset) -> GenerativeRecommender:
    tokenizer = SemanticIdTokenizer.load(trained.tokenizer)
    append_items(tokenizer, later, None)
    return carry_model(GenerativeRecommender.load(trained.model), trained.dataset, later, tokenizer)


def scores(recommender: GenerativeRecommender, data: Dataset, mode: str, users: range) -> np.ndarray:
    """By raw ids: the score of item (column) for the last query of user (row). (U, 90), nan where not listed"""
    queries = data.queries["test"]
    raw = [data.user_ids[user] for user in queries.users]
    asked = queries.select(np.array([raw.index(f"u{user}") for user in users]))
    config = replace(ALL, k=len(recommender.candidates), beam=len(recommender.candidates))
    ranking = Answerer(recommender, config, data.item_fields).answer(asked, mode).ranking
    table = np.full((len(users), len(VECTORS)), np.nan, np.float32)
    item = np.array([int(name[1:]) for name in data.item_ids])
    for row, (items, values) in enumerate(zip(ranking.items, ranking.scores, strict=True)):
        table[row, item[items[items >= 0]]] = values[items >= 0]
    return table


def reference(trained: Trained, mode: str) -> np.ndarray:
    return scores(GenerativeRecommender.load(trained.model), trained.dataset, mode, range(NUM_USERS))


@pytest.mark.parametrize("mode", MODES)
def test_on_its_own_dataset_nothing_changes(trained: Trained, mode: str) -> None:
    same = carried(trained, trained.dataset)
    np.testing.assert_array_equal(scores(same, trained.dataset, mode, range(NUM_USERS)), reference(trained, mode))


@pytest.mark.parametrize("mode", MODES)
def test_told_in_another_order_it_recommends_the_same(trained: Trained, tmp_path: Path, mode: str) -> None:
    """Items, users, values of columns and actions have other numbers then."""
    rng = np.random.default_rng(1)
    telling = Telling(items=rng.permutation(OLD), users=rng.permutation(NUM_USERS).tolist(), theirs=MANY)
    later = shop(tmp_path, telling)
    assert later.action_names == trained.dataset.action_names[::-1]
    assert later.item_fields.values[later.item_ids.tolist().index("i0")] != trained.dataset.item_fields.values[0]
    told = scores(carried(trained, later), later, mode, range(NUM_USERS))
    np.testing.assert_allclose(told, reference(trained, mode), rtol=2e-4, atol=2e-4)


def test_carried_twice_it_is_what_it_was(trained: Trained, tmp_path: Path) -> None:
    """There and back again, through files: ids are found in the tables of the first training."""
    later = shop(tmp_path / "later", Telling(items=np.random.default_rng(2).permutation(OLD), theirs=MANY))
    fitted = SemanticIdTokenizer.load(trained.tokenizer)
    model = GenerativeRecommender.load(trained.model)
    places = (tmp_path / "t", tmp_path / "m")
    _, over = append_and_carry(fitted, model, trained.dataset, later, *places, settings={"by": "hand"})
    loaded = GenerativeRecommender.load(places[1])
    assert loaded.artifact is not None
    loaded.artifact.require_parent("dataset", later.artifact_or_raise)
    assert loaded.artifact.settings == {"by": "hand"}
    np.testing.assert_array_equal(
        scores(loaded, later, "hybrid", range(NUM_USERS)), scores(over, later, "hybrid", range(NUM_USERS))
    )
    again = SemanticIdTokenizer.load(places[0])
    append_items(again, trained.dataset, None)
    back = carry_model(loaded, later, trained.dataset, again)
    np.testing.assert_allclose(
        scores(back, trained.dataset, "hybrid", range(NUM_USERS)), reference(trained, "hybrid"), rtol=2e-4, atol=2e-4
    )


def later_shop(folder: Path) -> Dataset:
    """Five items that nobody took are gone, twenty are new; all else is as it was."""
    return shop(folder, Telling(items=np.random.default_rng(3).permutation(np.r_[np.arange(65), np.arange(70, 90)])))


@pytest.mark.parametrize("mode", MODES)
def test_new_items_are_found_and_those_that_went_are_not(trained: Trained, tmp_path: Path, mode: str) -> None:
    later = later_shop(tmp_path)
    listed = ~np.isnan(scores(carried(trained, later), later, mode, range(NUM_USERS)))
    assert not listed[:, 65:70].any()
    assert listed[:, :65].all()
    assert listed[:, 70:].all()


def test_what_came_after_training_is_cold(trained: Trained, tmp_path: Path) -> None:
    """Even if it was taken by now: the model has not seen that."""
    later = shop(tmp_path, Telling(items=np.arange(90), theirs=[85] * 9))
    answerer = Answerer(carried(trained, later), AnswerConfig(), later.item_fields)
    assert (later.train_counts == 0).sum() == 29
    assert compare_modes(answerer, later, "test", rivals=Rivals(baselines=()), timed=False).targets.cold == 1
    told = conditions(answerer, later, "test")
    assert told["candidates_without_training_events"] == 30


def test_what_is_known_of_old_items_stays(trained: Trained, tmp_path: Path) -> None:
    later = later_shop(tmp_path)
    recommender = carried(trained, later)
    before = GenerativeRecommender.load(trained.model)
    rows = {int(raw[1:]): row for row, raw in enumerate(later.item_ids.tolist())}
    stays = np.arange(65)
    now = np.array([rows[item] for item in stays])
    np.testing.assert_allclose(recommender.item_vectors[now], before.item_vectors[stays], atol=1e-5)
    np.testing.assert_array_equal(recommender.train_counts[now], before.train_counts[stays])
    assert not recommender.train_counts[[rows[item] for item in range(70, 90)]].any()
    codes, old_codes = recommender.catalogue.codes[now], before.catalogue.codes[stays]
    np.testing.assert_array_equal(codes, old_codes)
    asked, asked_before = later.queries["test"], trained.dataset.queries["test"]
    states, states_before = recommender.encode(asked), before.encode(asked_before)
    np.testing.assert_allclose(states.states.numpy(), states_before.states.numpy(), atol=1e-4)


def test_a_new_item_is_like_the_one_that_looks_like_it(trained: Trained, tmp_path: Path) -> None:
    """Items 7 and 85 have one vector; the content of the new one is told at the scale of training."""
    later = later_shop(tmp_path)
    catalogue = carried(trained, later).catalogue
    ids = later.item_ids.tolist()
    np.testing.assert_allclose(catalogue.content[ids.index("i85")], catalogue.content[ids.index("i7")], rtol=1e-5)
    assert bool(catalogue.known[ids.index("i85")])
    assert not bool(catalogue.trained[ids.index("i85")])
    assert bool(catalogue.trained[ids.index("i7")])
    np.testing.assert_array_equal(catalogue.codes[ids.index("i85")][0], catalogue.codes[ids.index("i7")][0])


def test_the_index_beside_the_model_goes_along(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It finds what exact search finds, and was not built anew; not so where vectors look at other items."""
    monkeypatch.setattr(indexing, "EXACT_UNTIL", 10)
    tokenizer = SemanticIdTokenizer.load(trained.tokenizer)
    later = shop(tmp_path, Telling(items=np.r_[np.arange(72, 80), np.arange(65)]))
    plain = replace(MODEL, features=("id", "codes", "content", "fields"))
    train_recommender(trained.dataset, tokenizer, plain, ONCE, tmp_path / "plain")
    for place, anew in ((tmp_path / "plain", False), (trained.model, True)):
        recommender = GenerativeRecommender.load(place)
        assert isinstance(item_index(recommender, "IVF2,Flat"), AnnIndex)
        fitted = SemanticIdTokenizer.load(trained.tokenizer)
        append_and_carry(fitted, recommender, trained.dataset, later, tmp_path / "t", tmp_path / "m")
        carried = GenerativeRecommender.load(tmp_path / "m")
        caplog.clear()
        with caplog.at_level("INFO", logger="semid.pipeline.indexing"):
            index = item_index(carried, "IVF2,Flat")
        assert ("Building the index" in caplog.text) == anew
        np.testing.assert_array_equal(np.sort(index.rows), np.arange(73))
        found = index.search(carried.item_vectors, 73)
        exact = exact_search(carried.item_vectors, carried.item_vectors, 73)
        np.testing.assert_allclose(found.scores, exact.scores, atol=1e-5)
        scored = np.einsum("qkd,qd->qk", carried.item_vectors[found.items], carried.item_vectors)
        np.testing.assert_allclose(scored, found.scores, atol=1e-5)


def fails(trained: Trained, later: Dataset, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        carried(trained, later)


def test_other_columns_are_refused(trained: Trained, tmp_path: Path) -> None:
    fails(trained, shop(tmp_path, Telling(items=OLD, columns=("shelf",))), "has the item column of lists 'tags'")


def test_other_actions_are_refused(trained: Trained, tmp_path: Path) -> None:
    later = shop(tmp_path, Telling(items=OLD, actions=("look", "lend")))
    fails(trained, later, "has the action 'lend', but the model knows look, buy")


def test_parts_that_do_not_belong_together_are_refused(trained: Trained, tmp_path: Path) -> None:
    later = later_shop(tmp_path)
    model = GenerativeRecommender.load(trained.model)
    tokenizer = SemanticIdTokenizer.load(trained.tokenizer)
    with pytest.raises(InputError, match="another dataset"):
        carry_model(model, later, later, tokenizer)
    with pytest.raises(InputError, match="another dataset"):
        carry_model(model, trained.dataset, later, tokenizer)
    tokenizer.artifact_ = None
    with pytest.raises(InputError, match=r"has codes for 70 items but .* has 85: append its items"):
        carry_model(model, trained.dataset, later, tokenizer)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"codes": 12}, "12, 12.* codes a level and the model .*10, 10"),
        ({"seed": 5}, "items of .* have other codes than the model learned"),
    ],
)
def test_a_tokenizer_fitted_again_is_refused(trained: Trained, settings: dict[str, int], sentence: str) -> None:
    tokenizer = SemanticIdTokenizer.load(trained.tokenizer)
    other = SemanticIdTokenizer(replace(tokenizer.config, **settings))
    other.fit([trained.dataset.embedding("a")], fields=trained.dataset.item_fields)
    with pytest.raises(InputError, match=sentence):
        carry_model(GenerativeRecommender.load(trained.model), trained.dataset, trained.dataset, other)


def test_other_vectors_are_refused(trained: Trained) -> None:
    tokenizer = SemanticIdTokenizer.load(trained.tokenizer)
    tokenizer.vectors_ = np.asarray(tokenizer.vectors_)[:, ::-1].copy()
    with pytest.raises(InputError, match=r"vectors that the tokenizer has .* are not those that the model"):
        carry_model(GenerativeRecommender.load(trained.model), trained.dataset, trained.dataset, tokenizer)


def test_another_catalogue_is_refused_and_nothing_is_written(trained: Trained, tmp_path: Path) -> None:
    other = shop(tmp_path, Telling(items=OLD, prefix="other"))
    tokenizer, model = SemanticIdTokenizer.load(trained.tokenizer), GenerativeRecommender.load(trained.model)
    with pytest.raises(InputError, match=r"[Nn]o item"):
        append_and_carry(tokenizer, model, trained.dataset, other, tmp_path / "t", tmp_path / "m")
    with pytest.raises(InputError, match="cannot hold both"):
        append_and_carry(tokenizer, model, trained.dataset, other, tmp_path / "t", tmp_path / "t")
    strange = shop(tmp_path / "strange", Telling(items=OLD, actions=("look", "lend")))
    tokenizer = SemanticIdTokenizer.load(trained.tokenizer)
    with pytest.raises(InputError, match="'lend'"):
        append_and_carry(tokenizer, model, trained.dataset, strange, tmp_path / "t", tmp_path / "m")
    assert not (tmp_path / "t").exists()
    assert not (tmp_path / "m").exists()
