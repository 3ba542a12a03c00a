"""Training learns what can be learned, stops when it should, and goes on as if it had never been stopped."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semid.artifacts import open_artifact
from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.generative import train
from semid.generative.catalogue import Catalogue
from semid.generative.config import ActionConfig, InputConfig, ModelConfig, TrunkConfig
from semid.generative.model import Model
from semid.generative.moe import MoEConfig
from semid.generative.objective import Objective
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig, Trainer
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer

NUM_ITEMS = 12
SMALL = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16, "context": 8}
MOE = MoEConfig(num_experts=4, experts_per_token=2, hidden=8, shared_hidden=8)
EVERY_KIND = (("uniform", 8), ("popular", 4), ("recent", 4), ("hard", 4))
SHORT = TrainConfig(epochs=3, batch_tokens=64, precision="float32")


@pytest.fixture(scope="module")
def cycle(build: Any) -> Dataset:
    """Item i is always followed by item i + 1."""
    generator = np.random.default_rng(0)
    starts, lengths = generator.integers(0, NUM_ITEMS, 60), generator.integers(3, 13, 60)
    histories = [((start + np.arange(n)) % NUM_ITEMS).tolist() for start, n in zip(starts, lengths, strict=True)]
    dataset: Dataset = build.dataset(build.log(histories), NUM_ITEMS, holdout=1)
    return dataset


@pytest.fixture(scope="module")
def cycle_catalogue(build: Any, cycle: Dataset) -> Catalogue:
    made: Catalogue = build.catalogue(cycle, (3, 3, 3))
    return made


def fresh_model(catalogue: Catalogue, seed: int = 0, **changes: Any) -> Model:
    torch.manual_seed(seed)
    return Model(ModelConfig(**{**SMALL, **changes}).restricted_to(catalogue.available()), catalogue)


def constant(model: Model) -> dict[str, float]:
    return {"objective": 0.5}


def accuracy(dataset: Dataset, catalogue: Catalogue) -> Callable[[Model], dict[str, float]]:
    """Share of queries whose target each head ranks first."""
    queries = dataset.split("test")

    def measure(model: Model) -> dict[str, float]:
        recommender = GenerativeRecommender(model, catalogue, dataset.candidates, dataset.action_names)
        states = recommender.encode(queries)
        generated = recommender.generate(states, beam=4, k=1).items[:, 0]
        retrieved = (recommender.query_vectors(states) @ recommender.item_vectors.T).argmax(axis=1)
        codes, dense = (float((found == queries.target_items).mean()) for found in (generated, retrieved))
        return {"objective": codes + dense, "codes": codes, "dense": dense}

    return measure


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"moe": MOE},
        {"full_softmax_items": 0, "negatives": EVERY_KIND},
        {"layout": "code"},
        {"trunk": TrunkConfig(block="hstu", norm="none", positions="learned")},
        {"contrastive": "pairs", "pair_negatives": 4},
        {"contrastive": "binary", "pair_negatives": 12, "similarity": "dot"},
        {"inputs": InputConfig(join="gated", part_width=12)},
    ],
    ids=[
        "full softmax",
        "mixture of experts",
        "sampled negatives",
        "layout code",
        "hstu",
        "own negatives",
        "binary",
        "gated",
    ],
)
def test_both_heads_learn_a_cycle(cycle: Dataset, cycle_catalogue: Catalogue, changes: dict[str, Any]) -> None:
    config = TrainConfig(epochs=16, batch_tokens=128, learning_rate=0.01, precision="float32")
    measure = accuracy(cycle, cycle_catalogue)
    model = fresh_model(cycle_catalogue, dropout=0.1, features=("id", "codes"), **changes)
    history = Trainer(model, cycle, cycle_catalogue, config, measure).run()
    assert measure(model)["codes"] > 0.95
    # Own negatives are never of the history, so that a pairwise loss does not learn to rank it low.
    assert measure(model)["dense"] > (0.7 if changes.get("contrastive") == "binary" else 0.95)
    assert history[-1]["loss_total"] < 0.5 * history[0]["loss_total"]
    assert not model.training


def test_more_negatives_than_items_are_drawn_again_and_again(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    """A bank of 500 from 12 items holds each of them many times, and is still learned from."""
    config = TrainConfig(epochs=16, batch_tokens=128, learning_rate=0.01, precision="float32")
    many = {"full_softmax_items": 0, "negatives": (("uniform", 400), ("hard", 100))}
    model = fresh_model(cycle_catalogue, dropout=0.1, features=("id", "codes"), **many)
    measure = accuracy(cycle, cycle_catalogue)
    Trainer(model, cycle, cycle_catalogue, config, measure).run()
    assert measure(model)["dense"] > 0.95


def test_users_with_one_event_and_times_that_are_all_alike(build: Any) -> None:
    """The one teaches nothing, the other says nothing: neither may turn up in the losses."""
    histories = [[0, 1, 2], [3], [4, 5, 6, 7], [8]]
    times = [[77] * len(history) for history in histories]
    dataset = build.dataset(build.log(histories, times), NUM_ITEMS)
    catalogue = build.catalogue(dataset, (3, 3, 3))
    model = fresh_model(catalogue, negatives=EVERY_KIND, full_softmax_items=0)
    assert "time" in model.config.features
    trainer = Trainer(model, dataset, catalogue, SHORT, lambda _: {})
    history = trainer.run()
    assert sorted(trainer.builder.segments.users) == [0, 2]
    assert all(np.isfinite(record["loss_total"]) for record in history)


def test_inputs_that_training_had_may_be_missing_later(build: Any, rich: Dataset, catalogue: Catalogue) -> None:
    """A model that knows actions, times and users answers a bare list of items, as for somebody unknown."""
    model = fresh_model(catalogue)
    Trainer(model, rich, catalogue, SHORT, lambda _: {}).run()
    recommender = GenerativeRecommender(model, catalogue, rich.candidates, rich.action_names)
    bare = Answerer(recommender, AnswerConfig(k=4, beam=8)).recommend([[1, 2, 3], [4]])
    assert (bare.items >= 0).all()
    assert np.isfinite(bare.scores).all()


def test_experts_are_balanced_while_training(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    model = fresh_model(cycle_catalogue, moe=MOE)
    Trainer(model, cycle, cycle_catalogue, SHORT, constant).run()
    for layer in model.experts():
        assert (layer.bias != 0).any()
        assert (layer.load == 0).all()


def test_all_inputs_and_bfloat16_train(rich: Dataset, catalogue: Catalogue) -> None:
    model = fresh_model(catalogue)
    history = Trainer(model, rich, catalogue, replace(SHORT, precision="bfloat16", epochs=6), constant).run()
    assert history[-1]["loss_total"] < history[0]["loss_total"]
    assert {"loss_contrastive", "loss_codes", "loss_action"} <= history[0].keys()


class InterruptAt:
    """A progress callback that is Ctrl-C after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self, what: str, done: int, total: int | None) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def lasting(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what depends on the clock."""
    clock = ("seconds", "tokens_per_second")
    return [{key: value for key, value in record.items() if key not in clock} for record in history]


def equal_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("changes", [{}, {"moe": MOE, "full_softmax_items": 0, "negatives": EVERY_KIND}])
@pytest.mark.parametrize("after", [3, 8, 11])
def test_an_interrupted_training_resumes_to_the_same_result(
    cycle: Dataset,
    cycle_catalogue: Catalogue,
    tmp_path: Path,
    changes: dict[str, Any],
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within an epoch, with dropout, negatives, item vectors of some steps ago and the state of the optimiser."""
    monkeypatch.setattr(train, "TREE_STEPS", 2)
    config = replace(SHORT, checkpoint_minutes=0.0)
    measure = accuracy(cycle, cycle_catalogue)
    whole = Trainer(fresh_model(cycle_catalogue, **changes), cycle, cycle_catalogue, config, measure)
    expected = whole.run()
    per_epoch = whole.state.step // 3
    assert per_epoch > 3
    assert after % per_epoch not in (0, 1)

    place = tmp_path / "checkpoint"
    cut = Trainer(
        fresh_model(cycle_catalogue, **changes), cycle, cycle_catalogue, config, measure,
        checkpoint=place, progress=InterruptAt(after),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    torch.rand(17)
    resumed = Trainer(
        fresh_model(cycle_catalogue, seed=99, **changes), cycle, cycle_catalogue, config, measure, checkpoint=place
    )
    history = resumed.run(resume=True)
    assert resumed.state.step == whole.state.step
    assert lasting(history) == lasting(expected)
    assert equal_weights(resumed.model.state_dict(), whole.model.state_dict())
    assert list(tmp_path.iterdir()) == [place]
    resumed.discard_checkpoint()
    assert not place.exists()


def test_resuming_a_finished_training_gives_its_result(
    cycle: Dataset, cycle_catalogue: Catalogue, tmp_path: Path
) -> None:
    def trainer(seed: int) -> Trainer:
        model = fresh_model(cycle_catalogue, seed)
        return Trainer(model, cycle, cycle_catalogue, SHORT, constant, checkpoint=tmp_path / "run")

    first, again = trainer(0), trainer(5)
    assert first.run() == again.run(resume=True)
    assert equal_weights(again.model.state_dict(), first.model.state_dict())


def test_the_seed_decides(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    def weights(seed: int, noise: int) -> dict[str, Tensor]:
        model = fresh_model(cycle_catalogue)
        torch.manual_seed(noise)
        Trainer(model, cycle, cycle_catalogue, replace(SHORT, epochs=1, seed=seed), constant).run()
        return model.state_dict()

    assert equal_weights(weights(0, noise=1), weights(0, noise=2))
    assert not equal_weights(weights(0, noise=1), weights(1, noise=1))


def test_resuming_with_other_settings_names_them(cycle: Dataset, cycle_catalogue: Catalogue, tmp_path: Path) -> None:
    def trainer(config: TrainConfig, features: tuple[str, ...]) -> Trainer:
        identity = {"model": {"width": 16, "features": features}, "data": "abc", "nothing": None}
        model = fresh_model(cycle_catalogue)
        return Trainer(
            model, cycle, cycle_catalogue, config, constant, checkpoint=tmp_path / "run", identity=identity
        )

    config = replace(SHORT, epochs=1)
    trainer(config, ("id",)).run()
    with pytest.raises(InputError) as caught:
        trainer(replace(config, learning_rate=0.5), ("codes",)).run(resume=True)
    assert str(caught.value) == (
        f"{tmp_path / 'run'} was started with other settings (model.features ['id'] → ['codes'], "
        "train.learning_rate 0.002 → 0.5): use those, or start without --resume."
    )


def test_resuming_from_nothing_or_from_ruins(cycle: Dataset, cycle_catalogue: Catalogue, tmp_path: Path) -> None:
    def trainer(checkpoint: Path | None) -> Trainer:
        return Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, SHORT, constant, checkpoint=checkpoint)

    with pytest.raises(InputError, match="no checkpoint directory"):
        trainer(None).run(resume=True)
    with pytest.raises(InputError, match=r"No checkpoint at .*: start without --resume"):
        trainer(tmp_path / "nowhere").run(resume=True)
    trainer(tmp_path / "run").run()
    file = tmp_path / "run" / "checkpoint.safetensors"
    contents = bytearray(file.read_bytes())
    contents[-5] ^= 255
    file.write_bytes(contents)
    with pytest.raises(InputError, match=r"checkpoint\.safetensors does not match its checksum"):
        trainer(tmp_path / "run").run(resume=True)


def spoil(objective: Objective, call: int, damage: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """Damage the losses from the given call on; returns the way back."""
    healthy, calls, weight = objective.losses, 0, objective.model.log_scale

    def losses(*arguments: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        result = healthy(*arguments)
        return result if calls < call else {name: damage(loss, weight) for name, loss in result.items()}

    objective.losses = losses  # type: ignore[method-assign]
    return lambda: setattr(objective, "losses", healthy)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda loss, weight: loss * torch.nan, r"loss is nan at epoch 2, batch 3, step \d+\. Start again"),
        (lambda loss, weight: loss + torch.inf, "The loss is inf at epoch 2, batch 3"),
        (lambda loss, weight: loss + (0 * weight).sqrt(), "The norm of the gradient is nan at epoch 2, batch 3"),
    ],
    ids=["nan", "infinite", "gradient"],
)
def test_numbers_that_are_not_finite_stop_the_training_and_keep_the_last_checkpoint(
    cycle: Dataset, cycle_catalogue: Catalogue, tmp_path: Path, damage: Callable[..., Tensor], message: str
) -> None:
    config, place = replace(SHORT, checkpoint_minutes=0.0), tmp_path / "run"

    def trainer() -> Trainer:
        return Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, config, constant, checkpoint=place)

    sound = trainer()
    expected = sound.run()
    per_epoch = sound.state.step // 3
    sound.discard_checkpoint()

    sick = trainer()
    heal = spoil(sick.objective, per_epoch + 3, damage)
    with pytest.raises(InputError, match=message):
        sick.run()
    artifact = open_artifact(place, "checkpoint")
    assert artifact.details["progress"]["step"] == per_epoch + 2
    arrays = artifact.load_arrays("checkpoint.safetensors")
    assert all(np.isfinite(value).all() for value in arrays.values())
    heal()
    healed = trainer()
    assert lasting(healed.run(resume=True)) == lasting(expected)


def test_weights_broken_by_the_last_step_are_neither_judged_nor_kept(
    cycle: Dataset, cycle_catalogue: Catalogue, tmp_path: Path
) -> None:
    """The losses before a step are sound; what it leaves is not."""
    place = tmp_path / "run"
    trainer = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, SHORT, constant, checkpoint=place)
    step, per_epoch = trainer._step, trainer.steps_per_epoch

    def breaking(batch: Any) -> dict[str, Tensor]:
        sums = step(batch)
        if trainer.state.step + 1 == 2 * per_epoch:
            with torch.no_grad():
                trainer.model.log_scale.fill_(torch.nan)
        return sums

    trainer._step = breaking  # type: ignore[method-assign]
    trainer.validate = lambda model: pytest.fail("judged") if not model.log_scale.isfinite() else {}
    with pytest.raises(InputError, match=f"Weights are no longer finite after epoch 2, batch {per_epoch}, step"):
        trainer.run()
    artifact = open_artifact(place, "checkpoint")
    assert artifact.details["progress"]["epoch"] == 1
    arrays = artifact.load_arrays("checkpoint.safetensors")
    assert all(np.isfinite(value).all() for value in arrays.values())


def test_validation_that_breaks_down_names_its_step(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    def breaking(_: Model) -> dict[str, float]:
        raise InputError("The decoder gave NaN.")

    trainer = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, SHORT, breaking)
    with pytest.raises(InputError, match=r"After epoch 1, batch \d+, step \d+: The decoder gave NaN\. Start again"):
        trainer.run()


def test_the_host_need_not_wait_for_every_step(cycle: Dataset, cycle_catalogue: Catalogue, tmp_path: Path) -> None:
    """As on a GPU: losses are read some steps later, add up to the same, and a broken one still names its batch."""
    every = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, SHORT, constant)
    expected = every.run()
    late = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, SHORT, constant)
    late.settle_steps = 3
    assert lasting(late.run()) == lasting(expected)
    assert equal_weights(late.model.state_dict(), every.model.state_dict())

    config = replace(SHORT, checkpoint_minutes=0.0)
    sick = Trainer(
        fresh_model(cycle_catalogue), cycle, cycle_catalogue, config, constant, checkpoint=tmp_path / "run"
    )
    sick.settle_steps = 1000
    per_epoch = every.state.step // 3
    spoil(sick.objective, per_epoch + 2, lambda loss, weight: loss * torch.nan)
    with pytest.raises(InputError, match=f"The loss is nan at epoch 2, batch 2, step {per_epoch + 2}\\."):
        sick.run()
    artifact = open_artifact(tmp_path / "run", "checkpoint")
    assert artifact.details["progress"]["step"] == per_epoch + 1


@pytest.mark.parametrize("parts", [2, 3, 100])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    cycle: Dataset, cycle_catalogue: Catalogue, parts: int
) -> None:
    def trained(accumulate: int) -> Trainer:
        model = fresh_model(cycle_catalogue, dropout=0.0, id_dropout=0.0, action=ActionConfig(dropout=0.0))
        config = replace(SHORT, epochs=1, accumulate=accumulate)
        trainer = Trainer(model, cycle, cycle_catalogue, config, constant)
        sums = trainer._step(next(trainer._batches()))
        trainer.unsettled.append(sums)
        return trainer

    whole, split = trained(1), trained(parts)
    for name, value in whole.unsettled[0].items():
        torch.testing.assert_close(split.unsettled[0][name], value, rtol=1e-4, atol=1e-6)
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_a_mistake_while_making_batches_is_not_lost(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    trainer = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, SHORT, constant)
    trainer.builder.build = lambda rows, row_tokens: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        trainer.run()


def test_training_stops_when_patience_ends_and_returns_the_best(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    objectives = iter([-3.0, -1.0, -2.0, float("nan"), -1.5, 9.0])
    seen: list[dict[str, Tensor]] = []

    def validate(model: Model) -> dict[str, float]:
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"objective": next(objectives)}

    config = replace(SHORT, epochs=50, patience=3)
    trainer = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, config, validate)
    history = trainer.run()
    assert [record["best_epoch"] for record in history] == [1, 2, 2, 2, 2]
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5]
    assert equal_weights(trainer.model.state_dict(), seen[1])
    assert not equal_weights(trainer.model.state_dict(), seen[4])


def test_without_validation_the_last_epoch_counts(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    model = fresh_model(cycle_catalogue)
    trainer = Trainer(model, cycle, cycle_catalogue, replace(SHORT, patience=1), lambda model: {})
    history = trainer.run()
    assert [record["best_epoch"] for record in history] == [1, 2, 3]
    again = fresh_model(cycle_catalogue)
    Trainer(again, cycle, cycle_catalogue, SHORT, constant).run()  # the first epoch is never beaten
    assert not equal_weights(model.state_dict(), again.state_dict())


def test_epochs_are_chosen_by_the_steps(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    def chosen(batch_tokens: int) -> tuple[int, int]:
        config = replace(SHORT, epochs=0, batch_tokens=batch_tokens)
        trainer = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, config, constant)
        return trainer.steps_per_epoch, trainer.epochs

    assert chosen(10_000) == (1, 40)
    steps, epochs = chosen(128)
    assert 2 < steps < 10
    assert epochs == -(-80 // steps)
    steps, epochs = chosen(13)
    assert steps > 20
    assert epochs == 8


def test_training_stops_when_its_time_is_up(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    trainer = Trainer(
        fresh_model(cycle_catalogue), cycle, cycle_catalogue, replace(SHORT, max_minutes=1e-9), constant
    )
    history = trainer.run()
    assert (len(history), trainer.state.step) == (1, 1)
    assert history[0]["best_epoch"] == 1


class Clock:
    """Every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_the_learning_rate_falls_within_the_time(
    cycle: Dataset, cycle_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "time", Clock())
    rates: list[float] = []
    trainer = Trainer(
        fresh_model(cycle_catalogue),
        cycle,
        cycle_catalogue,
        replace(SHORT, epochs=1000, max_minutes=1.0, patience=1000),
        constant,
        progress=lambda *call: rates.append(trainer.rate / SHORT.learning_rate),
    )
    trainer.run()
    assert 15 < trainer.state.step < 60
    assert max(rates) > 0.9
    assert rates[-1] < 0.05
    assert rates[len(rates) // 2] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("tokens", "expected"), [(50, 1024), (80_000, 2000), (10_000_000, 8192)])
def test_batches_are_sized_by_the_data(build: Any, tokens: int, expected: int) -> None:
    """A fortieth of the tokens, within bounds."""
    histories = np.zeros((tokens // 50, 51), np.int64)
    log = build.log(histories[:1])
    many = replace(
        log, items=histories.ravel(), actions=np.zeros(histories.size, np.int8),
        times=np.zeros(histories.size, np.int64), offsets=np.arange(len(histories) + 1) * 51,
    )  # fmt: skip
    dataset = build.dataset(many, 3)
    catalogue = build.catalogue(dataset)
    trainer = Trainer(
        fresh_model(catalogue, context=50), dataset, catalogue, replace(SHORT, batch_tokens=0), constant
    )
    assert trainer.row_tokens == 64
    assert trainer.rows_per_batch == expected // 64


def test_progress_and_log_tell_where_it_stands(build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """40 tokens of 64 are used in each row, so the number of batches cannot be had from the tokens alone."""
    dataset = build.dataset(build.log([(np.arange(41) % NUM_ITEMS).tolist()] * 10), NUM_ITEMS)
    catalogue = build.catalogue(dataset, (3, 3, 3))
    calls: list[tuple[str, int, int | None]] = []
    model = fresh_model(catalogue, context=40)
    config = replace(SHORT, epochs=2, batch_tokens=128, learning_rate=0.25, warmup_share=0.5)
    with caplog.at_level(logging.INFO, logger="semid.generative.train"):
        history = Trainer(
            model, dataset, catalogue, config, constant, progress=lambda *call: calls.append(call)
        ).run()
    assert calls == [(f"epoch {epoch}", batch, 5) for epoch in (1, 2) for batch in range(1, 6)]
    assert [json.loads(record.message) for record in caplog.records] == history
    assert [record["step"] for record in history] == [5, 10]
    assert [record["tokens"] for record in history] == [400, 800]
    assert history[0]["learning_rate"] == 0.25  # the end of the warm-up
    assert history[1]["learning_rate"] == pytest.approx(0.25 * (0.01 + 0.99 * (1 + np.cos(0.8 * np.pi)) / 2))
    assert history[0]["objective"] == 0.5
    assert history[0]["tokens_per_second"] > 0


def test_nothing_to_learn_from(build: Any) -> None:
    dataset = build.dataset(build.log([[0], [1], []]), 3)
    catalogue = build.catalogue(dataset)
    with pytest.raises(InputError, match="no user with two training events: nothing to learn from"):
        Trainer(fresh_model(catalogue), dataset, catalogue, SHORT, constant)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "at least 0"),
        ({"batch_tokens": -1}, "batch_tokens and max_minutes at least 0"),
        ({"patience": 0}, "must be at least 1"),
        ({"max_minutes": -1.0}, "max_minutes at least 0"),
        ({"learning_rate": 0.0}, "learning_rate and clip must be above 0"),
        ({"clip": 0.0}, "learning_rate and clip must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a finite number"),
        ({"max_minutes": float("inf")}, "max_minutes=inf must be a finite number"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes must be at least 0"),
        ({"seed": -1}, "the seed between 0 and"),
        ({"warmup_share": 1.0}, "warmup_share between 0 and 1"),
        ({"accumulate": 0}, "patience and accumulate must be at least 1"),
        ({"precision": "half"}, "precision='half' must be auto, float32 or bfloat16"),
    ],
)
def test_configurations_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**changes)


def test_fine_tuning_starts_anew_with_other_weights(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    """Eight of twenty steps: the rate rises again to a fraction, and exposures count no more."""
    model = fresh_model(cycle_catalogue)
    seen: list[tuple[float, tuple[float, ...]]] = []
    config = replace(SHORT, warmup_share=0.0, finetune_share=0.4, finetune_rate=0.5, finetune_weights=(0.0, 2.0))
    trainer = Trainer(
        model,
        cycle,
        cycle_catalogue,
        config,
        constant,
        progress=lambda *call: seen.append((trainer.rate / SHORT.learning_rate, trainer.objective.action_weights)),
    )
    total = trainer.steps_per_epoch * 3
    first = total - round(0.4 * total)
    trainer.run()
    assert len(seen) == total
    assert {weights for _, weights in seen[:first]} == {()}
    assert {weights for _, weights in seen[first:]} == {(0.0, 2.0)}
    rates = [rate for rate, _ in seen]
    assert rates[0] == 1.0
    assert rates[first - 1] < 0.15
    assert rates[first] == 0.5
    assert rates[-1] < 0.15


def test_patience_does_not_keep_from_fine_tuning(cycle: Dataset, cycle_catalogue: Catalogue) -> None:
    config = replace(SHORT, epochs=8, patience=1)
    stopped = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, config, constant).run()
    assert len(stopped) == 2
    tuned = replace(config, finetune_share=0.5)
    history = Trainer(fresh_model(cycle_catalogue), cycle, cycle_catalogue, tuned, constant).run()
    assert len(history) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"finetune_share": 1.0}, "finetune_share must be at least 0 and below 1"),
        ({"finetune_rate": 0.0}, "finetune_rate above 0 and at most 1"),
        (
            {"finetune_weights": (0.0, 0.0)},
            r"finetune_weights=\(0.0, 0.0\) must be at least 0, finite, and not all 0",
        ),
    ],
)
def test_fine_tuning_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings)


def test_the_load_of_the_experts_is_logged_and_unused_ones_are_warned_of(
    cycle: Dataset, cycle_catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    moe = MoEConfig(num_experts=3, experts_per_token=1, hidden=8, shared_hidden=8, bias_rate=0.0, sequence_loss=0.01)
    model = fresh_model(cycle_catalogue, moe=moe, layers=2)
    for layer, block in enumerate(model.trunk.blocks):
        block.feed_forward.bias[layer] = -10.0  # never chosen
    with caplog.at_level(logging.WARNING, logger="semid.generative.train"):
        history = Trainer(model, cycle, cycle_catalogue, replace(SHORT, epochs=1), constant).run()
    shares = history[0]["expert_share"]
    assert [len(share) for share in shares] == [3, 3]
    assert [sum(share) for share in shares] == pytest.approx([1, 1], abs=1e-3)
    assert (shares[0][0], shares[1][1]) == (0, 0)
    assert history[0]["dead_experts"] == [1, 1]
    assert history[0]["loss_balance"] > 0
    assert "Epoch 1: No token was routed to experts 0 of layer 0; 1 of layer 1: raise bias_rate" in caplog.text
