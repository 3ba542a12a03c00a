"""Training: epochs of packed batches, validation, early stopping, checkpoints that resume to the same result."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semid.artifacts import create_artifact, open_artifact, plain_settings
from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeTree
from semid.generative.histories import BatchBuilder, TokenBatch, pack_rows, training_segments
from semid.generative.model import Model
from semid.generative.moe import dead_experts_warning, load_facts
from semid.generative.negatives import NegativeSampler
from semid.generative.objective import Objective
from semid.generative.optim import Optimizers, clip_gradients, learning_rate_factor
from semid.generative.precision import check_precision, matrix_dtype
from semid.progress import Progress, silent

logger = logging.getLogger(__name__)
CHECKPOINT_KIND = "checkpoint"
BATCHES_PER_EPOCH = 40
LEAST_EPOCHS, MOST_EPOCHS, LEAST_STEPS = 8, 40, 80
# How long the code decoder of a large catalogue works with the same item vectors.
TREE_STEPS = 50
SETTLE_STEPS = 16
# A resumed run may get more time or patience.
_FREE_ON_RESUME = ("max_minutes", "patience", "checkpoint_minutes")
_SAMPLED_SEGMENTS = 20_000
_REMEDY = "Start again with a lower learning rate, or look for extreme values in the embeddings."

Validate = Callable[[Model], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: passes over the training events; the learning rate falls to its end over these. 0 chooses 8, or up
            to 40 where the data is so small that 8 have fewer than 80 steps.
        max_minutes: be done after this long, the learning rate falling accordingly; 0 for no limit.
        batch_tokens: tokens of a batch, padding included; 0 chooses about 40 batches an epoch within 1024..8192.
        accumulate: parts of a batch whose gradients are taken one after the other, for less memory.
        learning_rate: its peak.
        weight_decay: of matrices.
        warmup_share: share of all steps in which the learning rate rises.
        clip: largest norm of the gradient.
        patience: stop after this many validations in a row without a better one.
        checkpoint_minutes: how often a running training is saved for ``--resume``, at least.
        precision: of the matrix products, ``auto``, ``float32`` or ``bfloat16``.
        seed: of data order and dropout; whoever makes the model seeds its weights.
        finetune_share: share of the steps, at the end, in which targets count by ``finetune_weights`` and the
            learning rate starts anew, at ``finetune_rate`` of its peak: first all events, then those that matter.
        finetune_weights: how much a target counts then by its action, from the weakest action on; the last one holds
            for stronger actions.
    """

    epochs: int = 0
    max_minutes: float = 0.0
    batch_tokens: int = 0
    accumulate: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup_share: float = 0.05
    clip: float = 1.0
    patience: int = 6
    checkpoint_minutes: float = 2.0
    precision: str = "auto"
    seed: int = 0
    finetune_share: float = 0.0
    finetune_rate: float = 0.3
    finetune_weights: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.finetune_share < 1 or not 0 < self.finetune_rate <= 1:
            raise InputError("finetune_share must be at least 0 and below 1, finetune_rate above 0 and at most 1.")
        if not any(self.finetune_weights) or any(not 0 <= weight < math.inf for weight in self.finetune_weights):
            raise InputError(f"finetune_weights={self.finetune_weights} must be at least 0, finite, and not all 0.")
        if min(self.patience, self.accumulate) < 1 or min(self.epochs, self.batch_tokens, self.max_minutes) < 0:
            raise InputError(
                "patience and accumulate must be at least 1; epochs, batch_tokens and max_minutes at least 0."
            )
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name}={value} must be a finite number.")
        if self.checkpoint_minutes < 0 or not 0 <= self.seed < 1 << 63:
            raise InputError("checkpoint_minutes must be at least 0, the seed between 0 and 2^63 - 1.")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0 or not 0 <= self.warmup_share < 1:
            raise InputError(
                "learning_rate and clip must be above 0, weight_decay at least 0, warmup_share between 0 and 1."
            )
        check_precision(self.precision)


@dataclass(kw_only=True)
class _Progress:
    """Where a training stands; all of it goes into a checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    tokens: int = 0
    best: float | None = None
    best_epoch: int = -1
    stale: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains one model on one dataset.

    Args:
        model: with fresh weights; its weights are the best ones when :meth:`run` returns.
        dataset, catalogue: what to train on; the catalogue's device is where training runs.
        config: how.
        validate: from the model to metrics; ``"objective"`` decides which weights are the best, the last ones if
            it is absent.
        checkpoint: directory for checkpoints; None keeps none.
        identity: settings that a resumed run must share, checked on resume.
        progress: called with (what, done, total).
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        catalogue: Catalogue,
        config: TrainConfig,
        validate: Validate,
        *,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.catalogue, self.config, self.validate = model, catalogue, config, validate
        self.checkpoint, self.progress = checkpoint, progress or silent
        settings = {name: value for name, value in asdict(config).items() if name not in _FREE_ON_RESUME}
        self.identity = plain_settings({"train": settings, **(identity or {})})
        self.device = catalogue.codes.device
        self.optimizers = Optimizers(model, config.learning_rate, config.weight_decay)
        self.rate = 0.0
        self.tree: CodeTree | None = None
        self.state = _Progress()
        self.unsettled: list[dict[str, Tensor]] = []
        # Reading a loss makes the host wait for the device.
        self.settle_steps = 1 if self.device.type == "cpu" else SETTLE_STEPS
        self.best_weights = _copy(model.state_dict())
        profile = model.config.profile_token
        by_codes = model.config.layout == "code"
        segments = training_segments(dataset, model.config.context, profile=profile, targets=by_codes)
        if not len(segments):
            raise InputError(f"{dataset.location} has no user with two training events: nothing to learn from.")
        self.builder = BatchBuilder(segments, profile=profile, timeline=catalogue.timeline)
        batch_tokens = config.batch_tokens or _batch_tokens(int(self.builder.lengths.sum()))
        self.row_tokens = max(int(self.builder.lengths.max()), min(64, batch_tokens))
        self.rows_per_batch = max(1, batch_tokens // self.row_tokens)
        sampler = NegativeSampler.of(dataset, catalogue.codes[:, 0], dict(model.config.negatives))
        self.objective = Objective(model, catalogue, sampler, matrix_dtype(config.precision, self.device))
        self.steps_per_epoch = -(-_estimate_rows(self.builder.lengths, self.row_tokens) // self.rows_per_batch)
        self.epochs = config.epochs or min(max(-(-LEAST_STEPS // self.steps_per_epoch), LEAST_EPOCHS), MOST_EPOCHS)

    def run(self, *, resume: bool = False) -> list[dict[str, Any]]:
        """Train to the end, or until validation stops improving; returns one record an epoch.

        Raises:
            InputError: resuming without a checkpoint or with other settings, or the loss became NaN.
        """
        torch.manual_seed(self.config.seed)
        if resume:
            self._restore()
        while self.state.epoch < self.epochs and not self._finished():
            self._epoch()
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        return self.state.history

    def discard_checkpoint(self) -> None:
        """Remove the checkpoint once its result is safe elsewhere."""
        if self.checkpoint is not None:
            shutil.rmtree(self.checkpoint, ignore_errors=True)

    def _finished(self) -> bool:
        out_of_time = self.config.max_minutes and self.state.seconds >= 60 * self.config.max_minutes
        first_stage = self.config.finetune_share and self.state.step < self._first_stage
        return bool(out_of_time) or (self.state.stale >= self.config.patience and not first_stage)

    @property
    def _first_stage(self) -> int:
        """Steps before fine-tuning."""
        total = self.steps_per_epoch * self.epochs
        return total - round(self.config.finetune_share * total)

    def _epoch(self) -> None:
        began, state = time.monotonic(), self.state
        spent = state.seconds
        saved, counted = began, state.tokens
        self.model.train()
        for batch in self._batches():
            if state.batch % TREE_STEPS == 0:
                self._refresh_tree()
            state.tokens += int((batch.segments >= 0).sum())
            self.unsettled.append(self._step(batch.to(self.device)))
            state.step, state.batch = state.step + 1, state.batch + 1
            if len(self.unsettled) >= self.settle_steps:
                self._settle()
            state.seconds = spent + time.monotonic() - began
            self.progress(f"epoch {state.epoch + 1}", state.batch, self.steps_per_epoch)
            # A resumed run makes a fresh tree, so it may only start where this one would have done so too.
            repeatable = self.tree is None or state.batch % TREE_STEPS == 0
            if repeatable and time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self._settle()
                self._check_weights()
                self._save()
                saved = time.monotonic()
            if self.config.max_minutes and state.seconds >= 60 * self.config.max_minutes:
                break
        self._settle()
        self._check_weights()
        trained = time.monotonic() - began
        self.model.eval()
        try:
            metrics = self.validate(self.model)
        except InputError as error:  # weights that are finite, but beyond what the heads can take
            raise InputError(f"After {self._place(state.batch)}: {error} {_REMEDY}") from None
        losses = {name: total / max(state.batch, 1) for name, total in state.sums.items()}
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
        state.seconds = spent + time.monotonic() - began
        self._judge(metrics.get("objective"))
        state.history.append(
            {
                "epoch": state.epoch,
                "step": state.step,
                **{f"loss_{name}": round(value, 5) for name, value in losses.items()},
                "learning_rate": self.rate,
                "tokens": state.tokens,
                "tokens_per_second": round((state.tokens - counted) / max(trained, 1e-9)),
                **{name: round(value, 5) for name, value in metrics.items()},
                **self._expert_load(),
                "best_epoch": state.best_epoch,
                "seconds": round(state.seconds, 1),
            }
        )
        logger.info(json.dumps(state.history[-1]))
        self._save()

    def _expert_load(self) -> dict[str, Any]:
        """How evenly the experts of each layer were used this epoch, where there are any; warns of unused ones."""
        loads = [layer.take_load() for layer in self.model.experts()]
        warning = dead_experts_warning(loads)
        if warning:
            logger.warning("Epoch %d: %s", self.state.epoch, warning)
        return load_facts(loads) if loads else {}

    @torch.no_grad()
    def _refresh_tree(self) -> None:
        """Item vectors for the code decoder, where a step does not encode all items anyway."""
        model = self.model
        if model.uses_node_vectors(self.catalogue) and not model.trains_all_items(self.catalogue):
            model.eval()
            self.tree = model.code_tree(self.catalogue, model.node_item_vectors(self.catalogue))
            model.train()

    def _batches(self) -> Iterator[TokenBatch]:
        # The order depends on seed and epoch alone, so a resumed epoch goes on where it was.
        rng = np.random.default_rng((self.config.seed, self.state.epoch))
        return _made_ahead(self.builder.epoch(self.row_tokens, self.rows_per_batch, rng, skip=self.state.batch))

    def _step(self, batch: TokenBatch) -> dict[str, Tensor]:
        self.rate = self.optimizers.set_rate(self._rate_factor())
        self.optimizers.zero_grad()
        sums: dict[str, Tensor] = {}
        targets = (batch.targets >= 0).sum()
        for part in batch.split(self.config.accumulate):
            losses = self.objective.losses(part, self.tree)
            losses["total"] = self.objective.total(losses)
            share = (part.targets >= 0).sum() / targets
            (share * losses["total"]).backward()  # type: ignore[no-untyped-call]
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + share * loss.detach()
        sums["norm"] = clip_gradients(self.model.parameters(), self.config.clip)
        self.optimizers.step()
        for layer in self.model.experts():
            layer.balance()
        return sums

    def _rate_factor(self) -> float:
        """The learning rate of this step over its peak; enters the second stage when it is time."""
        total, first = self.steps_per_epoch * self.epochs, self._first_stage
        done = self.state.step
        if self.config.max_minutes:  # whichever ends the training first
            done = max(done, int(total * self.state.seconds / (60 * self.config.max_minutes)))
        if done < first or first == total:
            return learning_rate_factor(done, first, self.config.warmup_share)
        self.objective.weigh_actions(self.config.finetune_weights)
        return self.config.finetune_rate * learning_rate_factor(done - first, total - first, self.config.warmup_share)

    def _settle(self) -> None:
        """Read the losses of the steps since the last time, which waits for the device.

        Raises:
            InputError: one of them, or of the gradients, is not finite; the checkpoint is of before these steps.
        """
        first = self.state.batch - len(self.unsettled) + 1
        for batch, sums in enumerate(self.unsettled, start=first):
            values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
            norm = values.pop("norm")
            for what, value in (("loss", values["total"]), ("norm of the gradient", norm)):
                if not math.isfinite(value):
                    raise InputError(f"The {what} is {value} at {self._place(batch)}. {_REMEDY}")
            for name, value in values.items():
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
        self.unsettled = []

    def _check_weights(self) -> None:
        """Raise InputError if the last step broke them; call before they are judged or kept."""
        finite = [weight.isfinite().all() for weight in self.model.parameters()]
        if not bool(torch.stack(finite).all()):
            raise InputError(f"Weights are no longer finite after {self._place(self.state.batch)}. {_REMEDY}")

    def _place(self, batch: int) -> str:
        """A batch of this epoch, which may lie some steps back."""
        step = self.state.step - (self.state.batch - batch)
        return f"epoch {self.state.epoch + 1}, batch {batch}, step {step}"

    def _judge(self, objective: float | None) -> None:
        state = self.state
        if objective is None:  # nothing to validate on: the newest weights count
            state.best_epoch = state.epoch
        elif math.isfinite(objective) and (state.best is None or objective > state.best):
            state.best, state.best_epoch = objective, state.epoch
        if state.best_epoch == state.epoch:
            state.stale = 0
            self.best_weights = _copy(self.model.state_dict())
        else:
            state.stale += 1

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {f"optimizer.{name}": value for name, value in self.optimizers.state().items()}
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        with create_artifact(self.checkpoint, CHECKPOINT_KIND, settings=self.identity) as writer:
            writer.save_arrays("checkpoint.safetensors", arrays)
            writer.save_lines("log.jsonl", self.state.history)
            writer.details["progress"] = asdict(self.state)

    def _restore(self) -> None:
        if self.checkpoint is None:
            raise InputError("There is no checkpoint directory to resume from.")
        artifact = open_artifact(self.checkpoint, CHECKPOINT_KIND)
        _require_same(artifact.settings, self.identity, self.checkpoint)
        tensors = {
            name: torch.from_numpy(array) for name, array in artifact.load_arrays("checkpoint.safetensors").items()
        }
        self.model.load_state_dict(_under(tensors, "model."))
        self.best_weights = _under(tensors, "best.")
        self.optimizers.load(_under(tensors, "optimizer."))
        torch.set_rng_state(tensors["random"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.state = _Progress(**artifact.details["progress"])


def _made_ahead(batches: Iterator[TokenBatch]) -> Iterator[TokenBatch]:
    """The same, the next one always in the making on another thread."""
    with ThreadPoolExecutor(1) as worker:
        following = worker.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = worker.submit(next, batches, None)
            yield batch


def _estimate_rows(lengths: np.ndarray, row_tokens: int) -> int:
    """Rows that the segments of one epoch fill, by packing a sample of them in some random order."""
    sample = np.random.default_rng(0).permutation(lengths)[:_SAMPLED_SEGMENTS]
    return -(-len(pack_rows(sample, row_tokens)) * len(lengths) // len(sample))


def _batch_tokens(tokens: int) -> int:
    return min(max(tokens // BATCHES_PER_EPOCH, 1024), 8192)


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def changed_settings(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What differs between nested settings of before and of now, as ``"name old → new, …"``; empty where nothing."""
    old, new = _flat(saved), _flat(json.loads(json.dumps(wanted)))
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ", ".join(f"{key} {old.get(key)} → {new.get(key)}" for key in different)


def _require_same(saved: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    changed = changed_settings(saved, wanted)
    if changed:
        raise InputError(f"{path} was started with other settings ({changed}): use those, or start without --resume.")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
