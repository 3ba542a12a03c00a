"""Fit a tokenizer on a prepared dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from semid.data.cooccurrence import cooccurrence_embedding, sample_pairs, split_users
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.errors import InputError
from semid.progress import Progress, silent
from semid.tokenizers.fusion.weighting import WeightChoice, WeightingConfig, search_weights
from semid.tokenizers.report import Weighting
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
    auto_weights: bool = False,
    side: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> SemanticIdTokenizer:
    """Fit, and save to ``out`` unless it is None.

    Args:
        auto_weights: weigh the embeddings by how near they bring items that follow each other in training histories.
        side: embedding from behaviour, for quantisers that use one; by default co-occurrence where such a quantiser
            needs it.

    Raises:
        InputError: unknown embeddings, or settings that the catalogue does not fit.
    """
    embeddings = [item_embedding(dataset, name, config.seed) for name in config.embeddings]
    choice = None
    if auto_weights:
        choice = _weighting(dataset, embeddings, config.seed, progress or silent)
        config = replace(config, weights=choice.weights)
    tokenizer = SemanticIdTokenizer(config).fit(
        embeddings,
        fields=dataset.item_fields,
        side=side_embedding(dataset, config, side),
        scratch=scratch_folder(out),
        progress=progress,
    )
    if choice is not None:
        weighting = Weighting(
            weights=dict(zip(config.embeddings, choice.weights, strict=True)),
            alone=dict(zip(config.embeddings, choice.alone, strict=True)),
            agreement=choice.agreement,
            equal=choice.equal,
        )
        tokenizer.report_ = replace(tokenizer.report_, weighting=weighting)
    if out is not None:
        save_tokenizer(tokenizer, dataset, out, settings=settings)
    return tokenizer


def save_tokenizer(
    tokenizer: SemanticIdTokenizer, dataset: Dataset, out: Path, *, settings: Mapping[str, Any] | None = None
) -> None:
    """Save a tokenizer as one whose catalogue is the items of the dataset, by row and by id."""
    parents = {"dataset": dataset.artifact} if dataset.artifact else {}
    tokenizer.save(out, settings=settings, parents=parents, item_ids=dataset.item_ids)


def item_embedding(dataset: Dataset, name: str, seed: int) -> Embedding:
    """An embedding of the dataset by id, co-occurrence in its training histories among them.

    Raises:
        InputError: no such id.
    """
    if _is_made(dataset, name):
        return cooccurrence_embedding(dataset, seed=seed)
    return dataset.embedding(name)


def _weighting(dataset: Dataset, embeddings: Sequence[Embedding], seed: int, tell: Progress) -> WeightChoice:
    if len(embeddings) < 2:
        raise InputError("There is one embedding, so there are no weights to choose: leave out 'auto'.")
    tell("choose weights", 0, None)
    if any(_is_made(dataset, embedding.name) for embedding in embeddings):
        # An embedding made from histories must not be judged by the same ones.
        others, dataset = split_users(dataset, seed=seed)
        embeddings = [item_embedding(others, embedding.name, seed) for embedding in embeddings]
    pairs = sample_pairs(dataset, seed=seed)
    return search_weights(embeddings, pairs, WeightingConfig(seed=seed))


def _is_made(dataset: Dataset, name: str) -> bool:
    """Whether an embedding is made here, of training histories."""
    return name == COOCCURRENCE and name not in dataset.embeddings


def side_embedding(dataset: Dataset, config: TokenizerConfig, name: str | None) -> Embedding | None:
    """What a quantiser learns from behaviour: the embedding named, else co-occurrence where its weight is set."""
    if name is None and float(config.options.get("collaborative", 0)) <= 0:
        return None
    return item_embedding(dataset, name or COOCCURRENCE, config.seed)


def scratch_folder(out: Path | None) -> Path | None:
    """Where vectors may lie while a tokenizer is made: beside its place, None where it has none."""
    if out is None:
        return None
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent
