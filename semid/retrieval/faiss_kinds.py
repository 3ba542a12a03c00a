"""Faiss indexes of any kind: made, searched widely enough, grown, shrunk, put on a GPU. The only import of Faiss."""

import importlib
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from semid.errors import InputError

logger = logging.getLogger(__name__)
# Training vectors a list: more make the lists no better, only slower to learn.
_VECTORS_A_LIST = 40
# Candidates, times the results wanted, that are compared again where vectors are compressed and kept besides.
_REFINED = 8
# The most results, and lists, that Faiss's GPU indexes can be asked for.
_GPU_MOST = 2048


def make(vectors: np.ndarray, factory: str) -> Any:
    """A trained index of the vectors, (C, D) float32, by inner product.

    Raises:
        InputError: Faiss is not installed, does not know the factory or cannot train it on these vectors.
    """
    faiss = _faiss()
    try:
        if re.search(r"(HNSW|NSG)[01](?!\d)", factory):  # Faiss would end the process, or never end
            raise RuntimeError("a graph needs two links or more an item")
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        lists = faiss.try_extract_index_ivf(index)
        if lists is not None and lists.nlist < 1:
            raise RuntimeError("it has no lists")
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"Faiss cannot make an index {factory!r} for width {vectors.shape[1]} ({reason(error)}): "
            "use a Faiss factory string such as Flat, HNSW32 or IVF1024,Flat."
        ) from None
    if lists is not None:
        lists.nprobe = default_probes(lists.nlist)
        lists.cp.max_points_per_centroid = _VECTORS_A_LIST
        lists.cp.min_points_per_centroid = 1  # no warning on stderr; too few for a list each is an error
    refined = faiss.downcast_index(index)
    if isinstance(refined, faiss.IndexRefine):
        refined.k_factor = _REFINED
    try:
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        raise InputError(
            f"Faiss cannot train {factory!r} on {len(vectors)} vectors ({reason(error)}): "
            "choose a smaller index, or Flat."
        ) from None
    return index


def default_probes(num_lists: int) -> int:
    """Lists to look into for each query; Faiss's own default is one, which finds half of the neighbours."""
    return min(num_lists, max(8, round(2 * math.sqrt(num_lists))))


def search(index: Any, queries: np.ndarray, count: int, gpu: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Inner products and positions (Q, count) of the nearest, -1 where the index finds fewer, looking widely enough.

    Args:
        gpu: the same index on a GPU, used where it can be.
    """
    share, lists = count / index.ntotal, _lists(index)
    fits_gpu = count <= _GPU_MOST and (lists is None or _probes(lists, share) <= _GPU_MOST)
    searched = gpu if gpu is not None and fits_gpu else index
    found: tuple[np.ndarray, np.ndarray] = searched.search(queries, count, params=_params(index, share, count))
    return found


def _params(index: Any, share: float, count: int) -> Any:
    """Search settings wide enough for ``count`` results, a share of all; None where there is nothing to set."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = _params(index.index, share, count)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        factor = min(float(index.k_factor), 1 / share)
        inner = _params(index.base_index, factor * share, math.ceil(factor * count))
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=_probes(index, share))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(index.hnsw.efSearch, 64, 2 * count))
    return None


def _probes(lists: Any, share: float) -> int:
    """Twice the share of the lists, since lists differ in size; all of them before giving up."""
    wanted = 1.0 if share == 1 else min(1.0, 2 * share)
    return max(int(lists.nprobe), math.ceil(wanted * int(lists.nlist)))


def grown(index: Any, vectors: np.ndarray, first: int) -> Any:
    """A copy with more vectors, (M, D) float32, at positions ``first`` and on.

    Raises:
        InputError: this kind cannot grow.
    """
    copy = _faiss().clone_index(index)
    try:
        if _lists(copy) is None:
            copy.add(vectors)
        else:  # its own count would give the places of removed ones again
            copy.add_with_ids(vectors, np.arange(first, first + len(vectors)))
    except RuntimeError as error:
        raise InputError(f"This kind of Faiss index cannot grow ({reason(error)}): build it anew.") from None
    return copy


def shrunk(index: Any, positions: np.ndarray) -> Any:
    """A copy without the vectors at these positions, those of the others unmoved; None for a kind that cannot.

    Only inverted lists can: a graph has no removal, and plain arrays move up.
    """
    if _lists(index) is None:
        return None
    copy = _faiss().clone_index(index)
    copy.remove_ids(positions)
    return copy


def _lists(index: Any) -> Any:
    """The inverted lists that the index is, behind transforms of the vectors; None for other kinds."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _lists(index.index)
    return index if isinstance(index, faiss.IndexIVF) else None


def on_gpu(index: Any, device: int) -> Any:
    """A copy of the index on a GPU; None, with a line in the log, where that cannot be."""
    faiss = _faiss()
    if not hasattr(faiss, "StandardGpuResources") or device >= faiss.get_num_gpus():
        logger.info("This Faiss does not see GPU %d: the index is searched on the CPU.", device)
        return None
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, index)
    except RuntimeError as error:
        logger.info("Faiss cannot put this index on the GPU (%s): it is searched on the CPU.", reason(error))
        return None


def nbytes(index: Any) -> int:
    """Of the index as :func:`write` would write it."""
    sizes: list[int] = []
    faiss = _faiss()
    faiss.write_index(index, faiss.PyCallbackIOWriter(lambda part: sizes.append(len(part))))
    return sum(sizes)


def write(index: Any, path: Path) -> None:
    """Write an index to a file.

    Raises:
        OSError: it could not be written.
    """
    try:
        _faiss().write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"Faiss could not write {path} ({reason(error)}).") from None


def read(path: Path) -> Any:
    """Read what :func:`write` wrote.

    Raises:
        RuntimeError, MemoryError: the file is damaged.
    """
    return _faiss().read_index(str(path))


def reason(error: BaseException) -> str:
    """What an error says, without where in its source Faiss found it."""
    last = str(error).strip().rsplit("\n", 1)[-1]
    return re.sub(r".*\.(cpp|h):\d+: (Error: )?", "", last).strip() or type(error).__name__


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise InputError(
            "ANN search needs Faiss, which is not installed: run pip install 'semid[cpu]' (or 'semid[gpu]')."
        ) from None
