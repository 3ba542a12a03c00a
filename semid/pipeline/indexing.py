"""The index of a recommender's candidates: the one saved beside the model where it fits, otherwise built.

A large one lies in ``MODEL/index``, an artifact of its own that leaves the model as it is. It is written when it is
first built, goes with the model when that is made again, and along with it to a later catalogue.
"""

import logging
from dataclasses import replace

import numpy as np

from semid.artifacts import Artifact, create_artifact, open_artifact
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender
from semid.retrieval.ann import INDEX_NAME, ROWS_NAME, AnnIndex
from semid.retrieval.choice import AUTO, EXACT_UNTIL, auto_factory, build_index
from semid.retrieval.exact_index import EXACT
from semid.retrieval.item_index import ItemIndex

logger = logging.getLogger(__name__)
KIND = "index"


def item_index(recommender: GenerativeRecommender, factory: str = AUTO) -> ItemIndex:
    """An index of the vectors of the items that may be recommended.

    Args:
        factory: as :func:`build_index` takes it.

    Raises:
        InputError: see :func:`build_index`.
    """
    rows, device = recommender.candidates, str(recommender.catalogue.codes.device)
    width = recommender.item_vectors.shape[1]
    chosen = auto_factory(len(rows), width, device) if factory == AUTO else factory
    model = None if chosen == EXACT or len(rows) <= EXACT_UNTIL else recommender.artifact
    saved = None if model is None else _saved(model, factory, rows, device)
    if saved is not None:
        return saved
    logger.info("Building the index %s of %d items.", chosen, len(rows))
    index = build_index(recommender.item_vectors[rows], rows, chosen, device)
    if model is not None and isinstance(index, AnnIndex) and not recommender.is_narrowed:
        save_index(index, model, factory)
    return index


def carried_index(
    recommender: GenerativeRecommender, carried: GenerativeRecommender, rows: np.ndarray
) -> tuple[AnnIndex, str] | None:
    """The index saved beside a model, for that model on a later catalogue, and the factory that was asked for.

    Items that went leave it and new ones join; nothing is trained.

    Args:
        rows: (N',) row that each item of the later catalogue had before, -1 for new ones.

    Returns:
        None where there is none, or where it is better built anew: the vectors of old items have changed, or many
        items have.
    """
    device = str(recommender.catalogue.codes.device)
    found = None if recommender.artifact is None else _read(recommender.artifact, device)
    if found is None or "graph" in recommender.model.config.features:  # a vector tells of the items around it
        return None
    index, factory = found
    there = np.full(recommender.catalogue.num_items, -1)
    stays = carried.candidates[rows[carried.candidates] >= 0]
    there[rows[stays]] = stays
    index = index.without_items(index.rows[there[index.rows] < 0])
    index = replace(index, item_rows=np.where(index.item_rows < 0, -1, there[index.item_rows]))
    new = np.setdiff1d(carried.candidates, index.rows)
    index = index.with_items(carried.item_vectors[new], new)
    return None if index.is_worn else (index, factory)


def save_index(index: AnnIndex, model: Artifact, factory: str) -> None:
    """Write an index beside its model; where that fails there is a warning, and it will be built again."""
    path, settings = model.path / KIND, {"factory": factory}
    try:
        with create_artifact(path, KIND, settings=settings, parents={"model": model}) as writer:
            index.save(writer.path)
    except (InputError, OSError) as error:
        logger.warning("The index was not saved: %s", error)


def _saved(model: Artifact, factory: str, rows: np.ndarray, device: str) -> AnnIndex | None:
    """The index beside the model, less the items that are no candidates; None if there is none that fits."""
    found = _read(model, device)
    if found is None or found[1] != factory or not np.isin(rows, found[0].rows).all():
        return None
    narrowed = found[0].without_items(np.setdiff1d(found[0].rows, rows))
    return None if narrowed.is_worn else narrowed


def _read(model: Artifact, device: str) -> tuple[AnnIndex, str] | None:
    """The index beside the model, and the factory that was asked for."""
    path = model.path / KIND
    if not path.is_dir():
        return None
    try:
        artifact = open_artifact(path, KIND)
        artifact.require_parent("model", model)
        for name in (INDEX_NAME, ROWS_NAME):
            artifact.verified(name)
        return AnnIndex.load(path, device=device), str(artifact.settings["factory"])
    except (InputError, OSError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s It is built anew.", error)
        return None
