"""What does it cost to let items whose codes collide draw one of the k nearest free codes, beside better choices?

One fit a seed; its codes are then made unique by each policy. *Added* is the rise of the squared error over the error
before, *neighbours* the share of an item's true nearest neighbours that are nearest by decoded codes too, *prefix*
the items whose codes before the last level changed. Mean of the seeds with its 95 % interval.

    SEMID_DATA=data python benchmarks/random_codes.py --sets amazon14_beauty
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from levers import summary
from measuring import Settings, equal_threads
from sections.real import real_vectors

from semid.data.features import Embedding
from semid.tokenizers.collisions.resolution import resolve
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig
from semid.tokenizers.vectors import Latents

COLUMNS = ("before", "after", "added", "error", "neighbours", "moved", "prefix")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["amazon14_beauty"], help="folders of $SEMID_DATA")
    parser.add_argument("--emb", default="minilm_384")
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--choices", type=int, nargs="+", default=[5, 10, 20], help="k")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    settings = Settings(data=Path(os.environ["SEMID_DATA"]), embedding=arguments.emb, threads=arguments.threads)
    rows = []
    for name in arguments.sets:
        vectors = real_vectors(name, settings)
        found: dict[str, list[dict[str, float]]] = {}
        with equal_threads(arguments.threads):
            for seed in range(arguments.seeds):
                for policy, figures in measure(vectors, seed, arguments.codes, arguments.choices):
                    found.setdefault(policy, []).append(figures)
        rows += [{"set": name, "policy": policy, **summary(figures)} for policy, figures in found.items()]
    print_table(rows)
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "random_codes", **hardware, **vars(arguments), "rows": rows}))


def measure(
    vectors: np.ndarray, seed: int, num_codes: int, choices: list[int]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Each policy, by name, on the codes of one fit."""
    config = TokenizerConfig(embeddings=("own",), codes=num_codes, collisions="none", seed=seed)
    tokenizer = SemanticIdTokenizer(config).fit([Embedding("own", vectors, np.ones(len(vectors), bool))])
    codes, latents = tokenizer.semantic_ids_.codes, Latents(tokenizer.vectors_, tokenizer.quantiser_)
    policies: dict[str, dict[str, Any]] = {name: {"policy": name} for name in ("none", "nearest", "optimal")}
    policies |= {f"random-k, k = {k}": {"policy": "random-k", "choices": k} for k in choices}
    for name, how in policies.items():
        began = time.process_time()
        resolution = resolve(codes, latents, tokenizer.quantiser_.codebooks_, seed=seed, **how)
        seconds = time.process_time() - began
        tokenizer.take_codes(codes, resolution)
        report, collisions = tokenizer.report_, resolution.report
        yield (
            name,
            {
                "before": collisions.colliding_before,
                "after": collisions.colliding_after,
                "added": collisions.added_distortion or 0.0,
                "error": report.relative_error,
                "neighbours": report.neighbour_recall,
                "moved": collisions.moved,
                "prefix": collisions.prefix_changed,
                "seconds": seconds,
            },
        )


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'set':<20}{'policy':<20}" + "".join(f"{column:>18}" for column in COLUMNS) + f"{'seconds':>9}")
    for row in rows:
        cells = [f"{row[column]:.4f} ± {row[column + ' +-']:.4f}" for column in COLUMNS]
        print(f"{row['set']:<20}{row['policy']:<20}" + "".join(f"{cell:>18}" for cell in cells), end="")
        print(f"{row['seconds']:>9.2f}")


if __name__ == "__main__":
    main()
