"""Does bf16 make a training step faster on this machine?

Steps of the same batches with float32 and with bfloat16 matrix products, interleaved, medians after a warm-up, on a
synthetic set whose catalogue is large enough for the full softmax to dominate as it does on real ones.

    python benchmarks/precision.py --items 12000
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from semid.data.dataset import Dataset
from semid.data.prepare import prepare
from semid.data.synthetic.generator import SyntheticConfig, synthesise
from semid.generative.features import Catalogue
from semid.generative.histories import BatchBuilder, training_segments
from semid.generative.model import PRESETS, Model
from semid.generative.optim import build_optimizer, matrix_dtype
from semid.pipeline.fitting import fit_tokenizer
from semid.tokenizers.tokenizer import TokenizerConfig

DTYPES = (torch.float32, torch.bfloat16)
ROW_TOKENS, ROWS = 128, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["small", "base"])
    parser.add_argument("--steps", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        synthesise(
            Path(scratch) / "raw", SyntheticConfig(users=1500, items=arguments.items, embeddings=(("82", 64),))
        )
        dataset = prepare(Path(scratch) / "raw", Path(scratch) / "data")
        rows = [measure(dataset, preset, arguments.steps) for preset in arguments.presets]
    print(f"{'preset':<8}{'float32 s/step':>16}{'bfloat16 s/step':>17}{'ratio':>8}")
    for row in rows:
        print(f"{row['preset']:<8}{row['float32']:>16.3f}{row['bfloat16']:>17.3f}{row['ratio']:>8.2f}")
    chosen = str(matrix_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(
        json.dumps({"benchmark": "precision", **hardware, "auto": chosen, "tokens": ROW_TOKENS * ROWS, "rows": rows})
    )


def measure(dataset: Dataset, preset: str, steps: int) -> dict[str, object]:
    """Median seconds of a step in both precisions."""
    tokenizer = fit_tokenizer(dataset, TokenizerConfig(embeddings=("82",), options={"iterations": 2}), None)
    content, known = torch.from_numpy(tokenizer.vectors_), torch.from_numpy(tokenizer.known_)
    catalogue = Catalogue.of(dataset, tokenizer.semantic_ids_, content, known)
    model = Model(PRESETS[preset].restricted_to(catalogue.available()), catalogue).train()
    optimizer = build_optimizer(model, 1e-3, 0.1)
    profile = "profile" in model.config.features
    builder = BatchBuilder(training_segments(dataset, ROW_TOKENS - 1, profile=profile), profile=profile)
    popularity = torch.zeros(dataset.num_items)
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in DTYPES}
    batches = builder.epoch(ROW_TOKENS, ROWS, np.random.default_rng(0))
    for number, batch in zip(range(steps + 1), batches, strict=False):
        for dtype in DTYPES:
            began = time.perf_counter()
            loss = model.total(model.losses(batch, catalogue, popularity, dtype))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number:  # the first one warms up
                seconds[dtype].append(time.perf_counter() - began)
    single, half = (median(seconds[dtype]) for dtype in DTYPES)
    return {
        "preset": preset,
        "float32": round(single, 4),
        "bfloat16": round(half, 4),
        "ratio": round(single / half, 2),
    }


if __name__ == "__main__":
    main()
