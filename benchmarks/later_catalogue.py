"""What does a model lose that goes along to a later catalogue, against one that is trained anew on it?

A share of the items, drawn at random, has not come yet: the earlier catalogue has neither them nor their events. A
tokenizer and a model of it go along to the whole catalogue as `semid append --model` takes them; others are fitted
and trained on the whole one, where the new items have training events. Both answer the same test queries of the
whole catalogue; those that ask for a new item are told apart.

    python benchmarks/later_catalogue.py $SEMID_DATA/amazon18_industrial_minionerec --seeds 0,1,2
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from quality import KS, answered, content_names, prepared, trained_to_end
from rich.console import Console
from rich.table import Table

from semid.data.dataset import Dataset
from semid.data.splits import SplitConfig
from semid.evaluation.metrics import query_metrics
from semid.evaluation.over_seeds import mean_over_seeds
from semid.evaluation.targets import Targets
from semid.generative.presets import PRESETS
from semid.generative.recommender import GenerativeRecommender
from semid.generative.train import TrainConfig
from semid.pipeline.answering import MODES
from semid.pipeline.carrying import append_and_carry
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

K = max(KS)


def earlier_files(source: Path, share: float, seed: int, target: Path) -> None:
    """The raw tables of a set without some of its items, their events, and the queries that ask for them."""
    target.mkdir(parents=True, exist_ok=True)
    items = pq.read_table(source / "items.parquet")
    stays = np.random.default_rng(seed).random(len(items)) >= share
    pq.write_table(items.filter(pa.array(stays)), target / "items.parquet")
    for path in source.glob("emb_*.npy"):
        np.save(target / path.name, np.load(path)[stays])
    there = items["item_id"].combine_chunks().filter(pa.array(stays))
    events = pq.read_table(source / "interactions.parquet")
    pq.write_table(events.filter(pc.is_in(events["item_id"], there)), target / "interactions.parquet")
    if (source / "official_eval.parquet").exists():
        asked = pq.read_table(source / "official_eval.parquet")
        asked = asked.filter(pc.is_in(asked["target"], there))
        known = set(there.to_pylist())
        histories = [[item for item in history if item in known] for history in asked["history"].to_pylist()]
        asked = asked.set_column(asked.schema.get_field_index("history"), "history", pa.array(histories))
        pq.write_table(
            asked.filter(pc.greater(pc.list_value_length(asked["history"]), 0)), target / "official_eval.parquet"
        )


def fitted_and_trained(
    dataset: Dataset, seed: int, arguments: argparse.Namespace, out: Path
) -> tuple[SemanticIdTokenizer, GenerativeRecommender, float]:
    """A tokenizer and a model of a catalogue, and the seconds that they took."""
    began = time.monotonic()
    config = TokenizerConfig(**chosen_embeddings(dataset, content_names(dataset)), seed=seed)
    tokenizer = fit_tokenizer(dataset, config, out / "tokenizer")
    train = TrainConfig(epochs=arguments.epochs, seed=seed)
    recommender = trained_to_end(dataset, tokenizer, PRESETS[arguments.preset].model, train, out / "model")
    return tokenizer, recommender, time.monotonic() - began


def figures(recommender: GenerativeRecommender, dataset: Dataset, new: np.ndarray) -> dict[str, dict[str, float]]:
    """By mode, over all test queries and over those with a new target."""
    queries = dataset.split("test")
    targets = Targets.of(queries)
    asks_new = new[targets.items]  # one target a query
    found = {}
    for mode in MODES:
        metrics = query_metrics(answered(recommender, queries, mode, recommender.weights), targets, K)
        found[mode] = {
            "HitRate": float(metrics.hit_rate.mean()),
            "NDCG": float(metrics.ndcg.mean()),
            "HitRate, new": float(metrics.hit_rate[asks_new].mean()),
        }
    return found


def run(source: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One seed; finished parts lie in the work folder and are not repeated."""
    work = arguments.work / source.name / f"seed{seed}"
    result = work / "result.json"
    if result.exists():
        done: dict[str, Any] = json.loads(result.read_text())
        return done
    earlier_files(source, arguments.share, seed, work / "earlier_raw")
    before, after = (
        prepared(work / "earlier_raw", work / "earlier", SplitConfig()),
        prepared(source, work, SplitConfig()),
    )
    tokenizer, model, _ = fitted_and_trained(before, seed, arguments, work / "before")
    began = time.monotonic()
    _, carried = append_and_carry(tokenizer, model, before, after, work / "carried/tokenizer", work / "carried/model")
    carrying = time.monotonic() - began
    _, anew, training = fitted_and_trained(after, seed, arguments, work / "anew")
    new = ~np.isin(after.item_ids, before.item_ids)
    told = {
        "dataset": source.name,
        "seed": seed,
        "new items": int(new.sum()),
        "queries": len(after.split("test")),
        "queries for new items": int(new[Targets.of(after.split("test")).items].sum()),
        "seconds": {"carried": round(carrying, 2), "anew": round(training, 1)},
        "carried": figures(carried, after, new),
        "anew": figures(anew, after, new),
    }
    result.write_text(json.dumps(told, indent=1))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.1, help="of the items that come later")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--epochs", type=int, default=0, help="0 chooses by the number of training events")
    parser.add_argument("--work", type=Path, default=Path("runs/later"))
    arguments = parser.parse_args()
    results = []
    for source in arguments.datasets:
        runs = [run(source, seed, arguments) for seed in arguments.seeds]
        results.append({"dataset": source.name, "runs": runs})
        asked = np.mean([told["queries for new items"] for told in runs])
        title = f"{source.name}: {len(runs)} seeds, {runs[0]['queries']:,} queries, {asked:,.0f} for new items"
        table = Table(title=title)
        for column in ("model", "mode", f"R@{K}", f"N@{K}", f"R@{K}, new items"):
            table.add_column(column, justify="left" if column in ("model", "mode") else "right")
        for model in ("carried", "anew"):
            for mode in MODES:
                cells = [mean_over_seeds([told[model][mode][name] for told in runs]) for name in runs[0][model][mode]]
                table.add_row(model, mode, *(f"{mean:.4f} ± {half or 0:.4f}" for mean, half in cells))
        Console(width=110).print(table)
    hardware = {"machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "later_catalogue", **hardware, "share": arguments.share, "results": results}))


if __name__ == "__main__":
    main()
