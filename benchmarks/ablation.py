"""What is each part of the model worth, by validation?

Every variant changes one thing of the default, trains anew and is judged on validation queries, in each mode with the
history weighed; the test split is not read. The variant "base" must run before those that build on its model.
Finished runs lie in the work folder and are not repeated.

    python benchmarks/ablation.py $SEMID_DATA/amazon14_beauty $SEMID_DATA/amazon14_sports --seeds 0,1,2
    python benchmarks/ablation.py $SEMID_DATA/amazon14_beauty --variants 'base;without ids' --record tried.jsonl
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from quality import cell, content_names, prepared, summarise, trained_to_end
from rich.console import Console
from rich.table import Table

from semid.data.dataset import Dataset
from semid.data.splits import SplitConfig
from semid.generative.presets import PRESETS
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.comparing import Rivals, compare_modes
from semid.pipeline.embedding import item_tower_embedding
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.pipeline.training import validation_sample
from semid.pipeline.weighing import weigh
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

METRICS = ("HitRate@10", "NDCG@10")
MODES = ("generative", "ann", "hybrid")
COLUMNS = ("variant", *MODES, "minutes")
BANK = {"full_softmax_items": 0}
COLLABORATIVE = "collab"
# By name: changes of the preset, the model, the training, the tokenizer; without transitions the base model ranks.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "without transitions": {"transitions": False},
    "bank of uniform negatives": {"model": {**BANK, "negatives": (("uniform", 4096),)}},
    "bank of popular negatives": {"model": {**BANK, "negatives": (("popular", 4096),)}},
    "bank of recent negatives": {"model": {**BANK, "negatives": (("recent", 4096),)}},
    "bank of hard and uniform negatives": {"model": {**BANK, "negatives": (("uniform", 2048), ("hard", 2048))}},
    "bank of the batch alone": {"model": {**BANK, "negatives": ()}},
    "without ids": {"model": {"without": "id"}},
    "without codes in the item": {"model": {"without": "codes"}},
    "without content in the item": {"model": {"without": "content"}},
    "without columns": {"model": {"without": "fields"}},
    "without time": {"model": {"without": "time"}},
    "without dropping ids": {"model": {"id_dropout": 0.0}},
    "code loss weighs 0.25": {"model": {"code_weight": 0.25}},
    "code loss weighs 1": {"model": {"code_weight": 1.0}},
    "without item vectors in the code decoder": {"model": {"node_vector_items": 0}},
    "codes of content alone": {"tokenizer": {"behaviour": ()}},
    "codes of content and the model's item vectors": {"tokenizer": {"behaviour": (COLLABORATIVE,)}},
    "dropout 0.2": {"model": {"dropout": 0.2}},
    "dropout 0.4": {"model": {"dropout": 0.4}},
    "without weight decay": {"train": {"weight_decay": 0.0}},
    "sasrec": {"preset": "sasrec"},
    "sasrec, dropping ids": {"preset": "sasrec", "model": {"id_dropout": 0.1}},
    "sasrec, dropout 0.5": {"preset": "sasrec", "model": {"dropout": 0.5}},
    "sasrec, 128 wide": {"preset": "sasrec", "model": {"width": 128}},
    "sasrec, learning rate 1e-3": {"preset": "sasrec", "train": {"learning_rate": 1e-3}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    parser.add_argument("--variants", type=lambda text: text.split(";"), default=list(VARIANTS), metavar="NAME;…")
    parser.add_argument("--queries", type=int, default=6000, help="validation queries that are judged")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--record", type=Path, help="append one JSON line a variant there")
    parser.add_argument("--table", type=Path, help="also write the tables there, as Markdown")
    arguments = parser.parse_args()
    unknown = set(arguments.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are: {'; '.join(VARIANTS)}")
    results, tables = [], []
    for source in arguments.datasets:
        dataset = prepared(source, arguments.work / source.name, SplitConfig.protocol)
        for name in arguments.variants:
            runs = [run(dataset, source.name, name, seed, arguments) for seed in arguments.seeds]
            results.append({"set": source.name, "variant": name, "runs": runs, "summary": summarise(runs)})
        tables.append(rows([result for result in results if result["set"] == source.name]))
        show(source.name, tables[-1])
    if arguments.record:
        with arguments.record.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(recorded(result, arguments.seeds)) + "\n" for result in results)
    if arguments.table:
        sections = (markdown(source.name, table) for source, table in zip(arguments.datasets, tables, strict=True))
        arguments.table.write_text("\n".join(sections), encoding="utf-8")
    print(json.dumps({"benchmark": "ablation", "seeds": arguments.seeds, "results": results}))


def run(dataset: Dataset, name: str, variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One variant with one seed: metrics by mode, and the minutes it took."""
    folder = arguments.work / name / f"seed{seed}"
    path = folder / f"{variant.replace(' ', '-')}.json"
    changes = VARIANTS[variant]
    settings = json.loads(json.dumps({"changes": changes, "queries": arguments.queries}))
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        if stored["settings"] != settings:
            raise SystemExit(f"{path} is of {stored['settings']}, not {settings}: use another --work.")
        return stored
    if changes.get("transitions", True):
        place = folder / path.stem
        recommender = trained(dataset, folder, place, seed, changes)
    else:
        place = folder / "base"
        recommender = GenerativeRecommender.load(place)
        recommender.transitions = None
        recommender.weights = weigh(recommender, validation_sample(dataset), recommender.usual_action).weights
    history = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    answerer = Answerer(recommender, AnswerConfig(k=10, beam=50, fallback=()))
    compared = compare_modes(
        answerer, dataset, "valid", max_queries=arguments.queries, rivals=Rivals(baselines=()), timed=False
    ).modes
    result = {
        "seed": seed,
        "settings": settings,
        "modes": {mode: {metric: compared[mode][metric] for metric in METRICS} for mode in MODES if mode in compared},
        "minutes": round(history[-1]["seconds"] / 60, 1),
        "best_epoch": history[-1]["best_epoch"],
        "tokens_per_second": history[-1]["tokens_per_second"],
    }
    path.write_text(json.dumps(result))
    return result


def trained(dataset: Dataset, folder: Path, place: Path, seed: int, changes: dict[str, Any]) -> GenerativeRecommender:
    """The model of a variant, trained on from where a run before was stopped."""
    tokenizer = fitted(dataset, folder, seed, changes.get("tokenizer", {}))
    wanted = dict(changes.get("model", {}))
    config = PRESETS[changes.get("preset", "small")].model
    if "without" in wanted:
        left_out = wanted.pop("without")
        wanted["features"] = tuple(feature for feature in config.features if feature != left_out)
    train = TrainConfig(seed=seed, max_minutes=30.0, **changes.get("train", {}))
    return trained_to_end(dataset, tokenizer, replace(config, **wanted), train, place)


def fitted(dataset: Dataset, folder: Path, seed: int, changes: dict[str, Any]) -> SemanticIdTokenizer:
    """The tokenizer of a seed, made on first use."""
    behaviour = changes.get("behaviour")
    place = folder / ("tokenizer" if behaviour is None else f"tokenizer-{'-'.join(behaviour) or 'content'}")
    if (place / "config.json").exists():
        return SemanticIdTokenizer.load(place)
    chosen = chosen_embeddings(dataset, content_names(dataset), behaviour)
    if behaviour == (COLLABORATIVE,):
        vectors = item_tower_embedding(GenerativeRecommender.load(folder / "base"), COLLABORATIVE)
        dataset = replace(dataset, added={COLLABORATIVE: vectors})
    return fit_tokenizer(dataset, TokenizerConfig(**chosen, seed=seed), place)


def recorded(result: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """One line for the record of all that was tried."""
    return {
        "set": result["set"],
        "split": "valid",
        "seeds": seeds,
        "metric": "NDCG@10, history weighed",
        "variant": result["variant"],
        "changes": VARIANTS[result["variant"]],
        "values": {mode: metrics["NDCG@10"][0] for mode, metrics in result["summary"].items()},
    }


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """A line of the table for each variant: NDCG@10 in every mode, minutes of training."""
    return [
        [
            result["variant"],
            *(cell(*result["summary"][mode]["NDCG@10"]) if mode in result["summary"] else "–" for mode in MODES),
            f"{mean(run['minutes'] for run in result['runs']):.1f}",
        ]
        for result in results
    ]


def show(name: str, lines: list[list[str]]) -> None:
    """The table of a dataset."""
    table = Table(title=f"{name}: NDCG@10 on validation")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "variant" else "right")
    for line in lines:
        table.add_row(*line)
    Console(width=120).print(table)


def markdown(name: str, lines: list[list[str]]) -> str:
    """The same as Markdown."""
    text = [f"| {' | '.join((name, *COLUMNS[1:]))} |", "|---" * len(COLUMNS) + "|"]
    for variant, *cells, minutes in lines:
        text.append(f"| {variant} | {' | '.join(cells).replace('0.', '.')} | {minutes} |")
    return "\n".join([*text, ""])


if __name__ == "__main__":
    main()
