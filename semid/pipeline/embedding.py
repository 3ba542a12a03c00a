"""The item tower of a trained model as an embedding of its dataset, for a tokenizer to make codes of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semid.data.added import add_embedding
from semid.data.cooccurrence import COOCCURRENCE
from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.errors import InputError
from semid.generative.recommender import GenerativeRecommender


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingReport:
    """What was exported.

    Attributes:
        name: of the embedding.
        items: that have a vector.
        cold: those among them that no training event names; theirs come from content, codes and columns.
        dim: width of the vectors.
    """

    name: str
    items: int
    cold: int
    dim: int

    def summary_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure."""
        return [
            ("embedding", f"{self.name}, {self.dim} wide"),
            ("items", f"{self.items:,}, {self.cold:,} of them cold, from what is known of them"),
        ]


def item_tower_embedding(recommender: GenerativeRecommender, name: str = "collab") -> Embedding:
    """The vectors (N, D) that the dense head compares users with, of unit length.

    Items that training never saw have theirs from content, codes and columns; those without content have none.

    Raises:
        InputError: the model was trained without the dense head.
    """
    if recommender.model.config.contrastive_weight <= 0:
        raise InputError("This model was trained without item vectors (contrastive_weight 0): train one with them.")
    catalogue = recommender.catalogue
    valid = (catalogue.trained | catalogue.known).cpu().numpy()
    return Embedding(name, recommender.item_vectors * valid[:, None], valid)


def export_items(
    recommender: GenerativeRecommender, dataset: Dataset, name: str, *, settings: Mapping[str, Any] | None = None
) -> EmbeddingReport:
    """Add the item tower's vectors to the dataset the model was trained on.

    Raises:
        InputError: another dataset, one in memory only, or a name that one of its own embeddings has.
    """
    if recommender.artifact is not None:
        recommender.artifact.require_parent("dataset", dataset.artifact_or_raise)
    if name in dataset.embeddings or name == COOCCURRENCE:
        raise InputError(f"{dataset.location} has an embedding {name!r} of its own: choose another --name.")
    embedding = item_tower_embedding(recommender, name)
    add_embedding(dataset.artifact_or_raise, embedding, settings=settings)
    cold = embedding.valid & (dataset.train_counts == 0)
    return EmbeddingReport(name=name, items=int(embedding.valid.sum()), cold=int(cold.sum()), dim=embedding.dim)
