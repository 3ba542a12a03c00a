"""The nearest centroid of each vector for torch tensors, on a GPU or not: screened in half precision, exact.

Shapes: N vectors, D width, K centroids, P pairs of a row and a candidate. The promise is that of ``nearest.assign``.

Proof. Vectors and centroids are moved by a common shift, scaled by powers of two (one for the centroids, one for each
vector) and rounded to float16: x̂ and ĉ, at measured distances e_x and e_c from the true moved vectors x and c. With
the ratio a of the scales, the half squared distance in the vector's scale is, but for a share β of the vector alone,
T_c = a½‖c‖² - x·c. The screen computes S_c = a½‖c‖² + β - x̂·ĉ in float32. By Cauchy-Schwarz |S_c - β - T_c| is at
most
    E = (‖x̂‖ + e_x) max e_c + e_x max ‖ĉ‖ + γ‖x̂‖ max ‖ĉ‖ + rounding of the lengths and of the sum,
γ = (2D + 64) 2⁻²³ for products on matrix units, whose sums are cut rather than rounded. So every nearest centroid has
S_c ≤ min S + 2E. float64 decides among those few. β is such that S stays positive: then values order like their bits,
and a kernel may keep an index in their last ones (``nearest_triton``).
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Elements of one tile of values, and of the vectors prepared, gathered or compared at a time.
_TILE_ELEMENTS, _BLOCK_ELEMENTS = 1 << 24, 1 << 27
_UNIT = 2.0**-24
_SAFETY = 1 + 1e-3
_TINY = 2.0**-100


@dataclass(frozen=True, slots=True)
class Screen:
    """What a screen needs of some vectors and all centroids.

    Attributes:
        rows: (n, W) float16, W at least D, a multiple of 16.
        ratio: (n,) float32, a of the proof.
        offset: (n,) float32, β.
        window: (n,) float32, 2E.
        centroids: (K, W) float16.
        halves: (K,) float32 half squared lengths.
    """

    rows: torch.Tensor
    ratio: torch.Tensor
    offset: torch.Tensor
    window: torch.Tensor
    centroids: torch.Tensor
    halves: torch.Tensor

    def take(self, rows: torch.Tensor | slice) -> "Screen":
        """That of some of the vectors."""
        return Screen(
            self.rows[rows], self.ratio[rows], self.offset[rows], self.window[rows], self.centroids, self.halves
        )


def assign_tensors(vectors: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centroid of each vector, the lowest index where two are equally near in float64.

    Args:
        vectors: (N, D) float32, finite, on any device.
        centroids: (K, D) float32, finite, on the same device.

    Returns:
        (N,) int32 codes and (N,) float32 squared distances, on that device.
    """
    codes = torch.zeros(len(vectors), dtype=torch.int32, device=vectors.device)
    if len(centroids) > 1:
        for block in _blocks(len(vectors), vectors.shape[1]):
            codes[block] = PreparedTensors(vectors[block], centroids).assign(centroids)
    return codes, own_distances(vectors, centroids, codes)


def own_distances(vectors: torch.Tensor, centroids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The squared distance of each vector to the centroid of its code: (N,) float32."""
    distances = torch.empty(len(vectors), device=vectors.device)
    for block in _blocks(len(vectors), vectors.shape[1]):
        distances[block] = (vectors[block] - centroids[codes[block].long()]).square_().sum(1)
    return distances


class PreparedTensors:
    """Vectors rounded once, to be assigned again and again.

    Args:
        vectors: (N, D) float32, kept, not copied; their rounded form takes half as much memory again.
        centroids: (K, D) float32 like those to come: they decide the shift, never a result.
        kernel: use the Triton kernel; by default where there is Triton and the vectors are on a GPU.
    """

    def __init__(self, vectors: torch.Tensor, centroids: torch.Tensor, *, kernel: bool | None = None) -> None:
        self._vectors = vectors
        self._kernel = (
            vectors.is_cuda and importlib.util.find_spec("triton") is not None if kernel is None else kernel
        )
        self._shift = centroids.double().mean(0).float()
        self._width = padded_width(vectors.shape[1])
        self._rows = torch.empty(len(vectors), self._width, dtype=torch.float16, device=vectors.device)
        self._scale, self._norm, self._error = (torch.empty(len(vectors), device=vectors.device) for _ in range(3))
        usual = _exponent((centroids - self._shift).abs().amax())
        for block in _blocks(len(vectors), vectors.shape[1]):
            moved = vectors[block] - self._shift
            exponent = torch.maximum(_exponent(moved.abs().amax(1)), usual - 10)
            self._scale[block] = _power(-exponent)
            moved *= self._scale[block][:, None]
            self._rows[block], self._norm[block], self._error[block] = _round(moved, self._width)

    def assign(self, centroids: torch.Tensor) -> torch.Tensor:
        """The nearest of (K, D) float32 centroids for each vector: (N,) int32, the lowest of equally near ones."""
        screen = self._screen(centroids)
        codes = torch.empty(len(self._vectors), dtype=torch.int32, device=self._vectors.device)
        for block in _blocks(len(codes), self._width):
            found, rows, candidates = self._candidates(screen.take(block))
            settled = _nearest_pairs(self._vectors[block], centroids, rows, candidates, found)
            codes[block] = settled.int()
        return codes

    def _screen(self, centroids: torch.Tensor) -> Screen:
        moved = centroids - self._shift
        scale = _power(-_exponent(moved.abs().amax()))
        moved *= scale
        half = (moved.double().square().sum(1) / 2).float()
        matrix, norms, errors = _round(moved, self._width)
        largest, worst = norms.amax(), errors.amax()
        ratio = self._scale / scale
        product = self._norm * largest * _SAFETY
        whole = (self._norm + self._error).square() / (2 * ratio) * _SAFETY
        least = torch.minimum(product, whole)  # S is at least -least without an offset, but for E
        error = (self._norm + self._error) * worst + self._error * largest
        error += product * ((2 * self._width + 64) * 2 * _UNIT)
        error += (ratio * half.amax() * 8 + (product + least) * 4) * _UNIT
        error = error * (_SAFETY * _SAFETY) + _TINY
        return Screen(self._rows, ratio, least + 2 * error, 2 * error, matrix, half)

    def _candidates(self, screen: Screen) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A code of each row, and the pairs of the rows that have several candidates."""
        if not self._kernel:
            return candidates(screen)
        from semid.tokenizers.clustering.nearest_triton import fused_candidates  # Triton is optional

        kept, more = fused_candidates(screen)
        several = torch.nonzero((kept[:, 1] >= 0) & ~more)[:, 0]
        position, slot = torch.nonzero(kept[several] >= 0, as_tuple=True)
        rest = torch.nonzero(more)[:, 0]
        _, rows, others = candidates(screen.take(rest))
        return (
            kept[:, 0].long().clamp_min(0),  # none in a row that is not finite
            torch.cat([several[position], rest[rows]]),
            torch.cat([kept[several][position, slot].long(), others]),
        )


def candidates(screen: Screen) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The screen in plain torch, tile by tile: the reference of the fused kernel, and what runs without it.

    Returns:
        (n,) int64 column of the least value; (P,) rows and (P,) columns of all candidates of rows with several.
    """
    codes, rows, others = [], [], []
    centroids = screen.centroids.float().T  # exact in TF32 as well
    size = max(1, _TILE_ELEMENTS // centroids.shape[1])
    for first in range(0, len(screen.rows), size):
        tile = screen.take(slice(first, first + size))
        values = (
            torch.addcmul(tile.offset[:, None], tile.ratio[:, None], screen.halves) - tile.rows.float() @ centroids
        )
        least, columns = values.min(1)
        is_candidate = values <= limits(least, tile.window, 0)[:, None]
        is_candidate &= (is_candidate.sum(1) > 1)[:, None]
        row, column = torch.nonzero(is_candidate, as_tuple=True)
        codes.append(columns)
        rows.append(row + first)
        others.append(column)
    none = torch.zeros(0, dtype=torch.int64, device=screen.rows.device)
    return torch.cat([none, *codes]), torch.cat([none, *rows]), torch.cat([none, *others])


def limits(least: torch.Tensor, window: torch.Tensor, index_bits: int) -> torch.Tensor:
    """The greatest value of a candidate, where the last bits of values may hold an index."""
    return (least + window) * (1 + 2.0 ** (index_bits - 21))


def padded_width(width: int) -> int:
    """W: a power of two from 16 to 128, or a multiple of 64."""
    return max(16, 1 << (width - 1).bit_length()) if width <= 128 else -(-width // 64) * 64


def _nearest_pairs(
    vectors: torch.Tensor, centroids: torch.Tensor, rows: torch.Tensor, others: torch.Tensor, codes: torch.Tensor
) -> torch.Tensor:
    """The codes, those of the rows given replaced by the nearest of their candidates in float64."""
    distances = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for pairs in _blocks(len(rows), 4 * vectors.shape[1]):
        difference = vectors[rows[pairs]].double() - centroids[others[pairs]].double()
        distances[pairs] = difference.square_().sum(1)
    least = torch.full((len(codes),), torch.inf, dtype=torch.float64, device=rows.device)
    least.scatter_reduce_(0, rows, distances, "amin")
    is_least = distances == least[rows]
    lowest = torch.full_like(codes, len(centroids))
    lowest.scatter_reduce_(0, rows[is_least], others[is_least], "amin")
    return torch.where(lowest < len(centroids), lowest, codes)


def _round(moved: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors in float16 with columns of zeros, their lengths, and bounds on their distance from the exact ones."""
    half = torch.zeros(len(moved), width, dtype=torch.float16, device=moved.device)
    half[:, : moved.shape[1]] = moved
    rounded = half[:, : moved.shape[1]].float()
    norms = torch.linalg.vector_norm(rounded, dim=1)
    lost = torch.linalg.vector_norm(moved - rounded, dim=1)
    return half, norms, (lost + (norms + lost) * (2 * _UNIT)) * _SAFETY + _TINY


def _exponent(largest: torch.Tensor) -> torch.Tensor:
    """The power of two above a magnitude, at most 2¹⁰⁰ and at least 2⁻¹⁰⁰."""
    return torch.frexp(largest).exponent.clamp(-100, 100)


def _power(exponent: torch.Tensor) -> torch.Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)


def _blocks(num_rows: int, width: int) -> Iterator[slice]:
    size = max(1, _BLOCK_ELEMENTS // width)
    for first in range(0, num_rows, size):
        yield slice(first, min(first + size, num_rows))
