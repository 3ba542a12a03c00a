"""A trained model on a later dataset, without training: it knows old items by id, new ones by codes and content.

Legend: N' items of the later dataset, N of the catalogue that the model has.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from semid.artifacts import check_target, open_artifact
from semid.data.dataset import Dataset
from semid.data.field_values import in_codes_of
from semid.data.table.id_index import IdIndex
from semid.errors import InputError
from semid.generative.catalogue import Catalogue, IdRows, columns
from semid.generative.config import ModelConfig
from semid.generative.model import Model
from semid.generative.recommender import KIND, GenerativeRecommender
from semid.pipeline.fitting import save_tokenizer, scratch_folder
from semid.pipeline.indexing import carried_index, save_index
from semid.pipeline.lifecycle import AppendReport, take_over
from semid.pipeline.training import content_features
from semid.progress import Progress
from semid.tokenizers.storage import KIND as TOKENIZER
from semid.tokenizers.tokenizer import SemanticIdTokenizer

# Items whose content is compared with what the model was told of them, and the share of its energy that may differ:
# a tokenizer that was fitted again has other vectors altogether.
_COMPARED = 1 << 16
_OTHER_CONTENT = 0.5


def carry_model(
    recommender: GenerativeRecommender, old: Dataset, new: Dataset, tokenizer: SemanticIdTokenizer
) -> GenerativeRecommender:
    """The model for a later dataset, with the weights it has.

    Items, users, actions and values of columns are matched by name. Old items are to it what they were in training;
    new ones have codes, content and columns, but no id and no past. Items that are gone are not recommended, and
    what followed them is forgotten. Values that training did not have are missing.

    Args:
        recommender: trained on ``old``; it stays as it is.
        old: what the model belongs to.
        new: the later dataset; its items are candidates as it says.
        tokenizer: of ``new``, made by appending to that of the model.

    Raises:
        InputError: parts that do not belong together, no item in common, other columns or actions, or codes that
            the model does not know.
    """
    for part, data in ((recommender.artifact, old), (tokenizer.artifact_, new)):
        if part is not None and data.artifact is not None:
            part.require_parent("dataset", data.artifact)
    rows = _matched_items(old, new)
    catalogue = _carried_catalogue(recommender, old, new, tokenizer, rows)
    model = Model(_same_way(recommender.model.config, recommender.catalogue.num_items, len(rows)), catalogue)
    model.load_state_dict(recommender.model.state_dict())
    names, dtype = recommender.action_names, recommender.encoder.dtype
    carried = GenerativeRecommender(model.to(catalogue.codes.device), catalogue, new.candidates, names, dtype)
    if recommender.transitions is not None:
        carried.transitions = recommender.transitions.carried(rows)
    carried.train_counts = np.where(rows >= 0, recommender.train_counts[rows], 0)
    carried.weights, carried.fusions = recommender.weights, recommender.fusions
    carried.usual_action = recommender.usual_action
    return carried


def append_and_carry(
    tokenizer: SemanticIdTokenizer,
    recommender: GenerativeRecommender,
    old: Dataset,
    new: Dataset,
    out: Path,
    model_out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[AppendReport, GenerativeRecommender]:
    """Take a tokenizer and its model over to a later dataset, and save both once both are made.

    Args:
        tokenizer: of ``old``, as loaded; it changes.
        recommender, old, new: as for :func:`carry_model`.
        out, model_out: where tokenizer and model of the later dataset go.
        settings: of the caller, written beside both.
        progress: told of every stage.

    Raises:
        InputError: as :func:`append_items` and :func:`carry_model`, or something else at ``out`` or ``model_out``.
    """
    if out.resolve() == model_out.resolve():
        raise InputError(f"{out} cannot hold both the tokenizer and the model: give each a place of its own.")
    check_target(out, TOKENIZER)
    check_target(model_out, KIND)
    report = take_over(tokenizer, new, scratch_folder(out), progress)
    carried = carry_model(recommender, old, new, tokenizer)
    index = carried_index(recommender, carried, _matched_items(old, new))
    save_tokenizer(tokenizer, new, out, settings=settings)
    parents = {"dataset": new.artifact, "tokenizer": SemanticIdTokenizer.load(out).artifact_}
    carried.save(
        model_out,
        settings=settings,
        parents={name: artifact for name, artifact in parents.items() if artifact is not None},
        history=recommender.artifact.load_lines("log.jsonl") if recommender.artifact else (),
    )
    if index is not None:
        save_index(index[0], open_artifact(model_out, KIND), index[1])
    return report, carried


def _matched_items(old: Dataset, new: Dataset) -> np.ndarray:
    """Old row of each item, -1 for new ones. (N',) int64"""
    index = IdIndex(pa.array(old.item_ids), lambda row: f"item row {row} of {old.location}")
    rows = index.rows(pa.array(new.item_ids))
    if not (rows >= 0).any():
        examples = ", ".join(map(repr, new.item_ids[:3].tolist()))
        raise InputError(
            f"No item of {new.location}, such as {examples}, is among those of {old.location}, such as "
            f"{index.examples()}: give a later dataset of the same catalogue."
        )
    return rows


def _carried_catalogue(
    recommender: GenerativeRecommender,
    old: Dataset,
    new: Dataset,
    tokenizer: SemanticIdTokenizer,
    rows: np.ndarray,
) -> Catalogue:
    was, features = recommender.catalogue, recommender.model.config.features
    device = was.codes.device
    codes = _codes(was, tokenizer, new, rows)
    content, known = _content(was, new, tokenizer, rows)
    item_fields = in_codes_of(old, new, "item") if "fields" in features else new.item_fields
    user_fields = in_codes_of(old, new, "user") if "profile" in features else new.user_fields
    from_row = torch.from_numpy(rows)
    by_item = from_row.to(device)
    users = was.user_ids
    if "user" in features:
        users = _ids_of(was.user_ids, _matched_users(old, new), old.num_users)
    return replace(
        was,
        codes=codes,
        content=content,
        known=known,
        trained=(from_row >= 0) & was.trained.cpu()[from_row],
        **columns(item_fields, user_fields),
        timeline=None if was.timeline is None else was.timeline.carried(rows),
        graph=None if was.graph is None else was.graph.carried(by_item),
        near_codes=None,
        item_ids=_ids_of(was.item_ids, from_row, was.num_items),
        user_ids=users,
        action_codes=_action_codes(recommender.action_names, new),
    ).to(device)


def _codes(was: Catalogue, tokenizer: SemanticIdTokenizer, new: Dataset, rows: np.ndarray) -> Tensor:
    """Checked: the tokenizer has codes for all items, and old ones have those that the model knows. (N', L) int64"""
    ids = tokenizer.semantic_ids_
    if ids.num_items != len(rows):
        raise InputError(
            f"The tokenizer has codes for {ids.num_items} items but {new.location} has {len(rows)}: append its items."
        )
    if ids.num_codes != was.num_codes:
        raise InputError(
            f"The tokenizer has {ids.num_codes} codes a level and the model {was.num_codes}, so it cannot tell them "
            "apart: train it again."
        )
    stays = rows >= 0
    others = (ids.codes[stays] != was.codes.cpu().numpy()[rows[stays]]).any(axis=1)
    if others.any():
        raise InputError(
            f"{int(others.sum()):,} items of {new.location} have other codes than the model learned: give the "
            "tokenizer that the model was trained with, or train again."
        )
    return torch.from_numpy(ids.codes.astype(np.int64))


def _content(was: Catalogue, new: Dataset, tokenizer: SemanticIdTokenizer, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Content (N', C) and (N',) bool whether it is known: old items' as it was, that of others at the same scale."""
    vectors, known = content_features(new, tokenizer)
    before, was_known = was.content.cpu().numpy(), was.known.cpu().numpy()
    kept = (rows >= 0) & was_known[rows]
    both = np.flatnonzero(kept & known)[:_COMPARED]
    content = np.zeros((len(rows), before.shape[1]), np.float32)
    content[kept] = before[rows[kept]]
    others = known & ~kept
    if others.any() or len(both):
        content[others] = vectors[others] / _scale(before[rows[both]], vectors[both], new)
    return torch.from_numpy(content), torch.from_numpy(kept | known)


def _scale(before: np.ndarray, now: np.ndarray, new: Dataset) -> float:
    """By what content (M, C) was divided in training, by least squares."""
    same_width = before.shape[1] == now.shape[1]
    energy = float(np.einsum("mc,mc->", before, before, dtype=np.float64)) if same_width else 0.0
    if energy > 0:
        scale = float(np.einsum("mc,mc->", before, now, dtype=np.float64)) / energy
        rest = float(np.square(now - scale * before, dtype=np.float64).sum())
        if scale > 0 and rest <= _OTHER_CONTENT * scale**2 * energy:
            return scale
    raise InputError(
        f"The vectors that the tokenizer has for items of {new.location} are not those that the model was trained "
        "with: give the tokenizer that it was trained with, or train again."
    )


def _ids_of(ids: IdRows | None, rows: Tensor, count: int) -> IdRows:
    """Of rows (R,) of a catalogue of ``count`` ids, -1 for none, the rows of the model's tables."""
    if ids is None:
        return IdRows(rows, count)
    return IdRows(torch.where(rows >= 0, ids.rows.cpu()[rows], -1), ids.count)


def _matched_users(old: Dataset, new: Dataset) -> Tensor:
    index = IdIndex(pa.array(old.user_ids), lambda row: f"user row {row} of {old.location}")
    return torch.from_numpy(index.rows(pa.array(new.user_ids)))


def _action_codes(names: tuple[str, ...], new: Dataset) -> Tensor | None:
    """(A' + 1,) int64 the model's action + 1 of each action + 1; None where all are the same."""
    strange = [name for name in new.action_names if name not in names]
    if strange:
        raise InputError(
            f"{new.location} has the action {strange[0]!r}, but the model knows {', '.join(names) or 'none'}: "
            "prepare it with these actions, or train again."
        )
    if new.action_names == names[: len(new.action_names)]:
        return None
    return torch.tensor([0, *(names.index(name) + 1 for name in new.action_names)])


def _same_way(config: ModelConfig, num_items: int, num_items_now: int) -> ModelConfig:
    """The configuration with which the code decoder sees item vectors, or does not, as in training."""
    most = config.node_vector_items
    most = max(most, num_items_now) if num_items <= most else min(most, num_items_now - 1)
    return replace(config, node_vector_items=most)
