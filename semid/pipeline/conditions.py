"""Under which conditions a comparison was made: all that somebody needs who wants the same figures."""

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from semid import __version__
from semid.artifacts import Artifact
from semid.data.dataset import Dataset
from semid.pipeline.answering import Answerer

_PACKAGES = ("torch", "numpy", "scipy", "faiss-cpu", "faiss-gpu")


def conditions(answerer: Answerer, dataset: Dataset, split: str) -> dict[str, Any]:
    """Data, split and pool, model, how it answers, versions and machine, as plain JSON."""
    recommender = answerer.recommender
    cut = dataset.artifact.details.get("report", {}).get("split", {}) if dataset.artifact else {}
    return {
        "data": _identity(dataset.artifact),
        "split": {"name": split, **cut},
        "candidates": len(recommender.candidates),
        "candidates_without_training_events": int((recommender.train_counts[recommender.candidates] == 0).sum()),
        "filter_seen": answerer.config.filter_seen,
        "model": _identity(recommender.artifact),
        "answers": asdict(answerer.config) | {"budget": [list(part) for part in answerer.config.budget]},
        "wanted_action": answerer.action,
        "fusion": {"rule": answerer.rule, "validation_NDCG@10": dict(recommender.fusions)},
        "precision": str(recommender.encoder.dtype).removeprefix("torch."),
        "versions": {"semid": __version__, **_versions()},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }


def _identity(artifact: Artifact | None) -> dict[str, Any]:
    """Its checksum, and the settings that made it, the seed among them."""
    return {} if artifact is None else {"checksum": artifact.checksum, "settings": artifact.settings}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
