"""Embeddings that were added to a prepared dataset later, each an artifact of its own beside what was prepared.

They lie in ``DATASET/added/NAME`` and leave the dataset itself, and so what was made from it, as it is.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
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
    for folder in _folders(dataset):
        try:
            _open(folder, dataset)
        except InputError as error:
            logger.warning("%s Until then the embedding is left out.", error)
            continue
        vectors, valid = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("vectors", "valid"))
        found[folder.name] = Embedding(folder.name, vectors, valid)
    return found


def check_added(dataset: Artifact) -> None:
    """Raise InputError if an embedding that lies beside a dataset is damaged, or was made for another one."""
    for folder in _folders(dataset):
        _open(folder, dataset)


def _folders(dataset: Artifact) -> list[Path]:
    found = sorted(config.parent for config in (dataset.path / _FOLDER).glob("*/config.json"))
    return [folder for folder in found if _NAME.fullmatch(folder.name)]  # others were left by one who was stopped


def _open(folder: Path, dataset: Artifact) -> None:
    open_artifact(folder, KIND).require_parent("dataset", dataset)
