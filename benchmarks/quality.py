"""How good are the recommendations on real data, in each mode, against baselines, SASRec and TIGER?

For every dataset and seed: prepare → fit → train → compare on the test split, item-level, full ranking, no
seen-item filter, model selection on validation only. Finished runs lie in the work folder and are not repeated.

    python benchmarks/quality.py $SEMID_DATA/amazon14_beauty $SEMID_DATA/amazon14_sports --seeds 0,1,2
    python benchmarks/quality.py $SEMID_DATA/amazon14_beauty --rivals none --hold-out-items 0.05
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from semid.artifacts import open_artifact
from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.data.prepare import prepare
from semid.data.reading import PrepareConfig
from semid.data.splits import SplitConfig
from semid.evaluation.comparison import ModeResult, compare
from semid.evaluation.over_seeds import mean_over_seeds
from semid.generative.config import ModelConfig
from semid.generative.presets import PRESETS
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.comparing import compare_modes
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.pipeline.training import checkpoint_of, train_recommender
from semid.ranking import Ranking
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

KS = (5, 10)
BEAM = 50
ANSWERED = 4096
METRICS = ("HitRate@5", "NDCG@5", "HitRate@10", "NDCG@10", "ColdHitRate@10")
# Models of others, trained by us: what they rank with.
RIVALS = {"sasrec": "ann", "tiger": "generative"}
ABSENT = (float("nan"), None)


def main() -> None:
    arguments = parse()
    results = []
    for source in arguments.datasets:
        split = SplitConfig(protocol=arguments.protocol, hold_out_items=arguments.hold_out_items)
        dataset = prepared(source, arguments.work / source.name, split)
        runs = [run(dataset, source.name, seed, arguments) for seed in arguments.seeds]
        results.append({"dataset": source.name, "runs": runs, "summary": summarise(runs)})
        show(results[-1])
    if arguments.table:
        arguments.table.write_text("\n".join(markdown(result) for result in results), encoding="utf-8")
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "quality", **hardware, "seeds": arguments.seeds, "results": results}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--protocol", default=SplitConfig.protocol, help="how queries are cut")
    parser.add_argument("--emb", type=lambda text: tuple(text.split(",")), default=(), help="embeddings to use")
    parser.add_argument("--epochs", type=int, default=0, help="0 chooses by the number of training events")
    parser.add_argument("--max-minutes", type=float, default=30.0)
    parser.add_argument("--hold-out-items", type=float, default=0.0, help="share of the items to make new")
    parser.add_argument(
        "--rivals", type=names_of_rivals, default=tuple(RIVALS), help="models to train beside, or none"
    )
    parser.add_argument("--table", type=Path, help="also write the tables there, as Markdown")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    return parser.parse_args()


def names_of_rivals(text: str) -> tuple[str, ...]:
    """Names of RIVALS."""
    names = () if text == "none" else tuple(text.split(","))
    if set(names) - set(RIVALS):
        raise argparse.ArgumentTypeError(f"use none or some of {','.join(RIVALS)}")
    return names


def prepared(source: Path, work: Path, split: SplitConfig) -> Dataset:
    """The prepared dataset, made on first use."""
    target = work / f"data-{split.protocol}"
    if not (target / "config.json").exists():
        prepare(source, target, PrepareConfig(split=split))
    return Dataset.open(target)


def content_names(dataset: Dataset) -> tuple[str, ...]:
    """Its embeddings but those that others trained on these sequences, which may know the test items."""
    return tuple(name for name in dataset.embeddings if not name.startswith("cf_"))


def run(dataset: Dataset, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One seed: metrics by mode, and what it cost."""
    work = arguments.work / name / f"seed{seed}"
    result_path, settings_path = work / "result.json", work / "settings.json"
    options = ("preset", "epochs", "max_minutes", "protocol", "hold_out_items")
    settings = {name: getattr(arguments, name) for name in options}
    settings |= {name: list(getattr(arguments, name)) for name in ("rivals", "emb")}
    if settings_path.exists() and json.loads(settings_path.read_text()) != settings:
        raise SystemExit(f"{work} holds a run with other settings: use another --work.")
    if result_path.exists():
        finished: dict[str, Any] = json.loads(result_path.read_text())
        return finished
    work.mkdir(parents=True, exist_ok=True)
    settings_path.write_text(json.dumps(settings))
    names = arguments.emb or content_names(dataset)
    config = TokenizerConfig(**chosen_embeddings(dataset, names), seed=seed)
    began = time.monotonic()
    tokenizer = fit_tokenizer(dataset, config, work / "tokenizer")
    fitted = time.monotonic()
    train_config = TrainConfig(epochs=arguments.epochs, max_minutes=arguments.max_minutes, seed=seed)
    recommender = trained_to_end(dataset, tokenizer, PRESETS[arguments.preset].model, train_config, work / "model")
    rivals = {
        name: trained_to_end(dataset, tokenizer, PRESETS[name].model, train_config, work / name)
        for name in arguments.rivals
    }
    began_to_compare = time.monotonic()
    answerer = Answerer(recommender, AnswerConfig(k=max(KS), beam=BEAM, fallback=()))
    comparison = compare_modes(answerer, dataset, "test", ks=KS, timed=False)
    queries = dataset.split("test")
    rankings = references(queries, recommender, rivals)
    others = compare(
        queries,
        {name: ModeResult(ranking=ranking) for name, ranking in rankings.items()},
        ks=KS,
        candidates=dataset.candidates,
        train_counts=dataset.train_counts,
    )
    history = [json.loads(line) for line in (work / "model" / "log.jsonl").read_text().splitlines()]
    result: dict[str, Any] = {
        "dataset": name,
        "seed": seed,
        "queries": len(queries),
        "modes": {**comparison.modes, **others.modes},
        "fit_seconds": round(fitted - began, 1),
        "train_seconds": history[-1]["seconds"],
        "best_epoch": history[-1]["best_epoch"],
        "epochs": len(history),
        "weights": recommender.weights,
        "fusions": recommender.fusions,
        "action": recommender.usual_action,
        "tokenizer": asdict(config),
        "model": open_artifact(work / "model", "model").details["model"],
        "train": asdict(train_config),
        "compare_seconds": round(time.monotonic() - began_to_compare, 1),
    }
    result_path.write_text(json.dumps(result, indent=1))
    return result


def trained_to_end(
    dataset: Dataset, tokenizer: SemanticIdTokenizer, preset: ModelConfig, config: TrainConfig, out: Path
) -> GenerativeRecommender:
    """The model of a run, trained on from where a run before was stopped."""
    if (out / "config.json").exists():
        return GenerativeRecommender.load(out)
    return train_recommender(dataset, tokenizer, preset, config, out, resume=checkpoint_of(out).exists())


def references(
    queries: Queries, recommender: GenerativeRecommender, rivals: Mapping[str, GenerativeRecommender]
) -> dict[str, Ranking]:
    """Each head alone, as published systems rank, with no look at the history; and models of others, both ways."""
    rankings = {
        "generative, codes alone": answered(recommender, queries, "generative", {}),
        "ann, cosine alone": answered(recommender, queries, "ann", {}),
    }
    for name, rival in rivals.items():
        rankings[f"{name}, its head alone"] = answered(rival, queries, RIVALS[name], {})
        rankings[name] = answered(rival, queries, RIVALS[name], rival.weights)
    return rankings


def answered(
    recommender: GenerativeRecommender, queries: Queries, mode: str, weights: Mapping[str, Mapping[str, float]]
) -> Ranking:
    """What a mode answers with these weights of the evidence; where there are none, by its head alone."""
    weighed = copy(recommender)
    weighed.weights = weights
    answerer = Answerer(weighed, AnswerConfig(k=max(KS), beam=BEAM, factory="Flat", fallback=()))
    return Ranking.concatenate([answerer.answer(batch, mode).ranking for batch in queries.batches(ANSWERED)])


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Mean and half width of the 95 % interval over seeds (Student's t), by mode and metric."""
    summary: dict[str, dict[str, tuple[float, float | None]]] = {}
    for mode in runs[0]["modes"]:
        summary[mode] = {}
        for metric in (name for name in runs[0]["modes"][mode] if all(name in r["modes"][mode] for r in runs)):
            mean, half = mean_over_seeds([r["modes"][mode][metric] for r in runs])
            summary[mode][metric] = (round(mean, 6), half and round(half, 6))
    return summary


def gains(runs: list[dict[str, Any]]) -> dict[str, tuple[float, float | None]]:
    """NDCG@10 of the hybrid less that of each mode it joins, paired by seed: mean and half width of the interval."""
    modes = [mode for mode in ("generative", "ann") if mode in runs[0]["modes"]]
    by_mode = {mode: [r["modes"]["hybrid"]["NDCG@10"] - r["modes"][mode]["NDCG@10"] for r in runs] for mode in modes}
    return {mode: mean_over_seeds(differences) for mode, differences in by_mode.items()}


def show(result: dict[str, Any]) -> None:
    """One table a dataset."""
    runs = result["runs"]
    minutes = np.mean([r["train_seconds"] for r in runs]) / 60
    table = Table(title=f"{result['dataset']}: {len(runs)} seeds, {minutes:.1f} min of training a run")
    for column in ("mode", *METRICS):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for mode, metrics in result["summary"].items():
        table.add_row(mode, *(cell(*metrics.get(metric, ABSENT)) for metric in METRICS))
    Console(width=120).print(table)


def markdown(result: dict[str, Any]) -> str:
    """The table of a dataset, with what it cost, as Markdown."""
    runs = result["runs"]
    facts = {
        "queries": f"{runs[0]['queries']:,}",
        "seeds": ", ".join(str(run["seed"]) for run in runs),
        "minutes of training": ", ".join(f"{run['train_seconds'] / 60:.1f}" for run in runs),
        "best epoch": ", ".join(f"{run['best_epoch']} of {run['epochs']}" for run in runs),
        "NDCG@10 on validation by rule of fusion": ", ".join(
            f"{name} {np.mean([run['fusions'][name] for run in runs]):.4f}".replace("0.", ".")
            for name in runs[0]["fusions"]
        ),
        "NDCG@10 that the hybrid gains": ", ".join(
            f"on {mode} {cell(*gain)}".replace("0.", ".") for mode, gain in gains(runs).items()
        ),
    }
    lines = [f"### {result['dataset']}", "", "; ".join(f"{name}: {value}" for name, value in facts.items()), ""]
    lines += ["| mode | R@5 | N@5 | R@10 | N@10 | cold R@10 |", "|---|---|---|---|---|---|"]
    for mode, metrics in result["summary"].items():
        cells = [cell(*metrics.get(metric, ABSENT)).replace("0.", ".") for metric in METRICS]
        lines.append(f"| {mode} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def cell(mean: float, half: float | None) -> str:
    """Mean and interval."""
    if np.isnan(mean):
        return "–"
    return f"{mean:.4f}" if half is None else f"{mean:.4f} ± {half:.4f}"


if __name__ == "__main__":
    main()
