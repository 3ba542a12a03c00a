"""The whole road once, on synthetic data: make, prepare, fit, train, generate, compare."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.data.splits import SplitConfig
from semid.data.synthetic.generator import SyntheticConfig, synthesise
from semid.errors import InputError
from semid.evaluation.comparison import Comparison
from semid.generative.presets import PRESETS
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.comparing import compare_modes
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.pipeline.histories import queries_of_split
from semid.pipeline.recommending import recommend
from semid.pipeline.resultfiles import write_rows
from semid.pipeline.training import train_recommender
from semid.progress import Progress, silent
from semid.tokenizers.tokenizer import TokenizerConfig

RAW, DATA, TOKENIZER, MODEL, RESULT = "raw", "data", "runs/tokenizer", "runs/model", "recommendations.jsonl"
SPLIT = "test"
_MARK = ".semid-demo"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """A road of about two minutes on two cores.

    Attributes:
        synthetic: the data to make.
        target_actions: what counts as a hit; exposures are only context, as in the challenge.
        embeddings: ids of the content to fuse.
        preset: size of the model.
        epochs: of training.
        seed: of all of it.
    """

    synthetic: SyntheticConfig = field(
        default_factory=lambda: SyntheticConfig(
            users=2500, items=2000, embeddings=(("81", 32), ("82", 256), ("85", 512))
        )
    )
    target_actions: tuple[str, ...] = ("click", "conversion")
    embeddings: tuple[str, ...] = ("82", "85")
    preset: str = "tiny"
    epochs: int = 4
    seed: int = 0


def run_demo(out: Path, config: DemoConfig | None = None, progress: Progress | None = None) -> Comparison:
    """Leave ``raw``, ``data``, ``runs/tokenizer``, ``runs/model`` and ``recommendations.jsonl`` in ``out``.

    The settings beside each artifact are those with which the commands, run inside ``out``, make it again.

    Args:
        out: new or empty folder, or one that an earlier demo filled.

    Raises:
        InputError: there is something else in the folder.
    """
    config = config or DemoConfig()
    show = progress or silent
    _take_over(out)
    synthetic = replace(config.synthetic, seed=config.seed)
    synthesise(out / RAW, synthetic, show)
    split = SplitConfig(target_actions=config.target_actions)
    dataset = prepare(
        out / RAW,
        out / DATA,
        PrepareConfig(split=split),
        show,
        settings={"source": RAW, "target": DATA, "target_actions": config.target_actions},
    )
    tokenizer_config = TokenizerConfig(**chosen_embeddings(dataset, config.embeddings), seed=config.seed)
    tokenizer = fit_tokenizer(
        dataset, tokenizer_config, out / TOKENIZER, settings=_fit_settings(tokenizer_config), progress=show
    )
    train_config = TrainConfig(epochs=config.epochs, seed=config.seed)
    train_recommender(
        dataset,
        tokenizer,
        PRESETS[config.preset].model,
        train_config,
        out / MODEL,
        settings=_train_settings(config, train_config),
        progress=show,
    )
    recommender = GenerativeRecommender.load(out / MODEL, precision="auto")
    answerer = Answerer(recommender, AnswerConfig())
    write_rows(recommend(answerer, dataset, queries_of_split(dataset, SPLIT), progress=show), out / RESULT)
    return compare_modes(answerer, dataset, SPLIT, progress=show)


def _fit_settings(config: TokenizerConfig) -> Mapping[str, Any]:
    own = asdict(config)
    for given in ("options", "embeddings"):  # no options, and the embeddings by what they are
        own.pop(given)
    return {"data": DATA, "out": TOKENIZER, "emb": config.content, **own}


def _train_settings(config: DemoConfig, train_config: TrainConfig) -> Mapping[str, Any]:
    places = {"data": DATA, "tokenizer": TOKENIZER, "out": MODEL}
    return {**places, "preset": config.preset, **asdict(train_config)}


def _take_over(out: Path) -> None:
    """Mark the folder as a demo's, and remove ``raw``, the one part that is never replaced, of the one before."""
    mark = out / _MARK
    if out.exists() and not mark.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there and not from a demo: choose another folder or remove it.")
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()
    shutil.rmtree(out / RAW, ignore_errors=True)
