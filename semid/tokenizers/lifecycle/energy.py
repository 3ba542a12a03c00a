"""How much of the energy of items the components of a projection hold, for items it was not fitted to.

What the components leave out is not quantised at all: items of a new kind may lie just there, and their codes look
fine. A second projection is fitted to part of the old items, so that the others are as strange to it as new ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.data.features import Embedding
from semid.tokenizers.fusion.preprocessing import Preprocessor, PreprocessorConfig

_FITTED, _JUDGED = 20_000, 4096
_FEWEST = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Energy:
    """Squared lengths of items after centring and scaling.

    Attributes:
        whole: (n,) float64, of all their embeddings side by side.
        held: (n,) float64, of their components.
    """

    whole: np.ndarray
    held: np.ndarray

    @property
    def share(self) -> float:
        """Of the energy of all, what the components hold."""
        total = float(self.whole.sum())
        return float(self.held.sum()) / total if total > 0 else 1.0

    @property
    def variance(self) -> float:
        """Of the share, from how far each item is from it (delta method)."""
        total = float(self.whole.sum())
        return float(((self.held - self.share * self.whole) ** 2).sum()) / total**2 if total > 0 else 0.0


def unseen_energies(
    config: PreprocessorConfig,
    embeddings: Sequence[Embedding],
    is_new: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Energy, Energy] | None:
    """Energies of held-out old items and of new items under a projection that saw neither.

    Args:
        config: of the projection.
        embeddings: one row an item; only items with all of them count.
        is_new: (N,) bool, whether the item came after the fit.
        rng: draws samples.

    Returns:
        Old and new; None where items are too few to tell, or components are no part of the energy: those of whitened
        embeddings and of canonical correlation.
    """
    if config.scale != "energy" or config.fuse != "svd":
        return None
    whole = np.logical_and.reduce([np.asarray(embedding.valid, bool) for embedding in embeddings])
    old = rng.permutation(np.flatnonzero(whole & ~is_new))[: _FITTED + _JUDGED]
    new = rng.permutation(np.flatnonzero(whole & is_new))[:_JUDGED]
    held = min(len(old) // 5, _JUDGED)
    if min(held, len(new)) < _FEWEST:
        return None
    fitted = Preprocessor(config).fit(_chosen(embeddings, old[held:]))
    return _energy(fitted, _chosen(embeddings, old[:held])), _energy(fitted, _chosen(embeddings, new))


def _chosen(embeddings: Sequence[Embedding], rows: np.ndarray) -> list[Embedding]:
    rows = np.sort(rows)
    return [Embedding(e.name, np.asarray(e.vectors[rows]), np.asarray(e.valid[rows])) for e in embeddings]


def _energy(projection: Preprocessor, embeddings: Sequence[Embedding]) -> Energy:
    centred = [
        (np.asarray(embedding.vectors, np.float32) - mean) * scale
        for embedding, mean, scale in zip(embeddings, projection.means_, projection.scales_, strict=True)
    ]
    items = np.concatenate(centred, axis=1)
    components = items @ projection.basis_
    return Energy(whole=_squares(items), held=_squares(components))


def _squares(rows: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return lengths
