"""Fit a tokenizer on a prepared dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semid.data.cooccurrence import cooccurrence_embedding
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.progress import Progress
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

# An embedding every dataset has: items that stand close together in training histories.
COOCCURRENCE = "cooccurrence"


def embedding_names(dataset: Dataset, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The ids to tokenize: those named, else all that the dataset has, else its co-occurrence."""
    return names or tuple(dataset.embeddings) or (COOCCURRENCE,)


def fit_tokenizer(
    dataset: Dataset,
    config: TokenizerConfig,
    out: Path | None,
    *,
    side: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> SemanticIdTokenizer:
    """Fit, and save to ``out`` unless it is None.

    Args:
        side: embedding from behaviour, for quantisers that use one; by default co-occurrence where such a quantiser
            needs it.

    Raises:
        InputError: unknown embeddings, or settings that the catalogue does not fit.
    """
    embeddings = [_embedding(dataset, name, config.seed) for name in config.embeddings]
    tokenizer = SemanticIdTokenizer(config).fit(
        embeddings,
        fields=dataset.item_fields,
        side=_embedding(dataset, side or COOCCURRENCE, config.seed) if side or _needs_side(config) else None,
        scratch=_scratch(out),
        progress=progress,
    )
    if out is not None:
        save_tokenizer(tokenizer, dataset, out, settings=settings)
    return tokenizer


def save_tokenizer(
    tokenizer: SemanticIdTokenizer, dataset: Dataset, out: Path, *, settings: Mapping[str, Any] | None = None
) -> None:
    """Save a tokenizer as one whose catalogue is the items of the dataset, by row and by id."""
    parents = {"dataset": dataset.artifact} if dataset.artifact else {}
    tokenizer.save(out, settings=settings, parents=parents, item_ids=dataset.item_ids)


def _embedding(dataset: Dataset, name: str, seed: int) -> Embedding:
    if name == COOCCURRENCE and name not in dataset.embeddings:
        return cooccurrence_embedding(dataset, seed=seed)
    return dataset.embedding(name)


def _needs_side(config: TokenizerConfig) -> bool:
    """Whether the quantiser has a weight for vectors from behaviour."""
    return float(config.options.get("collaborative", 0)) > 0


def _scratch(out: Path | None) -> Path | None:
    if out is None:
        return None
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent
