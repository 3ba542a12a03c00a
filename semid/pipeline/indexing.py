"""The index of a recommender's candidates: the one saved beside the model where it fits, otherwise built.

A large one lies in ``MODEL/index``, an artifact of its own that leaves the model as it is. It is written when it is
first built, and goes with the model when that is made again.
"""

import logging

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
        _save(index, model, factory)
    return index


def _saved(model: Artifact, factory: str, rows: np.ndarray, device: str) -> AnnIndex | None:
    """The index beside the model, less the items that are no candidates; None if there is none that fits."""
    path = model.path / KIND
    if not path.is_dir():
        return None
    try:
        artifact = open_artifact(path, KIND)
        artifact.require_parent("model", model)
        if artifact.settings["factory"] != factory:
            return None
        for name in (INDEX_NAME, ROWS_NAME):
            artifact.verified(name)
        index = AnnIndex.load(path, device=device)
        if not np.isin(rows, index.rows).all():
            return None
        narrowed = index.without_items(np.setdiff1d(index.rows, rows))
    except (InputError, OSError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s It is built anew.", error)
        return None
    return None if narrowed.is_worn else narrowed


def _save(index: AnnIndex, model: Artifact, factory: str) -> None:
    path, settings = model.path / KIND, {"factory": factory}
    try:
        with create_artifact(path, KIND, settings=settings, parents={"model": model}) as writer:
            index.save(writer.path)
    except (InputError, OSError) as error:
        logger.warning("The index was not saved: %s", error)
