"""Semantic IDs for items, a decoder that generates them, and ANN retrieval beside it."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["AnswerConfig", "Answerer", "Dataset", "GenerativeRecommender", "SemanticIdTokenizer"]

_HOMES = {
    "AnswerConfig": "semid.pipeline.answer",
    "Answerer": "semid.pipeline.answering",
    "Dataset": "semid.data.dataset",
    "GenerativeRecommender": "semid.generative.recommender",
    "SemanticIdTokenizer": "semid.tokenizers.tokenizer",
}


def __getattr__(name: str) -> Any:
    """Load a public class on first use, so that ``import semid`` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'semid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
