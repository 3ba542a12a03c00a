"""Do better codes make better recommendations? One recommender, several tokenizers, the same seeds.

For every dataset, tokenizer and seed: fit → train → generate on the test split; item-level, full ranking, no filter,
model selection on validation only. The recommender and its settings are those of ``benchmarks/quality.py``.
Finished runs lie in the work folder and are not repeated; a stopped training goes on.

    python benchmarks/tokenizer_quality.py $SEMID_DATA/amazon14_beauty $SEMID_DATA/amazon14_sports --seeds 0,1,2
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from quality import cell, content_names, prepared, summarise
from rich.console import Console
from rich.table import Table

from semid.data.dataset import Dataset
from semid.data.splits import SplitConfig
from semid.evaluation.comparison import ModeResult, compare
from semid.generative.presets import PRESETS
from semid.generative.train import TrainConfig
from semid.pipeline.answer import AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.fitting import chosen_embeddings, fit_tokenizer
from semid.pipeline.training import checkpoint_of, train_recommender
from semid.progress import Progress
from semid.ranking import Ranking
from semid.tokenizers.family import FAMILY, Member
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig
from semid.tokenizers.tokenizer import TokenizerConfig

KS = (5, 10)
METRICS = ("HitRate@5", "NDCG@5", "HitRate@10", "NDCG@10")
_BATCH = 4096


class FaissGreedy(RQKMeans):
    """``faiss.Kmeans`` with its defaults on the residuals of each level, the nearest centroid at every level."""

    def fit(
        self, vectors: np.ndarray, *, side: np.ndarray | None = None, progress: Progress | None = None
    ) -> "FaissGreedy":
        """Fit level by level."""
        residuals = np.array(vectors, np.float32)
        self.codebooks_ = []
        for level, num_codes in enumerate(self.num_codes):
            kmeans = faiss.Kmeans(residuals.shape[1], num_codes, seed=self.config.seed + level)
            kmeans.train(residuals)
            _, codes = kmeans.index.search(residuals, 1)
            self.codebooks_.append(np.array(kmeans.centroids))
            residuals -= kmeans.centroids[codes[:, 0]]
        return self


FAMILY["faiss"] = Member(RQKMeansConfig, FaissGreedy)

# Peers have the codes of their papers and end with what their authors or users do with collisions, the next nearest
# free code. "+" is with behaviour, "wide" with the levels of our default.
_EVEN, _CONTENT = {"codes": 256}, {"behaviour": ()}
_FAISS = {"quantiser": "faiss", "options": {"beam": 1}, "collisions": "nearest"}
TOKENIZERS: Mapping[str, Mapping[str, Any]] = {
    "semid": {},
    "semid-content": _CONTENT,
    "semid-even": _EVEN,
    "semid-even-content": {**_EVEN, **_CONTENT},
    "faiss": {**_FAISS, **_EVEN, **_CONTENT},
    "faiss-wide+": _FAISS,
    "rq-vae": {"quantiser": "rq-vae", "collisions": "nearest", **_EVEN, **_CONTENT},
}


def main() -> None:
    arguments = parse()
    results = []
    for source in arguments.datasets:
        dataset = prepared(source, arguments.work / source.name, SplitConfig.protocol)
        for name in arguments.tokenizers:
            runs = [run(dataset, source.name, name, seed, arguments) for seed in arguments.seeds]
            results.append({"dataset": source.name, "tokenizer": name, "runs": runs, "summary": summarise(runs)})
    show(results)
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "tokenizer_quality", **hardware, "seeds": arguments.seeds, "results": results}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--tokenizers", type=lambda text: text.split(","), default=list(TOKENIZERS))
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--work", type=Path, default=Path("runs/tokenizer_quality"))
    return parser.parse_args()


def run(dataset: Dataset, source: str, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One tokenizer and seed: the metrics of the generated items, and the quality of the codes."""
    work = arguments.work / source / f"{name}-seed{seed}"
    result_path = work / "result.json"
    if result_path.exists():
        result: dict[str, Any] = json.loads(result_path.read_text())
        return result
    changes = dict(TOKENIZERS[name])
    chosen = chosen_embeddings(dataset, content_names(dataset), changes.pop("behaviour", None))
    began = time.monotonic()
    tokenizer = fit_tokenizer(dataset, TokenizerConfig(seed=seed, **chosen, **changes), work / "tokenizer")
    fitted = time.monotonic()
    recommender = train_recommender(
        dataset,
        tokenizer,
        PRESETS[arguments.preset].model,
        TrainConfig(seed=seed),
        work / "model",
        resume=checkpoint_of(work / "model").exists(),
    )
    recommender.weights = {}  # by the codes alone, whatever else a mode would look at
    answerer = Answerer(recommender, AnswerConfig(k=max(KS), beam=50, fallback=()))
    queries = dataset.split("test")
    rankings = [answerer.answer(batch, "generative").ranking for batch in queries.batches(_BATCH)]
    comparison = compare(
        queries,
        {"generative": ModeResult(ranking=Ranking.concatenate(rankings))},
        ks=KS,
        candidates=dataset.candidates,
        train_counts=dataset.train_counts,
    )
    report = tokenizer.report_
    history = [json.loads(line) for line in (work / "model" / "log.jsonl").read_text().splitlines()]
    result = {
        "seed": seed,
        "modes": comparison.modes,
        "relative_error": report.relative_error,
        "colliding_before": report.collisions.colliding_before,
        "neighbour_recall": report.neighbour_recall,
        "fit_seconds": round(fitted - began, 1),
        "train_seconds": history[-1]["seconds"],
        "best_epoch": history[-1]["best_epoch"],
        "epochs": len(history),
    }
    result_path.write_text(json.dumps(result, indent=1))
    return result


def show(results: list[dict[str, Any]]) -> None:
    """One table: a row a dataset and tokenizer."""
    table = Table(title="Generated items on the test split, by tokenizer")
    for column in ("dataset", "tokenizer", *METRICS, "error", "collide", "neighbours"):
        table.add_column(column, justify="left" if column in ("dataset", "tokenizer") else "right")
    for result in results:
        figures = [cell(*result["summary"]["generative"][metric]) for metric in METRICS]
        means = [
            f"{np.mean([run[name] for run in result['runs']]):.3f}"
            for name in ("relative_error", "colliding_before", "neighbour_recall")
        ]
        table.add_row(result["dataset"], result["tokenizer"], *figures, *means)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
