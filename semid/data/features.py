"""What is known of items and users beside events: categorical columns and embeddings."""

from dataclasses import dataclass, field

import numpy as np

from semid.errors import InputError

FIELD_MISSING = 0
FIELD_UNKNOWN = 1
FIELD_RESERVED = 2


@dataclass(frozen=True, eq=False)
class ListField:
    """A column with several values a row. ``values[offsets[r]:offsets[r + 1]]`` are row r's, as int32 codes.

    ``size`` is the number of codes including FIELD_MISSING and FIELD_UNKNOWN; a row without values is missing.
    """

    offsets: np.ndarray
    values: np.ndarray
    size: int


@dataclass(frozen=True, eq=False)
class Fields:
    """Categorical columns of R rows.

    Code 0 is *missing*, code 1 is *unknown* (a value never seen in training), values start at 2.

    Attributes:
        names: the F single-value columns.
        sizes: number of codes of each, the two reserved ones included.
        values: (R, F) int32.
        lists: multi-value columns by name.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    values: np.ndarray
    lists: dict[str, ListField] = field(default_factory=dict)

    def groups(self, name: str) -> np.ndarray:
        """Which value of a column each row has, -1 where it is missing or unknown. (R,) int64

        Raises:
            InputError: there is no single-value column of this name.
        """
        if name not in self.names:
            raise InputError(
                f"There is no single-value column {name!r}; there are: {', '.join(self.names) or 'none'}."
            )
        codes = self.values[:, self.names.index(name)].astype(np.int64)
        return np.where(codes < FIELD_RESERVED, -1, codes)


@dataclass(frozen=True, eq=False)
class Embedding:
    """One embedding of the items.

    Attributes:
        name: its id, such as ``"82"`` or ``"minilm_384"``.
        vectors: (N, D) float16 or float32; rows that are not valid hold zeros and mean nothing.
        valid: (N,) bool, whether the item has this embedding.
    """

    name: str
    vectors: np.ndarray
    valid: np.ndarray

    @staticmethod
    def absent(name: str, num_rows: int, dim: int) -> "Embedding":
        """An embedding that no item has; takes no memory."""
        return Embedding(name, np.broadcast_to(np.float32(0), (num_rows, dim)), np.zeros(num_rows, bool))

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])
