"""Paths through the levels: the codes whose centroids sum up nearest to a vector, by beam search.

Shapes: N vectors, D width, L levels, K codes a level, P paths kept. With a path's centroids e^1 … e^m,

    |x − Σ_l e^l|² = |x|² + Σ_l (|e^l|² − 2 x·e^l) + 2 Σ_{l<m} e^l·e^m,

so that a level costs one product of the vectors with its centroids, and sums of inner products between centroids that
are known beforehand (as in Babenko and Lempitsky 2014, "Additive quantization"). No residual is ever made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from semid.tokenizers.clustering.tiles import row_tiles, run_tiles

# Candidate paths of one tile of rows, rows × P × K: 2 MB.
_TILE_ELEMENTS = 1 << 19
# Candidates are compared by the least of so many first; only groups with one of the smallest minima are looked into.
_GROUP = 16


def beam_encode(vectors: np.ndarray, codebooks: Sequence[np.ndarray], beam: int) -> np.ndarray:
    """The best of the paths that a beam finds: (N, L) int32.

    Args:
        vectors: (N, D) float32.
        codebooks: L arrays (K_l, D) float32.
        beam: paths kept at each level. As many as there are paths up to the last level but one find the best of all.
    """
    codes = np.empty((len(vectors), len(codebooks)), np.int32)

    def take(rows: slice, paths: np.ndarray, _: np.ndarray) -> None:
        codes[rows] = paths[:, 0]

    search_paths(vectors, codebooks, beam, take, found=1)
    return codes


def search_paths(
    vectors: np.ndarray,
    codebooks: Sequence[np.ndarray],
    beam: int,
    take: Callable[[slice, np.ndarray, np.ndarray], None],
    *,
    found: int | None = None,
) -> None:
    """Find the best paths of every vector, a tile of rows after the other, on several threads.

    Args:
        vectors: (N, D) float32.
        codebooks: L arrays (K_l, D) float32.
        beam: paths kept at each level.
        take: called once for each tile with its rows, their (n, P, L) int64 paths and (n, P) float32 squared errors,
            in rising order of these.
        found: P paths wanted at the end; None for as many as are kept, or as there are.
    """
    tables = _tables(codebooks)
    largest = max(table.transposed.shape[1] for table in tables)
    wanted = beam if found is None else found

    def work(rows: slice) -> None:
        paths, errors = _search(torch.from_numpy(vectors[rows]), tables, beam, wanted)
        take(rows, paths.numpy(), errors.numpy())

    run_tiles(work, row_tiles(len(vectors), max(16, _TILE_ELEMENTS // (beam * largest))))


@dataclass(frozen=True, slots=True)
class _Level:
    """What the search needs to know of one level; columns that fill up the last group cost infinity.

    Attributes:
        num_codes: K.
        shift: (D,) what the vectors are moved by: the mean of the first level.
        transposed: (D, K') centroids times −2, those of the first level moved alike.
        lengths: (K',) their squared lengths.
        products: (sum of the K before, K') twice their inner products with the centroids of the levels before.
        offsets: (levels before,) where the rows of each begin.
    """

    num_codes: int
    shift: torch.Tensor
    transposed: torch.Tensor
    lengths: torch.Tensor
    products: torch.Tensor
    offsets: torch.Tensor


def _tables(codebooks: Sequence[np.ndarray]) -> list[_Level]:
    shift = codebooks[0].mean(0, dtype=np.float64).astype(np.float32)
    moved = [torch.from_numpy(book) for book in [codebooks[0] - shift, *codebooks[1:]]]
    offsets = torch.tensor(np.cumsum([0] + [len(book) for book in codebooks]))
    levels = []
    for number, centroids in enumerate(moved):
        num_codes, width = centroids.shape
        filling = -num_codes % _GROUP
        padded = torch.cat([centroids, centroids.new_zeros(filling, width)])
        before = torch.cat([centroids.new_zeros(0, width), *moved[:number]])
        levels.append(
            _Level(
                num_codes=num_codes,
                shift=torch.from_numpy(shift),
                transposed=(-2 * padded).T.contiguous(),
                lengths=torch.cat([(centroids * centroids).sum(1), centroids.new_full((filling,), torch.inf)]),
                products=(2 * before) @ padded.T,
                offsets=offsets[:number],
            )
        )
    return levels


def _search(vectors: torch.Tensor, levels: list[_Level], beam: int, found: int) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows = len(vectors)
    moved = vectors - levels[0].shift
    paths = torch.empty(num_rows, 1, 0, dtype=torch.int64)
    costs = (moved * moved).sum(1, keepdim=True)
    for number, level in enumerate(levels):
        last = number == len(levels) - 1
        kept = min(found if last else beam, costs.shape[1] * level.num_codes)
        costs, parents, codes = _extend(moved, level, paths, costs, kept)
        paths = torch.cat([paths.gather(1, parents[:, :, None].expand(-1, -1, number)), codes[:, :, None]], 2)
    return paths, costs.clamp_(min=0)


def _extend(
    moved: torch.Tensor, level: _Level, paths: torch.Tensor, costs: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ``kept`` cheapest ways to go on: their costs, in rising order, the paths they extend, and their codes."""
    num_rows, num_paths, depth = paths.shape
    width = level.transposed.shape[1]
    alone = torch.addmm(level.lengths, moved, level.transposed)
    if depth:
        index = (paths + level.offsets).reshape(-1, depth)
        candidates = embedding_bag(index, level.products, mode="sum").view(num_rows, num_paths, width)
        candidates += alone[:, None]
        candidates += costs[:, :, None]
    else:
        candidates = alone[:, None] + costs[:, :, None]
    values, place = _smallest(candidates.view(num_rows, -1), kept)
    parents = place.div(width, rounding_mode="floor")
    return values, parents, place - parents * width


def _smallest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest values of each row in rising order, and where they are.

    The columns are taken in groups, every ⌈n / 16⌉-th to one: the ``count`` smallest values lie in the ``count``
    groups with the smallest minima, and comparing whole slices of the row finds the minima faster than any search
    through single values.
    """
    grouped = values.view(len(values), _GROUP, -1)
    num_groups = grouped.shape[2]
    if count >= num_groups:
        found = values.topk(count, 1, largest=False)
        return found.values, found.indices
    groups = grouped.amin(1).topk(count, 1, largest=False, sorted=False).indices
    chosen = grouped.gather(2, groups[:, None].expand(-1, _GROUP, -1)).reshape(len(values), -1)
    found = chosen.topk(count, 1, largest=False)
    member = found.indices.div(count, rounding_mode="floor")
    return found.values, member * num_groups + groups.gather(1, found.indices - member * count)
