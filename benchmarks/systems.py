"""What is each published system, and each of its parts, worth on one dataset at one size?

Systems are presets made as wide and deep as our own small model; parts change one thing of that model. Every run
trains anew in a process of its own, is selected on validation and judged on the test split: in the mode that its
heads allow, with the usual action wanted, and with the action wanted that the target has. Finished runs are lines of
the results file and are not repeated.

    semid data synth planted --users 200000 --items 500000 --effects time,action,popularity,modality \\
        --emb 81:32,82:64,83:64,84:32,85:64,86:64
    python benchmarks/systems.py planted $SEMID_DATA/jdata_demo --seeds 0,1,2
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import cell, content_names, prepared, trained_to_end
from rich.console import Console
from rich.table import Table

from semid.artifacts import open_artifact
from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.evaluation.metrics import evaluate, query_metrics
from semid.evaluation.over_seeds import mean_over_seeds
from semid.evaluation.targets import Targets
from semid.generative.config import ModelConfig
from semid.generative.presets import PRESETS
from semid.generative.recommender import ANY_ACTION, KIND, GenerativeRecommender
from semid.generative.settings import with_settings
from semid.generative.train import TrainConfig
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.ranking import Ranking
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

K, BEAM, ANSWERED, BASE = 10, 20, 2048, "small"
# One size for all systems but the baseline, whose size is its own; a bank for all, however small the catalogue.
SIZE = {"width": 128, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 0, "full_softmax_items": 0}
NEGATIVES, CODES = 2048, (256, 256, 256)
SYSTEMS = ("baseline", "baseline-infonce", "sasrec", "tiger", "small")
SYSTEMS += ("first", "second", "third", "award", "onepiece", "finalist")
ALL = ",".join(PRESETS["small"].model.features)
# By name: settings of the small model, and what else differs.
PARTS: dict[str, dict[str, Any]] = {
    "without the next action": {"action.condition": ""},
    "without actions": {"action.condition": "", "action_weight": "0", "without": "action"},
    "told by add": {"action.condition": "add"},
    "told by gate": {"action.condition": "gate"},
    "told by FiLM in the trunk": {"action.condition": "film"},
    "told by bias": {"action.condition": "bias"},
    "told in all ways": {"action.condition": "add,gate,film,bias,late"},
    "targets weighed 0, 1, 2.5": {"action.weights": "0,1,2.5"},
    "fine-tuned on clicks and conversions": {"train": {"finetune_share": 0.3}},
    "without time": {"without": "time"},
    "with sessions": {"features": f"{ALL},session"},
    "with Fourier features": {"features": f"{ALL},fourier"},
    "with a time bias": {"trunk.time_bias": "true"},
    "rotary by order and time": {"trunk.positions": "both"},
    "with all of time": {"features": f"{ALL},session,fourier", "trunk.time_bias": "true", "trunk.positions": "both"},
    "with popularity": {"features": f"{ALL},popularity"},
    "with the graph": {"features": f"{ALL},graph", "inputs.fanouts": "5,3"},
    "without content": {"without": "content"},
    "without embeddings 85 and 86": {"emb": ("81", "82", "83", "84")},
    "without codes": {"without": "codes"},
    "without ids": {"without": "id"},
    "without columns": {"without": "fields"},
    "without a profile": {"without": "profile"},
    "with user ids": {"features": f"{ALL},user", "inputs.user_dropout": "0.1"},
    "with user FiLM": {"inputs.user_film": "true"},
    "with prefixes": {"features": f"{ALL},prefixes"},
    "random-k: one of 5 codes": {"inputs.near_codes": "5"},
    "random-k: codes cut": {"inputs.prefix_rate": "0.1"},
    "random-k: collisions": {"collisions": "random-k"},
    "clock dropout 0.2": {"inputs.clock_dropout": "0.2"},
    "gated encoders": {"inputs.join": "gated"},
    "an MLP encoder": {"inputs.join": "mlp"},
    "QK-norm": {"trunk.qk_norm": "true"},
    "window of 20": {"trunk.window": "20"},
    "HSTU": {"trunk.block": "hstu"},
    "8 experts": {"moe.num_experts": "8", "moe.hidden": "128", "moe.shared_hidden": "128"},
    "layout code": {"layout": "code"},
}
Run = dict[str, Any]
Runs = dict[str, list[Run]]
ABSENT = "–"
VARIANTS: dict[str, dict[str, Any]] = {**{name: {"preset": name} for name in SYSTEMS}, **PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--variants", type=lambda text: text.split(";"), default=list(VARIANTS), metavar="NAME;…")
    parser.add_argument("--protocol", default="auto", help="how queries are cut")
    parser.add_argument("--epochs", type=int, default=0, help="0 chooses by the number of training events")
    parser.add_argument("--batch-tokens", type=int, default=0, help="0 chooses by the same")
    parser.add_argument("--max-minutes", type=float, default=20.0)
    parser.add_argument("--queries", type=int, default=5000, help="test queries that are judged")
    parser.add_argument("--work", type=Path, default=Path("runs/systems"))
    parser.add_argument("--results", type=Path, default=Path("runs/systems.jsonl"), help="one line a finished run")
    parser.add_argument("--table", type=Path, help="also write the tables there, as Markdown")
    arguments = parser.parse_args()
    unknown = set(arguments.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are: {'; '.join(VARIANTS)}")
    results, text = {}, ""
    for source in arguments.datasets:
        prepared(source, arguments.work / source.name, arguments.protocol)
        found = {
            name: [run(source, name, seed, arguments) for seed in arguments.seeds] for name in arguments.variants
        }
        for title, table in (
            (f"{source.name}: test split", worth(found)),
            (f"{source.name}: action told", gains(found)),
        ):
            show(title, table)
            text += markdown(title, table)
        results[source.name] = found
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "systems", **hardware, "seeds": arguments.seeds, "results": results}))


def run(source: Path, variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One variant with one seed, in a process of its own so that its memory can be told."""
    limits = {name: getattr(arguments, name) for name in ("epochs", "batch_tokens", "max_minutes", "queries")}
    key = json.loads(json.dumps({"set": source.name, "variant": variant, "seed": seed, **limits}))
    if arguments.results.exists():
        for line in map(json.loads, arguments.results.read_text().splitlines()):
            if {name: line[name] for name in key} == key:
                return line
    data = arguments.work / source.name / f"data-{arguments.protocol}"
    folder = arguments.work / source.name / f"seed{seed}"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        result = key | apart.submit(measured, data, folder, variant, seed, limits).result()
    with arguments.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def measured(data: Path, folder: Path, variant: str, seed: int, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Train, judge on the test split, and tell the cost."""
    dataset, changes = Dataset.open(data), dict(VARIANTS[variant])
    budget = {name: limits[name] for name in ("epochs", "batch_tokens", "max_minutes")}
    place = folder / re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(map(str, (variant, *budget.values()))))
    tokenizer = fitted(dataset, folder, seed, changes.pop("emb", None), changes.pop("collisions", None))
    train = {**budget, **changes.pop("train", {})}
    preset = PRESETS[changes.get("preset", "small")]
    kept = {key: value for key, value in preset.train.items() if key.startswith(("finetune", "weight", "learning"))}
    config = TrainConfig(**{**kept, **train, "seed": seed})
    recommender = trained_to_end(dataset, tokenizer, model_config(changes), config, place)
    history = open_artifact(place, KIND).load_lines("log.jsonl")
    trained = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(weight.numel() for weight in recommender.model.parameters())
    metrics = judged(recommender, dataset, limits["queries"], told=tells_actions(variant))
    shutil.rmtree(place)
    return {
        "metrics": metrics,
        "minutes": round(history[-1]["seconds"] / 60, 2),
        "passes": history[-1]["epoch"],
        "best_epoch": history[-1]["best_epoch"],
        "tokens_per_second": int(np.median([record["tokens_per_second"] for record in history])),
        "weights": weights,
        "megabytes": round(trained / 1024),
    }


def fitted(
    dataset: Dataset, folder: Path, seed: int, names: tuple[str, ...] | None, collisions: str | None
) -> SemanticIdTokenizer:
    """The tokenizer of a seed, made on first use."""
    place = folder / "-".join(["tokenizer", *(names or ()), *([collisions] if collisions else [])])
    if (place / "config.json").exists():
        return SemanticIdTokenizer.load(place)
    chosen = chosen_embeddings(dataset, names or content_names(dataset))
    options = {"collisions": collisions} if collisions else {}
    return fit_tokenizer(dataset, TokenizerConfig(**chosen, **options, codes=CODES, seed=seed), place)


def model_config(changes: dict[str, Any]) -> ModelConfig:
    """A preset at the common size, or the small model with some settings."""
    name = changes.pop("preset", "small")
    config = PRESETS[name].model
    if not name.startswith("baseline"):
        parts = {"part_width": min(config.inputs.part_width, 64), "id_width": min(config.inputs.id_width, 128)}
        banks = tuple((kind, min(count, NEGATIVES)) for kind, count in config.negatives)
        config = replace(
            config,
            **SIZE,
            negatives=banks,
            trunk=replace(config.trunk, head_width=0),
            inputs=replace(config.inputs, **parts),
            moe=config.moe and replace(config.moe, hidden=128, shared_hidden=128),
        )
    without = changes.pop("without", None)
    config = replace(config, features=tuple(feature for feature in config.features if feature != without))
    return with_settings(config, changes)


def tells_actions(variant: str) -> bool:
    """Whether it is about actions, so that what wanting another one does is measured too."""
    changes = VARIANTS[variant]
    return variant in (*SYSTEMS, "fine-tuned on clicks and conversions") or any("action." in key for key in changes)


def judged(recommender: GenerativeRecommender, dataset: Dataset, count: int, *, told: bool) -> dict[str, float]:
    """Score, HitRate by the action of the target, and of cold targets.

    Args:
        told: also by action with the target's own action wanted, and with none.
    """
    queries = dataset.split("test").sample(count)
    usual = answered(recommender, queries, "usual")
    weights = dataset.action_weights if any(dataset.action_weights[a] for a in set(queries.target_actions)) else None
    targets = Targets.of(queries, weights)
    pool = {"candidates": dataset.candidates, "train_counts": dataset.train_counts}
    found = evaluate(usual, targets, ks=(K,), **pool)
    names = {"Score": f"Score@{K}", "ScoreWeighted": f"ScoreWeighted@{K}", "HR": f"HitRate@{K}"}
    metrics = {name: found[key] for name, key in names.items()}
    metrics |= {"HR cold": found[f"ColdHitRate@{K}"]} if f"ColdHitRate@{K}" in found else {}
    told = told and bool(recommender.model.config.action.condition)
    return metrics | by_action(recommender, dataset, queries, hit(usual, queries), told=told)


def by_action(
    recommender: GenerativeRecommender, dataset: Dataset, queries: Queries, hits: np.ndarray, *, told: bool
) -> dict[str, float]:
    """HitRate of the targets with each action; also with that action wanted, and with none.

    Args:
        hits: (Q,) with the usual action wanted.
    """
    metrics = {}
    untold = hit(answered(recommender, queries, ANY_ACTION), queries) if told else hits
    for action, name in enumerate(dataset.action_names):
        rows = np.flatnonzero(queries.target_actions == action)
        if not len(rows):
            continue
        metrics[f"HR {name}"] = float(hits[rows].mean())
        if told and action in recommender.catalogue.trained_actions:
            part = queries.select(rows)
            is_usual = name == recommender.usual_action
            wanted = hits[rows] if is_usual else hit(answered(recommender, part, name), part)
            metrics[f"HR {name} told"] = float(wanted.mean())
            metrics[f"HR {name} any"] = float(untold[rows].mean())
    return metrics


def answered(recommender: GenerativeRecommender, queries: Queries, action: str) -> Ranking:
    """The system's own answer: joined where it can be, otherwise of the head it has."""
    config = AnswerConfig(k=K, beam=BEAM, factory="Flat", fallback=(), action=action)
    answerer = Answerer(recommender, config)
    mode = answerer.modes[-1]
    return Ranking.concatenate([answerer.answer(batch, mode).ranking for batch in queries.batches(ANSWERED)])


def hit(ranking: Ranking, queries: Queries) -> np.ndarray:
    """(Q,) 1 where the target is among the first K, otherwise 0."""
    return query_metrics(ranking, Targets.of(queries), K).hit_rate


def worth(found: Runs) -> list[list[str]]:
    """A row a variant: metrics, the Score over the small model's of the same seeds, and what it costs."""
    names = list(dict.fromkeys(name for runs in found.values() for run in runs for name in run["metrics"]))
    names = [name for name in names if not name.endswith((" any", " told"))]
    lines = [["variant", *names, f"Score − {BASE}", "tokens/s", "MB", "minutes"]]
    for variant, runs in found.items():
        cells = [over_seeds(runs, lambda run, name=name: run["metrics"].get(name)) for name in names]
        cells.append(beyond(runs, found.get(BASE, [])) if variant != BASE else "")
        costs = [np.mean([run[key] for run in runs]) for key in ("tokens_per_second", "megabytes", "minutes")]
        lines.append([variant, *cells, f"{costs[0]:,.0f}", f"{costs[1]:,.0f}", f"{costs[2]:.1f}"])
    return lines


def gains(found: Runs) -> list[list[str]]:
    """A row a variant that can be told an action: HitRate of targets with an action, told none, told theirs."""
    keys = dict.fromkeys(name for runs in found.values() for name in runs[0]["metrics"] if name.endswith(" told"))
    names = [key.removesuffix(" told") for key in keys]
    lines = [["variant", *(f"{name}{what}" for name in names for what in (", told none", ", told", ", gain"))]]
    for variant, runs in found.items():
        cells = []
        for name in names:
            of_none, of_told = (lambda run, key=f"{name} {what}": run["metrics"].get(key) for what in ("any", "told"))
            cells += [over_seeds(runs, of_none), over_seeds(runs, of_told)]
            cells.append(
                over_seeds(runs, lambda run, a=of_none, b=of_told: None if a(run) is None else b(run) - a(run))
            )
        if set(cells) - {ABSENT}:
            lines.append([variant, *cells])
    return lines


def beyond(runs: list[Run], base: list[Run]) -> str:
    """How much more the Score is than the base's with the same seed."""
    scores = {run["seed"]: run["metrics"]["Score"] for run in base}
    common = [run for run in runs if run["seed"] in scores]
    return over_seeds(common, lambda run: run["metrics"]["Score"] - scores[run["seed"]])


def over_seeds(runs: list[Run], value: Callable[[Run], float | None]) -> str:
    """Mean and interval of a value, where runs have it."""
    values = [found for found in map(value, runs) if found is not None]
    return cell(*mean_over_seeds(values)) if values else ABSENT


def show(title: str, lines: list[list[str]]) -> None:
    """A table on the terminal."""
    table = Table(title=title)
    for column in lines[0]:
        table.add_column(column, justify="left" if column == "variant" else "right")
    for line in lines[1:]:
        table.add_row(*line)
    Console(width=240).print(table)


def markdown(title: str, lines: list[list[str]]) -> str:
    """The same as Markdown."""
    head, *body = lines
    text = [f"### {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    text += [f"| {' | '.join(line).replace('0.', '.')} |" for line in body]
    return "\n".join([*text, "", ""])


if __name__ == "__main__":
    main()
