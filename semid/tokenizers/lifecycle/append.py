"""Codes for new items beside those that are taken: nobody is moved."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semid.codes import SemanticIds
from semid.progress import Progress, silent
from semid.tokenizers.collisions.placement import place
from semid.tokenizers.collisions.rows import Rows
from semid.tokenizers.quantiser import Quantiser
from semid.tokenizers.vectors import row_blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class CollisionPolicy:
    """How items that want the same codes are told apart; see ``collisions/placement.py``.

    Attributes:
        policy, overflow: by name.
        level: where items are moved, from 0; -1 for the last.
        choices: k of ``random-k``.
        seed: of random choices.
    """

    policy: str = "nearest"
    overflow: str = "spill"
    level: int = -1
    choices: int = 8
    seed: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """As :func:`place` and :func:`resolve` take them."""
        return asdict(self)


def encode_rows(vectors: Rows, quantiser: Quantiser, progress: Progress | None = None) -> np.ndarray:
    """Nearest codes of vectors that may lie on disk: (n, L) int32."""
    codes = np.empty((len(vectors), len(quantiser.num_codes)), np.int32)
    for rows in row_blocks(len(codes)):
        (progress or silent)("encode items", rows.start, len(codes))
        codes[rows] = quantiser.encode(vectors[rows])
    return codes


def add_items(
    taken: SemanticIds, wanted: np.ndarray, latents: Rows, codebooks: Sequence[np.ndarray], how: CollisionPolicy
) -> SemanticIds:
    """Codes of the items that are there and, after them, of new ones.

    Args:
        taken: codes of the (M,) items that are there; they come back bit for bit. Where the policy tells apart items
            by one more level for the first time, they get 0 there.
        wanted: (n, L) int32, the nearest codes of the new items.
        latents: (n, d) float32, what these stand for.
        codebooks: L arrays (K_l, d) float32.
        how: the policy of the tokenizer.

    Raises:
        InputError: more items than codes; the message says how many levels or codes would do.
    """
    placed = place(taken.codes, wanted, latents, codebooks, **how.arguments).codes
    old, width = taken.codes, placed.shape[1]
    if old.shape[1] < width:
        old = np.column_stack([old, np.zeros(len(old), old.dtype)])
    codes = np.concatenate([old, placed]).astype(np.int32)
    num_codes = tuple(len(codebook) for codebook in codebooks)
    if width > len(codebooks):
        counted = taken.num_codes[-1] if taken.num_levels == width else 1
        num_codes = (*num_codes, max(counted, int(codes[:, -1].max(initial=0)) + 1))
    return SemanticIds(codes, num_codes)
