"""Fit a tokenizer on a prepared dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from semid.artifacts import check_target
from semid.data.cooccurrence import COOCCURRENCE, cooccurrence_embedding, keeps_company, sample_pairs, split_users
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.errors import InputError
from semid.progress import Progress, silent
from semid.tokenizers.fusion.weighting import WeightChoice, WeightingConfig, search_weights
from semid.tokenizers.report import Weighting
from semid.tokenizers.storage import KIND
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

# Weight of behaviour for each of content. What items have in common in histories makes codes easier to predict, but
# much of it is chance where histories are few.
_BEHAVIOUR_SHARE = 0.25
# Most events of which co-occurrence is taken without being asked for: its counts are held in memory.
_MOST_EVENTS = 1 << 23


def chosen_embeddings(
    dataset: Dataset,
    content: tuple[str, ...] = (),
    behaviour: tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> dict[str, Any]:
    """The ``embeddings``, ``behaviour`` and ``weights`` of a :class:`TokenizerConfig`.

    Args:
        content: ids named; all that the dataset has of its own if empty. Those that were added to it from histories
            are behaviour.
        behaviour: ids of embeddings from histories; none if empty. None: those named among the content, else
            co-occurrence where it can be had.
        weights: of the content, or of all in the order named; 1 each by default. Behaviour gets a quarter of all
            content.

    Raises:
        InputError: neither content nor behaviour.
    """
    named = content or tuple(dataset.embeddings)
    made = tuple(name for name in named if name in dataset.added)
    behaviour = tuple(dict.fromkeys((*made, *(behaviour or ())))) if made or behaviour is not None else None
    content = tuple(name for name in named if name not in (behaviour or ()))
    if weights is not None and len(weights) == len(named) and content and made:
        weight = dict(zip(named, weights, strict=True))
        weights = tuple(weight[name] for name in (*content, *made))
    if behaviour is None:
        behaviour = (COOCCURRENCE,) if COOCCURRENCE not in content and _is_countable(dataset) else ()
    if not content and not behaviour:
        raise InputError(
            f"{dataset.location} has no embeddings, and nothing comes from its histories: there is nothing to make "
            "codes of. Prepare it with embeddings, or name some as behaviour."
        )
    if not content:
        return {"embeddings": behaviour, "weights": weights}
    if behaviour and (weights is None or len(weights) == len(content)):
        weights = _with_behaviour(weights or (1.0,) * len(content), len(behaviour))
    return {"embeddings": content + behaviour, "behaviour": behaviour, "weights": weights}


def _with_behaviour(weights: tuple[float, ...], count: int) -> tuple[float, ...]:
    return weights + (_BEHAVIOUR_SHARE * sum(weights) / max(count, 1),) * count


def _is_countable(dataset: Dataset) -> bool:
    """Whether training histories say what is taken together, and are not too many to count."""
    num_events = int((dataset.train_end - dataset.events.offsets[:-1]).sum())
    return num_events <= _MOST_EVENTS and keeps_company(dataset)


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
        auto_weights: weigh the content by how near it brings items that follow each other in training histories.
        side: embedding from behaviour, for quantisers that use one; by default co-occurrence where such a quantiser
            needs it.

    Raises:
        InputError: unknown embeddings, settings that the catalogue does not fit, or something else than a tokenizer
            at ``out``.
    """
    if out is not None:
        check_target(out, KIND)
    embeddings = [item_embedding(dataset, name, config.seed) for name in config.embeddings]
    choice = None
    if auto_weights:
        content = [embedding for embedding in embeddings if embedding.name in config.content]
        choice = _weighting(dataset, content, config.seed, progress or silent)
        config = replace(config, weights=_with_behaviour(choice.weights, len(config.behaviour)))
    tokenizer = SemanticIdTokenizer(config).fit(
        embeddings,
        fields=dataset.item_fields,
        side=side_embedding(dataset, config, side),
        scratch=scratch_folder(out),
        progress=progress,
    )
    if choice is not None:
        weighting = Weighting(
            weights=dict(zip(config.content, choice.weights, strict=True)),
            alone=dict(zip(config.content, choice.alone, strict=True)),
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
