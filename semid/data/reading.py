"""How raw files are to be read."""

from dataclasses import dataclass, field

from semid.data.splits import SplitConfig
from semid.errors import InputError

LAYOUTS = ("auto", "tencentgr-h", "tencentgr-c", "table")
NULL_ACTIONS = ("unknown", "drop", "error")
FLOAT_TYPES = ("float16", "float32")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How an input is read.

    Attributes:
        layout: ``tencentgr-h`` (parquet release), ``tencentgr-c`` (competition files), ``table``, or ``auto``.
        split: how queries are cut.
        embeddings: ids of the embeddings to take; None takes all there are.
        float_dtype: how embeddings are stored, ``float16`` or ``float32``.
        min_join_rate: an embedding file keyed by item id must match at least this share of the smaller of its
            rows and the items.
        null_action: what an event without an action becomes: ``unknown``, ``drop`` (the event), or ``error``.
    """

    layout: str = "auto"
    split: SplitConfig = field(default_factory=SplitConfig)
    embeddings: tuple[str, ...] | None = None
    float_dtype: str = "float16"
    min_join_rate: float = 0.5
    null_action: str = "unknown"

    def __post_init__(self) -> None:
        for name, known in (("layout", LAYOUTS), ("float_dtype", FLOAT_TYPES), ("null_action", NULL_ACTIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"Unknown {name} {getattr(self, name)!r}: use one of {', '.join(known)}.")
        if not 0 <= self.min_join_rate <= 1:
            raise InputError(f"min_join_rate={self.min_join_rate} must be a share between 0 and 1.")
