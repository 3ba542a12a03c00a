"""Which quantiser makes which codes? Every member of the family on the same vectors, with its defaults.

Error on the items of the fit and on items held out, codes that collide, neighbours kept, purity of the first level
against an item column, seconds; mean of the seeds with its 95 % interval.

    python benchmarks/family.py $SEMID_DATA/amazon14_beauty
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import prepared
from rich.console import Console
from rich.table import Table

from semid.data.cooccurrence import cooccurrence_embedding
from semid.data.dataset import Dataset
from semid.data.features import Embedding, Fields
from semid.data.splits import SplitConfig
from semid.evaluation.over_seeds import mean_over_seeds
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

SYSTEMS: dict[str, dict[str, Any]] = {
    "rq-kmeans": {},
    "rq-kmeans+": {"quantiser": "rq-kmeans+"},
    "rq-vae": {"quantiser": "rq-vae"},
    "rq-vae, LETTER": {"quantiser": "rq-vae", "options": {"collaborative": 0.1, "diversity": 0.1}},
    "pq": {"quantiser": "opq", "options": {"rotations": 0}},
    "opq": {"quantiser": "opq"},
    "fsq": {"quantiser": "fsq"},
    "opq, 32 levels": {"quantiser": "opq", "levels": 32},
}
_HELD_OUT = 0.1


def main() -> None:
    arguments = parse()
    dataset = prepared(arguments.dataset, arguments.work / arguments.dataset.name, SplitConfig.protocol)
    results = {name: [run(dataset, name, seed, arguments.emb) for seed in arguments.seeds] for name in SYSTEMS}
    table = Table(title=f"{arguments.dataset.name}, {arguments.emb}, {len(arguments.seeds)} seeds")
    columns = list(next(iter(results.values()))[0])
    for column in ("quantiser", *columns):
        table.add_column(column, justify="left" if column == "quantiser" else "right")
    for name, runs in results.items():
        table.add_row(name, *(interval([run[column] for run in runs]) for column in columns))
    Console(width=180).print(table)
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "family", **hardware, "dataset": arguments.dataset.name, "results": results}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--emb", default="minilm_384")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/family"))
    return parser.parse_args()


def run(dataset: Dataset, name: str, seed: int, emb: str) -> dict[str, float]:
    """One quantiser and seed."""
    embedding = dataset.embedding(emb)
    held_out = np.zeros(dataset.num_items, bool)
    held_out[np.random.default_rng(seed).permutation(dataset.num_items)[: int(_HELD_OUT * dataset.num_items)]] = True
    kept, new = (rows_of(embedding, np.flatnonzero(rows)) for rows in (~held_out, held_out))
    fields = dataset.item_fields
    own_fields = Fields(fields.names, fields.sizes, fields.values[~held_out])
    settings = SYSTEMS[name]
    side = None
    if "collaborative" in settings.get("options", {}):
        side = rows_of(cooccurrence_embedding(dataset, seed=seed), np.flatnonzero(~held_out))
    tokenizer = SemanticIdTokenizer(TokenizerConfig(embeddings=(emb,), codes=256, seed=seed, **settings))
    began = time.perf_counter()
    tokenizer.fit([kept], fields=own_fields, side=side)
    seconds = time.perf_counter() - began
    report = tokenizer.report_
    vectors, _ = tokenizer.transform([new])
    rest = vectors - tokenizer.decode(tokenizer.encode([new]))
    found = {
        "error": report.unresolved_error,
        "held out": float((rest**2).sum() / ((vectors - vectors.mean(0)) ** 2).sum()),
        "colliding": report.collisions.colliding_before,
        "neighbours": report.neighbour_recall,
        "same prefix": report.levels[0].neighbours_shared,
    }
    if report.purity:
        purity = report.purity[0]
        found[f"purity of {purity.field}"] = purity.by_level[0] or 0.0
    return found | {"seconds": seconds}


def rows_of(embedding: Embedding, rows: np.ndarray) -> Embedding:
    """The embedding of some items."""
    return Embedding(embedding.name, np.asarray(embedding.vectors[rows]), np.asarray(embedding.valid[rows]))


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % interval."""
    mean, half = mean_over_seeds(values)
    return f"{mean:.4f} ± {half or 0:.4f}"


if __name__ == "__main__":
    main()
