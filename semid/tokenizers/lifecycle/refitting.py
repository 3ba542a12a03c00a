"""A tokenizer fitted anew to a later catalogue whose old items keep their codes where these still serve them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semid.codes import SemanticIds
from semid.data.features import Embedding
from semid.errors import InputError
from semid.progress import Progress, silent
from semid.tokenizers.fusion.preprocessing import Preprocessor
from semid.tokenizers.lifecycle.catalogue import described
from semid.tokenizers.lifecycle.labels import relabel
from semid.tokenizers.lifecycle.refit import Inherited, Kept, fit_from_codes, keep_codes
from semid.tokenizers.rq_kmeans import RQKMeans

if TYPE_CHECKING:
    from semid.tokenizers.tokenizer import SemanticIdTokenizer


def refitted(
    tokenizer: "SemanticIdTokenizer",
    embeddings: Sequence[Embedding],
    rows: np.ndarray,
    tolerance: float,
    scratch: Path | None,
    progress: Progress | None,
) -> tuple["SemanticIdTokenizer", Kept]:
    """See ``SemanticIdTokenizer.refit``.

    Args:
        rows: (N,) row that each item had before, -1 for new ones.
    """
    quantiser = tokenizer.config.new_quantiser()
    if not isinstance(quantiser, RQKMeans):
        raise InputError(
            f"Codes can be kept by rq-kmeans only, but this tokenizer uses {tokenizer.config.quantiser}: "
            "refit it without keeping codes."
        )
    if quantiser.config.by_level:
        raise InputError("Codes that are balanced or normalised cannot be kept: refit them without keeping codes.")
    if tolerance < 0:
        raise InputError(f"The tolerance is {tolerance} but must be at least 0.")
    old = tokenizer.semantic_ids_
    stays = np.flatnonzero(rows >= 0)
    tell = progress or silent
    tell("read embeddings", 0, None)
    fresh = type(tokenizer)(tokenizer.config)
    fresh.preprocessor_ = Preprocessor(tokenizer.config.preprocessing).fit(embeddings)
    fresh.read_catalogue(embeddings, scratch=scratch, progress=progress)
    sample = fresh.rows_to_fit_on()
    codes = np.where((rows[sample] >= 0)[:, None], old.codes[np.maximum(rows[sample], 0)], -1)
    if not (codes[:, 0] >= 0).any():
        raise InputError("No item with an embedding was there before: there are no codes to keep, so fit anew.")
    tell("fit codes", 0, None)
    warm = fit_from_codes(fresh.vectors_[sample], codes, quantiser.config, progress=tell)
    plain = relabel(quantiser.fit(fresh.vectors_[sample], progress=tell), fresh.vectors_[sample], codes)
    tell("keep codes", 0, None)
    items = Inherited(
        vectors=fresh.vectors_,
        known=fresh.known_,
        rows=stays,
        codes=SemanticIds(old.codes[rows[stays]], old.num_codes),
    )
    kept = keep_codes(items, warm, plain, tokenizer.collision_policy, tolerance=tolerance)
    fresh.quantiser_, fresh.semantic_ids_ = kept.quantiser, kept.ids
    fresh.fitted_ = np.ones(len(rows), bool)
    fresh.take_codes(kept.nearest, described(kept.nearest, kept.ids, fresh), progress)
    return fresh, kept
