"""Train a recommender on a prepared dataset and a tokenizer, judged by both of its ways to recommend."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semid.artifacts import check_target
from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.data.transitions import Transitions
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.generative.catalogue import Catalogue
from semid.generative.config import ModelConfig
from semid.generative.model import Model
from semid.generative.recommender import ANY_ACTION, KIND, GenerativeRecommender
from semid.generative.train import CHECKPOINT_KIND, TrainConfig, Trainer, Validate
from semid.pipeline import evidence
from semid.pipeline.weighing import candidates_by_mode, weigh
from semid.progress import Progress
from semid.retrieval.combining import rank
from semid.tokenizers.tokenizer import SemanticIdTokenizer

logger = logging.getLogger(__name__)

VALIDATION_QUERIES = 3000
VALIDATION_BEAM = 20
_K = 10


def train_recommender(
    dataset: Dataset,
    tokenizer: SemanticIdTokenizer,
    model_config: ModelConfig,
    train_config: TrainConfig,
    out: Path | None,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    device: str = "cpu",
) -> GenerativeRecommender:
    """Train, keep the weights that are best on validation, fit the weights of the evidence there too, and save.

    Validation is on at most VALIDATION_QUERIES fixed queries; the objective is the mean NDCG@10 of the beams and of
    exact vector search, the history weighed. The test split is not read. Without validation queries the last epoch
    counts.

    Args:
        out: where the model goes; a checkpoint lies in ``OUT.checkpoint`` while it trains. None saves nothing.
        settings: of the caller, written beside the model so that the run can be repeated.
        resume: go on from the checkpoint.

    Raises:
        InputError: the tokenizer belongs to another dataset, there is nothing to learn from, something else than a
            model lies at ``out``, or the training broke down.
    """
    if out is not None:
        check_target(out, KIND)
        check_target(checkpoint_of(out), CHECKPOINT_KIND)
    if tokenizer.artifact_ is not None and dataset.artifact is not None:
        tokenizer.artifact_.require_parent("dataset", dataset.artifact)
    catalogue, config = catalogue_for(dataset, tokenizer, model_config, torch.device(device))
    torch.manual_seed(train_config.seed)
    model = Model(config, catalogue).to(device)
    recommender = GenerativeRecommender(model, catalogue, dataset.candidates, dataset.action_names)
    queries = validation_sample(dataset)
    action = usual_target_action(dataset, recommender)
    made_from = {"dataset": dataset.artifact, "tokenizer": tokenizer.artifact_}
    parents = {name: artifact for name, artifact in made_from.items() if artifact is not None}
    checkpoint = checkpoint_of(out) if out else None
    if checkpoint is not None and checkpoint.exists() and not resume:
        logger.warning("Starting anew: the checkpoint %s of an unfinished training will be replaced.", checkpoint)
    trainer = Trainer(
        model,
        dataset,
        catalogue,
        train_config,
        validator(recommender, queries, action),
        checkpoint=checkpoint,
        identity={"model": asdict(config), "made_from": {name: parent.checksum for name, parent in parents.items()}},
        progress=progress,
    )
    history = trainer.run(resume=resume)
    recommender.weights_changed()
    recommender.transitions = Transitions.of(dataset)
    recommender.train_counts = dataset.train_counts
    learned = weigh(recommender, queries, action)
    recommender.weights, recommender.fusions = learned.weights, learned.fusions
    recommender.usual_action = action
    if out is not None:
        recommender.save(out, settings=settings, parents=parents, history=history)
        trainer.discard_checkpoint()
    return recommender


def catalogue_for(
    dataset: Dataset, tokenizer: SemanticIdTokenizer, config: ModelConfig, device: torch.device
) -> tuple[Catalogue, ModelConfig]:
    """All that a model asks of a dataset, and its configuration without the features that the data lacks.

    Raises:
        InputError: the tokenizer was fitted on another number of items, or a feature that the model requires is
            missing.
    """
    assert tokenizer.semantic_ids_ is not None
    content, known = (torch.from_numpy(array) for array in content_features(dataset, tokenizer))
    catalogue = Catalogue.of(dataset, tokenizer.semantic_ids_, content, known).to(device)
    restricted = config.restricted_to(catalogue.available())
    left_out = sorted(set(config.features) - set(restricted.features))
    if left_out:
        logger.warning("The data has nothing for these features, so they are off: %s", ", ".join(left_out))
    catalogue = catalogue.with_events(dataset, restricted.features)
    if restricted.inputs.near_codes > 1:
        near = tokenizer.near_codes(restricted.inputs.near_codes)
        catalogue = replace(catalogue, near_codes=torch.from_numpy(near).to(device))
    return catalogue, restricted


def checkpoint_of(out: Path) -> Path:
    """Where the checkpoint of a training into ``out`` lies while it runs."""
    return out.with_name(f"{out.name}.checkpoint")


def content_features(dataset: Dataset, tokenizer: SemanticIdTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """What the model is told of the items beside their codes: (N, S) float32, and (N,) bool whether it is known.

    That is the vectors without the part from behaviour: it was made of the histories that the model learns to
    continue, so that it would learn to read their next events off it, which it cannot later.
    """
    if not tokenizer.config.behaviour:
        return np.asarray(tokenizer.vectors_), tokenizer.known_
    embeddings = [dataset.embedding(name) for name in tokenizer.config.content]
    return tokenizer.transform(embeddings)


def validation_sample(dataset: Dataset) -> Queries | None:
    """A fixed sample of the validation queries; None if there are none."""
    queries = dataset.queries["valid"].sample(VALIDATION_QUERIES)
    return queries if len(queries) else None


def usual_target_action(dataset: Dataset, recommender: GenerativeRecommender) -> str:
    """The commonest action of validation targets, which recommending is conditioned on unless told otherwise."""
    actions = dataset.queries["valid"].target_actions
    known = actions[np.isin(actions, recommender.catalogue.trained_actions)]
    if not recommender.model.config.action.condition or not len(known):
        return ANY_ACTION
    return dataset.action_names[int(np.bincount(known).argmax())]


def validator(recommender: GenerativeRecommender, queries: Queries | None, action: str) -> Validate:
    """From the model as it stands to its metrics; ``objective`` is what early stopping watches, absent without
    queries. Each head is judged as it will answer: with the history weighed."""

    def validate(model: Model) -> dict[str, float]:
        if queries is None:
            return {}
        recommender.weights_changed()
        metrics = {}
        for mode, candidates in candidates_by_mode(
            recommender, queries, action, VALIDATION_BEAM, hybrid=False
        ).items():
            ranking = rank(candidates, evidence.fit(candidates, queries, evidence.PRIOR[mode]), _K)
            metrics[f"valid_{mode}_NDCG@10"] = float(query_metrics(ranking, Targets.of(queries), _K).ndcg.mean())
        return {**metrics, "objective": float(np.mean(list(metrics.values())))}

    return validate
