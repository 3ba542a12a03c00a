"""Embeddings that were added to a prepared dataset later, each an artifact of its own beside what was prepared.

They lie in ``DATASET/added/NAME`` and leave the dataset itself, and so what was made from it, as it is.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from semid.artifacts import Artifact, create_artifact, open_artifact
from semid.data.features import Embedding
from semid.errors import InputError

logger = logging.getLogger(__name__)
KIND = "embedding"
_FOLDER = "added"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def add_embedding(dataset: Artifact, embedding: Embedding, *, settings: Mapping[str, Any] | None = None) -> None:
    """Write an embedding beside a prepared dataset; one added under the same name before is replaced.

    Raises:
        InputError: a name that cannot be that of a folder.
    """
    if not _NAME.fullmatch(embedding.name):
        raise InputError(f"{embedding.name!r} cannot name an embedding: use letters, digits, and _ . - inside.")
    target = dataset.path / _FOLDER / embedding.name
    with create_artifact(target, KIND, settings=settings, parents={"dataset": dataset}) as writer:
        np.save(writer.path / "vectors.npy", embedding.vectors)
        np.save(writer.path / "valid.npy", embedding.valid)


def added_embeddings(dataset: Artifact) -> dict[str, Embedding]:
    """The embeddings added to a prepared dataset, mapped into memory, but those damaged or made for another one."""
    found = {}
    for config in sorted((dataset.path / _FOLDER).glob("*/config.json")):
        if not _NAME.fullmatch(config.parent.name):
            continue  # left by one who was stopped while writing
        try:
            open_artifact(config.parent, KIND).require_parent("dataset", dataset)
        except InputError as error:
            logger.warning("%s Until then the embedding is left out.", error)
            continue
        vectors, valid = (np.load(config.parent / f"{name}.npy", mmap_mode="r") for name in ("vectors", "valid"))
        found[config.parent.name] = Embedding(config.parent.name, vectors, valid)
    return found
