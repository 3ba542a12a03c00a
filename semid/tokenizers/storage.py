"""A fitted tokenizer as an artifact directory: one file of arrays, one of vectors."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semid.artifacts import Artifact, create_artifact, open_artifact
from semid.codes import SemanticIds
from semid.errors import InputError
from semid.tokenizers.config import TokenizerConfig
from semid.tokenizers.fusion.preprocessing import Preprocessor
from semid.tokenizers.report import QualityReport
from semid.tokenizers.vectors import read_vectors, write_vectors

if TYPE_CHECKING:
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

KIND = "tokenizer"
_ARRAYS = "tokenizer.safetensors"
_VECTORS = "vectors.npy"
_ITEMS = "items.parquet"


def save_tokenizer(
    tokenizer: "SemanticIdTokenizer",
    path: Path,
    settings: Mapping[str, Any] | None,
    parents: Mapping[str, Artifact] | None,
    item_ids: np.ndarray | None,
) -> Artifact:
    """Write a fitted tokenizer; see ``SemanticIdTokenizer.save``."""
    plain = asdict(tokenizer.config)
    arrays = {
        "codes": tokenizer.semantic_ids_.codes,
        "valid": tokenizer.valid_,
        "fitted": tokenizer.fitted_,
        **_prefixed("quantiser", tokenizer.quantiser_.to_arrays()),
        **_prefixed("preprocessor", tokenizer.preprocessor_.to_arrays()),
    }
    with create_artifact(path, KIND, settings=plain if settings is None else settings, parents=parents) as writer:
        writer.save_arrays(_ARRAYS, arrays)
        write_vectors(writer.path / _VECTORS, tokenizer.vectors_)
        if item_ids is not None:
            pq.write_table(pa.table({"raw_id": pa.array(item_ids)}), writer.path / _ITEMS)
        writer.details |= {
            "config": plain,
            "num_codes": list(tokenizer.semantic_ids_.num_codes),
            "report": tokenizer.report_.to_dict(),
        }
    return open_artifact(path, KIND)


def load_tokenizer(path: Path, kind: type["SemanticIdTokenizer"]) -> "SemanticIdTokenizer":
    """Read what :func:`save_tokenizer` wrote.

    Raises:
        InputError: no tokenizer there, another version, a damaged file, or parts that do not belong together.
    """
    artifact = open_artifact(path, KIND)
    arrays = artifact.load_arrays(_ARRAYS)
    try:
        tokenizer = kind(_config(artifact.details["config"]))
        tokenizer.semantic_ids_ = SemanticIds(arrays["codes"], tuple(artifact.details["num_codes"]))
        tokenizer.valid_, tokenizer.fitted_ = arrays["valid"], arrays["fitted"]
        tokenizer.report_ = QualityReport.from_dict(artifact.details["report"])
        tokenizer.preprocessor_ = Preprocessor.from_arrays(
            tokenizer.config.preprocessing, _under("preprocessor", arrays)
        )
        tokenizer.quantiser_ = tokenizer.config.new_quantiser().from_arrays(_under("quantiser", arrays))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a complete tokenizer ({error!r}): make it again.") from None
    tokenizer.vectors_ = read_vectors(artifact.verified(_VECTORS))
    tokenizer.artifact_ = artifact
    _check_parts(tokenizer)
    return tokenizer


def read_item_ids(artifact: Artifact) -> pa.Array:
    """(N,) raw ids of the items of a tokenizer's catalogue, in the order of their rows.

    Raises:
        InputError: it was saved without them.
    """
    if _ITEMS not in artifact.files:
        raise InputError(f"{artifact.path} does not name its items: fit it with `semid fit` on a prepared dataset.")
    return pq.read_table(artifact.verified(_ITEMS), columns=["raw_id"])["raw_id"].combine_chunks()


def _config(plain: Mapping[str, Any]) -> TokenizerConfig:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
    return TokenizerConfig(**values)


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _check_parts(tokenizer: "SemanticIdTokenizer") -> None:
    num_items, dim = tokenizer.vectors_.shape
    num_codes = tokenizer.config.num_codes
    belong = (
        tokenizer.semantic_ids_.num_items == num_items == len(tokenizer.fitted_)
        and tokenizer.valid_.shape == (num_items, len(tokenizer.config.embeddings))
        and tuple(map(len, tokenizer.quantiser_.codebooks_)) == num_codes
        and tokenizer.semantic_ids_.num_codes[: len(num_codes)] == num_codes
        and tokenizer.preprocessor_.basis_.shape == (sum(tokenizer.preprocessor_.dims), dim)
    )
    if not belong:
        assert tokenizer.artifact_ is not None
        raise InputError(f"The parts of {tokenizer.artifact_.path} do not belong together: make the tokenizer again.")
