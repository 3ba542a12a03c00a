"""One run of a scaling study: train a point with one seed, judge it on validation, keep what came out."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from semid.artifacts import CONFIG_NAME, create_file, open_artifact
from semid.data.cooccurrence import split_users
from semid.data.dataset import Dataset
from semid.errors import InputError
from semid.evaluation.comparison import Comparison
from semid.generative.recommender import KIND, GenerativeRecommender
from semid.generative.train import TrainConfig, changed_settings
from semid.pipeline.answering import Answerer
from semid.pipeline.baselines import POPULARITY
from semid.pipeline.comparing import Rivals, compare_modes
from semid.pipeline.sweep.axes import SweepPoint
from semid.pipeline.training import checkpoint_of, train_recommender
from semid.progress import Progress
from semid.tokenizers.tokenizer import SemanticIdTokenizer

SPLIT = "valid"
METRICS = ("NDCG@10", "HitRate@10", "Score@10")
_MODEL, _SETTINGS, _RESULT = "model", "settings.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came out of a run.

    Attributes:
        name: of the point.
        seed: of its training.
        settings: all that it depends on.
        modes: METRICS by mode, popularity among them, on validation queries.
        queries: number of these.
        tokens: that were trained on, all passes together.
        tokens_per_second: of training alone, the median pass.
        seconds: of training and its validations.
        epochs, best_epoch: passes, and the one whose weights were kept.
        table_weights: of embedding tables, which are looked up.
        trunk_weights: all others, which take part in every token's products.
        training_flops: 6 · trunk weights · tokens, an estimate that leaves out attention and the softmax over items
            (arXiv 2001.08361).
        device: where it was trained.
    """

    name: str
    seed: int
    settings: dict[str, Any]
    modes: dict[str, dict[str, float]]
    queries: int
    tokens: int
    tokens_per_second: float
    seconds: float
    epochs: int
    best_epoch: int
    table_weights: int
    trunk_weights: int
    training_flops: float
    device: str


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """A point to be trained with one seed.

    Attributes:
        name: of the point.
        point: what is trained.
        train: how, with the seed.
        max_queries: validation queries that it is judged on; 0 for all.
        folder: of its own, where settings, checkpoint, model and result go.
    """

    name: str
    point: SweepPoint
    train: TrainConfig
    max_queries: int
    folder: Path

    def settings(self, dataset: Dataset, tokenizer: SemanticIdTokenizer) -> dict[str, Any]:
        """All that the result depends on, as plain JSON."""
        made_from = {"dataset": dataset.artifact, "tokenizer": tokenizer.artifact_}
        settings = {
            **asdict(self.point),
            "train": {name: value for name, value in asdict(self.train).items() if name != "checkpoint_minutes"},
            "queries": self.max_queries,
            "made_from": {name: artifact.checksum for name, artifact in made_from.items() if artifact is not None},
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    def finished(self, settings: dict[str, Any]) -> RunResult | None:
        """The result, if the run is over.

        Raises:
            InputError: the folder holds a run with other settings, or something else.
        """
        path = self.folder / _SETTINGS
        changed = changed_settings(_read(path), settings) if path.is_file() else ""
        if changed:
            raise InputError(
                f"{self.folder} was started with other settings ({changed}): use those, or another folder."
            )
        path = self.folder / _RESULT
        if not path.is_file():
            return None
        try:
            return RunResult(**_read(path))
        except TypeError:
            raise _damaged(path) from None

    def execute(
        self,
        dataset: Dataset,
        tokenizer: SemanticIdTokenizer,
        *,
        keep_model: bool = False,
        progress: Progress | None = None,
        device: str = "cpu",
    ) -> RunResult:
        """Train, from the checkpoint if there is one, judge, and write the result; the model goes unless it is kept.

        Raises:
            InputError: as :func:`semid.pipeline.training.train_recommender`; the message names the run.
        """
        settings = self.settings(dataset, tokenizer)
        _write(self.folder / _SETTINGS, settings)
        if self.point.users < 1:
            dataset = split_users(dataset, share=self.point.users, seed=self.train.seed)[1]
        try:
            recommender = self._trained(dataset, tokenizer, settings, progress, device)
        except InputError as error:
            raise InputError(f"Run {self.name} with seed {self.train.seed}: {error}") from None
        comparison = compare_modes(
            Answerer(recommender),
            dataset,
            SPLIT,
            max_queries=self.max_queries,
            rivals=Rivals(baselines=(POPULARITY,)),
            timed=False,
            progress=progress,
        )
        result = self._result(recommender, comparison, settings)
        _write(self.folder / _RESULT, asdict(result))
        if not keep_model:
            shutil.rmtree(self.folder / _MODEL)
        return result

    def _trained(
        self,
        dataset: Dataset,
        tokenizer: SemanticIdTokenizer,
        settings: dict[str, Any],
        progress: Progress | None,
        device: str,
    ) -> GenerativeRecommender:
        place = self.folder / _MODEL
        if (place / CONFIG_NAME).is_file():  # stopped while it was judged
            return GenerativeRecommender.load(place, device)
        return train_recommender(
            dataset,
            tokenizer,
            self.point.model,
            self.train,
            place,
            settings=settings,
            resume=checkpoint_of(place).exists(),
            progress=progress,
            device=device,
        )

    def _result(
        self, recommender: GenerativeRecommender, comparison: Comparison, settings: dict[str, Any]
    ) -> RunResult:
        history = open_artifact(self.folder / _MODEL, KIND).load_lines("log.jsonl")
        last, (tables, trunk) = history[-1], count_weights(recommender.model)
        return RunResult(
            name=self.name,
            seed=self.train.seed,
            settings=settings,
            modes={mode: {name: found[name] for name in METRICS} for mode, found in comparison.modes.items()},
            queries=comparison.targets.queries,
            tokens=last["tokens"],
            tokens_per_second=median(record["tokens_per_second"] for record in history),
            seconds=last["seconds"],
            epochs=last["epoch"],
            best_epoch=last["best_epoch"],
            table_weights=tables,
            trunk_weights=trunk,
            training_flops=6.0 * trunk * last["tokens"],
            device=recommender.catalogue.codes.device.type,
        )


def count_weights(model: nn.Module) -> tuple[int, int]:
    """Weights of embedding tables, and all others."""
    tables = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding))
    return tables, sum(weight.numel() for weight in model.parameters()) - tables


def _write(path: Path, content: dict[str, Any]) -> None:
    with create_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is not what a sweep writes: remove {path.parent}, and the run is made again.")
