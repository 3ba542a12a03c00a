"""Bounds on squared distances from short half-precision products, with their proof.

One product of two short rows gives a screen value S of a vector x and a centroid c. It bounds the half squared
distance H = ½‖x - c‖² from below for every centroid and from above for a chosen one, so that nearly all centroids are
ruled out; ``rerank`` decides among the few left.

Proof. Lengths are taken after scaling by a power of two (exact) and a common shift (rounded once). Let Q be an
orthonormal basis of the head, the leading dimensions; h the computed head, ‖h - Qᵀx‖ ≤ η‖x‖; T the length of the
tail, all that the head leaves out, known as t² = ‖x‖² - ‖h‖² with |t² - T²| ≤ ζ‖x‖². The same holds for c.

1. Heads are moved by an anchor and rounded to x̂ and ĉ, at distances e_x and e_c from the true ones. With a = ‖x̂ - ĉ‖
   the true distance of the heads is within a ± (e_x + e_c), so its half square is within
   a(e_x + e_c) + ½(e_x + e_c)² ≤ θ½a² + p_x + p_c of ½a², for any 0 < θ < 1 and p = e²(1/θ + 1).
2. H = (half square of the heads' distance) + ½T_x² + ½T_c² - (product of the tails), and the last is at most τ_x τ_c
   in size for any τ ≥ T.
3. With λ = 1/(1 - θ) and τ'_c ≥ λT_c the two rows are made such that
       S = ½a² + ½t_x² + λ(½t_c² - p_c) - τ_x τ'_c - E_c
   up to errors of rounding, at most κ(M_x + M_c) where M bounds the terms of either side. E = κM + ½λζ‖·‖² makes up
   for the centroid's share of them and of the error of its t²; the vector's share is the same for all centroids.
4. Together, for every centroid H ≥ (1 - θ)(S - E_x) - p_x, and for centroid b
   H ≤ U = (1 + θ)(S + E_x) + p_x + (2 + θ)τ_x τ'_b + g_b with g_b = (2 + (1 + θ)λ)p_b + 2(1 + θ)E_b.
5. The product is returned as S(1 ± ω), ω = 2⁻⁸ in bfloat16. A centroid c is then nearest only if
       S_c ≤ (1 + ω)((U + p_x)/(1 - θ) + E_x)   for the U of any centroid b.

Sums of n terms in float32 have an error of at most γ_n Σ|terms| in whatever order, γ_n = nu/(1 - nu), u = 2⁻²⁴.
Bounds are computed in float32 themselves and enlarged by more than that can take away.
"""

from dataclasses import dataclass

import numpy as np
import torch

_UNIT = 2.0**-24
_SAFETY = 1 + 2.0**-9
_TINY = 2.0**-100  # more than underflow can take from a product: lengths are scaled to about 1
# Beyond this squared length, products might overflow.
_LARGEST = 2.0**60


def has_half_precision() -> bool:
    """Whether the processor multiplies bfloat16 numbers faster than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check)() for check in checks if hasattr(torch.cpu, check))


@dataclass(frozen=True, slots=True)
class Frame:
    """The coordinates in which vectors are compared: shift and scale, then the leading dimensions.

    Attributes:
        shift: (D,) float32, subtracted after scaling.
        scale: power of two.
        basis: (D, d) float32, orthonormal columns; None keeps all dimensions as they are.
        head_error: η of the proof.
        tail_error: ζ of the proof.
        half: whether products are taken in bfloat16.
    """

    shift: torch.Tensor
    scale: float
    basis: torch.Tensor | None
    head_error: float
    tail_error: float
    half: bool

    @property
    def output_error(self) -> float:
        """ω of the proof."""
        return 2.0**-8 if self.half else _UNIT

    def sum_error(self, width: int) -> float:
        """κ of the proof, for products of ``width`` + 5 terms, their columns of norms, and the norms themselves."""
        return (2.0**-16 if self.half else 2 * _UNIT) + (6 * width + 64) * _UNIT


def make_frame(vectors: np.ndarray, centroids: np.ndarray, basis: np.ndarray | None, half: bool) -> Frame:
    """Coordinates for these vectors and centroids.

    Args:
        vectors: (n, D) float32, all or some of those to be compared.
        centroids: (K, D) float32.
        basis: (D, d) orthonormal columns for the head; None for all dimensions as they are.
        half: take products in bfloat16.
    """
    shift = centroids.mean(0, dtype=np.float64)
    with np.errstate(over="ignore"):
        largest = max(float(np.abs(points - shift).max(initial=0)) for points in (vectors, centroids))
    exponent = -np.frexp(largest)[1] if np.isfinite(largest) and largest > 0 else 0
    scale = float(2.0 ** np.clip(exponent, -120, 120))
    head_error, tail_error, columns = 4 * _UNIT, 0.0, None
    if basis is not None:
        dim, width = basis.shape
        rounded = basis.astype(np.float32)
        exact = rounded.astype(np.float64)
        skew = float(np.linalg.norm(exact.T @ exact - np.eye(width)))
        head_error = ((dim + 2) * np.sqrt(width) * 1.02 + 4) * _UNIT + 1.01 * skew
        tail_error = (dim + width + 16) * _UNIT + 2.1 * head_error
        columns = torch.from_numpy(rounded)
    moved = torch.from_numpy((shift * scale).astype(np.float32))
    return Frame(moved, scale, columns, float(head_error), float(tail_error), half)


@dataclass(frozen=True, slots=True)
class Points:
    """Vectors or centroids in a frame.

    Attributes:
        head: (n, d) float32.
        size: (n,) squared length.
        tail: (n,) t² of the proof, and tau: (n,) τ; None where the head is everything.
    """

    head: torch.Tensor
    size: torch.Tensor
    tail: torch.Tensor | None
    tau: torch.Tensor | None

    def __getitem__(self, rows: torch.Tensor | slice) -> "Points":
        if self.tail is None or self.tau is None:
            return Points(self.head[rows], self.size[rows], None, None)
        return Points(self.head[rows], self.size[rows], self.tail[rows], self.tau[rows])

    def comparable(self) -> torch.Tensor:
        """(n,) bool: which are finite and so near that their products cannot overflow."""
        return self.size < _LARGEST


def project(frame: Frame, vectors: np.ndarray) -> Points:
    """(n, D) float32 vectors in the frame."""
    own = vectors if vectors.flags.writeable else vectors.copy()  # torch warns of arrays that are only to be read
    moved = torch.add(-frame.shift, torch.from_numpy(own), alpha=frame.scale)
    size = _squares(moved)
    if frame.basis is None:
        return Points(moved, size, None, None)
    head = moved @ frame.basis
    tail = (size - _squares(head)).clamp_min_(0)
    tau = (tail + (frame.tail_error * _SAFETY) * size).sqrt_().mul_(1 + 2.0**-6)
    return Points(head, size, tail, tau)


@dataclass(frozen=True, slots=True)
class Rows:
    """The vectors' side of the products.

    Attributes:
        matrix: (n, w) bfloat16 or float32.
        error: (n,) e of the proof.
        slack: (n,) κM.
        size: (n,) squared length.
        tau: (n,) τ, None without tails.
    """

    matrix: torch.Tensor
    error: np.ndarray
    slack: np.ndarray
    size: np.ndarray
    tau: np.ndarray | None

    def take(self, rows: np.ndarray) -> "Rows":
        """Some of the rows."""
        tau = None if self.tau is None else self.tau[rows]
        matrix = self.matrix.index_select(0, torch.from_numpy(rows))
        return Rows(matrix, self.error[rows], self.slack[rows], self.size[rows], tau)

    def __getitem__(self, rows: slice) -> "Rows":
        tau = None if self.tau is None else self.tau[rows]
        return Rows(self.matrix[rows], self.error[rows], self.slack[rows], self.size[rows], tau)


@dataclass(frozen=True, slots=True)
class Columns:
    """The centroids' side of the products.

    Attributes:
        matrix: (m, w) bfloat16 or float32.
        theta: θ of the proof.
        gap: (m,) g of the proof.
        tau: (m,) τ', None without tails.
    """

    matrix: torch.Tensor
    theta: float
    gap: np.ndarray
    tau: np.ndarray | None

    def __getitem__(self, columns: slice) -> "Columns":
        tau = None if self.tau is None else self.tau[columns]
        return Columns(self.matrix[columns], self.theta, self.gap[columns], tau)


def make_rows(frame: Frame, points: Points, anchor: torch.Tensor) -> Rows:
    """The vectors' side, with heads moved by ``anchor``, (d,) or one for each."""
    rounded, error, norm = _round(frame, points, anchor)
    bound = norm * 2
    if points.tail is not None and points.tau is not None:
        norm = norm + points.tail / 2
        bound = bound + points.tau.square()
    matrix = _join(frame, rounded, points.tau, norm, own_first=True)
    slack = frame.sum_error(rounded.shape[1]) * _SAFETY * bound
    tau = None if points.tau is None else points.tau.bfloat16().float().numpy()
    return Rows(matrix, error.numpy(), slack.numpy(), points.size.numpy(), tau)


def make_columns(frame: Frame, points: Points, anchor: torch.Tensor, theta: float) -> Columns:
    """The centroids' side, with heads moved by the (d,) ``anchor``."""
    rounded, error, norm = _round(frame, points, anchor)
    stretch = 1 / (1 - theta)
    excess = error.square() * ((1 / theta + 1) * _SAFETY)
    bound = norm * 2 + excess * stretch
    tau = None
    if points.tail is not None and points.tau is not None:
        tau = (points.tau * stretch).mul_(1 + 2.0**-6).bfloat16().float()
        bound = bound + tau.square()
        norm = norm + points.tail * (stretch / 2)
    slack = (frame.sum_error(rounded.shape[1]) * bound + points.size * (frame.tail_error * stretch / 2)) * _SAFETY
    norm = norm - excess * stretch - slack
    matrix = _join(frame, -rounded, None if tau is None else -tau, norm, own_first=False)
    gap = ((2 + (1 + theta) * stretch) * excess + (2 + 2 * theta) * slack) * _SAFETY
    return Columns(matrix, theta, gap.numpy(), None if tau is None else tau.numpy())


def _round(frame: Frame, points: Points, anchor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Moved heads as they enter the product, their distance from the true ones, and half their squared length."""
    moved = points.head - anchor
    rounded = moved.bfloat16().float() if frame.half else moved
    length = torch.linalg.vector_norm(rounded, dim=1)
    error = points.size.sqrt().mul_(frame.head_error).add_(length, alpha=4 * _UNIT)
    if frame.half:
        error += torch.linalg.vector_norm(moved.sub_(rounded), dim=1)
    return rounded, error.mul_(_SAFETY), length.square_().mul_(0.5)


def _squares(points: torch.Tensor) -> torch.Tensor:
    """Squared length of each row."""
    squares: torch.Tensor = torch.linalg.vector_norm(points, dim=1).square_()
    return squares


def _join(
    frame: Frame, head: torch.Tensor, tau: torch.Tensor | None, norm: torch.Tensor, own_first: bool
) -> torch.Tensor:
    """Head, τ and the norm beside ones; the norm is the sum of two columns in half precision."""
    dtype = torch.bfloat16 if frame.half else torch.float32
    width, parts = head.shape[1] + (tau is not None), 2 if frame.half else 1
    joined = torch.ones(len(head), width + 2 * parts, dtype=dtype)
    joined[:, : head.shape[1]] = head
    if tau is not None:
        joined[:, width - 1] = tau
    own = width if own_first else width + parts
    joined[:, own] = norm
    if frame.half:
        joined[:, own + 1] = norm - joined[:, own].float()
    return joined


def best_theta(distance: float, error: float) -> float:
    """θ of the proof that leaves few candidates where errors e and distances of nearest heads are like these."""
    ratio = 2 * error / max(distance, 1e-30)
    return float(np.clip(ratio, 2.0**-12, 0.5)) if np.isfinite(ratio) else 2.0**-6


def upper_bounds(rows: Rows, frame: Frame, columns: Columns, values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """U of the proof: an upper bound on the half squared distance of each row to column ``codes`` with value S."""
    theta = columns.theta
    known = np.maximum(values, 0) * np.float32(1 + 2 * frame.output_error)
    bound = (known + _row_slack(rows, frame, theta)) * np.float32(1 + theta) + _excess(rows, theta)
    bound += columns.gap[codes]
    if rows.tau is not None and columns.tau is not None:
        bound += np.float32(2 + theta) * rows.tau * columns.tau[codes]
    result: np.ndarray = bound * np.float32(_SAFETY) + np.float32(_TINY)
    return result


def thresholds(rows: Rows, frame: Frame, columns: Columns, bounds: np.ndarray) -> np.ndarray:
    """The greatest value S that a centroid within ``bounds`` (half squared distances) of each row may have."""
    theta = columns.theta
    limit = (bounds + _excess(rows, theta)) * np.float32(1 / (1 - theta)) + _row_slack(rows, frame, theta)
    result: np.ndarray = limit * np.float32((1 + frame.output_error) * _SAFETY) + np.float32(_TINY)
    return result


def _excess(rows: Rows, theta: float) -> np.ndarray:
    excess: np.ndarray = np.square(rows.error) * np.float32((1 / theta + 1) * _SAFETY)
    return excess


def _row_slack(rows: Rows, frame: Frame, theta: float) -> np.ndarray:
    slack: np.ndarray = rows.slack + rows.size * np.float32(frame.tail_error * _SAFETY / (2 - 2 * theta))
    return slack
